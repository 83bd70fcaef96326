package io.treering;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTimeoutPreemptively;
import static org.junit.jupiter.api.Assertions.assertTrue;

import com.google.protobuf.Any;
import com.google.protobuf.Duration;
import com.google.protobuf.Timestamp;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.inprocess.InProcessChannelBuilder;
import io.grpc.inprocess.InProcessServerBuilder;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.ServerCallStreamObserver;
import io.grpc.stub.StreamObserver;
import io.treering.Treering.Checkpoint;
import io.treering.Treering.Subscription;
import io.treering.v1.AppendRequest;
import io.treering.v1.AppendResponse;
import io.treering.v1.Event;
import io.treering.v1.EventBatch;
import io.treering.v1.EventStoreServiceGrpc;
import io.treering.v1.EventStoreServiceGrpc.EventStoreServiceBlockingStub;
import io.treering.v1.Failure;
import io.treering.v1.FailureReason;
import io.treering.v1.FellBehind;
import io.treering.v1.Heartbeat;
import io.treering.v1.RecordedEvent;
import io.treering.v1.StreamAppend;
import io.treering.v1.SubscribeRequest;
import io.treering.v1.SubscribeResponse;
import io.treering.v1.SubscriptionStarted;
import io.treering.v1.VersionConflict;
import java.io.IOException;
import java.net.InetAddress;
import java.net.ServerSocket;
import java.util.ArrayList;
import java.util.Collections;
import java.util.Iterator;
import java.util.List;
import java.util.UUID;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.atomic.AtomicInteger;
import org.junit.jupiter.api.AfterEach;
import org.junit.jupiter.api.BeforeEach;
import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/**
 * The helper against a server that does what the test says: for what a real one can't be made to do
 * at a given moment.
 */
@DisplayName("Treering")
@Timeout(60)
final class TreeringTest {
  private static final String ID = "018bcfe5-6800-7000-8000-000000000001";
  private static final AppendRequest REQUEST =
      AppendRequest.newBuilder()
          .addAppends(
              StreamAppend.newBuilder()
                  .setStream("order-1")
                  .addEvents(Event.newBuilder().setId(ID).setType("OrderPlaced")))
          .build();

  private static final StatusRuntimeException LOST =
      Status.UNAVAILABLE.withDescription("connection lost").asRuntimeException();
  private static final StatusRuntimeException DEFECT =
      Status.INTERNAL.withDescription("reference 17").asRuntimeException();
  private static final StatusRuntimeException CONFLICT =
      failed(
          Status.Code.ABORTED,
          Failure.newBuilder()
              .setReason(FailureReason.FAILURE_REASON_VERSION_CONFLICT)
              .setVersionConflict(
                  VersionConflict.newBuilder()
                      .setStream("order-1")
                      .setExpectedVersion(0)
                      .setActualVersion(Long.MAX_VALUE)));
  private static final StatusRuntimeException OVERLOADED =
      failed(
          Status.Code.RESOURCE_EXHAUSTED,
          Failure.newBuilder()
              .setReason(FailureReason.FAILURE_REASON_OVERLOADED)
              .setRetryAfter(Duration.newBuilder().setNanos(500_000_000)));
  private static final StatusRuntimeException DIVERGED =
      failed(
          Status.Code.FAILED_PRECONDITION,
          Failure.newBuilder().setReason(FailureReason.FAILURE_REASON_LOG_DIVERGED));

  private final Script script = new Script();
  private Server server;
  private ManagedChannel channel;

  @BeforeEach
  void serveTheScript() throws IOException {
    String name = UUID.randomUUID().toString();
    server = InProcessServerBuilder.forName(name).addService(script).build().start();
    channel = Treering.connect(InProcessChannelBuilder.forName(name));
  }

  @AfterEach
  void stop() throws InterruptedException {
    channel.shutdownNow();
    server.shutdownNow().awaitTermination();
  }

