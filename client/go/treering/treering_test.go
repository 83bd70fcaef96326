package treering_test

import (
	"context"
	"errors"
	"net"
	"reflect"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/treering/treering/client/go/treering"
	pb "github.com/treering/treering/client/go/treering/v1"
)

// scripted is a server that does what the test says, and keeps what it was asked: for what a real
// server can't be made to do at a given moment.
type scripted struct {
	pb.UnimplementedEventStoreServiceServer
	appends    []func() (*pb.AppendResponse, error)
	subscribes [][]any // of each call: responses, and an error at its end or none
	appended   []*pb.AppendRequest
	subscribed []*pb.SubscribeRequest
}

func (s *scripted) Append(_ context.Context, request *pb.AppendRequest) (*pb.AppendResponse, error) {
	s.appended = append(s.appended, request)
	return s.appends[len(s.appended)-1]()
}

func (s *scripted) Subscribe(request *pb.SubscribeRequest, stream grpc.ServerStreamingServer[pb.SubscribeResponse]) error {
	s.subscribed = append(s.subscribed, request)
	for _, each := range s.subscribes[len(s.subscribed)-1] {
		switch each := each.(type) {
		case error:
			return each
		case *pb.SubscribeResponse:
			if err := stream.Send(each); err != nil {
				return err
			}
		}
	}
	<-stream.Context().Done() // Nothing more is ever said.
	return nil
}

func (s *scripted) client(t *testing.T) pb.EventStoreServiceClient {
	listener := bufconn.Listen(1 << 16)
	server := grpc.NewServer()
	pb.RegisterEventStoreServiceServer(server, s)
	go server.Serve(listener)
	t.Cleanup(server.Stop)
	connection, err := treering.Connect("passthrough:test",
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return listener.Dial() }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return pb.NewEventStoreServiceClient(connection)
}

func failed(failure *pb.Failure) error {
	state, err := status.New(codes.Code(failure.Code), failure.Message).WithDetails(failure)
	if err != nil {
		panic(err)
	}
	return state.Err()
}

var (
	noAnswer = func() (*pb.AppendResponse, error) { return nil, status.Error(codes.Unavailable, "connection lost") }
	conflict = func() (*pb.AppendResponse, error) {
		return nil, failed(&pb.Failure{
			Code:   int32(codes.Aborted),
			Reason: pb.FailureReason_FAILURE_REASON_VERSION_CONFLICT,
			Detail: &pb.Failure_VersionConflict{VersionConflict: &pb.VersionConflict{
				Stream: "order-1", Expectation: &pb.VersionConflict_ExpectedVersion{}, ActualVersion: 1<<63 - 1,
			}},
		})
	}
	overloaded = func() (*pb.AppendResponse, error) {
		return nil, failed(&pb.Failure{
			Code:       int32(codes.ResourceExhausted),
			Reason:     pb.FailureReason_FAILURE_REASON_OVERLOADED,
			RetryAfter: durationpb.New(100 * time.Millisecond),
		})
	}
	defect   = func() (*pb.AppendResponse, error) { return nil, status.Error(codes.Internal, "reference 17") }
	recorded = func() (*pb.AppendResponse, error) { return &pb.AppendResponse{LastPosition: 7}, nil }
)

func request() *pb.AppendRequest {
	return &pb.AppendRequest{Appends: []*pb.StreamAppend{{
		Stream: "order-1",
		Events: []*pb.Event{{Id: "018bcfe5-6800-7000-8000-000000000001", Type: "OrderPlaced"}},
	}}}
}

func TestFailureOfAnErrorHasItsReasonAndFacts(t *testing.T) {
	_, err := conflict()
	failure := treering.FailureOf(err)
	if failure.GetReason() != pb.FailureReason_FAILURE_REASON_VERSION_CONFLICT ||
		failure.GetVersionConflict().GetActualVersion() != 1<<63-1 || !treering.IsConflict(err) {
		t.Error(failure)
	}
	_, isVersion := failure.GetVersionConflict().GetExpectation().(*pb.VersionConflict_ExpectedVersion)
	if !isVersion {
		t.Error("the expected version 0 is lost")
	}
}

func TestNoFailureWhereTheServerSaidNone(t *testing.T) {
	for _, err := range []error{nil, errors.New("mine"), status.Error(codes.Unavailable, "no server")} {
		if treering.FailureOf(err) != nil || treering.IsConflict(err) {
			t.Error(err)
		}
	}
}

func TestAppendIsRepeatedWithTheSameIds(t *testing.T) {
	server := &scripted{appends: []func() (*pb.AppendResponse, error){noAnswer, overloaded, defect, recorded}}
	begin := time.Now()
	response, err := treering.Append(t.Context(), server.client(t), request())
	if err != nil || response.GetLastPosition() != 7 {
		t.Fatal(response, err)
	}
	if time.Since(begin) < 100*time.Millisecond {
		t.Error("retry_after was passed over")
	}
	for _, each := range server.appended {
		if id := each.Appends[0].Events[0].Id; id != "018bcfe5-6800-7000-8000-000000000001" {
			t.Error("another id: ", id)
		}
	}
}

func TestConflictIsNotRepeated(t *testing.T) {
	server := &scripted{appends: []func() (*pb.AppendResponse, error){conflict}}
	if _, err := treering.Append(t.Context(), server.client(t), request()); !treering.IsConflict(err) {
		t.Error(err)
	}
}

func TestDefectIsRepeatedAFewTimesOnly(t *testing.T) {
	server := &scripted{appends: []func() (*pb.AppendResponse, error){defect, defect, defect}}
	if _, err := treering.Append(t.Context(), server.client(t), request()); status.Code(err) != codes.Internal {
		t.Error(err)
	}
}

