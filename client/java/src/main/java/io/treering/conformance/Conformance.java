package io.treering.conformance;

import static java.util.concurrent.TimeUnit.SECONDS;

import com.google.gson.FieldNamingPolicy;
import com.google.gson.Gson;
import com.google.gson.GsonBuilder;
import com.google.gson.JsonObject;
import com.google.gson.annotations.SerializedName;
import com.google.protobuf.ByteString;
import com.google.protobuf.Timestamp;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.StatusRuntimeException;
import io.treering.Treering;
import io.treering.Treering.ReadResult;
import io.treering.Treering.Responses;
import io.treering.v1.AppendItem;
import io.treering.v1.AppendManyRequest;
import io.treering.v1.AppendManyResponse;
import io.treering.v1.AppendRequest;
import io.treering.v1.AppendResponse;
import io.treering.v1.AppendResult;
import io.treering.v1.Direction;
import io.treering.v1.Event;
import io.treering.v1.EventStoreServiceGrpc;
import io.treering.v1.EventStoreServiceGrpc.EventStoreServiceBlockingStub;
import io.treering.v1.EventStoreServiceGrpc.EventStoreServiceStub;
import io.treering.v1.FailureReason;
import io.treering.v1.Query;
import io.treering.v1.ReadRequest;
import io.treering.v1.RecordedEvent;
import io.treering.v1.StreamAppend;
import io.treering.v1.StreamVersion;
import io.treering.v1.VersionConflict;
import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Base64;
import java.util.Collections;
import java.util.HashMap;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.Optional;

/**
 * The conformance cases in Java: {@code write|check|repeat}, at TREERING_SERVER. See
 * client/conformance/README.md.
 */
public final class Conformance {
  private static final Path CASES =
      Path.of("../conformance/cases.json"); // From client/java, where run.sh goes.

  private static final Gson JSON =
      new GsonBuilder()
          .setFieldNamingPolicy(FieldNamingPolicy.LOWER_CASE_WITH_UNDERSCORES)
          .create();

  /** What the file holds. Numbers of 64 bits, some of them without a sign, are strings in it. */
  private record Cases(
      List<Case> events,
      List<Expectation> expectations,
      List<String> requestIds,
      List<String> limits,
      List<String> beforePositions) {}

  private record Case(
      @SerializedName("case") String name, String stream, JsonObject event, JsonObject recorded) {}

  private record Fields(
      String id,
      String type,
      Content data,
      String contentType,
      List<String> tags,
      Map<String, String> metadata,
      Time time) {}

  private record Content(String text, String base64, Integer times) {}

  private record Time(String seconds, int nanos) {}

  private record Expectation(String expectedVersion, Boolean expectedExists) {}

  private final Cases cases;
  private final List<RecordedEvent> expected;
  private final EventStoreServiceBlockingStub store;
  private final EventStoreServiceStub asyncStore;

  private Conformance(Cases cases, ManagedChannel channel) {
    this.cases = cases;
    expected = expected(cases);
    store = EventStoreServiceGrpc.newBlockingStub(channel).withDeadlineAfter(60, SECONDS);
    asyncStore = EventStoreServiceGrpc.newStub(channel).withDeadlineAfter(60, SECONDS);
  }

  public static void main(String[] arguments) throws IOException, InterruptedException {
    String mode = arguments.length == 1 ? arguments[0] : "";
    Cases cases = JSON.fromJson(Files.readString(CASES), Cases.class);
    ManagedChannel channel =
        Treering.connect(
            Grpc.newChannelBuilder(
                System.getenv("TREERING_SERVER"), InsecureChannelCredentials.create()));
    try {
      Conformance conformance = new Conformance(cases, channel);
      switch (mode) {
        case "write" -> conformance.append(false);
        case "repeat" -> conformance.append(true);
        case "check" -> conformance.check();
        default -> throw new IllegalArgumentException("usage: conformance write|check|repeat");
      }
    } finally {
      channel.shutdownNow();
    }
    System.out.printf("%s: %d events%n", mode, cases.events().size());
  }

