package io.treering.example;

import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.StreamObserver;
import io.treering.Treering.Responses;
import io.treering.Treering.Retry;
import io.treering.v1.AppendItem;
import io.treering.v1.AppendManyRequest;
import io.treering.v1.AppendManyResponse;
import io.treering.v1.AppendRequest;
import io.treering.v1.AppendResult;
import io.treering.v1.EventStoreServiceGrpc.EventStoreServiceStub;
import io.treering.v1.Failure;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Appends much, in order, over one call, with a bound on what is unanswered. */
final class Pipeline {
  private final EventStoreServiceStub store;
  private final List<AppendRequest> requests;
  private final int inFlight;
  private final int batch;
  private final Map<Integer, Failure> refused = new HashMap<>();
  private int answered;

  /**
   * Takes what is to be appended, with event ids.
   *
   * @param inFlight how many wait for their answers at any time, at most
   */
  Pipeline(EventStoreServiceStub store, List<AppendRequest> requests, int inFlight) {
    this.store = store;
    this.requests = requests;
    this.inFlight = inFlight;
    // A message costs more than an append in it.
    batch = Math.max(1, Math.min(100, inFlight / 2));
  }

  /** Appends all, and gives what was refused, by index. */
  Map<Integer, Failure> run() throws InterruptedException {
    Retry retry = new Retry(store);
    while (true) {
      int before = answered;
      try {
        appendTheRest();
        return refused;
      } catch (StatusRuntimeException error) {
        if (answered > before) {
          retry.reset(); // It has got on.
        }
        // A broken call is gone on with from the first one without an answer. What of it was
        // recorded all the same is found by its ids.
        if (!retry.await(error)) {
          throw error;
        }
      }
    }
  }

  private void appendTheRest() throws InterruptedException {
    try (Responses<AppendManyRequest, AppendManyResponse> responses = new Responses<>()) {
      StreamObserver<AppendManyRequest> call = store.appendMany(responses);
      int sent = answered;
      while (answered < requests.size()) {
        while (sent < requests.size() && sent + batch - answered <= inFlight) {
          int end = Math.min(sent + batch, requests.size());
          call.onNext(message(sent, end));
          sent = end;
        }
        take(responses.next().orElseThrow(Status.UNAVAILABLE::asRuntimeException));
      }
      call.onCompleted();
      responses.next(); // The end.
    }
  }

  private AppendManyRequest message(int first, int end) {
    AppendManyRequest.Builder message = AppendManyRequest.newBuilder();
    for (int index = first; index < end; index++) {
      message.addItems(AppendItem.newBuilder().setRequestId(index).setAppend(requests.get(index)));
    }
    return message.build();
  }

  private void take(AppendManyResponse response) {
    for (AppendResult result : response.getResultsList()) {
      if (result.getRequestId() != answered) {
        throw new IllegalStateException(
            "%d was answered, not %d".formatted(result.getRequestId(), answered));
      }
      if (result.hasFailure()) {
        refused.put(answered, result.getFailure());
      }
      answered++;
    }
  }
}