func TestRepeatsEndWithTheContext(t *testing.T) {
	server := &scripted{appends: []func() (*pb.AppendResponse, error){}}
	for range 100 {
		server.appends = append(server.appends, noAnswer)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	begin := time.Now()
	_, err := treering.Append(ctx, server.client(t), request())
	if status.Code(err) != codes.Unavailable || time.Since(begin) > time.Second || len(server.appended) < 2 {
		t.Error(err, len(server.appended))
	}
}

func TestAppendWithoutIdsIsNotBegun(t *testing.T) {
	server := &scripted{}
	streamless := &pb.AppendRequest{Events: []*pb.Event{{Type: "OrderPlaced"}}}
	if _, err := treering.Append(t.Context(), server.client(t), streamless); err == nil {
		t.Error("it was")
	}
	if len(server.appended) > 0 {
		t.Error("it was sent")
	}
}

func started(logID string, after uint64) *pb.SubscribeResponse {
	return &pb.SubscribeResponse{Content: &pb.SubscribeResponse_Started{
		Started: &pb.SubscriptionStarted{LogId: logID, AfterPosition: after, HeadPosition: 9}}}
}

func batch(positions ...uint64) *pb.SubscribeResponse {
	events := &pb.EventBatch{}
	for _, position := range positions {
		events.Events = append(events.Events, &pb.RecordedEvent{Position: position, Id: string(rune('a' + position))})
	}
	return &pb.SubscribeResponse{Content: &pb.SubscribeResponse_Events{Events: events}}
}

func heartbeat(position uint64, id string) *pb.SubscribeResponse {
	return &pb.SubscribeResponse{Content: &pb.SubscribeResponse_Heartbeat{
		Heartbeat: &pb.Heartbeat{Position: position, EventId: id}}}
}

func newLog(position uint64, id string) *pb.SubscribeResponse {
	return &pb.SubscribeResponse{Content: &pb.SubscribeResponse_FellBehind{
		FellBehind: &pb.FellBehind{Position: position, LogId: id}}}
}

func diverged() error {
	return failed(&pb.Failure{
		Code: int32(codes.FailedPrecondition), Reason: pb.FailureReason_FAILURE_REASON_LOG_DIVERGED})
}

// follow runs a subscription to its end, and gives the positions that were handed out and the
// checkpoint after each response.
func follow(t *testing.T, server *scripted, request *pb.SubscribeRequest) (seen []uint64, kept []treering.Checkpoint, err error) {
	request.Source = &pb.SubscribeRequest_Stream{Stream: "order-1"}
	err = treering.Follow(t.Context(), server.client(t), request,
		func(response *pb.SubscribeResponse, checkpoint treering.Checkpoint) error {
			for _, event := range response.GetEvents().GetEvents() {
				seen = append(seen, event.GetPosition())
			}
			kept = append(kept, checkpoint)
			return nil
		})
	return seen, kept, err
}

func TestBrokenSubscriptionGoesOnWhereItStopped(t *testing.T) {
	lost := status.Error(codes.Unavailable, "connection lost")
	server := &scripted{subscribes: [][]any{
		{lost}, // before anything came
		{started("A", 4), batch(5, 6), lost},
		{started("A", 6), heartbeat(8, "x"), newLog(8, "B"), lost},
		{started("B", 8), batch(9), diverged()},
	}}
	at := &pb.SubscribeRequest_AfterTime{} // Not where it is to go on.
	seen, kept, err := follow(t, server, &pb.SubscribeRequest{Start: at})
	if treering.FailureOf(err).GetReason() != pb.FailureReason_FAILURE_REASON_LOG_DIVERGED {
		t.Error(err)
	}
	if want := []uint64{5, 6, 9}; !reflect.DeepEqual(seen, want) {
		t.Error(seen)
	}
	want := []treering.Checkpoint{
		{"A", 4, ""}, {"A", 6, "g"}, {"A", 6, "g"}, {"A", 8, "x"}, {"B", 8, "x"}, {"B", 8, "x"}, {"B", 9, "j"},
	}
	if !reflect.DeepEqual(kept, want) {
		t.Error(kept)
	}
	var asked []treering.Checkpoint
	for _, each := range server.subscribed[2:] {
		asked = append(asked, treering.Checkpoint{
			LogID: each.ExpectedLogId, Position: each.GetAfterPosition(), EventID: each.AfterEventId})
	}
	if want := []treering.Checkpoint{{"A", 6, "g"}, {"B", 8, "x"}}; !reflect.DeepEqual(asked, want) {
		t.Error(asked)
	}
	if _, same := server.subscribed[1].Start.(*pb.SubscribeRequest_AfterTime); !same {
		t.Error("a subscription that was never accepted did not begin again where it should")
	}
}

func TestSilentSubscriptionIsBegunAgain(t *testing.T) {
	server := &scripted{subscribes: [][]any{{started("A", 0), batch(1)}, {diverged()}}}
	interval := durationpb.New(50 * time.Millisecond)
	seen, _, err := follow(t, server, &pb.SubscribeRequest{HeartbeatInterval: interval})
	if len(seen) != 1 || len(server.subscribed) != 2 || status.Code(err) != codes.FailedPrecondition {
		t.Error(seen, len(server.subscribed), err)
	}
}

func TestErrorOfTheHandlerEndsTheSubscription(t *testing.T) {
	server := &scripted{subscribes: [][]any{{started("A", 0), batch(1)}}}
	mine := errors.New("mine")
	err := treering.Follow(t.Context(), server.client(t), &pb.SubscribeRequest{},
		func(*pb.SubscribeResponse, treering.Checkpoint) error { return mine })
	if err != mine {
		t.Error(err)
	}
}
