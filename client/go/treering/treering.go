// Package treering is what every caller of Treering in Go would write: what a failed call means,
// an append that is repeated safely, a subscription that goes on after any break. It is one file,
// to depend on or to copy; everything else is in the stubs, in treering/v1.
package treering

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	treeringv1 "github.com/treering/treering/client/go/treering/v1"
)

// Connect makes a connection to keep for the life of the process: any number of goroutines use
// it. It notices a server that is gone without a word, and comes back soon after a restart, where
// gRPC by itself would wait for up to two minutes between its attempts.
func Connect(target string, options ...grpc.DialOption) (*grpc.ClientConn, error) {
	reconnect := backoff.DefaultConfig
	reconnect.BaseDelay, reconnect.MaxDelay = 100*time.Millisecond, 3*time.Second
	return grpc.NewClient(target, append([]grpc.DialOption{
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 5 * time.Second}),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
	}, options...)...)
}

// Read gives all events of a read, and the state that was read.
func Read(
	ctx context.Context, store treeringv1.EventStoreServiceClient, request *treeringv1.ReadRequest,
) (events []*treeringv1.RecordedEvent, state *treeringv1.ReadResponse, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // Or a read that is left before its end stays open.
	responses, err := store.Read(ctx, request)
	if err != nil {
		return nil, nil, err
	}
	for {
		response, err := responses.Recv()
		if err == io.EOF {
			return events, state, nil
		}
		if err != nil {
			return nil, nil, err
		}
		state = response
		events = append(events, response.GetEvents()...)
	}
}

// FailureOf gives what the server says about a failed call: the reason and the facts. It is nil
// if the server said nothing, as when it could not be reached. The getters of nil answer with
// zero values, so that this needs no check before it:
//
//	switch treering.FailureOf(err).GetReason() { … }
func FailureOf(err error) *treeringv1.Failure {
	state, ok := status.FromError(err)
	if !ok {
		return nil
	}
	for _, detail := range state.Details() {
		if failure, ok := detail.(*treeringv1.Failure); ok {
			return failure
		}
	}
	return nil
}

// IsConflict tells whether something came between a decision and its append. Nothing was
// written: load again, decide again.
func IsConflict(err error) bool {
	switch FailureOf(err).GetReason() {
	case treeringv1.FailureReason_FAILURE_REASON_VERSION_CONFLICT,
		treeringv1.FailureReason_FAILURE_REASON_CONDITION_FAILED:
		return true
	}
	return false
}

// Append appends, and repeats the request for as long as that can help and the context lives.
// That is safe because of the events' ids, which must be set: what was recorded is found by them
// and answered as the first time.
//
// If it fails with anything but a refusal (a Failure that is neither UNAVAILABLE nor
// OUTCOME_UNKNOWN), the events may have been recorded: the same request again will tell.
func Append(
	ctx context.Context, store treeringv1.EventStoreServiceClient, request *treeringv1.AppendRequest,
	options ...grpc.CallOption,
) (*treeringv1.AppendResponse, error) {
	if !hasIDs(request) {
		return nil, errors.New("treering: an event has no id, and could not be appended again safely")
	}
	var retry Retry
	for {
		response, err := store.Append(ctx, request, options...)
		if err == nil || !retry.Wait(ctx, err) {
			return response, err
		}
	}
}

func hasIDs(request *treeringv1.AppendRequest) bool {
	for _, events := range append(streams(request), request.GetEvents()) {
		for _, event := range events {
			if event.GetId() == "" {
				return false
			}
		}
	}
	return true
}

func streams(request *treeringv1.AppendRequest) [][]*treeringv1.Event {
	var found [][]*treeringv1.Event
	for _, each := range request.GetAppends() {
		found = append(found, each.GetEvents())
	}
	return found
}

// Retry decides whether a call is worth repeating, and when: with delays that grow, and that
// differ from caller to caller. The zero value is ready for the attempts at one call.
type Retry struct {
	delay    time.Duration
	doubtful int
}

// Wait waits until the next attempt. It answers false, at once, if that can't help, or if the
// context will not live so long.
func (r *Retry) Wait(ctx context.Context, err error) bool {
	failure, code := FailureOf(err), status.Code(err)
	switch {
	case ctx.Err() != nil:
		return false
	case failure.GetRetryAfter() != nil, code == codes.Unavailable,
		failure.GetReason() == treeringv1.FailureReason_FAILURE_REASON_OVERLOADED:
	case code == codes.Internal, code == codes.Unknown, code == codes.Canceled,
		code == codes.DeadlineExceeded, code == codes.DataLoss:
		// A proxy's doing, perhaps, or a defect that will be there again.
		if r.doubtful++; r.doubtful >= 3 {
			return false
		}
	default:
		return false // ABORTED above all: a repeat would overrule the decision.
	}
	r.delay = min(max(2*r.delay, 50*time.Millisecond), 3*time.Second)
	delay := r.delay/2 + rand.N(r.delay/2) + failure.GetRetryAfter().AsDuration()
	if deadline, ok := ctx.Deadline(); ok && time.Now().Add(delay).After(deadline) {
		return false
	}
	select {
	case <-time.After(delay):
		return true
	case <-ctx.Done():
		return false
	}
}

