// What every caller of Treering in C++ would write: what a failed call means, an append that is
// repeated safely, a subscription that goes on after any break. It is this file and treering.cc, to
// copy; everything else is in the stubs.
//
// Calls block, as those of the stubs do, and answer with a grpc::Status; nothing throws. Any number
// of threads may share a channel and a stub.

#ifndef TREERING_TREERING_H_
#define TREERING_TREERING_H_

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <stop_token>
#include <string>

#include "treering/v1/event_store_service.grpc.pb.h"

namespace treering {

// Makes a channel to keep for the life of the process. It connects when it is first used, notices a
// server that is gone without a word, and comes back soon after a restart, where gRPC by itself
// would wait for up to two minutes between its attempts.
std::shared_ptr<grpc::Channel> Connect(const std::string& target,
                                       const std::shared_ptr<grpc::ChannelCredentials>&
                                           credentials = grpc::InsecureChannelCredentials());

// The arguments that Connect gives its channel, for one that is made otherwise.
grpc::ChannelArguments ChannelArguments();

// Makes an id for an event: a UUID of version 7, which sorts by time.
std::string NewEventId();

// What the server says about a failed call: the reason and the facts. Its reason is
// FAILURE_REASON_UNSPECIFIED if the server said nothing, as when it could not be reached.
v1::Failure FailureOf(const grpc::Status& status);

// Whether something came between a decision and its append. Nothing was written: load again, decide
// again.
bool IsConflict(const grpc::Status& status);

// What a call is made with. A grpc::ClientContext serves one attempt; this, all of them.
struct CallOptions {
  // When everything has to be over, with all repeats. It is sent along.
  std::chrono::steady_clock::time_point deadline = std::chrono::steady_clock::time_point::max();
  // Sent along: traceparent, for one.
  std::multimap<std::string, std::string> metadata = {};
  // Cancels the call, and the wait for its repeat.
  std::stop_token stop = {};

  // Gives all but the stop token to the context of an attempt.
  void ApplyTo(grpc::ClientContext* context) const;
};

// Decides whether a call is worth repeating, and when: with delays that grow, and that differ from
// caller to caller. One for the attempts at one call.
class Retry {
 public:
  // Waits until the next attempt. Answers false, at once, if that can't help, or if there is no
  // time.
  bool Wait(const grpc::Status& status, const CallOptions& options);

 private:
  bool MayPass(const grpc::Status& status, const v1::Failure& failure);

  std::chrono::milliseconds delay_{0};
  int doubtful_ = 0;
};

// Makes a call, each time with a new context, for as long as that can help and there is time. For
// appends with ids, and for all that writes nothing:
//
//   treering::Repeat(options, [&](grpc::ClientContext* context) {
//     return store.GetHead(context, request, &response);
//   });
[[nodiscard]] grpc::Status Repeat(const CallOptions& options,
                                  const std::function<grpc::Status(grpc::ClientContext*)>& attempt);

// Appends, and repeats the request for as long as that can help and there is time. That is safe
// because of the events' ids, which must be set: what was recorded is found by them and answered as
// the first time.
//
// If it fails with anything but a refusal (a Failure that is neither UNAVAILABLE nor
// OUTCOME_UNKNOWN), the events may have been recorded: the same request again will tell.
[[nodiscard]] grpc::Status Append(v1::EventStoreService::StubInterface& store,
                                  const CallOptions& options, const v1::AppendRequest& request,
                                  v1::AppendResponse* response = nullptr);

// Reads to the end, again if that breaks. All events are in the one response, with the state.
[[nodiscard]] grpc::Status Read(v1::EventStoreService::StubInterface& store,
                                const CallOptions& options, const v1::ReadRequest& request,
                                v1::ReadResponse* response);

// How far a subscriber has come. Store it together with what was made of the events.
struct Checkpoint {
  std::string log_id = {};
  std::uint64_t position = 0;
  std::string event_id = {};

  bool operator==(const Checkpoint&) const = default;
};

// Lets a subscription begin at a checkpoint; at an empty one, with the whole log.
void StartAt(const Checkpoint& checkpoint, v1::SubscribeRequest* request);

// Subscribes, and after any break that may pass subscribes again, where it had stopped. It returns
// OK when a stop is requested, and the server's answer when that is final: LOG_DIVERGED above all,
// for a log that has lost what the subscriber saw. What handle throws goes through.
//
// handle is called with one response after the other, on this thread, and with the checkpoint to
// store once that response has been dealt with. Every event comes once. The request may start
// anywhere, and at a checkpoint with StartAt. With a deadline it ends at that; give it none.
[[nodiscard]] grpc::Status Follow(v1::EventStoreService::StubInterface& store,
                                  const CallOptions& options, v1::SubscribeRequest request,
                                  const std::function<void(const v1::SubscribeResponse& response,
                                                           const Checkpoint& checkpoint)>& handle);

}  // namespace treering

#endif  // TREERING_TREERING_H_
