#include "example/pipeline.h"

#include <algorithm>
#include <condition_variable>
#include <mutex>
#include <stop_token>
#include <thread>

#include "example/accounts.h"

namespace example {

namespace {

class Pipeline {
 public:
  Pipeline(v1::EventStoreService::StubInterface& store, const treering::CallOptions& options,
           const std::vector<v1::AppendRequest>& requests, std::size_t in_flight)
      : store_(store),
        options_(options),
        requests_(requests),
        in_flight_(in_flight),
        // A message costs more than an append: several in one go faster.
        batch_(std::clamp<std::size_t>(in_flight / 2, 1, 100)) {}

  // Goes on from the first request without an answer, on one call, to the last.
  grpc::Status Run() {
    grpc::ClientContext context;
    options_.ApplyTo(&context);
    const std::stop_callback cancel(options_.stop, [&context] { context.TryCancel(); });
    const auto call = store_.AppendMany(&context);
    // A write may block for as long as the server reads no more: not on the thread that reads.
    std::jthread sender(
        [&, first = answered_](const std::stop_token& stop) { Send(*call, first, stop); });
    v1::AppendManyResponse response;
    bool in_order = true;
    while (in_order && call->Read(&response)) {
      in_order = Take(response);
    }
    if (!in_order) {
      context.TryCancel();
    }
    sender.request_stop();  // If the call is broken, it may be waiting for answers.
    sender.join();
    const auto status = call->Finish();
    if (!in_order) {
      return {grpc::StatusCode::INTERNAL, "not answered in the order sent"};
    }
    if (status.ok() && answered_ < requests_.size()) {
      return {grpc::StatusCode::UNAVAILABLE, "the call was ended early"};
    }
    return status;
  }

  std::size_t answered() const { return answered_; }
  const std::map<std::size_t, v1::Failure>& refused() const { return refused_; }

 private:
  using Call = grpc::ClientReaderWriterInterface<v1::AppendManyRequest, v1::AppendManyResponse>;

  void Send(Call& call, std::size_t next, const std::stop_token& stop) {
    while (next < requests_.size()) {
      const auto end = std::min(next + batch_, requests_.size());
      std::unique_lock lock(mutex_);
      if (!answers_.wait(lock, stop, [&] { return end - answered_ <= in_flight_; })) {
        return;
      }
      lock.unlock();
      v1::AppendManyRequest message;
      for (; next < end; ++next) {
        auto& item = *message.add_items();
        item.set_request_id(next);
        *item.mutable_append() = requests_[next];
      }
      if (!call.Write(message)) {
        return;  // Why, Finish says.
      }
    }
    call.WritesDone();
  }

  bool Take(const v1::AppendManyResponse& response) {
    const std::lock_guard lock(mutex_);
    for (const auto& result : response.results()) {
      if (result.request_id() != answered_) {
        return false;
      }
      if (result.has_failure()) {
        refused_[answered_] = result.failure();
      }
      ++answered_;
    }
    answers_.notify_one();
    return true;
  }

  v1::EventStoreService::StubInterface& store_;
  const treering::CallOptions& options_;
  const std::vector<v1::AppendRequest>& requests_;
  const std::size_t in_flight_;
  const std::size_t batch_;
  std::map<std::size_t, v1::Failure> refused_;

  std::mutex mutex_;
  std::condition_variable_any answers_;
  std::size_t answered_ = 0;  // Changed, and read by the sender, under the mutex.
};

}  // namespace

std::map<std::size_t, v1::Failure> AppendAll(v1::EventStoreService::StubInterface& store,
                                             const treering::CallOptions& options,
                                             const std::vector<v1::AppendRequest>& requests,
                                             std::size_t in_flight) {
  Pipeline pipeline(store, options, requests, in_flight);
  treering::Retry retry;
  while (true) {
    const auto before = pipeline.answered();
    const auto status = pipeline.Run();
    if (status.ok()) {
      return pipeline.refused();
    }
    if (pipeline.answered() > before) {
      retry = {};  // It has got on.
    }
    // A broken call is gone on with from the first request without an answer. What of it was
    // recorded all the same is found by its ids.
    if (!retry.Wait(status, options)) {
      throw CallFailed(status);
    }
  }
}

}  // namespace example