// Checkpoint is how far a subscriber has come. Store it together with what was made of the events.
type Checkpoint struct {
	LogID    string `json:"log_id"`
	Position uint64 `json:"position"`
	EventID  string `json:"event_id"`
}

// Follow subscribes, and after any break that may pass subscribes again, where it had stopped. It
// returns when the context is done, when handle fails (with its error), or when the server's
// answer is final: LOG_DIVERGED above all, for a log that has lost what the subscriber saw.
//
// handle is called with one response after the other, and with the checkpoint to store once that
// response has been dealt with. Every event comes once. The request may start anywhere, and at a
// checkpoint with StartAt.
func Follow(
	ctx context.Context, store treeringv1.EventStoreServiceClient, request *treeringv1.SubscribeRequest,
	handle func(response *treeringv1.SubscribeResponse, checkpoint Checkpoint) error,
) error {
	following := &following{store: store, request: proto.CloneOf(request), handle: handle}
	following.checkpoint = Checkpoint{
		request.GetExpectedLogId(), request.GetAfterPosition(), request.GetAfterEventId(),
	}
	for {
		err := following.once(ctx)
		if following.isOver || !following.retry.Wait(ctx, err) {
			return err
		}
	}
}

// StartAt lets a subscription begin at a checkpoint; at the zero value, with the whole log.
func StartAt(request *treeringv1.SubscribeRequest, checkpoint Checkpoint) {
	request.Start = &treeringv1.SubscribeRequest_AfterPosition{AfterPosition: checkpoint.Position}
	request.ExpectedLogId = checkpoint.LogID
	request.AfterEventId = checkpoint.EventID
}

type following struct {
	store      treeringv1.EventStoreServiceClient
	request    *treeringv1.SubscribeRequest
	handle     func(*treeringv1.SubscribeResponse, Checkpoint) error
	checkpoint Checkpoint
	retry      Retry
	isOver     bool // handle has failed
}

// once follows until the call breaks, and says why it did.
func (f *following) once(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	stream, err := f.store.Subscribe(ctx, f.request)
	if err != nil {
		return err
	}
	silence := 3 * heartbeat(f.request)
	for {
		// A connection can die without a word; heartbeats tell. What handle takes is no silence.
		silent := status.Error(codes.Unavailable, fmt.Sprintf("nothing came for %v", silence))
		watch := time.AfterFunc(silence, func() { cancel(silent) })
		response, err := stream.Recv()
		watch.Stop()
		switch {
		case err == io.EOF:
			return status.Error(codes.Unavailable, "the subscription was ended")
		case err != nil && context.Cause(ctx) == silent:
			return silent
		case err != nil:
			return err
		}
		checkpoint := f.after(response)
		if err := f.handle(response, checkpoint); err != nil {
			f.isOver = true
			return err
		}
		f.checkpoint = checkpoint
		StartAt(f.request, checkpoint) // From here on, wherever it had begun.
		if response.GetStarted() == nil {
			f.retry = Retry{} // It works again.
		}
	}
}

// after gives the checkpoint once a response was dealt with.
func (f *following) after(response *treeringv1.SubscribeResponse) Checkpoint {
	checkpoint := f.checkpoint
	switch content := response.GetContent().(type) {
	case *treeringv1.SubscribeResponse_Started:
		// After a restore that has all of what was seen, the log has another id.
		checkpoint.LogID = content.Started.GetLogId()
		if position := content.Started.GetAfterPosition(); position != checkpoint.Position {
			checkpoint.Position, checkpoint.EventID = position, ""
		}
	case *treeringv1.SubscribeResponse_Events:
		events := content.Events.GetEvents()
		last := events[len(events)-1]
		checkpoint.Position, checkpoint.EventID = last.GetPosition(), last.GetId()
	case *treeringv1.SubscribeResponse_CaughtUp:
		checkpoint.Position, checkpoint.EventID = content.CaughtUp.GetPosition(), content.CaughtUp.GetEventId()
	case *treeringv1.SubscribeResponse_Heartbeat:
		checkpoint.Position, checkpoint.EventID = content.Heartbeat.GetPosition(), content.Heartbeat.GetEventId()
	case *treeringv1.SubscribeResponse_FellBehind:
		// The log went on under another id, with all of what was seen.
		if id := content.FellBehind.GetLogId(); id != "" {
			checkpoint.LogID = id
		}
	}
	return checkpoint
}

func heartbeat(request *treeringv1.SubscribeRequest) time.Duration {
	if interval := request.GetHeartbeatInterval(); interval != nil {
		return interval.AsDuration()
	}
	return 10 * time.Second // The server's default.
}
