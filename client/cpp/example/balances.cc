#include "example/balances.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <fstream>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string_view>
#include <system_error>

#include "example/accounts.h"

namespace example {

namespace {

constexpr std::string_view kCategory = "account";

void Apply(const v1::RecordedEvent& event, Balances* balances) {
  if (event.position() <= balances->checkpoint.position) {
    throw std::logic_error("the event at position " + std::to_string(event.position()) +
                           " came twice");
  }
  balances->cents[event.stream().substr(kCategory.size() + 1)] += Change(event);
  ++balances->events;
}

// Replaces the file as a whole: a crash leaves the old one or the new one.
void Save(const Balances& balances, const std::filesystem::path& path) {
  const auto& [log_id, position, event_id] = balances.checkpoint;
  const std::string content =
      nlohmann::json{
          {"checkpoint", {{"log_id", log_id}, {"position", position}, {"event_id", event_id}}},
          {"cents", balances.cents},
          {"events", balances.events},
      }
          .dump();
  const auto check = [](bool ok) {
    if (!ok) {
      throw std::system_error(errno, std::generic_category(), "the balances are not saved");
    }
  };
  auto draft = path;
  draft += ".new";
  // No std::ofstream, which does not say that what was written is on the disk.
  const std::unique_ptr<std::FILE, int (*)(std::FILE*)> file(std::fopen(draft.c_str(), "w"),
                                                             &std::fclose);
  check(file != nullptr);
  check(std::fwrite(content.data(), 1, content.size(), file.get()) == content.size());
  check(std::fflush(file.get()) == 0 && ::fsync(::fileno(file.get())) == 0);
  std::filesystem::rename(draft, path);
}

}  // namespace

Balances LoadBalances(const std::filesystem::path& path) {
  std::ifstream file(path);
  if (!file) {
    return {};
  }
  const auto content = nlohmann::json::parse(file);
  const auto& checkpoint = content.at("checkpoint");
  Balances balances;
  checkpoint.at("log_id").get_to(balances.checkpoint.log_id);
  checkpoint.at("position").get_to(balances.checkpoint.position);
  checkpoint.at("event_id").get_to(balances.checkpoint.event_id);
  content.at("cents").get_to(balances.cents);
  content.at("events").get_to(balances.events);
  return balances;
}

void FollowBalances(v1::EventStoreService::StubInterface& store, const std::filesystem::path& path,
                    const std::stop_token& stop,
                    const std::function<void(const Balances&)>& caught_up) {
  auto balances = LoadBalances(path);
  v1::SubscribeRequest request;
  request.mutable_query()->add_items()->add_categories(std::string(kCategory));
  treering::StartAt(balances.checkpoint, &request);
  Check(treering::Follow(
      store, {.stop = stop}, request,
      [&](const v1::SubscribeResponse& response, const treering::Checkpoint& checkpoint) {
        for (const auto& event : response.events().events()) {
          Apply(event, &balances);
        }
        balances.checkpoint = checkpoint;
        Save(balances, path);
        if (response.has_caught_up() && caught_up) {
          caught_up(balances);
        }
      }));
}

}  // namespace example
