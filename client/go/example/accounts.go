// Package example is a small service that keeps accounts as events. Everything a service does with
// Treering is in it once, in the way that we would write it: accounts.go decides and appends,
// pipeline.go appends much at once, balances.go follows. Copy what you need.
package example

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/treering/treering/client/go/treering"
	treeringv1 "github.com/treering/treering/client/go/treering/v1"
)

// The refusals of the service itself.
var (
	ErrAccountExists     = errors.New("there is an account of this id already")
	ErrNoAccount         = errors.New("there is no such account")
	ErrInsufficientFunds = errors.New("not enough money")
	ErrNameTaken         = errors.New("another account has this name")
)

// timeout is how long a request to the service may take, with all its calls and repeats.
const timeout = 10 * time.Second

// Data of the events. Amounts are in cents.
type (
	accountOpened struct {
		Owner string `json:"owner"`
	}
	nameClaimed struct {
		Name string `json:"name"`
	}
	moneyMoved struct {
		Amount int64 `json:"amount"`
	}
)

// Accounts is the service. Any number of goroutines may use it.
type Accounts struct {
	store treeringv1.EventStoreServiceClient
}

// New makes the service over a connection.
func New(connection grpc.ClientConnInterface) *Accounts {
	return &Accounts{treeringv1.NewEventStoreServiceClient(connection)}
}

// Traced says which trace the calls belong to that are made with the context, and the events that
// are appended. With OpenTelemetry, its gRPC instrumentation does the first half.
func Traced(ctx context.Context, traceparent string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "traceparent", traceparent)
}

// Open opens an account that is not there yet.
func (a *Accounts) Open(ctx context.Context, id, owner string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := treering.Append(ctx, a.store, &treeringv1.AppendRequest{
		Appends: []*treeringv1.StreamAppend{{
			Stream: stream(id),
			// Set to 0, which is not the same as unset: the stream must not exist.
			Expectation: &treeringv1.StreamAppend_ExpectedVersion{ExpectedVersion: 0},
			Events:      []*treeringv1.Event{event(ctx, "AccountOpened", accountOpened{owner}, account(id))},
		}},
	})
	failure := treering.FailureOf(err)
	switch failure.GetReason() {
	case treeringv1.FailureReason_FAILURE_REASON_VERSION_CONFLICT:
		conflict := failure.GetVersionConflict()
		return fmt.Errorf("%w: %s is at version %d", ErrAccountExists, id, conflict.GetActualVersion())
	case treeringv1.FailureReason_FAILURE_REASON_LIMIT_EXCEEDED:
		violation := failure.GetInvalidRequest().GetViolations()[0]
		return fmt.Errorf("%s: %s (limit %d)", violation.GetField(), violation.GetDescription(), violation.GetLimit())
	}
	return err
}

// Deposit pays in.
func (a *Accounts) Deposit(ctx context.Context, id string, amount int64) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	_, err := treering.Append(ctx, a.store, a.deposit(ctx, id, amount))
	if treering.IsConflict(err) {
		return ErrNoAccount
	}
	return err
}

func (a *Accounts) deposit(ctx context.Context, id string, amount int64) *treeringv1.AppendRequest {
	return &treeringv1.AppendRequest{Appends: []*treeringv1.StreamAppend{{
		Stream:      stream(id),
		Expectation: &treeringv1.StreamAppend_ExpectedExists{ExpectedExists: true},
		Events:      []*treeringv1.Event{event(ctx, "MoneyDeposited", moneyMoved{amount}, account(id))},
	}}}
}

// Withdraw pays out what is there.
func (a *Accounts) Withdraw(ctx context.Context, id string, amount int64) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		balance, version, err := a.load(ctx, id)
		if err != nil {
			return err
		}
		if balance < amount {
			return ErrInsufficientFunds
		}
		_, err = treering.Append(ctx, a.store, &treeringv1.AppendRequest{
			Appends: []*treeringv1.StreamAppend{{
				Stream: stream(id),
				// Only if nothing has come in between.
				Expectation: &treeringv1.StreamAppend_ExpectedVersion{ExpectedVersion: version},
				Events:      []*treeringv1.Event{event(ctx, "MoneyWithdrawn", moneyMoved{amount}, account(id))},
			}},
		})
		if !treering.IsConflict(err) {
			return err
		}
		// Something has: load again, decide again.
	}
}

// ClaimName gives an account a name that no other one has, whatever stream it is in.
func (a *Accounts) ClaimName(ctx context.Context, id, name string) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	claims := &treeringv1.Query{Items: []*treeringv1.QueryItem{{
		Types: []string{"NameClaimed"}, Tags: []string{"name:" + name},
	}}}
	for {
		events, state, err := a.read(ctx, &treeringv1.ReadRequest{
			Source: &treeringv1.ReadRequest_Query{Query: claims},
		})
		if err != nil {
			return err
		}
		if len(events) > 0 {
			return ErrNameTaken
		}
		_, err = treering.Append(ctx, a.store, &treeringv1.AppendRequest{
			Appends: []*treeringv1.StreamAppend{{
				Stream:      stream(id),
				Expectation: &treeringv1.StreamAppend_ExpectedExists{ExpectedExists: true},
				Events: []*treeringv1.Event{
					event(ctx, "NameClaimed", nameClaimed{name}, account(id), "name:"+name),
				},
			}},
			// Only if nobody has claimed it since we looked.
			Conditions: []*treeringv1.AppendCondition{{
				FailIfMatch: claims, AfterPosition: state.GetHeadPosition(),
			}},
		})
		switch treering.FailureOf(err).GetReason() {
		case treeringv1.FailureReason_FAILURE_REASON_CONDITION_FAILED:
			continue
		case treeringv1.FailureReason_FAILURE_REASON_VERSION_CONFLICT:
			return ErrNoAccount
		}
		return err
	}
}