  @Test
  @DisplayName("the failure of an error has its reason and facts")
  void failureHasReasonAndFacts() {
    script.appends.add(CONFLICT);
    StatusRuntimeException error =
        assertThrows(StatusRuntimeException.class, () -> Treering.append(store(10_000), REQUEST));
    assertTrue(Treering.isConflict(error));
    VersionConflict conflict = Treering.failureOf(error).orElseThrow().getVersionConflict();
    assertTrue(conflict.hasExpectedVersion(), "the expected version 0 is lost");
    assertEquals(Long.MAX_VALUE, conflict.getActualVersion());
  }

  @Test
  @DisplayName("no failure where the server said none")
  void noFailureWhereTheServerSaidNone() {
    for (Throwable error : List.of(new IllegalStateException("mine"), LOST, DEFECT)) {
      assertTrue(Treering.failureOf(error).isEmpty());
      assertEquals(FailureReason.FAILURE_REASON_UNSPECIFIED, Treering.reasonOf(error));
      assertFalse(Treering.isConflict(error));
    }
  }

  @Test
  @DisplayName("an append is repeated with the same ids")
  void appendIsRepeatedWithTheSameIds() throws InterruptedException {
    Collections.addAll(script.appends, LOST, OVERLOADED, DEFECT, recorded());
    long begin = System.nanoTime();
    assertEquals(7, Treering.append(store(10_000), REQUEST).getLastPosition());
    assertTrue(System.nanoTime() - begin >= MILLISECONDS.toNanos(500), "retry_after passed over");
    assertEquals(Collections.nCopies(4, REQUEST), script.appended);
  }

  @Test
  @DisplayName("a conflict is not repeated")
  void conflictIsNotRepeated() {
    Collections.addAll(script.appends, CONFLICT, recorded());
    assertThrows(StatusRuntimeException.class, () -> Treering.append(store(10_000), REQUEST));
    assertEquals(1, script.appended.size());
  }

  @Test
  @DisplayName("a defect is repeated a few times only")
  void defectIsRepeatedAFewTimesOnly() {
    Collections.addAll(script.appends, DEFECT, DEFECT, DEFECT, recorded());
    assertThrows(StatusRuntimeException.class, () -> Treering.append(store(10_000), REQUEST));
    assertEquals(3, script.appended.size());
  }

  @Test
  @DisplayName("repeats end with the deadline")
  void repeatsEndWithTheDeadline() {
    script.appends.addAll(Collections.nCopies(100, LOST));
    EventStoreServiceBlockingStub store = store(1_000);
    StatusRuntimeException error =
        assertThrows(StatusRuntimeException.class, () -> Treering.append(store, REQUEST));
    assertEquals(Status.Code.UNAVAILABLE, error.getStatus().getCode());
    assertFalse(store.getCallOptions().getDeadline().isExpired(), "it waited for nothing");
    assertTrue(script.appended.size() > 1);
  }

  @Test
  @DisplayName("repeats end with the thread's interruption")
  void repeatsEndWithInterruption() {
    script.appends.add(LOST);
    Thread.currentThread().interrupt();
    assertThrows(InterruptedException.class, () -> Treering.append(store(10_000), REQUEST));
  }

  @Test
  @DisplayName("an append without ids is not begun")
  void appendWithoutIdsIsNotBegun() {
    AppendRequest request =
        AppendRequest.newBuilder().addEvents(Event.newBuilder().setType("OrderPlaced")).build();
    assertThrows(IllegalArgumentException.class, () -> Treering.append(store(10_000), request));
    assertEquals(List.of(), script.appended);
  }

