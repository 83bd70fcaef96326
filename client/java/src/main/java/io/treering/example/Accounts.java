package io.treering.example;

import static java.util.concurrent.TimeUnit.SECONDS;

import com.github.f4b6a3.uuid.UuidCreator;
import com.google.gson.Gson;
import com.google.protobuf.ByteString;
import com.google.protobuf.Timestamp;
import io.grpc.Channel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import io.treering.Treering;
import io.treering.Treering.ReadResult;
import io.treering.example.Refused.Reason;
import io.treering.v1.AppendCondition;
import io.treering.v1.AppendRequest;
import io.treering.v1.Direction;
import io.treering.v1.Event;
import io.treering.v1.EventStoreServiceGrpc;
import io.treering.v1.EventStoreServiceGrpc.EventStoreServiceBlockingStub;
import io.treering.v1.Failure;
import io.treering.v1.Query;
import io.treering.v1.QueryItem;
import io.treering.v1.ReadRequest;
import io.treering.v1.RecordedEvent;
import io.treering.v1.StreamAppend;
import io.treering.v1.Violation;
import java.time.Instant;
import java.util.Arrays;
import java.util.List;
import java.util.Map;

/**
 * A small service that keeps accounts as events. Everything a service does with Treering is in this
 * package once, in the way that we would write it: this class decides and appends, {@link Pipeline}
 * appends much at once, {@link Balances} follows. Copy what you need.
 *
 * <p>Any number of threads may use one. Amounts are in cents.
 */
public final class Accounts {

  /** How long a request to the service may take, with all its calls and repeats. */
  private static final long TIMEOUT_SECONDS = 10;

  private static final Gson JSON = new Gson();

  /** Data of the events. */
  private record AccountOpened(String owner) {}

  private record NameClaimed(String name) {}

  private record MoneyMoved(long amount) {}

  private record Account(long balance, long version) {}

  private final Channel channel;
  private final EventStoreServiceBlockingStub store;
  private final Map<String, String> metadata;

  /** Makes the service over a connection. */
  public Accounts(Channel channel) {
    this(channel, EventStoreServiceGrpc.newBlockingStub(channel), Map.of());
  }

  private Accounts(
      Channel channel, EventStoreServiceBlockingStub store, Map<String, String> metadata) {
    this.channel = channel;
    this.store = store;
    this.metadata = metadata;
  }

