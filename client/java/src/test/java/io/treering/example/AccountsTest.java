package io.treering.example;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;
import static org.junit.jupiter.api.Assumptions.assumeTrue;

import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptor;
import io.grpc.ClientInterceptors;
import io.grpc.ForwardingClientCall.SimpleForwardingClientCall;
import io.grpc.ForwardingClientCallListener.SimpleForwardingClientCallListener;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.treering.Treering;
import io.treering.example.Refused.Reason;
import io.treering.v1.AppendManyRequest;
import io.treering.v1.AppendManyResponse;
import io.treering.v1.AppendRequest;
import io.treering.v1.AppendResponse;
import io.treering.v1.Event;
import io.treering.v1.EventStoreServiceGrpc;
import io.treering.v1.EventStoreServiceGrpc.EventStoreServiceBlockingStub;
import io.treering.v1.Failure;
import io.treering.v1.FailureReason;
import io.treering.v1.Query;
import io.treering.v1.QueryItem;
import io.treering.v1.ReadRequest;
import io.treering.v1.RecordedEvent;
import java.nio.file.Path;
import java.time.Duration;
import java.time.Instant;
import java.time.temporal.ChronoUnit;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.Callable;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import java.util.concurrent.Semaphore;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.concurrent.atomic.AtomicReference;
import java.util.stream.LongStream;
import java.util.stream.Stream;
import org.junit.jupiter.api.AfterAll;
import org.junit.jupiter.api.BeforeAll;
import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.TestReporter;
import org.junit.jupiter.api.Timeout;
import org.junit.jupiter.api.function.Executable;
import org.junit.jupiter.api.io.TempDir;

/** The service against the server at TREERING_SERVER. */
@DisplayName("Accounts")
@Timeout(120)
final class AccountsTest {
  private static ManagedChannel channel;
  private static Accounts accounts;

  @BeforeAll
  static void connect() {
    String target = System.getenv("TREERING_SERVER");
    assumeTrue(target != null, "TREERING_SERVER names no server");
    channel = Treering.connect(Grpc.newChannelBuilder(target, InsecureChannelCredentials.create()));
    accounts = new Accounts(channel);
  }

  @AfterAll
  static void close() {
    if (channel != null) {
      channel.shutdownNow();
    }
  }

  @Test
  @DisplayName("an account is opened once")
  void accountIsOpenedOnce() throws InterruptedException {
    String id = opened(0);
    Refused refused = refusal(Reason.ACCOUNT_EXISTS, () -> accounts.open(id, "Bert"));
    assertTrue(refused.getMessage().endsWith("at version 1"), refused.getMessage());
  }

  @Test
  @DisplayName("what is refused says why")
  void refusalSaysWhy() {
    Refused refused = refusal(Reason.INVALID, () -> accounts.open("x".repeat(300), "Anna"));
    assertTrue(refused.getMessage().startsWith("appends[0].stream: "), refused.getMessage());
    assertTrue(refused.getMessage().endsWith("(limit 255)"), refused.getMessage());
    refusal(Reason.NO_ACCOUNT, () -> accounts.deposit(newId(), 1));
  }

  @Test
  @DisplayName("withdrawals at once never take more than there is")
  void withdrawalsNeverTakeMoreThanThereIs() throws Exception {
    String id = opened(500);
    List<Callable<Void>> calls =
        Collections.nCopies(
            8,
            () -> {
              accounts.withdraw(id, 100);
              return null;
            });
    assertEquals(3, refusals(calls, Reason.NOT_ENOUGH_MONEY));
    assertEquals(0, accounts.balance(id));
  }

  @Test
  @DisplayName("a name is given once, however many claim it")
  void nameIsGivenOnce() throws Exception {
    String name = "Zoë " + newId();
    List<Callable<Void>> calls = new ArrayList<>();
    for (int i = 0; i < 6; i++) {
      String id = opened(0);
      calls.add(
          () -> {
            accounts.claimName(id, name);
            return null;
          });
    }
    assertEquals(5, refusals(calls, Reason.NAME_TAKEN));
    refusal(Reason.NO_ACCOUNT, () -> accounts.claimName(newId(), name + "?"));
  }

  @Test
  @DisplayName("a transfer moves all or nothing")
  void transferMovesAllOrNothing() throws InterruptedException {
    String from = opened(1_000);
    String to = opened(0);
    accounts.transfer(from, to, 300);
    refusal(Reason.NOT_ENOUGH_MONEY, () -> accounts.transfer(from, to, 701));
    refusal(Reason.NO_ACCOUNT, () -> accounts.transfer(from, newId(), 1));
    assertEquals(700, accounts.balance(from));
    assertEquals(300, accounts.balance(to));
    List<RecordedEvent> latest = accounts.latest(2, from, to);
    assertEquals(latest.get(1).getPosition() + 1, latest.get(0).getPosition());
    assertEquals(latest.get(1).getRecordedAt(), latest.get(0).getRecordedAt());
  }

