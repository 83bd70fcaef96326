package io.treering;

import static java.util.concurrent.TimeUnit.MILLISECONDS;
import static java.util.concurrent.TimeUnit.NANOSECONDS;
import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import io.grpc.ConnectivityState;
import io.grpc.Context;
import io.grpc.Deadline;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientResponseObserver;
import io.treering.v1.AppendRequest;
import io.treering.v1.AppendResponse;
import io.treering.v1.Event;
import io.treering.v1.EventStoreServiceGrpc.EventStoreServiceBlockingStub;
import io.treering.v1.EventStoreServiceGrpc.EventStoreServiceStub;
import io.treering.v1.Failure;
import io.treering.v1.FailureReason;
import io.treering.v1.ReadRequest;
import io.treering.v1.ReadResponse;
import io.treering.v1.RecordedEvent;
import io.treering.v1.SubscribeRequest;
import io.treering.v1.SubscribeResponse;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.ThreadLocalRandom;
import java.util.function.Supplier;
import java.util.stream.Stream;

/**
 * What every caller of Treering in Java would write: what a failed call means, an append that is
 * repeated safely, a subscription that goes on after any break. It is one file, to depend on or to
 * copy; everything else is in the stubs, in {@code io.treering.v1}.
 */
public final class Treering {

  /** The longest wait between two attempts, at a call as at a connection. */
  private static final long LONGEST_DELAY_MILLIS = 3_000;

  private Treering() {}

  /**
   * Makes a connection to keep for the life of the process: any number of threads use it. It
   * notices a server that is gone without a word, and comes back soon after a restart, where gRPC
   * by itself would wait for up to two minutes between its attempts.
   */
  public static ManagedChannel connect(ManagedChannelBuilder<?> builder) {
    ManagedChannel channel =
        builder.keepAliveTime(20, SECONDS).keepAliveTimeout(10, SECONDS).build();
    reconnectSoon(channel, 100);
    return channel;
  }

  // The builder has no setting for it; the channel can only be told not to wait any longer.
  private static void reconnectSoon(ManagedChannel channel, long delayMillis) {
    ConnectivityState state = channel.getState(false);
    if (state == ConnectivityState.TRANSIENT_FAILURE) {
      long longer = Math.min(2 * delayMillis, LONGEST_DELAY_MILLIS);
      CompletableFuture.delayedExecutor(jittered(delayMillis), MILLISECONDS)
          .execute(
              () -> {
                channel.resetConnectBackoff();
                reconnectSoon(channel, longer);
              });
    } else if (state != ConnectivityState.SHUTDOWN) {
      channel.notifyWhenStateChanged(state, () -> reconnectSoon(channel, 100));
    }
  }

  /** The events of a read, and the state that was read: the last response. */
  public record ReadResult(List<RecordedEvent> events, ReadResponse state) {}

  /** Reads to the end. */
  public static ReadResult read(EventStoreServiceBlockingStub store, ReadRequest request) {
    Iterator<ReadResponse> responses = store.read(request);
    List<RecordedEvent> events = new ArrayList<>();
    ReadResponse state;
    do { // There is always a first one.
      state = responses.next();
      events.addAll(state.getEventsList());
    } while (responses.hasNext());
    return new ReadResult(events, state);
  }

  /**
   * What the server says about a failed call: the reason and the facts. Empty if it said nothing,
   * as when it could not be reached.
   */
  public static Optional<Failure> failureOf(Throwable error) {
    com.google.rpc.Status status = StatusProto.fromThrowable(error);
    if (status == null) {
      return Optional.empty();
    }
    for (Any detail : status.getDetailsList()) {
      if (detail.is(Failure.class)) {
        try {
          return Optional.of(detail.unpack(Failure.class));
        } catch (InvalidProtocolBufferException e) {
          error.addSuppressed(e);
        }
      }
    }
    return Optional.empty();
  }

  /**
   * Whether something came between a decision and its append. Nothing was written: load again,
   * decide again.
   */
  public static boolean isConflict(Throwable error) {
    FailureReason reason = reasonOf(error);
    return reason == FailureReason.FAILURE_REASON_VERSION_CONFLICT
        || reason == FailureReason.FAILURE_REASON_CONDITION_FAILED;
  }

  /** The reason alone: UNSPECIFIED if the server said nothing. */
  public static FailureReason reasonOf(Throwable error) {
    return failureOf(error)
        .map(Failure::getReason)
        .orElse(FailureReason.FAILURE_REASON_UNSPECIFIED);
  }