  @Test
  @DisplayName("a broken subscription goes on where it stopped")
  void brokenSubscriptionGoesOnWhereItStopped() {
    script.subscribes.add(List.of(LOST)); // Before anything came.
    script.subscribes.add(List.of(started("A", 4), batch(5, 6), LOST));
    script.subscribes.add(List.of(started("A", 6), heartbeat(8, "x"), newLog(8, "B"), LOST));
    script.subscribes.add(List.of(started("B", 8), batch(9), DIVERGED));
    SubscribeRequest request = // Not where it is to go on.
        SubscribeRequest.newBuilder().setAfterTime(Timestamp.getDefaultInstance()).build();
    List<Long> seen = new ArrayList<>();
    List<Checkpoint> kept = new ArrayList<>();
    try (Subscription subscription = subscribe(request)) {
      StatusRuntimeException error =
          assertThrows(
              StatusRuntimeException.class,
              () -> {
                while (true) {
                  SubscribeResponse response = subscription.next();
                  response
                      .getEvents()
                      .getEventsList()
                      .forEach(each -> seen.add(each.getPosition()));
                  kept.add(subscription.checkpoint());
                }
              });
      assertEquals(FailureReason.FAILURE_REASON_LOG_DIVERGED, Treering.reasonOf(error));
    }
    assertEquals(List.of(5L, 6L, 9L), seen);
    assertEquals(
        List.of(
            new Checkpoint("A", 4, ""),
            new Checkpoint("A", 6, "id6"),
            new Checkpoint("A", 6, "id6"),
            new Checkpoint("A", 8, "x"),
            new Checkpoint("B", 8, "x"),
            new Checkpoint("B", 8, "x"),
            new Checkpoint("B", 9, "id9")),
        kept);
    assertTrue(
        script.subscribed.get(1).hasAfterTime(), "it was never accepted, and began elsewhere");
    assertEquals(
        List.of(
            new Checkpoint("A", 6, "id6").startOf(request),
            new Checkpoint("B", 8, "x").startOf(request)),
        script.subscribed.subList(2, 4));
  }

  @Test
  @DisplayName("a silent subscription is begun again")
  void silentSubscriptionIsBegunAgain() throws InterruptedException {
    script.subscribes.add(List.of(started("A", 0), batch(1)));
    script.subscribes.add(List.of(DIVERGED));
    SubscribeRequest request =
        SubscribeRequest.newBuilder()
            .setHeartbeatInterval(Duration.newBuilder().setNanos(50_000_000))
            .build();
    try (Subscription subscription = subscribe(request)) {
      assertTrue(subscription.next().hasStarted());
      assertTrue(subscription.next().hasEvents());
      assertThrows(StatusRuntimeException.class, subscription::next);
    }
    assertEquals(2, script.subscribed.size());
  }

  @Test
  @DisplayName("a subscription ends with the thread's interruption, and is closed")
  void subscriptionEndsWithInterruption() throws InterruptedException {
    script.subscribes.add(List.of(started("A", 0)));
    try (Subscription subscription = subscribe(SubscribeRequest.getDefaultInstance())) {
      assertTrue(subscription.next().hasStarted());
      Thread.currentThread().interrupt();
      assertThrows(InterruptedException.class, subscription::next);
    }
    assertTrue(script.left.await(30, SECONDS), "the call is still open");
  }

  @Test
  @DisplayName("a subscriber that takes nothing is not sent more")
  void subscriberThatTakesNothingIsNotSentMore() throws InterruptedException {
    List<Object> much = new ArrayList<>(List.of(started("A", 0)));
    for (int position = 1; position <= 100; position++) {
      much.add(batch(position));
    }
    script.subscribes.add(much);
    try (Subscription subscription = subscribe(SubscribeRequest.getDefaultInstance())) {
      for (int taken = 1; taken <= much.size(); taken++) {
        subscription.next();
        assertTrue(script.sent.get() <= taken + 2, "more was asked for than is taken");
      }
    }
  }

  @Test
  @DisplayName("a server that is away is looked for often")
  void serverThatIsAwayIsLookedForOften() {
    // By itself, gRPC makes its sixth attempt after 16 s.
    assertTimeoutPreemptively(
        java.time.Duration.ofSeconds(10),
        () -> {
          try (ServerSocket socket = new ServerSocket(0, 50, InetAddress.getLoopbackAddress())) {
            ManagedChannel away =
                Treering.connect(
                    Grpc.newChannelBuilder(
                        "127.0.0.1:" + socket.getLocalPort(), InsecureChannelCredentials.create()));
            away.getState(true);
            for (int attempt = 0; attempt < 6; attempt++) {
              socket.accept().close();
            }
            away.shutdownNow();
          }
        });
  }

