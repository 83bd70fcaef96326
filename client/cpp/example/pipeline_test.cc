// The pipeline against a server that breaks its calls at given moments.

#include "example/pipeline.h"

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "example/accounts.h"
#include "treering/treering.h"

namespace example {
namespace {

constexpr std::size_t kAll = 1'000;
constexpr auto kRefused = "id9";

// Answers so many appends on each call, each under its own id or the next, and breaks it then. The
// one of kRefused is refused.
class Breaking final : private v1::EventStoreService::Service {
 public:
  explicit Breaking(std::vector<std::size_t> counts, bool misnumbers = false)
      : counts_(std::move(counts)), misnumbers_(misnumbers) {
    int port = 0;
    server_ = grpc::ServerBuilder()
                  .AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port)
                  .RegisterService(this)
                  .BuildAndStart();
    store_ = v1::EventStoreService::NewStub(treering::Connect("127.0.0.1:" + std::to_string(port)));
  }

  v1::EventStoreService::StubInterface& store() { return *store_; }

  // The request id that each call began with.
  std::vector<std::uint64_t> firsts() {
    const std::lock_guard lock(mutex_);
    return firsts_;
  }

  // The ids of the events of what was answered.
  std::vector<std::string> answered() {
    const std::lock_guard lock(mutex_);
    return answered_;
  }

 private:
  using Call = grpc::ServerReaderWriter<v1::AppendManyResponse, v1::AppendManyRequest>;

  grpc::Status AppendMany(grpc::ServerContext* /*context*/, Call* call) override {
    v1::AppendManyRequest request;
    std::optional<std::size_t> left;
    while (call->Read(&request)) {
      const std::lock_guard lock(mutex_);
      if (!left.has_value()) {
        left = counts_.at(firsts_.size());
        firsts_.push_back(request.items(0).request_id());
      }
      v1::AppendManyResponse response;
      for (const auto& item : request.items()) {
        if ((*left)-- == 0) {
          call->Write(response);
          return {grpc::StatusCode::UNAVAILABLE, "broken"};
        }
        const auto& id = item.append().events(0).id();
        auto& result = *response.add_results();
        result.set_request_id(misnumbers_ ? item.request_id() + 1 : item.request_id());
        if (id == kRefused) {
          result.mutable_failure()->set_reason(v1::FAILURE_REASON_VERSION_CONFLICT);
        } else {
          result.mutable_appended();
        }
        answered_.push_back(id);
      }
      call->Write(response);
    }
    return grpc::Status::OK;
  }

  const std::vector<std::size_t> counts_;
  const bool misnumbers_;
  std::mutex mutex_;
  std::vector<std::uint64_t> firsts_;
  std::vector<std::string> answered_;
  std::unique_ptr<v1::EventStoreService::Stub> store_;
  std::unique_ptr<grpc::Server> server_;
};

std::vector<v1::AppendRequest> Requests(const std::vector<std::string>& ids) {
  std::vector<v1::AppendRequest> requests;
  for (const auto& id : ids) {
    auto& event = *requests.emplace_back().add_events();
    event.set_id(id);
    event.set_type("Happened");
  }
  return requests;
}

TEST(Pipeline, GoesOnWithTheFirstWithoutAnAnswer) {
  std::vector<std::string> ids;
  for (int i = 0; i < 10; ++i) {
    ids.push_back("id" + std::to_string(i));
  }
  Breaking server({3, 0, 4, kAll});
  const auto refused = AppendAll(server.store(), {}, Requests(ids), 4);
  EXPECT_EQ(server.firsts(), (std::vector<std::uint64_t>{0, 3, 3, 7}));
  EXPECT_EQ(server.answered(), ids);
  ASSERT_EQ(refused.size(), 1U);
  EXPECT_EQ(refused.at(9).reason(), v1::FAILURE_REASON_VERSION_CONFLICT);
}

TEST(Pipeline, EndsAtADeadline) {
  Breaking server(std::vector<std::size_t>(100, 0));
  const treering::CallOptions options{.deadline = std::chrono::steady_clock::now() +
                                                  std::chrono::milliseconds(300)};
  EXPECT_THROW(AppendAll(server.store(), options, Requests({"a"}), 4), CallFailed);
}

TEST(Pipeline, TakesNoAnswerOfAnotherAppend) {
  Breaking server(std::vector<std::size_t>(100, kAll), true);
  try {
    AppendAll(server.store(), {}, Requests({"a", "b", "c"}), 2);
    FAIL() << "it did";
  } catch (const CallFailed& failed) {
    EXPECT_EQ(failed.status().error_code(), grpc::StatusCode::INTERNAL);
  }
}

}  // namespace
}  // namespace example
