#include "example/accounts.h"

#include <google/protobuf/util/time_util.h>

#include <nlohmann/json.hpp>
#include <numeric>
#include <utility>

#include "example/pipeline.h"

namespace example {

namespace {

std::string Stream(const std::string& id) { return "account-" + id; }
std::string AccountTag(const std::string& id) { return "account:" + id; }

std::int64_t Sum(const google::protobuf::RepeatedPtrField<v1::RecordedEvent>& events) {
  return std::accumulate(events.begin(), events.end(), std::int64_t{0},
                         [](std::int64_t sum, const auto& event) { return sum + Change(event); });
}

}  // namespace

CallFailed::CallFailed(grpc::Status status)
    : std::runtime_error(status.error_message()), status_(std::move(status)) {}

void Check(const grpc::Status& status) {
  if (!status.ok()) {
    throw CallFailed(status);
  }
}

Accounts::Accounts(const std::shared_ptr<grpc::ChannelInterface>& channel,
                   std::chrono::milliseconds timeout)
    : store_(v1::EventStoreService::NewStub(channel)), timeout_(timeout) {}

Accounts Accounts::Traced(std::string traceparent) const {
  Accounts traced = *this;
  traced.traceparent_ = std::move(traceparent);
  return traced;
}

void Accounts::Open(const std::string& id, const std::string& owner) const {
  v1::AppendRequest request;
  auto& append = *request.add_appends();
  append.set_stream(Stream(id));
  append.set_expected_version(0);  // Not the same as unset: the stream must not exist.
  *append.add_events() = Event("AccountOpened", {{"owner", owner}}, {AccountTag(id)});
  const auto status = treering::Append(*store_, Options(), request);
  const auto failure = treering::FailureOf(status);
  switch (failure.reason()) {
    case v1::FAILURE_REASON_VERSION_CONFLICT:
      throw AccountExists(id + " is there already, at version " +
                          std::to_string(failure.version_conflict().actual_version()));
    case v1::FAILURE_REASON_LIMIT_EXCEEDED: {
      const auto& violation = failure.invalid_request().violations(0);
      throw Refused(violation.field() + ": " + violation.description() + " (limit " +
                    std::to_string(violation.limit()) + ")");
    }
    default:
      Check(status);
  }
}

void Accounts::Deposit(const std::string& id, std::int64_t amount) const {
  const auto status = treering::Append(*store_, Options(), Depositing(id, amount));
  if (treering::IsConflict(status)) {
    throw NoAccount(id);
  }
  Check(status);
}

v1::AppendRequest Accounts::Depositing(const std::string& id, std::int64_t amount) const {
  v1::AppendRequest request;
  auto& append = *request.add_appends();
  append.set_stream(Stream(id));
  append.set_expected_exists(true);
  *append.add_events() = Event("MoneyDeposited", {{"amount", amount}}, {AccountTag(id)});
  return request;
}

void Accounts::Withdraw(const std::string& id, std::int64_t amount) const {
  const auto options = Options();
  while (true) {
    const auto account = Load(id, options);
    if (account.balance < amount) {
      throw InsufficientFunds(id);
    }
    v1::AppendRequest request;
    auto& append = *request.add_appends();
    append.set_stream(Stream(id));
    append.set_expected_version(account.version);  // Only if nothing has come in between.
    *append.add_events() = Event("MoneyWithdrawn", {{"amount", amount}}, {AccountTag(id)});
    const auto status = treering::Append(*store_, options, request);
    if (!treering::IsConflict(status)) {
      return Check(status);
    }
    // Something has: load again, decide again.
  }
}

void Accounts::ClaimName(const std::string& id, const std::string& name) const {
  const auto options = Options();
  v1::ReadRequest claims;
  auto& item = *claims.mutable_query()->add_items();
  item.add_types("NameClaimed");
  item.add_tags("name:" + name);
  while (true) {
    v1::ReadResponse found;
    Check(treering::Read(*store_, options, claims, &found));
    if (found.events_size() > 0) {
      throw NameTaken(name);
    }
    v1::AppendRequest request;
    auto& append = *request.add_appends();
    append.set_stream(Stream(id));
    append.set_expected_exists(true);
    *append.add_events() = Event("NameClaimed", {{"name", name}}, {AccountTag(id), "name:" + name});
    // Only if nobody has claimed it since we looked.
    auto& condition = *request.add_conditions();
    *condition.mutable_fail_if_match() = claims.query();
    condition.set_after_position(found.head_position());
    const auto status = treering::Append(*store_, options, request);
    switch (treering::FailureOf(status).reason()) {
      case v1::FAILURE_REASON_CONDITION_FAILED:
        continue;
      case v1::FAILURE_REASON_VERSION_CONFLICT:
        throw NoAccount(id);
      default:
        return Check(status);
    }
  }
}

void Accounts::Transfer(const std::string& from, const std::string& to, std::int64_t amount) const {
  const auto options = Options();
  while (true) {
    const auto account = Load(from, options);
    Load(to, options);
    if (account.balance < amount) {
      throw InsufficientFunds(from);
    }
    v1::AppendRequest request;
    auto& withdrawal = *request.add_appends();
    withdrawal.set_stream(Stream(from));
    withdrawal.set_expected_version(account.version);
    *withdrawal.add_events() = Event("MoneyWithdrawn", {{"amount", amount}}, {AccountTag(from)});
    auto& deposit = *request.add_appends();
    deposit.set_stream(Stream(to));
    deposit.set_expected_exists(true);  // What else comes in there does not matter.
    *deposit.add_events() = Event("MoneyDeposited", {{"amount", amount}}, {AccountTag(to)});
    const auto status = treering::Append(*store_, options, request);
    if (!treering::IsConflict(status)) {
      return Check(status);
    }
  }
}

std::map<std::size_t, v1::Failure> Accounts::DepositAll(const std::string& id,
                                                        const std::vector<std::int64_t>& amounts,
                                                        std::size_t in_flight) const {
  std::vector<v1::AppendRequest> requests;
  requests.reserve(amounts.size());
  for (const auto amount : amounts) {
    requests.push_back(Depositing(id, amount));
  }
  auto options = Options();
  options.deadline = std::chrono::steady_clock::time_point::max();  // However many there are.
  return AppendAll(*store_, options, requests, in_flight);
}

std::int64_t Accounts::Balance(const std::string& id) const { return Load(id, Options()).balance; }

std::int64_t Accounts::BalanceAt(const std::string& id,
                                 const google::protobuf::Timestamp& time) const {
  v1::ReadRequest request;
  request.set_stream(Stream(id));
  *request.mutable_until_time() = time;
  v1::ReadResponse found;
  Check(treering::Read(*store_, Options(), request, &found));
  return Sum(found.events());
}

std::vector<v1::RecordedEvent> Accounts::Latest(std::uint64_t count,
                                                const std::vector<std::string>& ids) const {
  v1::ReadRequest request;
  for (const auto& id : ids) {
    // An event matches if any item does; an item, if all its parts do.
    auto& item = *request.mutable_query()->add_items();
    item.add_types("MoneyDeposited");
    item.add_types("MoneyWithdrawn");
    item.add_tags(AccountTag(id));
  }
  request.set_direction(v1::DIRECTION_BACKWARDS);
  request.set_limit(count);
  v1::ReadResponse found;
  Check(treering::Read(*store_, Options(), request, &found));
  return {found.events().begin(), found.events().end()};
}

treering::CallOptions Accounts::Options() const {
  treering::CallOptions options{.deadline = std::chrono::steady_clock::now() + timeout_};
  if (!traceparent_.empty()) {
    options.metadata.emplace("traceparent", traceparent_);
  }
  return options;
}

// An account as its events have made it.
Accounts::Account Accounts::Load(const std::string& id,
                                 const treering::CallOptions& options) const {
  v1::ReadRequest request;
  request.set_stream(Stream(id));
  v1::ReadResponse found;
  Check(treering::Read(*store_, options, request, &found));
  if (found.stream_version() == 0) {
    throw NoAccount(id);
  }
  return {.balance = Sum(found.events()), .version = found.stream_version()};
}

// Makes an event, with the id by which its append is found if it has to be repeated.
v1::Event Accounts::Event(std::string_view type, const nlohmann::json& data,
                          std::initializer_list<std::string> tags) const {
  v1::Event event;
  event.set_id(treering::NewEventId());
  event.set_type(std::string(type));
  event.set_data(data.dump());
  event.mutable_tags()->Add(tags.begin(), tags.end());
  *event.mutable_time() = google::protobuf::util::TimeUtil::GetCurrentTime();
  if (!traceparent_.empty()) {
    (*event.mutable_metadata())["traceparent"] = traceparent_;
  }
  return event;
}

std::int64_t Change(const v1::RecordedEvent& event) {
  const int sign = event.type() == "MoneyDeposited" ? 1 : event.type() == "MoneyWithdrawn" ? -1 : 0;
  return sign == 0 ? 0
                   : sign * nlohmann::json::parse(event.data()).at("amount").get<std::int64_t>();
}

}  // namespace example