  /** What is to be read. */
  private static List<RecordedEvent> expected(Cases cases) {
    List<RecordedEvent> events = new ArrayList<>();
    Map<String, Long> versions = new HashMap<>();
    for (Case each : cases.events()) {
      JsonObject fields = each.event().deepCopy();
      if (each.recorded() != null) {
        each.recorded().asMap().forEach(fields::add);
      }
      Event sent = event(fields);
      RecordedEvent.Builder recorded =
          RecordedEvent.newBuilder()
              .setId(sent.getId())
              .setType(sent.getType())
              .setData(sent.getData())
              .setContentType(sent.getContentType())
              .addAllTags(sent.getTagsList())
              .putAllMetadata(sent.getMetadataMap())
              .setPosition(events.size() + 1L);
      if (sent.hasTime()) {
        recorded.setTime(sent.getTime());
      }
      if (each.stream() != null) {
        recorded.setStream(each.stream());
        recorded.setVersion(versions.merge(each.stream(), 1L, Long::sum));
      }
      events.add(recorded.build());
    }
    return events;
  }

  private static Event event(JsonObject json) {
    Fields fields = JSON.fromJson(json, Fields.class);
    Event.Builder event = Event.newBuilder().setId(fields.id()).setType(fields.type());
    Optional.ofNullable(fields.data()).ifPresent(data -> event.setData(bytes(data)));
    Optional.ofNullable(fields.contentType()).ifPresent(event::setContentType);
    Optional.ofNullable(fields.tags()).ifPresent(event::addAllTags);
    Optional.ofNullable(fields.metadata()).ifPresent(event::putAllMetadata);
    if (fields.time() != null) {
      event.setTime(
          Timestamp.newBuilder()
              .setSeconds(Long.parseLong(fields.time().seconds()))
              .setNanos(fields.time().nanos()));
    }
    return event.build();
  }

  private static ByteString bytes(Content content) {
    if (content.text() != null) {
      return ByteString.copyFromUtf8(content.text());
    }
    ByteString once = ByteString.copyFrom(Base64.getDecoder().decode(content.base64()));
    int times = Objects.requireNonNullElse(content.times(), 1);
    return ByteString.copyFrom(Collections.nCopies(times, once));
  }

  private void append(boolean areThere) {
    for (int i = 0; i < expected.size(); i++) {
      Event sent = event(cases.events().get(i).event());
      RecordedEvent wanted = expected.get(i);
      AppendRequest.Builder request = AppendRequest.newBuilder();
      AppendResponse.Builder answer =
          AppendResponse.newBuilder()
              .setFirstPosition(wanted.getPosition())
              .setLastPosition(wanted.getPosition())
              .setDuplicate(areThere);
      if (wanted.getStream().isEmpty()) {
        request.addEvents(sent);
      } else {
        request.addAppends(
            StreamAppend.newBuilder()
                .setStream(wanted.getStream())
                .setExpectedVersion(wanted.getVersion() - 1)
                .addEvents(sent));
        answer.addVersions(
            StreamVersion.newBuilder()
                .setStream(wanted.getStream())
                .setVersion(wanted.getVersion()));
      }
      AppendResponse response = store.append(request.build());
      same(
          cases.events().get(i).name(),
          response.toBuilder().clearRecordedAt().clearLogId().build(),
          answer.build());
    }
  }

  private void check() throws InterruptedException {
    checkEvents();
    checkStreams();
    checkExpectations();
    checkRequestIds();
    checkReads();
  }

  private void checkEvents() {
    ReadResult found = Treering.read(store, everything().build());
    same("events", found.events().size(), expected.size());
    same("head", found.state().getHeadPosition(), (long) expected.size());
    for (int i = 0; i < expected.size(); i++) {
      String name = cases.events().get(i).name();
      RecordedEvent event = found.events().get(i);
      same(name, event.hasRecordedAt(), true);
      same(name, event.toBuilder().clearRecordedAt().build(), expected.get(i));
    }
  }

