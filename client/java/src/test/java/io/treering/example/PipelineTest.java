package io.treering.example;

import static org.junit.jupiter.api.Assertions.assertEquals;

import io.grpc.ManagedChannel;
import io.grpc.Server;
import io.grpc.Status;
import io.grpc.inprocess.InProcessChannelBuilder;
import io.grpc.inprocess.InProcessServerBuilder;
import io.grpc.stub.StreamObserver;
import io.treering.Treering;
import io.treering.v1.AppendItem;
import io.treering.v1.AppendManyRequest;
import io.treering.v1.AppendManyResponse;
import io.treering.v1.AppendRequest;
import io.treering.v1.AppendResponse;
import io.treering.v1.AppendResult;
import io.treering.v1.Event;
import io.treering.v1.EventStoreServiceGrpc;
import io.treering.v1.Failure;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.UUID;
import java.util.stream.IntStream;
import org.junit.jupiter.api.DisplayName;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.Timeout;

/** The pipeline against a server that breaks its calls at given moments. */
@DisplayName("Pipeline")
@Timeout(60)
final class PipelineTest {

  @Test
  @DisplayName("a broken pipeline goes on with the first append without an answer")
  void brokenPipelineGoesOn() throws Exception {
    List<AppendRequest> requests = IntStream.range(0, 10).mapToObj(PipelineTest::append).toList();
    Breaking service = new Breaking(List.of(3, 0, 4, Integer.MAX_VALUE));
    String name = UUID.randomUUID().toString();
    Server server = InProcessServerBuilder.forName(name).addService(service).build().start();
    ManagedChannel channel = Treering.connect(InProcessChannelBuilder.forName(name));
    try {
      var store = EventStoreServiceGrpc.newStub(channel);
      Map<Integer, Failure> refused = new Pipeline(store, requests, 4).run();
      // The fourth answer of the first call never came: its append is the next call's first.
      assertEquals(List.of(0L, 3L, 3L, 7L), service.firsts);
      assertEquals(requests, service.answered);
      assertEquals(Map.of(9, Failure.getDefaultInstance()), refused);
    } finally {
      channel.shutdownNow();
      server.shutdownNow().awaitTermination();
    }
  }

  private static AppendRequest append(int index) {
    return AppendRequest.newBuilder()
        .addEvents(Event.newBuilder().setId("id" + index).setType("Happened"))
        .build();
  }

  /** Answers so many appends on each call, and breaks it then. The one with id 9 is refused. */
  private static final class Breaking extends EventStoreServiceGrpc.EventStoreServiceImplBase {
    private final List<Integer> counts;
    final List<Long> firsts = Collections.synchronizedList(new ArrayList<>());
    final List<AppendRequest> answered = Collections.synchronizedList(new ArrayList<>());

    Breaking(List<Integer> counts) {
      this.counts = counts;
    }

    @Override
    public StreamObserver<AppendManyRequest> appendMany(StreamObserver<AppendManyResponse> answer) {
      return new StreamObserver<>() {
        private int left;
        private boolean isBegun;
        private boolean isBroken;

        @Override
        public void onNext(AppendManyRequest request) {
          for (AppendItem item : request.getItemsList()) {
            if (!isBegun) {
              left = counts.get(firsts.size());
              firsts.add(item.getRequestId());
              isBegun = true;
            }
            if (left-- > 0) {
              answered.add(item.getAppend());
              answer.onNext(AppendManyResponse.newBuilder().addResults(result(item)).build());
            } else if (!isBroken) {
              isBroken = true;
              answer.onError(Status.UNAVAILABLE.asRuntimeException());
            }
          }
        }

        @Override
        public void onError(Throwable error) {}

        @Override
        public void onCompleted() {
          answer.onCompleted();
        }
      };
    }

    private static AppendResult result(AppendItem item) {
      AppendResult.Builder result = AppendResult.newBuilder().setRequestId(item.getRequestId());
      return item.getAppend().getEvents(0).getId().equals("id9")
          ? result.setFailure(Failure.getDefaultInstance()).build()
          : result.setAppended(AppendResponse.getDefaultInstance()).build();
    }
  }
}