  /**
   * Appends, and repeats the request for as long as that can help and the stub's deadline has not
   * passed. That is safe because of the events' ids, which must be set: what was recorded is found
   * by them and answered as the first time.
   *
   * <p>If it fails with anything but a refusal (a {@link Failure} that is neither UNAVAILABLE nor
   * OUTCOME_UNKNOWN), the events may have been recorded: the same request again will tell.
   *
   * @param store with a deadline for everything, all repeats included
   */
  public static AppendResponse append(EventStoreServiceBlockingStub store, AppendRequest request)
      throws InterruptedException {
    Stream<Event> inStreams =
        request.getAppendsList().stream().flatMap(each -> each.getEventsList().stream());
    if (Stream.concat(inStreams, request.getEventsList().stream())
        .anyMatch(event -> event.getId().isEmpty())) {
      throw new IllegalArgumentException(
          "an event has no id, and could not be appended again safely");
    }
    return repeat(store, () -> store.append(request));
  }

  /**
   * Makes a call again for as long as that can help and the stub's deadline has not passed. For
   * appends with ids, and for all that writes nothing.
   */
  public static <T> T repeat(AbstractStub<?> stub, Supplier<T> call) throws InterruptedException {
    Retry retry = new Retry(stub);
    while (true) {
      try {
        return call.get();
      } catch (StatusRuntimeException error) {
        if (!retry.await(error)) {
          throw error;
        }
      }
    }
  }

  /**
   * Decides whether a call is worth repeating, and when: with delays that grow, and that differ
   * from caller to caller. One for the attempts at one call.
   */
  public static final class Retry {
    private final AbstractStub<?> stub;
    private long delayMillis;
    private int doubtful;

    /** For calls of the stub, until its deadline, if it has one, or that of the context. */
    public Retry(AbstractStub<?> stub) {
      this.stub = stub;
    }

    /** It works again: begins anew. */
    public void reset() {
      delayMillis = 0;
      doubtful = 0;
    }

    /** Waits until the next attempt. False, at once, if that can't help, or if there is no time. */
    public boolean await(StatusRuntimeException error) throws InterruptedException {
      if (Context.current().isCancelled() || !mayPass(error)) {
        return false;
      }
      delayMillis = Math.min(Math.max(2 * delayMillis, 50), LONGEST_DELAY_MILLIS);
      long wait = jittered(delayMillis);
      wait += failureOf(error).map(failure -> millis(failure.getRetryAfter())).orElse(0L);
      if (isOver(stub.getCallOptions().getDeadline(), wait)
          || isOver(Context.current().getDeadline(), wait)) {
        return false;
      }
      MILLISECONDS.sleep(wait);
      return true;
    }

    private boolean mayPass(StatusRuntimeException error) {
      if (failureOf(error).map(Failure::hasRetryAfter).orElse(false)
          || reasonOf(error) == FailureReason.FAILURE_REASON_OVERLOADED) {
        return true;
      }
      return switch (error.getStatus().getCode()) {
        case UNAVAILABLE -> true;
        // A proxy's doing, perhaps, or a defect that will be there again.
        case INTERNAL, UNKNOWN, CANCELLED, DEADLINE_EXCEEDED, DATA_LOSS -> ++doubtful < 3;
        default -> false; // ABORTED above all: a repeat would overrule the decision.
      };
    }

    private static boolean isOver(Deadline deadline, long waitMillis) {
      return deadline != null && deadline.timeRemaining(MILLISECONDS) < waitMillis;
    }
  }

  /** Half of it and up to all of it. */
  private static long jittered(long millis) {
    return millis / 2 + ThreadLocalRandom.current().nextLong(millis / 2 + 1);
  }

  private static long millis(com.google.protobuf.Duration duration) {
    return SECONDS.toMillis(duration.getSeconds()) + NANOSECONDS.toMillis(duration.getNanos());
  }

  /**
   * How far a subscriber has come. Store it together with what was made of the events.
   *
   * @param eventId of the event at the position
   */
  public record Checkpoint(String logId, long position, String eventId) {

    /** Before all events. */
    public static final Checkpoint BEGINNING = new Checkpoint("", 0, "");

    /** Lets a subscription begin here. */
    public SubscribeRequest startOf(SubscribeRequest request) {
      return request.toBuilder()
          .setAfterPosition(position)
          .setExpectedLogId(logId)
          .setAfterEventId(eventId)
          .build();
    }

    /** Where the subscriber is once it has dealt with a response. */
    private Checkpoint after(SubscribeResponse response) {
      return switch (response.getContentCase()) {
        case STARTED -> {
          // After a restore that has all of what was seen, the log has another id.
          String log = response.getStarted().getLogId();
          long start = response.getStarted().getAfterPosition();
          yield new Checkpoint(log, start, start == position ? eventId : "");
        }
        case EVENTS -> {
          List<RecordedEvent> events = response.getEvents().getEventsList();
          RecordedEvent last = events.get(events.size() - 1);
          yield new Checkpoint(logId, last.getPosition(), last.getId());
        }
        case CAUGHT_UP ->
            new Checkpoint(
                logId, response.getCaughtUp().getPosition(), response.getCaughtUp().getEventId());
        case HEARTBEAT ->
            new Checkpoint(
                logId, response.getHeartbeat().getPosition(), response.getHeartbeat().getEventId());
        case FELL_BEHIND -> {
          // The log went on under another id, with all of what was seen.
          String log = response.getFellBehind().getLogId();
          yield log.isEmpty() ? this : new Checkpoint(log, position, eventId);
        }
        default -> this; // Something that is newer than this file.
      };
    }
  }

