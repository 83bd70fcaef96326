// The example against the server at TREERING_SERVER.

#include "example/accounts.h"

#include <google/protobuf/util/time_util.h>
#include <grpcpp/support/client_interceptor.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <functional>
#include <future>
#include <mutex>
#include <numeric>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "example/balances.h"
#include "treering/treering.h"

namespace example {
namespace {

using google::protobuf::util::TimeUtil;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

// What is sent, as an interceptor sees it.
class Watch final {
 public:
  void Sending(const grpc::ClientContext& context,
               const std::multimap<std::string, std::string>& metadata) {
    const std::lock_guard lock(mutex_);
    time_ = context.deadline() - std::chrono::system_clock::now();
    const auto found = metadata.find("traceparent");
    traceparent_ = found == metadata.end() ? "" : found->second;
  }

  void Unanswered(int change) {
    const std::lock_guard lock(mutex_);
    unanswered_ += change;
    most_ = std::max(most_, unanswered_);
  }

  // How long the last call might take.
  std::chrono::nanoseconds time() const { return time_; }
  // Of the last call.
  const std::string& traceparent() const { return traceparent_; }
  // How many appends of pipelines were unanswered at any time.
  int most() const { return most_; }

 private:
  std::mutex mutex_;
  std::chrono::nanoseconds time_{0};
  std::string traceparent_;
  int unanswered_ = 0;
  int most_ = 0;
};

class Watcher final : public grpc::experimental::Interceptor {
 public:
  Watcher(grpc::experimental::ClientRpcInfo* call, Watch* watch) : call_(call), watch_(watch) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    using Point = grpc::experimental::InterceptionHookPoints;
    const bool is_pipeline = std::string_view(call_->method()).ends_with("/AppendMany");
    if (methods->QueryInterceptionHookPoint(Point::PRE_SEND_INITIAL_METADATA)) {
      watch_->Sending(*call_->client_context(), *methods->GetSendInitialMetadata());
    }
    if (is_pipeline && methods->QueryInterceptionHookPoint(Point::PRE_SEND_MESSAGE)) {
      const auto* message = static_cast<const v1::AppendManyRequest*>(methods->GetSendMessage());
      watch_->Unanswered(message->items_size());
    }
    if (is_pipeline && methods->QueryInterceptionHookPoint(Point::POST_RECV_MESSAGE)) {
      const auto* message = static_cast<const v1::AppendManyResponse*>(methods->GetRecvMessage());
      if (message != nullptr) {
        watch_->Unanswered(-message->results_size());
      }
    }
    methods->Proceed();
  }

 private:
  grpc::experimental::ClientRpcInfo* const call_;
  Watch* const watch_;
};

class WatcherFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  explicit WatcherFactory(Watch* watch) : watch_(watch) {}

  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* call) override {
    return new Watcher(call, watch_);
  }

 private:
  Watch* const watch_;
};

std::string Target() {
  const char* target = std::getenv("TREERING_SERVER");
  return target == nullptr ? throw std::runtime_error("TREERING_SERVER names no server") : target;
}

std::shared_ptr<grpc::Channel> Watched(Watch* watch) {
  std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> watchers;
  watchers.push_back(std::make_unique<WatcherFactory>(watch));
  return grpc::experimental::CreateCustomChannelWithInterceptors(
      Target(), grpc::InsecureChannelCredentials(), treering::ChannelArguments(),
      std::move(watchers));
}

class AccountsTest : public testing::Test {
 protected:
  // Opens an account with some money in it.
  std::string Opened(std::int64_t cents = 0) const {
    auto id = treering::NewEventId();
    accounts_.Open(id, "Anna");
    if (cents > 0) {
      accounts_.Deposit(id, cents);
    }
    return id;
  }

  const std::shared_ptr<grpc::Channel> channel_ = treering::Connect(Target());
  // A busy machine takes its time for the restart of a server.
  const Accounts accounts_{channel_, std::chrono::minutes(1)};
  const std::unique_ptr<v1::EventStoreService::Stub> store_ =
      v1::EventStoreService::NewStub(channel_);
};

// Makes calls at once, each on a thread of its own, and counts how many are refused so. Any other
// error is thrown.
template <typename Refusal>
int Refusals(const std::vector<std::function<void()>>& calls) {
  std::atomic<int> refused = 0;
  std::vector<std::exception_ptr> errors(calls.size());
  {
    std::vector<std::jthread> threads;
    for (std::size_t i = 0; i < calls.size(); ++i) {
      threads.emplace_back([&, i] {
        try {
          calls[i]();
        } catch (const Refusal&) {
          ++refused;
        } catch (...) {
          errors[i] = std::current_exception();
        }
      });
    }
  }
  for (const auto& error : errors) {
    if (error) {
      std::rethrow_exception(error);
    }
  }
  return refused;
}