  @Test
  @DisplayName("ten thousand events are pipelined")
  void tenThousandEventsArePipelined(TestReporter reporter) throws InterruptedException {
    Watch watch = new Watch();
    Accounts watched = new Accounts(ClientInterceptors.intercept(channel, watch));
    String id = opened(0);
    List<Long> amounts = LongStream.range(0, 10_000).boxed().toList();
    long begin = System.nanoTime();
    Map<Integer, Failure> refused = watched.depositAll(id, amounts, 500);
    long millis = TimeUnit.NANOSECONDS.toMillis(System.nanoTime() - begin);
    reporter.publishEntry(
        "10000 appends in %d ms, at most %d unanswered".formatted(millis, watch.most.get()));
    assertEquals(Map.of(), refused);
    assertEquals(10_000L * 9_999 / 2, accounts.balance(id));
    assertTrue(watch.most.get() <= 500 && watch.most.get() > 1, watch.most::toString);
  }

  @Test
  @DisplayName("refused appends of a pipeline are told")
  void refusedAppendsOfAPipelineAreTold() throws InterruptedException {
    Map<Integer, Failure> refused = accounts.depositAll(newId(), List.of(1L, 2L), 10);
    for (int index : List.of(0, 1)) {
      assertEquals(FailureReason.FAILURE_REASON_VERSION_CONFLICT, refused.get(index).getReason());
    }
  }

  @Test
  @DisplayName("reads backwards with a query")
  void readsBackwardsWithAQuery() throws InterruptedException {
    String anna = opened(100);
    String bert = opened(200);
    String other = opened(300);
    accounts.withdraw(anna, 1);
    accounts.withdraw(other, 1);
    Stream<String> found =
        accounts.latest(2, anna, bert).stream()
            .map(
                event ->
                    "%s %s %s"
                        .formatted(
                            event.getStream(), event.getType(), event.getData().toStringUtf8()));
    assertEquals(
        List.of(
            "account-" + anna + " MoneyWithdrawn {\"amount\":1}",
            "account-" + bert + " MoneyDeposited {\"amount\":200}"),
        found.toList());
  }

  @Test
  @DisplayName("reads as of a time")
  void readsAsOfATime() throws InterruptedException {
    String id = opened(100);
    var recordedAt = accounts.latest(1, id).get(0).getRecordedAt();
    Instant then = Instant.ofEpochSecond(recordedAt.getSeconds(), recordedAt.getNanos());
    accounts.withdraw(id, 40);
    assertEquals(100, accounts.balanceAt(id, then));
    assertEquals(0, accounts.balanceAt(id, then.minus(1, ChronoUnit.MICROS)));
    assertEquals(60, accounts.balanceAt(id, Instant.now().plus(Duration.ofHours(1))));
  }

