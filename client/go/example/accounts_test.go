package example_test

import (
	"context"
	"errors"
	"io"
	"math"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"

	"github.com/treering/treering/client/go/example"
	"github.com/treering/treering/client/go/treering"
	pb "github.com/treering/treering/client/go/treering/v1"
)

// connect connects to the server under test.
func connect(t *testing.T, options ...grpc.DialOption) *grpc.ClientConn {
	target := os.Getenv("TREERING_SERVER")
	if target == "" {
		t.Skip("TREERING_SERVER names no server")
	}
	options = append(options, grpc.WithTransportCredentials(insecure.NewCredentials()))
	connection, err := treering.Connect(target, options...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { connection.Close() })
	return connection
}

// open opens an account with some money in it.
func open(t *testing.T, accounts *example.Accounts, cents int64) string {
	id := uuid.NewString()
	must(t, accounts.Open(t.Context(), id, "Anna"))
	if cents > 0 {
		must(t, accounts.Deposit(t.Context(), id, cents))
	}
	return id
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func balance(t *testing.T, accounts *example.Accounts, id string) int64 {
	t.Helper()
	cents, err := accounts.Balance(t.Context(), id)
	must(t, err)
	return cents
}

func TestAnAccountIsOpenedOnce(t *testing.T) {
	accounts := example.New(connect(t))
	id := open(t, accounts, 0)
	err := accounts.Open(t.Context(), id, "Bert")
	if !errors.Is(err, example.ErrAccountExists) || !strings.HasSuffix(err.Error(), "is at version 1") {
		t.Error(err)
	}
}

func TestWhatIsRefusedSaysWhy(t *testing.T) {
	accounts := example.New(connect(t))
	err := accounts.Open(t.Context(), strings.Repeat("x", 300), "Anna")
	if err == nil || !strings.Contains(err.Error(), "appends[0].stream") || !strings.Contains(err.Error(), "(limit 255)") {
		t.Error(err)
	}
	if err := accounts.Deposit(t.Context(), uuid.NewString(), 1); err != example.ErrNoAccount {
		t.Error(err)
	}
}

func TestWithdrawalsAtOnceNeverTakeMoreThanThereIs(t *testing.T) {
	accounts := example.New(connect(t))
	id := open(t, accounts, 500)
	var group sync.WaitGroup
	errs := make([]error, 8)
	for i := range errs {
		group.Go(func() { errs[i] = accounts.Withdraw(t.Context(), id, 100) })
	}
	group.Wait()
	refused := 0
	for _, err := range errs {
		if err == example.ErrInsufficientFunds {
			refused++
		} else if err != nil {
			t.Error(err)
		}
	}
	if refused != 3 || balance(t, accounts, id) != 0 {
		t.Error(refused, balance(t, accounts, id))
	}
}

func TestANameIsGivenOnceHoweverManyClaimIt(t *testing.T) {
	accounts := example.New(connect(t))
	name := "Zoë " + uuid.NewString()
	errs := make([]error, 6)
	var group sync.WaitGroup
	for i := range errs {
		id := open(t, accounts, 0)
		group.Go(func() { errs[i] = accounts.ClaimName(t.Context(), id, name) })
	}
	group.Wait()
	given := 0
	for _, err := range errs {
		if err == nil {
			given++
		} else if err != example.ErrNameTaken {
			t.Error(err)
		}
	}
	if given != 1 {
		t.Error(given)
	}
	if err := accounts.ClaimName(t.Context(), uuid.NewString(), name+"?"); err != example.ErrNoAccount {
		t.Error(err)
	}
}

func TestTransferMovesAllOrNothing(t *testing.T) {
	accounts := example.New(connect(t))
	from, to := open(t, accounts, 1000), open(t, accounts, 0)
	must(t, accounts.Transfer(t.Context(), from, to, 300))
	if err := accounts.Transfer(t.Context(), from, to, 701); err != example.ErrInsufficientFunds {
		t.Error(err)
	}
	if err := accounts.Transfer(t.Context(), from, uuid.NewString(), 1); err != example.ErrNoAccount {
		t.Error(err)
	}
	if a, b := balance(t, accounts, from), balance(t, accounts, to); a != 700 || b != 300 {
		t.Error(a, b)
	}
	latest, err := accounts.Latest(t.Context(), 2, from, to)
	must(t, err)
	if latest[0].GetPosition() != latest[1].GetPosition()+1 || !latest[0].GetRecordedAt().AsTime().Equal(latest[1].GetRecordedAt().AsTime()) {
		t.Error("the two events are not of one append")
	}
}

func TestTenThousandEventsArePipelined(t *testing.T) {
	watch := &watch{}
	accounts := example.New(connect(t, grpc.WithStreamInterceptor(watch.stream)))
	id := open(t, accounts, 0)
	amounts := make([]int64, 10_000)
	var total int64
	for i := range amounts {
		amounts[i] = int64(i)
		total += amounts[i]
	}
	begin := time.Now()
	refused, err := accounts.DepositAll(t.Context(), id, amounts, 500)
	must(t, err)
	t.Logf("%d appends in %v, at most %d unanswered", len(amounts), time.Since(begin), watch.most)
	if len(refused) != 0 || balance(t, accounts, id) != total {
		t.Error(len(refused), balance(t, accounts, id))
	}
	if watch.most > 500 || watch.most < 2 {
		t.Error(watch.most)
	}
}

func TestRefusedAppendsOfAPipelineAreTold(t *testing.T) {
	accounts := example.New(connect(t))
	refused, err := accounts.DepositAll(t.Context(), uuid.NewString(), []int64{1, 2}, 10)
	must(t, err)
	for i := range 2 {
		if refused[i].GetReason() != pb.FailureReason_FAILURE_REASON_VERSION_CONFLICT {
			t.Error(refused[i])
		}
	}
}

func TestReadsBackwardsWithAQuery(t *testing.T) {
	accounts := example.New(connect(t))
	anna, bert, other := open(t, accounts, 100), open(t, accounts, 200), open(t, accounts, 300)
	must(t, accounts.Withdraw(t.Context(), anna, 1))
	must(t, accounts.Withdraw(t.Context(), other, 1))
	latest, err := accounts.Latest(t.Context(), 2, anna, bert)
	must(t, err)
	var found []string
	for _, event := range latest {
		found = append(found, event.GetStream()+" "+event.GetType()+" "+string(event.GetData()))
	}
	want := "account-" + anna + ` MoneyWithdrawn {"amount":1}, account-` + bert + ` MoneyDeposited {"amount":200}`
	if strings.Join(found, ", ") != want {
		t.Error(found)
	}
}

func TestReadsAsOfATime(t *testing.T) {
	accounts := example.New(connect(t))
	id := open(t, accounts, 100)
	latest, err := accounts.Latest(t.Context(), 1, id)
	must(t, err)
	then := latest[0].GetRecordedAt().AsTime()
	time.Sleep(time.Millisecond)
	must(t, accounts.Withdraw(t.Context(), id, 40))
	for at, want := range map[time.Time]int64{then: 100, then.Add(-time.Microsecond): 0, time.Now().Add(time.Hour): 60} {
		cents, err := accounts.BalanceAt(t.Context(), id, at)
		must(t, err)
		if cents != want {
			t.Error(at, cents, want)
		}
	}
}

func TestCallsHaveADeadlineAndATrace(t *testing.T) {
	watch := &watch{}
	accounts := example.New(connect(t, grpc.WithUnaryInterceptor(watch.unary)))
	traceparent := "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
	id := uuid.NewString()
	must(t, accounts.Open(example.Traced(t.Context(), traceparent), id, "Anna"))
	must(t, accounts.Deposit(example.Traced(t.Context(), traceparent), id, 1))
	if watch.deadline <= 0 || watch.deadline > time.Minute || watch.traceparent != traceparent {
		t.Error(watch.deadline, watch.traceparent)
	}
	latest, err := accounts.Latest(t.Context(), 1, id)
	must(t, err)
	if latest[0].GetMetadata()["traceparent"] != traceparent {
		t.Error(latest[0])
	}
	ctx, cancel := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer cancel()
	if err := accounts.Deposit(ctx, id, 1); !strings.Contains(err.Error(), "DeadlineExceeded") {
		t.Error(err)
	}
}

func TestTheSameAppendAgainIsFoundByItsIds(t *testing.T) {
	store := pb.NewEventStoreServiceClient(connect(t))
	request := &pb.AppendRequest{Events: []*pb.Event{{Id: uuid.NewString(), Type: "Happened"}}}
	first, err := treering.Append(t.Context(), store, request)
	must(t, err)
	again, err := treering.Append(t.Context(), store, request)
	must(t, err)
	if first.GetDuplicate() || !again.GetDuplicate() || first.GetLastPosition() != again.GetLastPosition() {
		t.Error(first, again)
	}
}

// The read model is stopped and started, and the server restarted, while money moves.
func TestSubscriptionResumesWithoutLossOrRepetition(t *testing.T) {
	connection := connect(t)
	accounts := example.New(connection)
	restart := os.Getenv("TREERING_RESTART")
	if restart == "" {
		t.Skip("TREERING_RESTART names no command that restarts the server")
	}
	id := open(t, accounts, 1)
	path := filepath.Join(t.TempDir(), "balances.json")

	ctx, stop := context.WithCancel(t.Context())
	var group sync.WaitGroup
	follow := func(ctx context.Context, caughtUp func(*example.Balances)) {
		group.Go(func() {
			err := example.FollowBalances(ctx, connection, path, caughtUp)
			if ctx.Err() == nil {
				t.Error(err)
			}
		})
	}
	follow(ctx, func(*example.Balances) { stop() }) // Up to now, and then no more.
	group.Wait()
	stored, err := example.LoadBalances(path)
	must(t, err)
	if stored.Cents[id] != 1 || stored.Checkpoint.Position == 0 || stored.Checkpoint.LogID == "" {
		t.Fatal(stored)
	}

	must(t, accounts.Deposit(t.Context(), id, 2)) // Nobody follows.
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	follow(ctx, nil)
	var writer sync.WaitGroup
	writer.Go(func() {
		for i := range 60 {
			if err := accounts.Deposit(t.Context(), id, int64(i)*1000); err != nil {
				t.Error(err)
			}
			time.Sleep(20 * time.Millisecond)
		}
	})
	time.Sleep(300 * time.Millisecond)
	if output, err := exec.Command("sh", "-c", restart).CombinedOutput(); err != nil {
		t.Fatal(err, string(output))
	}
	writer.Wait()

	want := balance(t, accounts, id)
	if want != 3+59*60/2*1000 {
		t.Error(want)
	}
	read, err := accounts.Latest(t.Context(), math.MaxInt64, id)
	must(t, err)
	deadline := time.Now().Add(20 * time.Second)
	for stored.Checkpoint.Position < read[0].GetPosition() && time.Now().Before(deadline) {
		time.Sleep(20 * time.Millisecond)
		stored, err = example.LoadBalances(path)
		must(t, err)
	}
	stop()
	group.Wait()
	if stored.Cents[id] != want || len(read) != 62 {
		t.Error(stored.Cents[id], want, len(read))
	}
	all, err := pb.NewEventStoreServiceClient(connection).Read(t.Context(), &pb.ReadRequest{
		Source: &pb.ReadRequest_Query{Query: &pb.Query{Items: []*pb.QueryItem{{Categories: []string{"account"}}}}},
		Until:  &pb.ReadRequest_UntilPosition{UntilPosition: stored.Checkpoint.Position},
	})
	must(t, err)
	count := 0
	for {
		response, err := all.Recv()
		if err == io.EOF {
			break
		}
		must(t, err)
		count += len(response.GetEvents())
	}
	t.Logf("%d events, each once, over a restart of the server", stored.Events)
	if stored.Events != count {
		t.Error(stored.Events, count)
	}
}

// watch looks at what is sent.
type watch struct {
	lock        sync.Mutex
	unanswered  int
	most        int
	deadline    time.Duration
	traceparent string
}

func (w *watch) unary(
	ctx context.Context, method string, request, reply any, connection *grpc.ClientConn,
	invoke grpc.UnaryInvoker, options ...grpc.CallOption,
) error {
	if deadline, ok := ctx.Deadline(); ok {
		w.deadline = time.Until(deadline)
	}
	sent, _ := metadata.FromOutgoingContext(ctx)
	w.traceparent = strings.Join(sent["traceparent"], ",")
	return invoke(ctx, method, request, reply, connection, options...)
}

func (w *watch) stream(
	ctx context.Context, description *grpc.StreamDesc, connection *grpc.ClientConn, method string,
	streamer grpc.Streamer, options ...grpc.CallOption,
) (grpc.ClientStream, error) {
	stream, err := streamer(ctx, description, connection, method, options...)
	return &watched{stream, w}, err
}

type watched struct {
	grpc.ClientStream
	watch *watch
}

func (w *watched) SendMsg(message any) error {
	if sent, ok := message.(*pb.AppendManyRequest); ok {
		w.watch.lock.Lock()
		w.watch.unanswered += len(sent.GetItems())
		w.watch.most = max(w.watch.most, w.watch.unanswered)
		w.watch.lock.Unlock()
	}
	return w.ClientStream.SendMsg(message)
}

func (w *watched) RecvMsg(message any) error {
	err := w.ClientStream.RecvMsg(message)
	if received, ok := message.(*pb.AppendManyResponse); ok && err == nil {
		w.watch.lock.Lock()
		w.watch.unanswered -= len(received.GetResults())
		w.watch.lock.Unlock()
	}
	return err
}
