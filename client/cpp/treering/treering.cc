#include "treering/treering.h"

#include <google/protobuf/any.pb.h>
#include <google/protobuf/unknown_field_set.h>
#include <google/protobuf/util/time_util.h>

#include <algorithm>
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <optional>
#include <random>
#include <utility>

namespace treering {

using std::chrono::milliseconds;
using std::chrono::steady_clock;
using std::chrono::system_clock;

namespace {

// Answers false, at once, when a stop is requested.
bool SleepFor(milliseconds delay, const std::stop_token& stop) {
  std::mutex mutex;
  std::condition_variable_any never;
  std::unique_lock lock(mutex);
  never.wait_for(lock, stop, delay, [] { return false; });
  return !stop.stop_requested();
}

milliseconds ToMilliseconds(const google::protobuf::Duration& duration) {
  return milliseconds(google::protobuf::util::TimeUtil::DurationToMilliseconds(duration));
}

bool HaveIds(const google::protobuf::RepeatedPtrField<v1::Event>& events) {
  return std::ranges::none_of(events, [](const v1::Event& event) { return event.id().empty(); });
}

}  // namespace

std::shared_ptr<grpc::Channel> Connect(
    const std::string& target, const std::shared_ptr<grpc::ChannelCredentials>& credentials) {
  return grpc::CreateCustomChannel(target, credentials, ChannelArguments());
}

grpc::ChannelArguments ChannelArguments() {
  grpc::ChannelArguments arguments;
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 100);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 3'000);
  // Despite its name it is also how long an attempt to connect may take.
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 5'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10'000);
  // A subscriber sends nothing after its request: without this, no ping either after the second.
  arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
  return arguments;
}

std::string NewEventId() {
  thread_local std::random_device random;  // 32 bits at a time.
  const auto time =
      std::chrono::duration_cast<milliseconds>(system_clock::now().time_since_epoch());
  const auto high = static_cast<std::uint32_t>(time.count() >> 16);
  const auto low = static_cast<std::uint16_t>(time.count());
  char text[37];
  std::snprintf(text, sizeof text, "%08x-%04x-7%03x-%04x-%04x%08x", high, low, random() & 0xfff,
                0x8000 | (random() & 0x3fff), random() & 0xffff, random());
  return text;
}

v1::Failure FailureOf(const grpc::Status& status) {
  // It is one of the details, field 3, of a google.rpc.Status, which can be looked into without its
  // stubs: gRPC does not come with them.
  google::protobuf::UnknownFieldSet fields;
  if (!fields.ParseFromString(status.error_details())) {
    return {};
  }
  for (int i = 0; i < fields.field_count(); ++i) {
    const auto& field = fields.field(i);
    google::protobuf::Any detail;
    v1::Failure failure;
    if (field.number() == 3 &&
        field.type() == google::protobuf::UnknownField::TYPE_LENGTH_DELIMITED &&
        detail.ParseFromString(field.length_delimited()) && detail.UnpackTo(&failure)) {
      return failure;
    }
  }
  return {};
}

bool IsConflict(const grpc::Status& status) {
  const auto reason = FailureOf(status).reason();
  return reason == v1::FAILURE_REASON_VERSION_CONFLICT ||
         reason == v1::FAILURE_REASON_CONDITION_FAILED;
}

void CallOptions::ApplyTo(grpc::ClientContext* context) const {
  if (deadline != steady_clock::time_point::max()) {
    // gRPC takes the time of day, and turns it into a time-out when the call begins.
    const auto left = deadline - steady_clock::now();
    context->set_deadline(system_clock::now() +
                          std::chrono::duration_cast<system_clock::duration>(left));
  }
  for (const auto& [key, value] : metadata) {
    context->AddMetadata(key, value);
  }
}