  private EventStoreServiceBlockingStub store(long timeoutMillis) {
    return EventStoreServiceGrpc.newBlockingStub(channel)
        .withDeadlineAfter(timeoutMillis, MILLISECONDS);
  }

  private Subscription subscribe(SubscribeRequest request) {
    return new Subscription(EventStoreServiceGrpc.newStub(channel), request);
  }

  private static StatusRuntimeException failed(Status.Code code, Failure.Builder failure) {
    return StatusProto.toStatusRuntimeException(
        com.google.rpc.Status.newBuilder()
            .setCode(code.value())
            .setMessage("refused")
            .addDetails(Any.pack(failure.setCode(code.value()).build()))
            .build());
  }

  private static AppendResponse recorded() {
    return AppendResponse.newBuilder().setLastPosition(7).build();
  }

  private static SubscribeResponse started(String log, long after) {
    return SubscribeResponse.newBuilder()
        .setStarted(
            SubscriptionStarted.newBuilder()
                .setLogId(log)
                .setAfterPosition(after)
                .setHeadPosition(9))
        .build();
  }

  private static SubscribeResponse batch(long... positions) {
    EventBatch.Builder events = EventBatch.newBuilder();
    for (long each : positions) {
      events.addEvents(RecordedEvent.newBuilder().setPosition(each).setId("id" + each));
    }
    return SubscribeResponse.newBuilder().setEvents(events).build();
  }

  private static SubscribeResponse heartbeat(long position, String id) {
    return SubscribeResponse.newBuilder()
        .setHeartbeat(Heartbeat.newBuilder().setPosition(position).setEventId(id))
        .build();
  }

  private static SubscribeResponse newLog(long position, String log) {
    return SubscribeResponse.newBuilder()
        .setFellBehind(FellBehind.newBuilder().setPosition(position).setLogId(log))
        .build();
  }

  /** Answers one call after the other as it says, and keeps what it was asked. */
  private static final class Script extends EventStoreServiceGrpc.EventStoreServiceImplBase {
    /** A response or an error each. */
    final List<Object> appends = new ArrayList<>();

    /** Of each call: responses, and an error at its end or none. */
    final List<List<Object>> subscribes = new ArrayList<>();

    final List<AppendRequest> appended = Collections.synchronizedList(new ArrayList<>());
    final List<SubscribeRequest> subscribed = Collections.synchronizedList(new ArrayList<>());
    final AtomicInteger sent = new AtomicInteger();
    final CountDownLatch left = new CountDownLatch(1);

    @Override
    public void append(AppendRequest request, StreamObserver<AppendResponse> answer) {
      appended.add(request);
      Object next = appends.get(appended.size() - 1);
      if (next instanceof AppendResponse response) {
        answer.onNext(response);
        answer.onCompleted();
      } else {
        answer.onError((StatusRuntimeException) next);
      }
    }

    @Override
    public void subscribe(SubscribeRequest request, StreamObserver<SubscribeResponse> answer) {
      subscribed.add(request);
      Iterator<Object> answers = subscribes.get(subscribed.size() - 1).iterator();
      var call = (ServerCallStreamObserver<SubscribeResponse>) answer;
      call.setOnCancelHandler(left::countDown);
      call.setOnReadyHandler(
          () -> {
            while (call.isReady() && answers.hasNext()) {
              Object next = answers.next();
              if (next instanceof SubscribeResponse response) {
                sent.incrementAndGet();
                call.onNext(response);
              } else {
                call.onError((StatusRuntimeException) next);
              }
            } // Nothing more is ever said.
          });
    }
  }
}
