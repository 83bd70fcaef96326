// A small service that keeps accounts as events. Everything a service does with Treering is in this
// folder once, in the way that we would write it: accounts.cc decides and appends, pipeline.cc
// appends much at once, balances.cc follows. Copy what you need.

#ifndef TREERING_EXAMPLE_ACCOUNTS_H_
#define TREERING_EXAMPLE_ACCOUNTS_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <map>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "treering/treering.h"

namespace example {

namespace v1 = treering::v1;

// A refusal of the service itself.
class Refused : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};
class AccountExists final : public Refused {
  using Refused::Refused;
};
class NoAccount final : public Refused {
  using Refused::Refused;
};
class InsufficientFunds final : public Refused {
  using Refused::Refused;
};
class NameTaken final : public Refused {
  using Refused::Refused;
};

// A call has failed, and the service knows nothing better to do.
class CallFailed final : public std::runtime_error {
 public:
  explicit CallFailed(grpc::Status status);
  const grpc::Status& status() const { return status_; }

 private:
  grpc::Status status_;
};

// Throws CallFailed if it has.
void Check(const grpc::Status& status);

// The service. Any number of threads may use it, and copies of it, which are cheap. Amounts are in
// cents.
class Accounts {
 public:
  // A request to it may take so long, with all its calls and repeats.
  explicit Accounts(const std::shared_ptr<grpc::ChannelInterface>& channel,
                    std::chrono::milliseconds timeout = std::chrono::seconds(10));

  // The same service for a request that belongs to a trace: so do then its calls, and the events
  // that it appends.
  Accounts Traced(std::string traceparent) const;

  // Opens an account that is not there yet.
  void Open(const std::string& id, const std::string& owner) const;
  // Pays in.
  void Deposit(const std::string& id, std::int64_t amount) const;
  // Pays out what is there.
  void Withdraw(const std::string& id, std::int64_t amount) const;
  // Gives an account a name that no other one has, whatever stream it is in.
  void ClaimName(const std::string& id, const std::string& name) const;
  // Moves money from one account to another: both events are recorded, or none.
  void Transfer(const std::string& from, const std::string& to, std::int64_t amount) const;
  // Pays in many amounts, with at most in_flight of them unanswered at any time. Gives what was
  // refused, by index.
  std::map<std::size_t, v1::Failure> DepositAll(const std::string& id,
                                                const std::vector<std::int64_t>& amounts,
                                                std::size_t in_flight) const;

  // Tells what is there now.
  std::int64_t Balance(const std::string& id) const;
  // Tells what was there at a time.
  std::int64_t BalanceAt(const std::string& id, const google::protobuf::Timestamp& time) const;
  // Gives the last movements of some accounts, the newest first.
  std::vector<v1::RecordedEvent> Latest(std::uint64_t count,
                                        const std::vector<std::string>& ids) const;

 private:
  struct Account {
    std::int64_t balance;
    std::uint64_t version;
  };

  treering::CallOptions Options() const;
  Account Load(const std::string& id, const treering::CallOptions& options) const;
  v1::AppendRequest Depositing(const std::string& id, std::int64_t amount) const;
  v1::Event Event(std::string_view type, const nlohmann::json& data,
                  std::initializer_list<std::string> tags) const;

  std::shared_ptr<v1::EventStoreService::StubInterface> store_;
  std::chrono::milliseconds timeout_;
  std::string traceparent_;
};

// Tells what an event does to a balance. Events of types that it does not know do nothing.
std::int64_t Change(const v1::RecordedEvent& event);

}  // namespace example

#endif  // TREERING_EXAMPLE_ACCOUNTS_H_
