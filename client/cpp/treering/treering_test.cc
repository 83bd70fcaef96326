// The helper against a server that does what the test says, and keeps what it was asked: for what a
// real one can't be made to do at a given moment.

#include "treering/treering.h"

#include <google/protobuf/any.pb.h>
#include <google/protobuf/unknown_field_set.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <limits>
#include <mutex>
#include <optional>
#include <regex>
#include <set>
#include <stdexcept>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

namespace treering {
namespace {

using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr auto kId = "018bcfe5-6800-7000-8000-000000000001";
constexpr auto kLargest = static_cast<std::uint64_t>(std::numeric_limits<std::int64_t>::max());

// What a call to Subscribe answers with. Without an end, nothing more is ever said.
struct Answer {
  std::vector<v1::SubscribeResponse> responses = {};
  std::optional<grpc::Status> end = {};
};

class AnswerReactor final : public grpc::ServerWriteReactor<v1::SubscribeResponse> {
 public:
  explicit AnswerReactor(Answer answer) : answer_(std::move(answer)) { Next(); }

 private:
  void Next() {
    if (next_ < answer_.responses.size()) {
      StartWrite(&answer_.responses[next_++]);
    } else if (answer_.end.has_value()) {
      FinishOnce(*answer_.end);
    }
  }

  void FinishOnce(const grpc::Status& status) {
    if (!is_finished_.test_and_set()) {
      Finish(status);
    }
  }

  void OnWriteDone(bool ok) override { ok ? Next() : FinishOnce(grpc::Status::CANCELLED); }
  void OnCancel() override { FinishOnce(grpc::Status::CANCELLED); }
  void OnDone() override { delete this; }

  Answer answer_;
  std::size_t next_ = 0;
  std::atomic_flag is_finished_;
};

class Server final : private v1::EventStoreService::CallbackService {
 public:
  // Calls are answered with one after the other of these; to Subscribe, then with the last one.
  explicit Server(std::vector<grpc::Status> appends, std::vector<Answer> subscribes = {})
      : appends_(std::move(appends)), subscribes_(std::move(subscribes)) {
    int port = 0;
    server_ = grpc::ServerBuilder()
                  .AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port)
                  .RegisterService(this)
                  .BuildAndStart();
    const auto channel = Connect("127.0.0.1:" + std::to_string(port));
    // Here and not in the first call, whose time some tests measure.
    channel->WaitForConnected(std::chrono::system_clock::now() + std::chrono::seconds(10));
    store_ = v1::EventStoreService::NewStub(channel);
  }

  explicit Server(std::vector<Answer> subscribes) : Server({}, std::move(subscribes)) {}

  v1::EventStoreService::StubInterface& store() { return *store_; }

  std::vector<v1::AppendRequest> appended() {
    const std::lock_guard lock(mutex_);
    return appended_;
  }

  std::vector<v1::SubscribeRequest> subscribed() {
    const std::lock_guard lock(mutex_);
    return subscribed_;
  }

 private:
  grpc::ServerUnaryReactor* Append(grpc::CallbackServerContext* context,
                                   const v1::AppendRequest* request,
                                   v1::AppendResponse* response) override {
    const std::lock_guard lock(mutex_);
    response->set_last_position(7);
    auto* reactor = context->DefaultReactor();
    reactor->Finish(appends_.at(appended_.size()));
    appended_.push_back(*request);
    return reactor;
  }

  grpc::ServerWriteReactor<v1::SubscribeResponse>* Subscribe(
      grpc::CallbackServerContext* /*context*/, const v1::SubscribeRequest* request) override {
    const std::lock_guard lock(mutex_);
    subscribed_.push_back(*request);
    return new AnswerReactor(subscribes_.at(std::min(subscribed_.size(), subscribes_.size()) - 1));
  }

