#ifndef TREERING_EXAMPLE_PIPELINE_H_
#define TREERING_EXAMPLE_PIPELINE_H_

#include <cstddef>
#include <map>
#include <vector>

#include "treering/treering.h"

namespace example {

// Appends one request after the other over AppendMany, in this order, without waiting for each: at
// most in_flight of them are unanswered at any time. Gives what was refused, by index; throws
// CallFailed if it can't go on.
std::map<std::size_t, treering::v1::Failure> AppendAll(
    treering::v1::EventStoreService::StubInterface& store, const treering::CallOptions& options,
    const std::vector<treering::v1::AppendRequest>& requests, std::size_t in_flight);

}  // namespace example

#endif  // TREERING_EXAMPLE_PIPELINE_H_