// What a call says when it is refused.
std::string Refusal(const std::function<void()>& call) {
  try {
    call();
  } catch (const Refused& refused) {
    return refused.what();
  }
  return "not refused";
}

TEST_F(AccountsTest, AnAccountIsOpenedOnce) {
  const auto id = Opened();
  EXPECT_THROW(accounts_.Open(id, "Bert"), AccountExists);
  EXPECT_TRUE(Refusal([&] { accounts_.Open(id, "Bert"); }).ends_with("at version 1"));
}

TEST_F(AccountsTest, WhatIsRefusedSaysWhy) {
  const auto refusal = Refusal([&] { accounts_.Open(std::string(300, 'x'), "Anna"); });
  EXPECT_TRUE(refusal.starts_with("appends[0].stream: ") && refusal.ends_with(" (limit 255)"))
      << refusal;
  EXPECT_THROW(accounts_.Deposit(treering::NewEventId(), 1), NoAccount);
}

TEST_F(AccountsTest, WithdrawalsAtOnceNeverTakeMoreThanThereIs) {
  const auto id = Opened(500);
  const std::vector<std::function<void()>> calls(8, [&] { accounts_.Withdraw(id, 100); });
  EXPECT_EQ(Refusals<InsufficientFunds>(calls), 3);
  EXPECT_EQ(accounts_.Balance(id), 0);
}

TEST_F(AccountsTest, ANameIsGivenOnceHoweverManyClaimIt) {
  const auto name = "Zoë " + treering::NewEventId();
  std::vector<std::function<void()>> calls;
  for (int i = 0; i < 6; ++i) {
    calls.emplace_back([&, id = Opened()] { accounts_.ClaimName(id, name); });
  }
  EXPECT_EQ(Refusals<NameTaken>(calls), 5);
  EXPECT_THROW(accounts_.ClaimName(treering::NewEventId(), name + "?"), NoAccount);
}