  /**
   * A subscription that goes on after any break that may pass, where it had stopped. Every event
   * comes once. It is for one thread, which interrupting ends.
   *
   * <pre>{@code
   * try (Subscription subscription = new Subscription(store, request)) {
   *   while (true) {
   *     handle(subscription.next());
   *     store(subscription.checkpoint());
   *   }
   * }
   * }</pre>
   */
  public static final class Subscription implements AutoCloseable {
    private final EventStoreServiceStub store;
    private final long silenceMillis;
    private final Retry retry;
    private SubscribeRequest request;
    private Checkpoint checkpoint;
    private Responses<SubscribeRequest, SubscribeResponse> responses;

    /**
     * The request may start anywhere, and at a checkpoint by {@link Checkpoint#startOf}.
     *
     * @param store without a deadline
     */
    public Subscription(EventStoreServiceStub store, SubscribeRequest request) {
      this.store = store;
      this.request = request;
      checkpoint =
          new Checkpoint(
              request.getExpectedLogId(), request.getAfterPosition(), request.getAfterEventId());
      silenceMillis = 3 * heartbeatMillis(request);
      retry = new Retry(store);
    }

    /**
     * Waits for the next response. To be called once the one before has been dealt with.
     *
     * @throws StatusRuntimeException if the server's answer is final: LOG_DIVERGED above all, for a
     *     log that has lost what the subscriber saw
     */
    public SubscribeResponse next() throws InterruptedException {
      while (true) {
        try {
          SubscribeResponse response = receive();
          checkpoint = checkpoint.after(response);
          request = checkpoint.startOf(request); // From here on, wherever it had begun.
          if (!response.hasStarted()) {
            retry.reset(); // It works again.
          }
          return response;
        } catch (StatusRuntimeException error) {
          close();
          if (!retry.await(error)) {
            throw error;
          }
        }
      }
    }

    private SubscribeResponse receive() throws InterruptedException {
      if (responses == null) {
        responses = new Responses<>();
        store.subscribe(request, responses);
      }
      // A connection can die without a word; heartbeats tell. What the caller takes is no silence.
      return responses
          .next(silenceMillis)
          .orElseThrow(
              () ->
                  Status.UNAVAILABLE
                      .withDescription("the subscription was ended")
                      .asRuntimeException());
    }

    /** To be stored, once what {@link #next} has given has been dealt with. */
    public Checkpoint checkpoint() {
      return checkpoint;
    }

    /** Ends the call, which would stay open otherwise. */
    @Override
    public void close() {
      if (responses != null) {
        responses.close();
        responses = null;
      }
    }

    private static long heartbeatMillis(SubscribeRequest request) {
      return request.hasHeartbeatInterval()
          ? millis(request.getHeartbeatInterval())
          : 10_000; // The server's default.
    }
  }

  /**
   * The responses of a streaming call, for a thread that takes one after the other: the observer to
   * begin the call with. The server sends no faster than they are taken.
   */
  public static final class Responses<Q, R> implements ClientResponseObserver<Q, R>, AutoCloseable {
    private final BlockingQueue<Supplier<Optional<R>>> arrived = new LinkedBlockingQueue<>();
    private ClientCallStreamObserver<Q> call;

    /**
     * Waits for the next one. Empty at the end.
     *
     * @throws StatusRuntimeException if the call has failed
     */
    public Optional<R> next() throws InterruptedException {
      return next(Long.MAX_VALUE);
    }

    /**
     * Waits for the next one, for so long. Empty at the end.
     *
     * @throws StatusRuntimeException if the call has failed, or if nothing came
     */
    public Optional<R> next(long timeoutMillis) throws InterruptedException {
      Supplier<Optional<R>> next = arrived.poll(timeoutMillis, MILLISECONDS);
      if (next == null) {
        throw Status.UNAVAILABLE
            .withDescription("nothing came for " + timeoutMillis + " ms")
            .asRuntimeException();
      }
      call.request(1);
      return next.get();
    }

    /** Cancels the call, unless it is over. */
    @Override
    public void close() {
      call.cancel("no longer needed", null);
    }

    @Override
    public void beforeStart(ClientCallStreamObserver<Q> call) {
      this.call = call;
      call.disableAutoRequestWithInitial(2); // One to deal with, and one under way.
    }

    @Override
    public void onNext(R response) {
      arrived.add(() -> Optional.of(response));
    }

    @Override
    public void onError(Throwable error) {
      arrived.add(
          () -> {
            // Again, with the stack of the thread that gets to know it.
            throw Status.fromThrowable(error)
                .asRuntimeException(Status.trailersFromThrowable(error));
          });
    }

    @Override
    public void onCompleted() {
      arrived.add(Optional::empty);
    }
  }
}
