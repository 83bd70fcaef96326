// The conformance cases in Go: `conformance write|check|repeat`, at TREERING_SERVER. See
// client/conformance/README.md.
package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"reflect"
	"strconv"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/treering/treering/client/go/treering"
	pb "github.com/treering/treering/client/go/treering/v1"
)

const casesFile = "../conformance/cases.json" // From client/go, where run.sh goes.

type cases struct {
	Events []struct {
		Case     string          `json:"case"`
		Stream   string          `json:"stream"`
		Event    json.RawMessage `json:"event"`
		Recorded json.RawMessage `json:"recorded"`
	} `json:"events"`
	Expectations    []expectation `json:"expectations"`
	RequestIDs      []number      `json:"request_ids"`
	Limits          []number      `json:"limits"`
	BeforePositions []number      `json:"before_positions"`
}

type event struct {
	ID          string            `json:"id"`
	Type        string            `json:"type"`
	Data        *content          `json:"data"`
	ContentType string            `json:"content_type"`
	Tags        []string          `json:"tags"`
	Metadata    map[string]string `json:"metadata"`
	Time        *struct {
		Seconds int64 `json:"seconds,string"`
		Nanos   int32 `json:"nanos"`
	} `json:"time"`
}

type content struct {
	Text   string `json:"text"`
	Base64 string `json:"base64"`
	Times  int    `json:"times"`
}

type expectation struct {
	Version *number `json:"expected_version"`
	Exists  *bool   `json:"expected_exists"`
}

// number is one of 64 bits, in a string.
type number uint64

func (n *number) UnmarshalJSON(text []byte) error {
	var digits string
	if err := json.Unmarshal(text, &digits); err != nil {
		return err
	}
	value, err := strconv.ParseUint(digits, 10, 64)
	*n = number(value)
	return err
}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: conformance write|check|repeat")
	}
	if err := run(os.Args[1]); err != nil {
		log.Fatal(err)
	}
}

