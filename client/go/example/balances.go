package example

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"google.golang.org/grpc"

	"github.com/treering/treering/client/go/treering"
	treeringv1 "github.com/treering/treering/client/go/treering/v1"
)

// Balances is a read model: what is in every account. It is kept in a file, together with the
// checkpoint up to which it was made, so that after a crash no event counts twice and none is
// missed.
type Balances struct {
	Checkpoint treering.Checkpoint `json:"checkpoint"`
	Cents      map[string]int64    `json:"cents"`
	Events     int                 `json:"events"`
}

// LoadBalances gives what is in the file; nothing, from before all events, if there is none.
func LoadBalances(path string) (*Balances, error) {
	balances := &Balances{Cents: map[string]int64{}}
	content, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return balances, nil
	}
	if err != nil {
		return nil, err
	}
	return balances, json.Unmarshal(content, balances)
}

// FollowBalances keeps the file up to date until the context is done. caughtUp is called whenever
// all history is in it.
func FollowBalances(
	ctx context.Context, connection grpc.ClientConnInterface, path string, caughtUp func(*Balances),
) error {
	balances, err := LoadBalances(path)
	if err != nil {
		return err
	}
	request := &treeringv1.SubscribeRequest{
		Source: &treeringv1.SubscribeRequest_Query{Query: &treeringv1.Query{
			Items: []*treeringv1.QueryItem{{Categories: []string{"account"}}},
		}},
	}
	treering.StartAt(request, balances.Checkpoint)
	store := treeringv1.NewEventStoreServiceClient(connection)
	return treering.Follow(ctx, store, request,
		func(response *treeringv1.SubscribeResponse, checkpoint treering.Checkpoint) error {
			for _, event := range response.GetEvents().GetEvents() {
				if err := balances.apply(event); err != nil {
					return err
				}
			}
			balances.Checkpoint = checkpoint
			if err := balances.save(path); err != nil {
				return err
			}
			if response.GetCaughtUp() != nil && caughtUp != nil {
				caughtUp(balances)
			}
			return nil
		})
}

func (b *Balances) apply(event *treeringv1.RecordedEvent) error {
	if event.GetPosition() <= b.Checkpoint.Position {
		return fmt.Errorf("the event at position %d came twice", event.GetPosition())
	}
	change, err := change(event)
	b.Cents[strings.TrimPrefix(event.GetStream(), "account-")] += change
	b.Events++
	return err
}

// save replaces the file as a whole: a crash leaves the old one or the new one.
func (b *Balances) save(path string) error {
	content, err := json.Marshal(b)
	if err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path))
	if err != nil {
		return err
	}
	defer os.Remove(file.Name())
	_, err = file.Write(content)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), path)
}