// Transfer moves money from one account to another: both events are recorded, or none.
func (a *Accounts) Transfer(ctx context.Context, from, to string, amount int64) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for {
		balance, version, err := a.load(ctx, from)
		if err != nil {
			return err
		}
		if _, _, err := a.load(ctx, to); err != nil {
			return err
		}
		if balance < amount {
			return ErrInsufficientFunds
		}
		_, err = treering.Append(ctx, a.store, &treeringv1.AppendRequest{
			Appends: []*treeringv1.StreamAppend{{
				Stream:      stream(from),
				Expectation: &treeringv1.StreamAppend_ExpectedVersion{ExpectedVersion: version},
				Events:      []*treeringv1.Event{event(ctx, "MoneyWithdrawn", moneyMoved{amount}, account(from))},
			}, {
				// What else comes in there does not matter.
				Stream:      stream(to),
				Expectation: &treeringv1.StreamAppend_ExpectedExists{ExpectedExists: true},
				Events:      []*treeringv1.Event{event(ctx, "MoneyDeposited", moneyMoved{amount}, account(to))},
			}},
		})
		if !treering.IsConflict(err) {
			return err
		}
	}
}

// Balance tells what is there now.
func (a *Accounts) Balance(ctx context.Context, id string) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	balance, _, err := a.load(ctx, id)
	return balance, err
}

// BalanceAt tells what was there at a time.
func (a *Accounts) BalanceAt(ctx context.Context, id string, at time.Time) (int64, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	events, _, err := a.read(ctx, &treeringv1.ReadRequest{
		Source: &treeringv1.ReadRequest_Stream{Stream: stream(id)},
		Until:  &treeringv1.ReadRequest_UntilTime{UntilTime: timestamppb.New(at)},
	})
	if err != nil {
		return 0, err
	}
	return sum(events)
}

// Latest gives the last movements of some accounts, the newest first.
func (a *Accounts) Latest(ctx context.Context, count uint64, ids ...string) ([]*treeringv1.RecordedEvent, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	// An event matches if any item does; an item, if all its parts do.
	query := &treeringv1.Query{}
	for _, id := range ids {
		query.Items = append(query.Items, &treeringv1.QueryItem{
			Types: []string{"MoneyDeposited", "MoneyWithdrawn"}, Tags: []string{account(id)},
		})
	}
	events, _, err := a.read(ctx, &treeringv1.ReadRequest{
		Source:    &treeringv1.ReadRequest_Query{Query: query},
		Direction: treeringv1.Direction_DIRECTION_BACKWARDS,
		Limit:     &count,
	})
	return events, err
}

// load gives an account as its events have made it, and its version.
func (a *Accounts) load(ctx context.Context, id string) (balance int64, version uint64, err error) {
	events, state, err := a.read(ctx, &treeringv1.ReadRequest{
		Source: &treeringv1.ReadRequest_Stream{Stream: stream(id)},
	})
	if err != nil {
		return 0, 0, err
	}
	if state.GetStreamVersion() == 0 {
		return 0, 0, ErrNoAccount
	}
	balance, err = sum(events)
	return balance, state.GetStreamVersion(), err
}

// read gives all events of a read, and the state that was read.
func (a *Accounts) read(
	ctx context.Context, request *treeringv1.ReadRequest,
) (events []*treeringv1.RecordedEvent, state *treeringv1.ReadResponse, err error) {
	var retry treering.Retry
	for {
		events, state, err = treering.Read(ctx, a.store, request)
		if err == nil || !retry.Wait(ctx, err) {
			return events, state, err
		}
	}
}

func sum(events []*treeringv1.RecordedEvent) (balance int64, err error) {
	for _, each := range events {
		change, err := change(each)
		if err != nil {
			return 0, err
		}
		balance += change
	}
	return balance, nil
}

// change tells what an event does to a balance. Events of types that it does not know do nothing.
func change(recorded *treeringv1.RecordedEvent) (int64, error) {
	sign := map[string]int64{"MoneyDeposited": 1, "MoneyWithdrawn": -1}[recorded.GetType()]
	if sign == 0 {
		return 0, nil
	}
	var moved moneyMoved
	if err := json.Unmarshal(recorded.GetData(), &moved); err != nil {
		return 0, fmt.Errorf("event at position %d: %w", recorded.GetPosition(), err)
	}
	return sign * moved.Amount, nil
}

// event makes an event, with the id by which its append is found if it has to be repeated.
func event(ctx context.Context, kind string, data any, tags ...string) *treeringv1.Event {
	content, err := json.Marshal(data)
	if err != nil {
		panic(err) // Our own types, which can all be encoded.
	}
	made := &treeringv1.Event{
		Id:   uuid.Must(uuid.NewV7()).String(),
		Type: kind,
		Data: content,
		Tags: tags,
		Time: timestamppb.Now(),
	}
	if sent, ok := metadata.FromOutgoingContext(ctx); ok && len(sent["traceparent"]) > 0 {
		made.Metadata = map[string]string{"traceparent": sent["traceparent"][0]}
	}
	return made
}

func stream(id string) string  { return "account-" + id }
func account(id string) string { return "account:" + id }