  const std::vector<grpc::Status> appends_;
  const std::vector<Answer> subscribes_;
  std::mutex mutex_;
  std::vector<v1::AppendRequest> appended_;
  std::vector<v1::SubscribeRequest> subscribed_;
  std::unique_ptr<v1::EventStoreService::Stub> store_;
  std::unique_ptr<grpc::Server> server_;
};

// A status as Treering makes it: with a google.rpc.Status of an ErrorInfo and the Failure.
grpc::Status Failed(grpc::StatusCode code, const v1::Failure& failure) {
  google::protobuf::Any info;
  info.set_type_url("type.googleapis.com/google.rpc.ErrorInfo");
  google::protobuf::Any detail;
  detail.PackFrom(failure);
  google::protobuf::UnknownFieldSet status;
  status.AddVarint(1, static_cast<std::uint64_t>(code));
  status.AddLengthDelimited(2, "refused");
  status.AddLengthDelimited(3, info.SerializeAsString());
  status.AddLengthDelimited(3, detail.SerializeAsString());
  std::string details;
  status.SerializeToString(&details);
  return {code, "refused", details};
}

grpc::Status Lost() { return {grpc::StatusCode::UNAVAILABLE, "connection lost"}; }

grpc::Status Defect() { return {grpc::StatusCode::INTERNAL, "reference 17"}; }

grpc::Status Conflict() {
  v1::Failure failure;
  failure.set_reason(v1::FAILURE_REASON_VERSION_CONFLICT);
  failure.mutable_version_conflict()->set_expected_version(0);
  failure.mutable_version_conflict()->set_actual_version(kLargest);
  return Failed(grpc::StatusCode::ABORTED, failure);
}

grpc::Status Overloaded() {
  v1::Failure failure;
  failure.set_reason(v1::FAILURE_REASON_OVERLOADED);
  failure.mutable_retry_after()->set_nanos(100'000'000);
  return Failed(grpc::StatusCode::RESOURCE_EXHAUSTED, failure);
}

grpc::Status Diverged() {
  v1::Failure failure;
  failure.set_reason(v1::FAILURE_REASON_LOG_DIVERGED);
  return Failed(grpc::StatusCode::FAILED_PRECONDITION, failure);
}

v1::AppendRequest Request() {
  v1::AppendRequest request;
  auto& append = *request.add_appends();
  append.set_stream("order-1");
  auto& event = *append.add_events();
  event.set_id(kId);
  event.set_type("OrderPlaced");
  return request;
}

CallOptions Within(milliseconds time) { return {.deadline = steady_clock::now() + time}; }

TEST(EventIds, AreOfVersion7AndDiffer) {
  std::set<std::string> ids;
  std::mutex mutex;
  {
    std::vector<std::jthread> threads(4);
    for (auto& thread : threads) {
      thread = std::jthread([&] {
        for (int i = 0; i < 1'000; ++i) {
          const auto id = NewEventId();
          const std::lock_guard lock(mutex);
          ids.insert(id);
        }
      });
    }
  }
  EXPECT_EQ(ids.size(), 4'000U);
  const std::regex form("[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}");
  EXPECT_TRUE(
      std::ranges::all_of(ids, [&](const std::string& id) { return std::regex_match(id, form); }));
}

TEST(EventIds, BeginWithTheTime) {
  using std::chrono::system_clock;
  const auto id = NewEventId();
  const auto time = std::stoll(id.substr(0, 8) + id.substr(9, 4), nullptr, 16);
  const auto now = std::chrono::duration_cast<milliseconds>(system_clock::now().time_since_epoch());
  EXPECT_LE(time, now.count());
  EXPECT_GT(time, now.count() - 60'000);
}

TEST(FailureOf, HasReasonAndFacts) {
  Server server({Conflict()});
  const auto status = Append(server.store(), Within(milliseconds(5'000)), Request());
  const auto failure = FailureOf(status);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::ABORTED);
  EXPECT_EQ(failure.reason(), v1::FAILURE_REASON_VERSION_CONFLICT);
  EXPECT_EQ(failure.version_conflict().actual_version(), kLargest);
  EXPECT_TRUE(failure.version_conflict().has_expected_version());
  EXPECT_TRUE(IsConflict(status));
}

TEST(FailureOf, IsEmptyWhereTheServerSaidNothing) {
  const grpc::Status garbage(grpc::StatusCode::ABORTED, "", "no google.rpc.Status");
  for (const auto& status : {grpc::Status::OK, Lost(), garbage}) {
    EXPECT_EQ(FailureOf(status).reason(), v1::FAILURE_REASON_UNSPECIFIED);
    EXPECT_FALSE(IsConflict(status));
  }
}

TEST(Append, IsRepeatedWithTheSameIds) {
  Server server({Lost(), Overloaded(), Defect(), grpc::Status::OK});
  const auto begin = steady_clock::now();
  v1::AppendResponse response;
  const auto status = Append(server.store(), Within(milliseconds(10'000)), Request(), &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.last_position(), 7U);
  EXPECT_GE(steady_clock::now() - begin, milliseconds(100)) << "retry_after was passed over";
  const auto appended = server.appended();
  EXPECT_EQ(appended.size(), 4U);
  for (const auto& each : appended) {
    EXPECT_EQ(each.appends(0).events(0).id(), kId);
  }
}

TEST(Append, IsNotRepeatedAfterAConflict) {
  Server server({Conflict()});
  EXPECT_TRUE(IsConflict(Append(server.store(), Within(milliseconds(5'000)), Request())));
  EXPECT_EQ(server.appended().size(), 1U);
}

TEST(Append, IsRepeatedAFewTimesOnlyAfterADefect) {
  Server server({Defect(), Defect(), Defect()});
  const auto status = Append(server.store(), Within(milliseconds(10'000)), Request());
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(server.appended().size(), 3U);
}

TEST(Append, IsRepeatedUntilTheDeadline) {
  Server server(std::vector<grpc::Status>(100, Lost()));
  const auto begin = steady_clock::now();
  EXPECT_FALSE(Append(server.store(), Within(milliseconds(500)), Request()).ok());
  EXPECT_LT(steady_clock::now() - begin, milliseconds(5'000));
  EXPECT_GT(server.appended().size(), 1U);
}

TEST(Append, IsRepeatedUntilItIsStopped) {
  Server server(std::vector<grpc::Status>(100, Lost()));
  std::stop_source stop;
  const std::jthread stopper([&] {
    while (server.appended().size() < 3) {
      std::this_thread::yield();
    }
    stop.request_stop();
  });
  EXPECT_FALSE(Append(server.store(), {.stop = stop.get_token()}, Request()).ok());
  EXPECT_LT(server.appended().size(), 6U);
}

TEST(Append, IsNotBegunWithoutIds) {
  Server server(std::vector<grpc::Status>{});
  auto streamless = Request();
  streamless.add_events()->set_type("OrderPlaced");
  auto of_stream = Request();
  of_stream.mutable_appends(0)->add_events()->set_type("OrderPlaced");
  for (const auto& request : {streamless, of_stream}) {
    const auto status = Append(server.store(), Within(milliseconds(5'000)), request);
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  }
  EXPECT_TRUE(server.appended().empty());
}

v1::SubscribeResponse Started(const std::string& log_id, std::uint64_t after) {
  v1::SubscribeResponse response;
  response.mutable_started()->set_log_id(log_id);
  response.mutable_started()->set_after_position(after);
  return response;
}

v1::SubscribeResponse Events(const std::vector<std::uint64_t>& positions) {
  v1::SubscribeResponse response;
  for (const auto position : positions) {
    auto& event = *response.mutable_events()->add_events();
    event.set_position(position);
    event.set_id("id" + std::to_string(position));
  }
  return response;
}

v1::SubscribeResponse Heartbeat(std::uint64_t position, const std::string& event_id) {
  v1::SubscribeResponse response;
  response.mutable_heartbeat()->set_position(position);
  response.mutable_heartbeat()->set_event_id(event_id);
  return response;
}

v1::SubscribeResponse CaughtUp(std::uint64_t position, const std::string& event_id) {
  v1::SubscribeResponse response;
  response.mutable_caught_up()->set_position(position);
  response.mutable_caught_up()->set_event_id(event_id);
  return response;
}

v1::SubscribeResponse NewLog(std::uint64_t position, const std::string& log_id) {
  v1::SubscribeResponse response;
  response.mutable_fell_behind()->set_position(position);
  response.mutable_fell_behind()->set_log_id(log_id);
  return response;
}

v1::SubscribeRequest OfStream() {
  v1::SubscribeRequest request;
  request.set_stream("order-1");
  return request;
}

void Ignore(const v1::SubscribeResponse& /*response*/, const Checkpoint& /*checkpoint*/) {}

TEST(Follow, GoesOnWhereItStopped) {
  Server server(std::vector<Answer>{
      {{}, Lost()},  // Before anything came.
      {{Started("A", 4), Events({5, 6})}, Lost()},
      {{Started("A", 6), Heartbeat(8, "x"), NewLog(8, "B")}, grpc::Status::OK},
      {{Started("B", 8), Events({9}), CaughtUp(12, "y")}, Diverged()},
  });
  auto request = OfStream();
  request.mutable_after_time()->set_seconds(1);  // Not where it is to go on.
  std::vector<std::uint64_t> seen;
  std::vector<Checkpoint> kept;
  const auto status = Follow(server.store(), {}, request,
                             [&](const v1::SubscribeResponse& response, const Checkpoint& reached) {
                               for (const auto& event : response.events().events()) {
                                 seen.push_back(event.position());
                               }
                               kept.push_back(reached);
                             });
  EXPECT_EQ(FailureOf(status).reason(), v1::FAILURE_REASON_LOG_DIVERGED);
  EXPECT_EQ(seen, (std::vector<std::uint64_t>{5, 6, 9}));
  EXPECT_EQ(kept, (std::vector<Checkpoint>{{"A", 4, ""},
                                           {"A", 6, "id6"},
                                           {"A", 6, "id6"},
                                           {"A", 8, "x"},
                                           {"B", 8, "x"},
                                           {"B", 8, "x"},
                                           {"B", 9, "id9"},
                                           {"B", 12, "y"}}));
  const auto subscribed = server.subscribed();
  ASSERT_EQ(subscribed.size(), 4U);
  EXPECT_TRUE(subscribed[1].has_after_time());  // It was never accepted.
  const auto asked = [](const v1::SubscribeRequest& each) {
    return Checkpoint{each.expected_log_id(), each.after_position(), each.after_event_id()};
  };
  EXPECT_EQ(asked(subscribed[2]), (Checkpoint{"A", 6, "id6"}));
  EXPECT_EQ(asked(subscribed[3]), (Checkpoint{"B", 8, "x"}));
}

TEST(Follow, BeginsAgainAfterSilence) {
  Server server(std::vector<Answer>{{{Started("A", 0), Events({1})}}, {{}, Diverged()}});
  auto request = OfStream();
  request.mutable_heartbeat_interval()->set_nanos(100'000'000);
  const auto begin = steady_clock::now();
  const auto status = Follow(server.store(), {}, request, Ignore);
  EXPECT_EQ(FailureOf(status).reason(), v1::FAILURE_REASON_LOG_DIVERGED);
  EXPECT_GE(server.subscribed().size(), 2U);  // More if the machine is slower than that.
  EXPECT_GE(steady_clock::now() - begin, milliseconds(300));
}

TEST(Follow, WhatTheHandlerTakesIsNoSilence) {
  Server server(std::vector<Answer>{{{Started("A", 0), Events({1})}, Diverged()}});
  auto request = OfStream();
  request.mutable_heartbeat_interval()->set_nanos(250'000'000);
  const auto status =
      Follow(server.store(), {}, request, [](const v1::SubscribeResponse& response, const auto&) {
        if (response.has_events()) {
          std::this_thread::sleep_for(milliseconds(1'000));
        }
      });
  EXPECT_EQ(FailureOf(status).reason(), v1::FAILURE_REASON_LOG_DIVERGED);
  EXPECT_EQ(server.subscribed().size(), 1U);
}

TEST(Follow, EndsWithWhatTheHandlerThrows) {
  Server server(std::vector<Answer>{{{Started("A", 0), Events({1})}}});
  const auto follow = [&] {
    return Follow(server.store(), {}, OfStream(),
                  [](const auto&, const auto&) { throw std::runtime_error("mine"); });
  };
  EXPECT_THROW(static_cast<void>(follow()), std::runtime_error);
}

TEST(Follow, EndsWhenItIsStoppedByTheHandler) {
  Server server(std::vector<Answer>{{{Started("A", 0), Events({1}), Events({2})}}});
  std::stop_source stop;
  int count = 0;
  const auto status =
      Follow(server.store(), {.stop = stop.get_token()}, OfStream(), [&](const auto&, const auto&) {
        if (++count == 2) {
          stop.request_stop();
        }
      });
  EXPECT_TRUE(status.ok());
  EXPECT_EQ(count, 2);
}

TEST(Follow, EndsWhenItIsStoppedWhileItWaits) {
  Server server(std::vector<Answer>{{{Started("A", 0)}}});
  std::stop_source stop;
  std::jthread stopper;
  const auto status = Follow(
      server.store(), {.stop = stop.get_token()}, OfStream(),
      [&](const auto&, const auto&) { stopper = std::jthread([&] { stop.request_stop(); }); });
  EXPECT_TRUE(status.ok());
}

TEST(Follow, EndsAtADeadline) {
  Server server(std::vector<Answer>{{{Started("A", 0)}}});
  const auto status = Follow(server.store(), Within(milliseconds(300)), OfStream(), Ignore);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

}  // namespace
}  // namespace treering