  private void checkStreams() {
    Map<String, List<Long>> positions = new LinkedHashMap<>();
    for (RecordedEvent each : expected) {
      if (!each.getStream().isEmpty()) {
        positions
            .computeIfAbsent(each.getStream(), name -> new ArrayList<>())
            .add(each.getPosition());
      }
    }
    positions.forEach(
        (stream, wanted) -> {
          ReadResult found =
              Treering.read(store, ReadRequest.newBuilder().setStream(stream).build());
          same(stream, found.events().stream().map(RecordedEvent::getPosition).toList(), wanted);
          same(stream, found.state().getStreamVersion(), (long) wanted.size());
        });
  }

  private void checkExpectations() {
    String stream = expected.get(0).getStream();
    long version = expected.stream().filter(each -> each.getStream().equals(stream)).count();
    for (Expectation each : cases.expectations()) {
      VersionConflict.Builder wanted =
          VersionConflict.newBuilder().setStream(stream).setActualVersion(version);
      if (each.expectedVersion() != null) {
        wanted.setExpectedVersion(Long.parseUnsignedLong(each.expectedVersion()));
      } else {
        wanted.setExpectedExists(each.expectedExists());
      }
      try {
        store.append(refused(each));
        throw new AssertionError(each + " is met");
      } catch (StatusRuntimeException error) {
        same(
            each.toString(),
            Treering.failureOf(error).orElseThrow(() -> error).getVersionConflict(),
            wanted.build());
      }
    }
  }

  private void checkRequestIds() throws InterruptedException {
    List<Long> ids = cases.requestIds().stream().map(Long::parseUnsignedLong).toList();
    AppendManyRequest.Builder request = AppendManyRequest.newBuilder();
    for (long id : ids) {
      request.addItems(
          AppendItem.newBuilder().setRequestId(id).setAppend(refused(cases.expectations().get(0))));
    }
    List<Long> found = new ArrayList<>();
    try (Responses<AppendManyRequest, AppendManyResponse> responses = new Responses<>()) {
      var call = asyncStore.appendMany(responses);
      call.onNext(request.build());
      call.onCompleted();
      for (var next = responses.next(); next.isPresent(); next = responses.next()) {
        for (AppendResult result : next.get().getResultsList()) {
          found.add(result.getRequestId());
          same(
              "request ids",
              result.getFailure().getReason(),
              FailureReason.FAILURE_REASON_VERSION_CONFLICT);
        }
      }
    }
    same("request ids", found, ids);
  }

  private void checkReads() {
    for (String limit : cases.limits()) {
      long most = Long.parseUnsignedLong(limit);
      int wanted = Long.compareUnsigned(most, expected.size()) < 0 ? (int) most : expected.size();
      same(
          "limit " + limit,
          Treering.read(store, everything().setLimit(most).build()).events().size(),
          wanted);
    }
    for (String before : cases.beforePositions()) {
      ReadRequest request =
          everything()
              .setDirection(Direction.DIRECTION_BACKWARDS)
              .setAfterPosition(Long.parseUnsignedLong(before))
              .setLimit(1)
              .build();
      same(
          "before " + before,
          Treering.read(store, request).events().stream().map(RecordedEvent::getPosition).toList(),
          List.of((long) expected.size()));
    }
  }

  /** An append whose expectation is not met. */
  private AppendRequest refused(Expectation expectation) {
    StreamAppend.Builder append =
        StreamAppend.newBuilder()
            .setStream(expected.get(0).getStream())
            .addEvents(
                Event.newBuilder()
                    .setId("0192f0c1-ffff-7000-8000-000000000000")
                    .setType("Refused"));
    if (expectation.expectedVersion() != null) {
      append.setExpectedVersion(Long.parseUnsignedLong(expectation.expectedVersion()));
    } else {
      append.setExpectedExists(expectation.expectedExists());
    }
    return AppendRequest.newBuilder().addAppends(append).build();
  }

  private static ReadRequest.Builder everything() {
    return ReadRequest.newBuilder().setQuery(Query.newBuilder().setAll(true));
  }

  private static void same(String what, Object found, Object wanted) {
    if (!found.equals(wanted)) {
      throw new AssertionError("%s: %.1000s instead of %.1000s".formatted(what, found, wanted));
    }
  }
}