TEST_F(AccountsTest, ATransferMovesAllOrNothing) {
  const auto from = Opened(1'000);
  const auto to = Opened();
  accounts_.Transfer(from, to, 300);
  EXPECT_THROW(accounts_.Transfer(from, to, 701), InsufficientFunds);
  EXPECT_THROW(accounts_.Transfer(from, treering::NewEventId(), 1), NoAccount);
  EXPECT_EQ(accounts_.Balance(from), 700);
  EXPECT_EQ(accounts_.Balance(to), 300);
  const auto latest = accounts_.Latest(2, {from, to});
  ASSERT_EQ(latest.size(), 2U);
  EXPECT_EQ(latest[0].position(), latest[1].position() + 1);
  EXPECT_EQ(latest[0].recorded_at(), latest[1].recorded_at());
}

TEST_F(AccountsTest, TenThousandEventsArePipelined) {
  Watch watch;
  const auto id = Opened();
  std::vector<std::int64_t> amounts(10'000);
  std::iota(amounts.begin(), amounts.end(), 0);
  const auto begin = steady_clock::now();
  const auto refused = Accounts(Watched(&watch)).DepositAll(id, amounts, 500);
  const auto took = std::chrono::duration_cast<milliseconds>(steady_clock::now() - begin);
  std::cout << amounts.size() << " appends in " << took.count() << " ms, at most " << watch.most()
            << " unanswered\n";
  EXPECT_TRUE(refused.empty());
  EXPECT_EQ(accounts_.Balance(id), 10'000 * 9'999 / 2);
  EXPECT_LE(watch.most(), 500);
  EXPECT_GT(watch.most(), 100);
}

TEST_F(AccountsTest, RefusedAppendsOfAPipelineAreTold) {
  const auto refused = accounts_.DepositAll(treering::NewEventId(), {1, 2}, 1);
  ASSERT_EQ(refused.size(), 2U);
  for (const std::size_t i : {0U, 1U}) {
    EXPECT_EQ(refused.at(i).reason(), v1::FAILURE_REASON_VERSION_CONFLICT);
  }
}

TEST_F(AccountsTest, ReadsBackwardsWithAQuery) {
  const auto anna = Opened(100);
  const auto bert = Opened(200);
  const auto other = Opened(300);
  accounts_.Withdraw(anna, 1);
  accounts_.Withdraw(other, 1);
  std::vector<std::string> found;
  for (const auto& event : accounts_.Latest(2, {anna, bert})) {
    found.push_back(event.stream() + " " + event.type() + " " + event.data());
  }
  EXPECT_EQ(found, (std::vector<std::string>{
                       "account-" + anna + R"( MoneyWithdrawn {"amount":1})",
                       "account-" + bert + R"( MoneyDeposited {"amount":200})",
                   }));
}

TEST_F(AccountsTest, ReadsAsOfATime) {
  const auto id = Opened(100);
  const auto then = accounts_.Latest(1, {id}).at(0).recorded_at();
  std::this_thread::sleep_for(milliseconds(1));  // Times that differ.
  accounts_.Withdraw(id, 40);
  EXPECT_EQ(accounts_.BalanceAt(id, then), 100);
  EXPECT_EQ(accounts_.BalanceAt(id, then - TimeUtil::MicrosecondsToDuration(1)), 0);
  EXPECT_EQ(accounts_.BalanceAt(id, TimeUtil::GetCurrentTime() + TimeUtil::HoursToDuration(1)), 60);
}

TEST_F(AccountsTest, CallsHaveADeadlineAndATrace) {
  const std::string traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
  Watch watch;
  const auto traced = Accounts(Watched(&watch)).Traced(traceparent);
  const auto id = treering::NewEventId();
  traced.Open(id, "Anna");
  traced.Deposit(id, 1);
  EXPECT_EQ(watch.traceparent(), traceparent);
  EXPECT_GT(watch.time(), std::chrono::seconds(0));
  EXPECT_LT(watch.time(), std::chrono::minutes(1));
  EXPECT_EQ(accounts_.Latest(1, {id}).at(0).metadata().at("traceparent"), traceparent);
}

TEST_F(AccountsTest, ADeadlineThatHasPassedIsTold) {
  v1::ReadRequest request;
  request.mutable_query()->set_all(true);
  v1::ReadResponse response;
  const auto status = treering::Read(*store_, {.deadline = steady_clock::now() - milliseconds(1)},
                                     request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DEADLINE_EXCEEDED);
}

TEST_F(AccountsTest, TheSameAppendAgainIsFoundByItsIds) {
  v1::AppendRequest request;
  auto& event = *request.add_events();
  event.set_id(treering::NewEventId());
  event.set_type("Happened");
  v1::AppendResponse first;
  Check(treering::Append(*store_, {}, request, &first));
  v1::AppendResponse again;
  Check(treering::Append(*store_, {}, request, &again));
  EXPECT_FALSE(first.duplicate());
  EXPECT_TRUE(again.duplicate());
  EXPECT_EQ(first.last_position(), again.last_position());
}

// The read model is stopped and started, and the server restarted, while money moves.
TEST_F(AccountsTest, ASubscriptionResumesWithoutLossOrRepetition) {
  const char* restart = std::getenv("TREERING_RESTART");
  if (restart == nullptr) {
    GTEST_SKIP() << "TREERING_RESTART names no command that restarts the server";
  }
  const auto id = Opened(1);
  const auto path = std::filesystem::temp_directory_path() / ("balances-" + id);
  {
    std::stop_source stop;  // Up to now, and then no more.
    FollowBalances(*store_, path, stop.get_token(), [&](const Balances&) { stop.request_stop(); });
  }
  auto stored = LoadBalances(path);
  EXPECT_EQ(stored.cents.at(id), 1);
  EXPECT_GT(stored.checkpoint.position, 0U);
  EXPECT_FALSE(stored.checkpoint.log_id.empty());

  accounts_.Deposit(id, 2);  // Nobody follows.
  std::packaged_task<void(std::stop_token)> following(
      [&](const std::stop_token& stop) { FollowBalances(*store_, path, stop); });
  auto followed = following.get_future();
  std::jthread follower(std::move(following));
  auto written = std::async(std::launch::async, [&] {
    for (int i = 0; i < 60; ++i) {
      accounts_.Deposit(id, i * 1'000);
      std::this_thread::sleep_for(milliseconds(20));
    }
  });
  std::this_thread::sleep_for(milliseconds(300));
  ASSERT_EQ(std::system(restart), 0);
  written.get();

  const auto want = 3 + 60 * 59 / 2 * 1'000;
  EXPECT_EQ(accounts_.Balance(id), want);
  const auto moved = accounts_.Latest(1'000, {id});
  EXPECT_EQ(moved.size(), 62U);
  const auto deadline = steady_clock::now() + std::chrono::minutes(1);
  while (stored.checkpoint.position < moved.at(0).position() && steady_clock::now() < deadline) {
    std::this_thread::sleep_for(milliseconds(20));
    stored = LoadBalances(path);
  }
  follower.request_stop();
  followed.get();
  EXPECT_EQ(stored.cents.at(id), want);

  v1::ReadRequest request;
  request.mutable_query()->add_items()->add_categories("account");
  request.set_until_position(stored.checkpoint.position);
  v1::ReadResponse all;
  Check(treering::Read(*store_, {}, request, &all));
  EXPECT_EQ(stored.events, static_cast<std::uint64_t>(all.events_size()));
  std::cout << stored.events << " events, each once, over a restart of the server\n";
  std::filesystem::remove(path);
}

}  // namespace
}  // namespace example
