// The example as a program: it opens two accounts, moves money, and prints what a subscription
// makes of it. It calls the server at TREERING_SERVER, or 127.0.0.1:7464.

#include <cstdlib>
#include <exception>
#include <filesystem>
#include <iostream>
#include <stop_token>

#include "example/accounts.h"
#include "example/balances.h"
#include "treering/treering.h"

namespace {

void Run(const std::string& target) {
  const auto channel = treering::Connect(target);
  const example::Accounts accounts(channel);
  const auto anna = treering::NewEventId();
  const auto bert = treering::NewEventId();
  accounts.Open(anna, "Anna");
  accounts.Open(bert, "Bert");
  accounts.Deposit(anna, 10'000);
  accounts.Transfer(anna, bert, 2'500);
  for (const auto& event : accounts.Latest(10, {anna, bert})) {
    std::cout << event.position() << ' ' << event.stream() << ' ' << event.version() << ' '
              << event.type() << ' ' << event.data() << '\n';
  }

  const auto path = std::filesystem::temp_directory_path() / ("balances-" + anna);
  const auto store = treering::v1::EventStoreService::NewStub(channel);
  std::stop_source stop;
  example::FollowBalances(*store, path, stop.get_token(), [&](const example::Balances& balances) {
    std::cout << "Anna has " << balances.cents.at(anna) << " cents, Bert has "
              << balances.cents.at(bert) << '\n';
    stop.request_stop();
  });
  std::filesystem::remove(path);
}

}  // namespace

int main() {
  try {
    const char* target = std::getenv("TREERING_SERVER");
    Run(target == nullptr ? "127.0.0.1:7464" : target);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