  /**
   * The same service, whose calls, and the events that they append, belong to a trace. With
   * OpenTelemetry, its gRPC instrumentation does the first half.
   */
  public Accounts traced(String traceparent) {
    Metadata headers = new Metadata();
    headers.put(Metadata.Key.of("traceparent", Metadata.ASCII_STRING_MARSHALLER), traceparent);
    return new Accounts(
        channel,
        store.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers)),
        Map.of("traceparent", traceparent));
  }

  /** Opens an account that is not there yet. */
  public void open(String id, String owner) throws InterruptedException {
    AppendRequest request =
        AppendRequest.newBuilder()
            .addAppends(
                StreamAppend.newBuilder()
                    .setStream(stream(id))
                    // Set to 0, which is not the same as unset: the stream must not exist.
                    .setExpectedVersion(0)
                    .addEvents(event("AccountOpened", new AccountOpened(owner), account(id))))
            .build();
    try {
      Treering.append(withDeadline(), request);
    } catch (StatusRuntimeException error) {
      Failure failure = Treering.failureOf(error).orElseThrow(() -> error);
      switch (failure.getDetailCase()) {
        case VERSION_CONFLICT -> {
          long version = failure.getVersionConflict().getActualVersion();
          throw new Refused(Reason.ACCOUNT_EXISTS, id + " exists already, at version " + version);
        }
        case INVALID_REQUEST -> {
          Violation first = failure.getInvalidRequest().getViolations(0);
          throw new Refused(
              Reason.INVALID,
              "%s: %s (limit %d)"
                  .formatted(first.getField(), first.getDescription(), first.getLimit()));
        }
        default -> throw error;
      }
    }
  }

  /** Pays in. */
  public void deposit(String id, long amount) throws InterruptedException {
    try {
      Treering.append(withDeadline(), deposited(id, amount));
    } catch (StatusRuntimeException error) {
      throw Treering.isConflict(error) ? noAccount(id) : error;
    }
  }

  /** Pays in many amounts, pipelined. Gives what was refused, by index. */
  public Map<Integer, Failure> depositAll(String id, List<Long> amounts, int inFlight)
      throws InterruptedException {
    List<AppendRequest> requests = amounts.stream().map(amount -> deposited(id, amount)).toList();
    return new Pipeline(EventStoreServiceGrpc.newStub(channel), requests, inFlight).run();
  }

  private AppendRequest deposited(String id, long amount) {
    return AppendRequest.newBuilder()
        .addAppends(
            StreamAppend.newBuilder()
                .setStream(stream(id))
                .setExpectedExists(true)
                .addEvents(event("MoneyDeposited", new MoneyMoved(amount), account(id))))
        .build();
  }

  /** Pays out what is there. */
  public void withdraw(String id, long amount) throws InterruptedException {
    EventStoreServiceBlockingStub timed = withDeadline();
    while (true) {
      Account account = load(timed, id);
      if (account.balance() < amount) {
        throw notEnough(id);
      }
      StreamAppend withdrawn =
          StreamAppend.newBuilder()
              .setStream(stream(id))
              // Only if nothing has come in between.
              .setExpectedVersion(account.version())
              .addEvents(event("MoneyWithdrawn", new MoneyMoved(amount), account(id)))
              .build();
      try {
        Treering.append(timed, AppendRequest.newBuilder().addAppends(withdrawn).build());
        return;
      } catch (StatusRuntimeException error) {
        if (!Treering.isConflict(error)) {
          throw error;
        }
        // Something has: load again, decide again.
      }
    }
  }

  /** Gives an account a name that no other one has, whatever stream it is in. */
  public void claimName(String id, String name) throws InterruptedException {
    EventStoreServiceBlockingStub timed = withDeadline();
    Query claims =
        Query.newBuilder()
            .addItems(QueryItem.newBuilder().addTypes("NameClaimed").addTags("name:" + name))
            .build();
    while (true) {
      ReadResult found = read(timed, ReadRequest.newBuilder().setQuery(claims).build());
      if (!found.events().isEmpty()) {
        throw new Refused(Reason.NAME_TAKEN, "another account has the name " + name);
      }
      Event claimed = event("NameClaimed", new NameClaimed(name), account(id), "name:" + name);
      AppendRequest request =
          AppendRequest.newBuilder()
              .addAppends(
                  StreamAppend.newBuilder()
                      .setStream(stream(id))
                      .setExpectedExists(true)
                      .addEvents(claimed))
              // Only if nobody has claimed it since we looked.
              .addConditions(
                  AppendCondition.newBuilder()
                      .setFailIfMatch(claims)
                      .setAfterPosition(found.state().getHeadPosition()))
              .build();
      try {
        Treering.append(timed, request);
        return;
      } catch (StatusRuntimeException error) {
        switch (Treering.reasonOf(error)) {
          case FAILURE_REASON_CONDITION_FAILED -> {} // Look again.
          case FAILURE_REASON_VERSION_CONFLICT -> throw noAccount(id);
          default -> throw error;
        }
      }
    }
  }

  /** Moves money from one account to another: both events are recorded, or none. */
  public void transfer(String from, String to, long amount) throws InterruptedException {
    EventStoreServiceBlockingStub timed = withDeadline();
    while (true) {
      Account account = load(timed, from);
      load(timed, to); // It must be there.
      if (account.balance() < amount) {
        throw notEnough(from);
      }
      AppendRequest request =
          AppendRequest.newBuilder()
              .addAppends(
                  StreamAppend.newBuilder()
                      .setStream(stream(from))
                      .setExpectedVersion(account.version())
                      .addEvents(event("MoneyWithdrawn", new MoneyMoved(amount), account(from))))
              .addAppends(
                  StreamAppend.newBuilder()
                      .setStream(stream(to))
                      // What else comes in there does not matter.
                      .setExpectedExists(true)
                      .addEvents(event("MoneyDeposited", new MoneyMoved(amount), account(to))))
              .build();
      try {
        Treering.append(timed, request);
        return;
      } catch (StatusRuntimeException error) {
        if (!Treering.isConflict(error)) {
          throw error;
        }
      }
    }
  }

  /** What is there now. */
  public long balance(String id) throws InterruptedException {
    return load(withDeadline(), id).balance();
  }

  /** What was there at a time. */
  public long balanceAt(String id, Instant time) throws InterruptedException {
    ReadRequest request =
        ReadRequest.newBuilder().setStream(stream(id)).setUntilTime(timestamp(time)).build();
    return sum(read(withDeadline(), request).events());
  }

  /** The last movements of some accounts, the newest first. */
  public List<RecordedEvent> latest(long limit, String... ids) throws InterruptedException {
    // An event matches if any item does; an item, if all its parts do.
    Query.Builder query = Query.newBuilder();
    for (String id : ids) {
      query.addItems(
          QueryItem.newBuilder()
              .addTypes("MoneyDeposited")
              .addTypes("MoneyWithdrawn")
              .addTags(account(id)));
    }
    ReadRequest request =
        ReadRequest.newBuilder()
            .setQuery(query)
            .setDirection(Direction.DIRECTION_BACKWARDS)
            .setLimit(limit)
            .build();
    return read(withDeadline(), request).events();
  }

  /** An account as its events have made it, and its version. */
  private static Account load(EventStoreServiceBlockingStub store, String id)
      throws InterruptedException {
    ReadResult found = read(store, ReadRequest.newBuilder().setStream(stream(id)).build());
    long version = found.state().getStreamVersion();
    if (version == 0) {
      throw noAccount(id);
    }
    return new Account(sum(found.events()), version);
  }

  private static ReadResult read(EventStoreServiceBlockingStub store, ReadRequest request)
      throws InterruptedException {
    return Treering.repeat(store, () -> Treering.read(store, request));
  }

  /** For the calls of one request: they share a deadline, which begins now and goes along. */
  private EventStoreServiceBlockingStub withDeadline() {
    return store.withDeadlineAfter(TIMEOUT_SECONDS, SECONDS);
  }

  private static long sum(List<RecordedEvent> events) {
    return events.stream().mapToLong(Accounts::change).sum();
  }

  /** What an event does to a balance. Events of types that it does not know do nothing. */
  static long change(RecordedEvent event) {
    return switch (event.getType()) {
      case "MoneyDeposited" -> moved(event);
      case "MoneyWithdrawn" -> -moved(event);
      default -> 0;
    };
  }

  private static long moved(RecordedEvent event) {
    return JSON.fromJson(event.getData().toStringUtf8(), MoneyMoved.class).amount();
  }

  /** Makes an event, with the id by which its append is found if it has to be repeated. */
  private Event event(String type, Record data, String... tags) {
    return Event.newBuilder()
        .setId(UuidCreator.getTimeOrderedEpoch().toString()) // Version 7.
        .setType(type)
        .setData(ByteString.copyFromUtf8(JSON.toJson(data)))
        .addAllTags(Arrays.asList(tags))
        .setTime(timestamp(Instant.now()))
        .putAllMetadata(metadata)
        .build();
  }

  private static Timestamp timestamp(Instant time) {
    return Timestamp.newBuilder()
        .setSeconds(time.getEpochSecond())
        .setNanos(time.getNano())
        .build();
  }

  private static Refused noAccount(String id) {
    return new Refused(Reason.NO_ACCOUNT, "no account " + id);
  }

  private static Refused notEnough(String id) {
    return new Refused(Reason.NOT_ENOUGH_MONEY, "not enough money in " + id);
  }

  private static String stream(String id) {
    return "account-" + id;
  }

  private static String account(String id) {
    return "account:" + id;
  }
}