  @Test
  @DisplayName("calls have a deadline and a trace")
  void callsHaveADeadlineAndATrace() throws InterruptedException {
    String traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    Watch watch = new Watch();
    Accounts traced =
        new Accounts(ClientInterceptors.intercept(channel, watch)).traced(traceparent);
    String id = newId();
    traced.open(id, "Anna");
    traced.deposit(id, 1);
    assertEquals(
        traceparent,
        watch.headers.get().get(Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER)));
    long left = watch.options.get().getDeadline().timeRemaining(TimeUnit.SECONDS);
    assertTrue(left > 0 && left <= 10, () -> left + " s");
    assertEquals(
        traceparent, accounts.latest(1, id).get(0).getMetadataOrDefault("traceparent", ""));
  }

  @Test
  @DisplayName("the same append again is found by its ids")
  void sameAppendAgainIsFound() throws InterruptedException {
    EventStoreServiceBlockingStub store =
        EventStoreServiceGrpc.newBlockingStub(channel).withDeadlineAfter(10, TimeUnit.SECONDS);
    AppendRequest request =
        AppendRequest.newBuilder()
            .addEvents(Event.newBuilder().setId(newId()).setType("Happened"))
            .build();
    AppendResponse first = Treering.append(store, request);
    AppendResponse again = Treering.append(store, request);
    assertFalse(first.getDuplicate());
    assertTrue(again.getDuplicate());
    assertEquals(first.getLastPosition(), again.getLastPosition());
  }

  // The read model is stopped and started, and the server restarted, while money moves.
  @Test
  @DisplayName("a subscription resumes without loss or repetition")
  void subscriptionResumes(@TempDir Path folder, TestReporter reporter) throws Exception {
    String command = System.getenv("TREERING_RESTART");
    assumeTrue(command != null, "TREERING_RESTART names no command that restarts the server");
    String id = opened(1);
    Path file = folder.resolve("balances.json");
    Balances.follow(channel, file, balances -> false); // Up to now, and then no more.
    Balances stored = Balances.load(file);
    assertEquals(1, stored.cents(id));
    assertTrue(stored.checkpoint().position() > 0 && !stored.checkpoint().logId().isEmpty());

    accounts.deposit(id, 2); // Nobody follows.
    long sum = 3;
    ExecutorService executor = Executors.newSingleThreadExecutor();
    try {
      Semaphore caughtUp = new Semaphore(0);
      Future<?> following =
          executor.submit(
              () -> {
                Balances.follow(
                    channel,
                    file,
                    balances -> {
                      caughtUp.release();
                      return true;
                    });
                return null;
              });
      caughtUp.acquire();
      Process restart = new ProcessBuilder("sh", "-c", command).inheritIO().start();
      for (long cents = 1_000; restart.isAlive() || !caughtUp.tryAcquire(); cents += 1_000) {
        assertFalse(following.isDone());
        accounts.deposit(id, cents);
        sum += cents;
      }
      assertEquals(0, restart.exitValue());
      following.cancel(true);
    } finally {
      executor.shutdownNow();
      assertTrue(executor.awaitTermination(30, TimeUnit.SECONDS));
    }

    assertEquals(sum, accounts.balance(id));
    Balances.follow(channel, file, balances -> false); // What came last.
    stored = Balances.load(file);
    assertEquals(sum, stored.cents(id));
    assertEquals(eventsUpTo(stored.checkpoint().position()), stored.events());
    reporter.publishEntry(stored.events() + " events, each once, over a restart of the server");
  }

  private static int eventsUpTo(long position) {
    ReadRequest request =
        ReadRequest.newBuilder()
            .setQuery(Query.newBuilder().addItems(QueryItem.newBuilder().addCategories("account")))
            .setUntilPosition(position)
            .build();
    return Treering.read(EventStoreServiceGrpc.newBlockingStub(channel), request).events().size();
  }

  private static String newId() {
    return UUID.randomUUID().toString();
  }

  /** Opens an account with some money in it. */
  private static String opened(long cents) throws InterruptedException {
    String id = newId();
    accounts.open(id, "Anna");
    if (cents > 0) {
      accounts.deposit(id, cents);
    }
    return id;
  }

  private static Refused refusal(Reason reason, Executable call) {
    Refused refused = assertThrows(Refused.class, call);
    assertEquals(reason, refused.reason());
    return refused;
  }

  /** How many calls, made at once, were refused for the reason. Any other error fails the test. */
  private static long refusals(List<Callable<Void>> calls, Reason reason)
      throws InterruptedException {
    ExecutorService executor = Executors.newFixedThreadPool(calls.size());
    try {
      long count = 0;
      for (Future<Void> each : executor.invokeAll(calls)) {
        try {
          each.get();
        } catch (ExecutionException error) {
          assertEquals(reason, assertThrows(Refused.class, () -> throwCause(error)).reason());
          count++;
        }
      }
      return count;
    } finally {
      executor.shutdownNow();
    }
  }

  private static void throwCause(ExecutionException error) throws Throwable {
    throw error.getCause();
  }

  /** Looks at what is sent. */
  private static final class Watch implements ClientInterceptor {
    final AtomicReference<CallOptions> options = new AtomicReference<>();
    final AtomicReference<Metadata> headers = new AtomicReference<>();
    final AtomicInteger unanswered = new AtomicInteger();
    final AtomicInteger most = new AtomicInteger();

    @Override
    public <Q, R> ClientCall<Q, R> interceptCall(
        MethodDescriptor<Q, R> method, CallOptions callOptions, Channel next) {
      options.set(callOptions);
      return new SimpleForwardingClientCall<>(next.newCall(method, callOptions)) {
        @Override
        public void start(Listener<R> listener, Metadata sent) {
          headers.set(sent);
          super.start(
              new SimpleForwardingClientCallListener<>(listener) {
                @Override
                public void onMessage(R message) {
                  if (message instanceof AppendManyResponse response) {
                    unanswered.addAndGet(-response.getResultsCount());
                  }
                  super.onMessage(message);
                }
              },
              sent);
        }

        @Override
        public void sendMessage(Q message) {
          if (message instanceof AppendManyRequest request) {
            most.accumulateAndGet(unanswered.addAndGet(request.getItemsCount()), Math::max);
          }
          super.sendMessage(message);
        }
      };
    }
  }
}