bool Retry::Wait(const grpc::Status& status, const CallOptions& options) {
  const auto failure = FailureOf(status);
  if (options.stop.stop_requested() || !MayPass(status, failure)) {
    return false;
  }
  thread_local std::minstd_rand random{std::random_device{}()};
  delay_ = std::clamp(2 * delay_, milliseconds(50), milliseconds(3'000));
  std::uniform_int_distribution<milliseconds::rep> jitter(delay_.count() / 2, delay_.count());
  const auto delay = milliseconds(jitter(random)) + ToMilliseconds(failure.retry_after());
  return steady_clock::now() + delay <= options.deadline && SleepFor(delay, options.stop);
}

bool Retry::MayPass(const grpc::Status& status, const v1::Failure& failure) {
  if (failure.has_retry_after() || failure.reason() == v1::FAILURE_REASON_OVERLOADED) {
    return true;
  }
  switch (status.error_code()) {
    case grpc::StatusCode::UNAVAILABLE:
      return true;
    case grpc::StatusCode::INTERNAL:
    case grpc::StatusCode::UNKNOWN:
    case grpc::StatusCode::CANCELLED:
    case grpc::StatusCode::DEADLINE_EXCEEDED:
    case grpc::StatusCode::DATA_LOSS:
      // A proxy's doing, perhaps, or a defect that will be there again.
      return ++doubtful_ < 3;
    default:
      return false;  // ABORTED above all: a repeat would overrule the decision.
  }
}

grpc::Status Repeat(const CallOptions& options,
                    const std::function<grpc::Status(grpc::ClientContext*)>& attempt) {
  Retry retry;
  while (true) {
    grpc::ClientContext context;
    options.ApplyTo(&context);
    const std::stop_callback cancel(options.stop, [&context] { context.TryCancel(); });
    const auto status = attempt(&context);
    if (status.ok() || !retry.Wait(status, options)) {
      return status;
    }
  }
}

grpc::Status Append(v1::EventStoreService::StubInterface& store, const CallOptions& options,
                    const v1::AppendRequest& request, v1::AppendResponse* response) {
  const auto& appends = request.appends();
  if (!HaveIds(request.events()) ||
      !std::ranges::all_of(appends, [](const auto& append) { return HaveIds(append.events()); })) {
    return {grpc::StatusCode::INVALID_ARGUMENT,
            "an event has no id, and could not be appended again safely"};
  }
  v1::AppendResponse unused;
  return Repeat(options, [&](grpc::ClientContext* context) {
    return store.Append(context, request, response == nullptr ? &unused : response);
  });
}

grpc::Status Read(v1::EventStoreService::StubInterface& store, const CallOptions& options,
                  const v1::ReadRequest& request, v1::ReadResponse* response) {
  return Repeat(options, [&](grpc::ClientContext* context) {
    response->Clear();
    const auto reader = store.Read(context, request);
    v1::ReadResponse part;
    while (reader->Read(&part)) {
      response->MergeFrom(part);  // Its events after those that are there; the state is the same.
    }
    return reader->Finish();
  });
}

void StartAt(const Checkpoint& checkpoint, v1::SubscribeRequest* request) {
  request->set_after_position(checkpoint.position);
  request->set_expected_log_id(checkpoint.log_id);
  request->set_after_event_id(checkpoint.event_id);
}

namespace {

// A call to Subscribe whose responses are waited for one by one, and not for ever: that takes the
// callback API, since the blocking one can't be told how long to wait.
class Subscription final : public grpc::ClientReadReactor<v1::SubscribeResponse> {
 public:
  Subscription(v1::EventStoreService::StubInterface& store, const CallOptions& options,
               const v1::SubscribeRequest& request)
      : request_(request) {
    options.ApplyTo(&context_);
    store.async()->Subscribe(&context_, &request_, this);
    AddHold();  // OnDone does not come before End, so that reads can be started until then.
    StartCall();
  }

  // Leaves it, and waits until gRPC has let go of this.
  ~Subscription() override {
    context_.TryCancel();
    End();
  }

  Subscription(const Subscription&) = delete;
  Subscription& operator=(const Subscription&) = delete;

  // Waits for the next response; says why there will be none. After that it is over.
  grpc::Status Next(v1::SubscribeResponse* response, milliseconds patience,
                    const std::stop_token& stop) {
    if (stop.stop_requested()) {
      return grpc::Status::CANCELLED;
    }
    StartRead(&response_);
    std::unique_lock lock(mutex_);
    if (!changed_.wait_for(lock, stop, patience, [this] { return read_.has_value(); })) {
      return stop.stop_requested()
                 ? grpc::Status::CANCELLED
                 : grpc::Status(grpc::StatusCode::UNAVAILABLE,
                                "nothing came for " + std::to_string(patience.count()) + " ms");
    }
    if (*std::exchange(read_, std::nullopt)) {
      response->Swap(&response_);
      return grpc::Status::OK;
    }
    lock.unlock();
    const auto status = End();
    return status.ok() ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "the subscription was ended")
                       : status;
  }

 private:
  // Once no read will be started any more.
  grpc::Status End() {
    if (!std::exchange(is_ended_, true)) {
      RemoveHold();
    }
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [this] { return status_.has_value(); });
    return *status_;
  }

  void OnReadDone(bool ok) override {
    const std::lock_guard lock(mutex_);
    read_ = ok;
    changed_.notify_all();
  }

  void OnDone(const grpc::Status& status) override {
    const std::lock_guard lock(mutex_);  // Until it has notified: then this may be gone.
    status_ = status;
    changed_.notify_all();
  }

  grpc::ClientContext context_;
  const v1::SubscribeRequest request_;
  v1::SubscribeResponse response_;  // Of the read that was started.
  bool is_ended_ = false;

  std::mutex mutex_;
  std::condition_variable_any changed_;
  std::optional<bool> read_;            // How the read that was started went.
  std::optional<grpc::Status> status_;  // How the call went.
};

milliseconds HeartbeatInterval(const v1::SubscribeRequest& request) {
  return request.has_heartbeat_interval() ? ToMilliseconds(request.heartbeat_interval())
                                          : milliseconds(10'000);  // The server's default.
}

// The checkpoint once a response was dealt with.
Checkpoint After(const v1::SubscribeResponse& response, Checkpoint checkpoint) {
  switch (response.content_case()) {
    case v1::SubscribeResponse::kStarted:
      // After a restore that has all of what was seen, the log has another id.
      checkpoint.log_id = response.started().log_id();
      if (const auto position = response.started().after_position();
          position != checkpoint.position) {
        checkpoint.position = position;
        checkpoint.event_id.clear();
      }
      break;
    case v1::SubscribeResponse::kEvents: {
      const auto& last = *response.events().events().rbegin();
      checkpoint.position = last.position();
      checkpoint.event_id = last.id();
      break;
    }
    case v1::SubscribeResponse::kCaughtUp:
      checkpoint.position = response.caught_up().position();
      checkpoint.event_id = response.caught_up().event_id();
      break;
    case v1::SubscribeResponse::kHeartbeat:
      checkpoint.position = response.heartbeat().position();
      checkpoint.event_id = response.heartbeat().event_id();
      break;
    case v1::SubscribeResponse::kFellBehind:
      // The log went on under another id, with all of what was seen.
      if (const auto& id = response.fell_behind().log_id(); !id.empty()) {
        checkpoint.log_id = id;
      }
      break;
    case v1::SubscribeResponse::CONTENT_NOT_SET:
      break;  // Something new, which is no concern of ours.
  }
  return checkpoint;
}

}  // namespace

grpc::Status Follow(
    v1::EventStoreService::StubInterface& store, const CallOptions& options,
    v1::SubscribeRequest request,
    const std::function<void(const v1::SubscribeResponse&, const Checkpoint&)>& handle) {
  // A connection can die without a word; heartbeats tell. What handle takes is no silence.
  const auto patience = 3 * HeartbeatInterval(request);
  Checkpoint checkpoint{request.expected_log_id(), request.after_position(),
                        request.after_event_id()};
  v1::SubscribeResponse response;
  grpc::Status status;
  Retry retry;
  do {
    Subscription subscription(store, options, request);
    while ((status = subscription.Next(&response, patience, options.stop)).ok()) {
      auto reached = After(response, checkpoint);
      handle(response, reached);
      checkpoint = std::move(reached);
      StartAt(checkpoint, &request);  // From here on, wherever it had begun.
      if (!response.has_started()) {
        retry = {};  // It works again.
      }
    }
  } while (retry.Wait(status, options));
  return options.stop.stop_requested() ? grpc::Status::OK : status;
}

}  // namespace treering