func run(mode string) error {
	file, err := os.ReadFile(casesFile)
	if err != nil {
		return err
	}
	var all cases
	if err := json.Unmarshal(file, &all); err != nil {
		return err
	}
	connection, err := treering.Connect(
		os.Getenv("TREERING_SERVER"), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	expected, err := all.expected()
	if err != nil {
		return err
	}
	runner := &runner{ctx, pb.NewEventStoreServiceClient(connection), &all, expected}
	switch mode {
	case "write", "repeat":
		err = runner.append(mode == "repeat")
	case "check":
		err = errors.Join(runner.check(), runner.checkNumbers())
	default:
		err = fmt.Errorf("no such mode: %s", mode)
	}
	if err == nil {
		fmt.Printf("%s: %d events\n", mode, len(expected))
	}
	return err
}

// expected gives what is to be read.
func (c *cases) expected() ([]*pb.RecordedEvent, error) {
	var events []*pb.RecordedEvent
	versions := map[string]uint64{}
	for i, each := range c.Events {
		var fields event
		if err := json.Unmarshal(each.Event, &fields); err != nil {
			return nil, err
		}
		if each.Recorded != nil {
			if err := json.Unmarshal(each.Recorded, &fields); err != nil {
				return nil, err
			}
		}
		sent, err := fields.message()
		if err != nil {
			return nil, err
		}
		recorded := &pb.RecordedEvent{
			Id: sent.Id, Type: sent.Type, Data: sent.Data, ContentType: sent.ContentType,
			Tags: sent.Tags, Metadata: sent.Metadata, Time: sent.Time,
			Position: uint64(i) + 1, Stream: each.Stream,
		}
		if each.Stream != "" {
			versions[each.Stream]++
			recorded.Version = versions[each.Stream]
		}
		events = append(events, recorded)
	}
	return events, nil
}

func (e *event) message() (*pb.Event, error) {
	made := &pb.Event{Id: e.ID, Type: e.Type, ContentType: e.ContentType, Tags: e.Tags, Metadata: e.Metadata}
	if e.Data != nil {
		data, err := base64.StdEncoding.DecodeString(e.Data.Base64)
		if err != nil {
			return nil, err
		}
		made.Data = append([]byte(e.Data.Text), bytes.Repeat(data, max(e.Data.Times, 1))...)
	}
	if e.Time != nil {
		made.Time = &timestamppb.Timestamp{Seconds: e.Time.Seconds, Nanos: e.Time.Nanos}
	}
	return made, nil
}

type runner struct {
	ctx      context.Context
	store    pb.EventStoreServiceClient
	cases    *cases
	expected []*pb.RecordedEvent
}

func (r *runner) append(areThere bool) error {
	for i, each := range r.cases.Events {
		var fields event
		if err := json.Unmarshal(each.Event, &fields); err != nil {
			return err
		}
		sent, err := fields.message()
		if err != nil {
			return err
		}
		request, want := &pb.AppendRequest{}, r.expected[i]
		answer := &pb.AppendResponse{
			FirstPosition: want.Position, LastPosition: want.Position, Duplicate: areThere,
		}
		if want.Stream == "" {
			request.Events = []*pb.Event{sent}
		} else {
			request.Appends = []*pb.StreamAppend{{
				Stream:      want.Stream,
				Expectation: &pb.StreamAppend_ExpectedVersion{ExpectedVersion: want.Version - 1},
				Events:      []*pb.Event{sent},
			}}
			answer.Versions = []*pb.StreamVersion{{Stream: want.Stream, Version: want.Version}}
		}
		response, err := r.store.Append(r.ctx, request)
		if err != nil {
			return fmt.Errorf("%s: %w", each.Case, err)
		}
		response.RecordedAt, response.LogId = nil, ""
		if err := same(each.Case, response, answer); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) check() error {
	events, state, err := treering.Read(r.ctx, r.store, everything())
	if err != nil {
		return err
	}
	if len(events) != len(r.expected) || state.GetHeadPosition() != uint64(len(r.expected)) {
		return fmt.Errorf("%d events, head %d, instead of %d", len(events), state.GetHeadPosition(), len(r.expected))
	}
	positions := map[string][]uint64{}
	for i, found := range events {
		name, want := r.cases.Events[i].Case, r.expected[i]
		if found.RecordedAt == nil {
			return fmt.Errorf("%s: without recorded_at", name)
		}
		found.RecordedAt = nil
		if err := same(name, found, want); err != nil {
			return err
		}
		if want.Stream != "" {
			positions[want.Stream] = append(positions[want.Stream], want.Position)
		}
	}
	for stream, want := range positions {
		events, state, err := treering.Read(r.ctx, r.store, &pb.ReadRequest{Source: &pb.ReadRequest_Stream{Stream: stream}})
		if err != nil {
			return err
		}
		var found []uint64
		for _, each := range events {
			found = append(found, each.Position)
		}
		if !reflect.DeepEqual(found, want) || state.GetStreamVersion() != uint64(len(want)) {
			return fmt.Errorf("%q: %v, version %d, instead of %v", stream, found, state.GetStreamVersion(), want)
		}
	}
	return nil
}

func (r *runner) checkNumbers() error {
	stream := r.expected[0].Stream
	var version uint64
	for _, each := range r.expected {
		if each.Stream == stream {
			version++
		}
	}
	for _, each := range r.cases.Expectations {
		request, want := each.refused(stream)
		want.ActualVersion = version
		_, err := r.store.Append(r.ctx, request)
		if err := same("expectation", treering.FailureOf(err).GetVersionConflict(), want); err != nil {
			return err
		}
	}
	if err := r.checkRequestIDs(stream); err != nil {
		return err
	}
	for _, limit := range r.cases.Limits {
		request := everything()
		request.Limit = proto.Uint64(uint64(limit))
		events, _, err := treering.Read(r.ctx, r.store, request)
		if err != nil {
			return err
		}
		if want := min(uint64(limit), uint64(len(r.expected))); uint64(len(events)) != want {
			return fmt.Errorf("limit %d: %d events instead of %d", limit, len(events), want)
		}
	}
	for _, before := range r.cases.BeforePositions {
		request := everything()
		request.Direction = pb.Direction_DIRECTION_BACKWARDS
		request.After = &pb.ReadRequest_AfterPosition{AfterPosition: uint64(before)}
		request.Limit = proto.Uint64(1)
		events, _, err := treering.Read(r.ctx, r.store, request)
		if err != nil {
			return err
		}
		if len(events) != 1 || events[0].Position != uint64(len(r.expected)) {
			return fmt.Errorf("before %d: %v", before, events)
		}
	}
	return nil
}

func (r *runner) checkRequestIDs(stream string) error {
	call, err := r.store.AppendMany(r.ctx)
	if err != nil {
		return err
	}
	refused, _ := r.cases.Expectations[0].refused(stream)
	sent := &pb.AppendManyRequest{}
	for _, id := range r.cases.RequestIDs {
		sent.Items = append(sent.Items, &pb.AppendItem{RequestId: uint64(id), Append: refused})
	}
	if err := errors.Join(call.Send(sent), call.CloseSend()); err != nil {
		return err
	}
	var found []number
	for {
		response, err := call.Recv()
		if err == io.EOF {
			break
		}
		if err != nil {
			return err
		}
		for _, result := range response.GetResults() {
			found = append(found, number(result.GetRequestId()))
			if result.GetFailure().GetReason() != pb.FailureReason_FAILURE_REASON_VERSION_CONFLICT {
				return fmt.Errorf("request id %d: %v", result.GetRequestId(), result)
			}
		}
	}
	if !reflect.DeepEqual(found, r.cases.RequestIDs) {
		return fmt.Errorf("request ids %v instead of %v", found, r.cases.RequestIDs)
	}
	return nil
}

// refused makes an append whose expectation is not met, and what it is to be refused with.
func (e expectation) refused(stream string) (*pb.AppendRequest, *pb.VersionConflict) {
	part := &pb.StreamAppend{
		Stream: stream,
		Events: []*pb.Event{{Id: "0192f0c1-ffff-7000-8000-000000000000", Type: "Refused"}},
	}
	conflict := &pb.VersionConflict{Stream: stream}
	if e.Version != nil {
		version := uint64(*e.Version)
		part.Expectation = &pb.StreamAppend_ExpectedVersion{ExpectedVersion: version}
		conflict.Expectation = &pb.VersionConflict_ExpectedVersion{ExpectedVersion: version}
	} else {
		part.Expectation = &pb.StreamAppend_ExpectedExists{ExpectedExists: *e.Exists}
		conflict.Expectation = &pb.VersionConflict_ExpectedExists{ExpectedExists: *e.Exists}
	}
	return &pb.AppendRequest{Appends: []*pb.StreamAppend{part}}, conflict
}

func everything() *pb.ReadRequest {
	return &pb.ReadRequest{Source: &pb.ReadRequest_Query{Query: &pb.Query{All: true}}}
}

func same(what string, found, want proto.Message) error {
	if proto.Equal(found, want) {
		return nil
	}
	return fmt.Errorf("%s: %.1000s instead of %.1000s", what, fmt.Sprint(found), fmt.Sprint(want))
}
