package example

import (
	"context"
	"fmt"
	"io"

	"github.com/treering/treering/client/go/treering"
	treeringv1 "github.com/treering/treering/client/go/treering/v1"
)

// DepositAll pays in many amounts, pipelined: at most inFlight appends wait for their answers at
// any time. It gives what was refused, by index.
func (a *Accounts) DepositAll(
	ctx context.Context, id string, amounts []int64, inFlight int,
) (map[int]*treeringv1.Failure, error) {
	requests := make([]*treeringv1.AppendRequest, len(amounts))
	for i, amount := range amounts {
		requests[i] = a.deposit(ctx, id, amount)
	}
	refused := map[int]*treeringv1.Failure{}
	answered := 0
	var retry treering.Retry
	for {
		before := answered
		err := a.pipeline(ctx, requests, inFlight, &answered, refused)
		if answered > before {
			retry = treering.Retry{} // It has got on.
		}
		// A broken call is gone on with from the first one without an answer. What of it was
		// recorded all the same is found by its ids.
		if err == nil || !retry.Wait(ctx, err) {
			return refused, err
		}
	}
}

// pipeline appends from *answered on, on one call, and moves it on with every answer.
func (a *Accounts) pipeline(
	ctx context.Context, requests []*treeringv1.AppendRequest, inFlight int,
	answered *int, refused map[int]*treeringv1.Failure,
) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	call, err := a.store.AppendMany(ctx)
	if err != nil {
		return err
	}

	slots := make(chan struct{}, inFlight)
	go func() {
		for i := *answered; i < len(requests); i++ {
			select {
			case slots <- struct{}{}:
			case <-ctx.Done():
				return
			}
			item := &treeringv1.AppendItem{RequestId: uint64(i), Append: requests[i]}
			err := call.Send(&treeringv1.AppendManyRequest{Items: []*treeringv1.AppendItem{item}})
			if err != nil {
				return // Why, Recv says.
			}
		}
		call.CloseSend()
	}()

	for {
		response, err := call.Recv()
		if err == io.EOF {
			return nil // All are answered.
		}
		if err != nil {
			return err
		}
		for _, result := range response.GetResults() {
			if result.GetRequestId() != uint64(*answered) {
				return fmt.Errorf("append %d was answered instead of %d", result.GetRequestId(), *answered)
			}
			if failure := result.GetFailure(); failure != nil {
				refused[*answered] = failure
			}
			*answered++
			<-slots
		}
	}
}
