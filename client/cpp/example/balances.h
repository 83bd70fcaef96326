#ifndef TREERING_EXAMPLE_BALANCES_H_
#define TREERING_EXAMPLE_BALANCES_H_

#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <stop_token>
#include <string>

#include "treering/treering.h"

namespace example {

// A read model: what is in every account. It is kept in a file, together with the checkpoint up to
// which it was made, so that after a crash no event counts twice and none is missed.
struct Balances {
  treering::Checkpoint checkpoint;
  std::map<std::string, std::int64_t> cents;
  std::uint64_t events = 0;
};

// Gives what is in the file; nothing, from before all events, if there is none.
Balances LoadBalances(const std::filesystem::path& path);

// Keeps the file up to date until a stop is requested. caught_up is called whenever all history is
// in it.
void FollowBalances(treering::v1::EventStoreService::StubInterface& store,
                    const std::filesystem::path& path, const std::stop_token& stop,
                    const std::function<void(const Balances&)>& caught_up = {});

}  // namespace example

#endif  // TREERING_EXAMPLE_BALANCES_H_
