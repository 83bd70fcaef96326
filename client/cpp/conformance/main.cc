// The conformance cases in C++: `conformance write|check|repeat`, at TREERING_SERVER. See
// client/conformance/README.md.

#include <absl/strings/escaping.h>
#include <google/protobuf/util/message_differencer.h>

#include <algorithm>
#include <chrono>
#include <concepts>
#include <cstdint>
#include <cstdlib>
#include <exception>
#include <fstream>
#include <iostream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include "treering/treering.h"

namespace {

namespace v1 = treering::v1;
using nlohmann::json;

constexpr auto kCasesFile = "../conformance/cases.json";  // From client/cpp, where run.sh goes.

// One of 64 bits, in a string.
std::uint64_t Number(const json& text) { return std::stoull(text.get<std::string>()); }

std::string Content(const json& data) {
  if (data.contains("text")) {
    return data.at("text");
  }
  std::string once;
  if (!absl::Base64Unescape(data.at("base64").get<std::string>(), &once)) {
    throw std::runtime_error("no base64");
  }
  std::string content;
  for (int i = data.value("times", 1); i > 0; --i) {
    content += once;
  }
  return content;
}

// An Event or the same fields of a RecordedEvent.
template <typename Message>
Message Fields(const json& fields) {
  Message event;
  event.set_id(fields.value("id", ""));
  event.set_type(fields.value("type", ""));
  event.set_content_type(fields.value("content_type", ""));
  if (fields.contains("data")) {
    event.set_data(Content(fields.at("data")));
  }
  for (const auto& tag : fields.value("tags", json::array())) {
    event.add_tags(tag);
  }
  const auto metadata = fields.value("metadata", json::object());
  for (const auto& [key, value] : metadata.items()) {
    (*event.mutable_metadata())[key] = value;
  }
  if (fields.contains("time")) {
    event.mutable_time()->set_seconds(
        std::stoll(fields.at("time").at("seconds").get<std::string>()));
    event.mutable_time()->set_nanos(fields.at("time").at("nanos"));
  }
  return event;
}

// What is to be read.
std::vector<v1::RecordedEvent> Expected(const json& cases) {
  std::vector<v1::RecordedEvent> events;
  std::map<std::string, std::uint64_t> versions;
  for (const auto& each : cases.at("events")) {
    auto fields = each.at("event");
    fields.update(each.value("recorded", json::object()));
    auto event = Fields<v1::RecordedEvent>(fields);
    event.set_position(events.size() + 1);
    if (each.contains("stream")) {
      event.set_stream(each.at("stream"));
      event.set_version(++versions[event.stream()]);
    }
    events.push_back(event);
  }
  return events;
}

template <std::integral Value>
void Same(const std::string& what, const Value& found, const Value& want) {
  if (found != want) {
    throw std::runtime_error(what + ": " + std::to_string(found) + " instead of " +
                             std::to_string(want));
  }
}

void Same(const std::string& what, const google::protobuf::Message& found,
          const google::protobuf::Message& want) {
  if (!google::protobuf::util::MessageDifferencer::Equals(found, want)) {
    throw std::runtime_error(what + ": " + found.ShortDebugString().substr(0, 1'000) +
                             " instead of " + want.ShortDebugString().substr(0, 1'000));
  }
}

v1::ReadRequest Everything() {
  v1::ReadRequest request;
  request.mutable_query()->set_all(true);
  return request;
}

class Conformance {
 public:
  Conformance(json cases, std::unique_ptr<v1::EventStoreService::StubInterface> store)
      : cases_(std::move(cases)), expected_(Expected(cases_)), store_(std::move(store)) {}

  std::size_t size() const { return expected_.size(); }

  void Append(bool are_there) const {
    for (std::size_t i = 0; i < size(); ++i) {
      const auto& each = cases_.at("events").at(i);
      const auto& event = expected_[i];
      v1::AppendRequest request;
      v1::AppendResponse want;
      want.set_first_position(event.position());
      want.set_last_position(event.position());
      want.set_duplicate(are_there);
      if (event.stream().empty()) {
        *request.add_events() = Fields<v1::Event>(each.at("event"));
      } else {
        auto& append = *request.add_appends();
        append.set_stream(event.stream());
        append.set_expected_version(event.version() - 1);
        *append.add_events() = Fields<v1::Event>(each.at("event"));
        auto& version = *want.add_versions();
        version.set_stream(event.stream());
        version.set_version(event.version());
      }
      v1::AppendResponse response;
      grpc::ClientContext context;
      options_.ApplyTo(&context);
      Check(each.at("case"), store_->Append(&context, request, &response));
      response.clear_recorded_at();
      response.clear_log_id();
      Same(each.at("case"), response, want);
    }
  }

  void CheckEvents() const {
    auto all = Read(Everything());
    Same("events", static_cast<std::size_t>(all.events_size()), size());
    Same("head", all.head_position(), std::uint64_t{size()});
    std::map<std::string, std::vector<std::uint64_t>> positions;
    for (std::size_t i = 0; i < size(); ++i) {
      const std::string name = cases_.at("events").at(i).at("case");
      auto& event = *all.mutable_events(static_cast<int>(i));
      Same(name + ", with recorded_at", event.has_recorded_at(), true);
      event.clear_recorded_at();
      Same(name, event, expected_[i]);
      if (!event.stream().empty()) {
        positions[event.stream()].push_back(event.position());
      }
    }
    for (const auto& [stream, want] : positions) {
      v1::ReadRequest request;
      request.set_stream(stream);
      const auto found = Read(request);
      Same("version of " + stream, found.stream_version(), std::uint64_t{want.size()});
      Same("events of " + stream, static_cast<std::size_t>(found.events_size()), want.size());
      for (std::size_t i = 0; i < want.size(); ++i) {
        Same("positions of " + stream, found.events(static_cast<int>(i)).position(), want[i]);
      }
    }
  }

  void CheckNumbers() const {
    const auto& stream = expected_.front().stream();
    const auto version = std::ranges::count(expected_, stream, &v1::RecordedEvent::stream);
    for (const auto& expectation : cases_.at("expectations")) {
      v1::VersionConflict want;
      want.set_stream(stream);
      Expect(expectation, &want);
      want.set_actual_version(static_cast<std::uint64_t>(version));
      const auto status = treering::Append(*store_, options_, Refused(expectation));
      Same(expectation.dump(), treering::FailureOf(status).version_conflict(), want);
    }
    CheckRequestIds();
    for (const auto& limit : cases_.at("limits")) {
      auto request = Everything();
      request.set_limit(Number(limit));
      const auto want = std::min(Number(limit), std::uint64_t{size()});
      Same("limit", static_cast<std::uint64_t>(Read(request).events_size()), want);
    }
    for (const auto& before : cases_.at("before_positions")) {
      auto request = Everything();
      request.set_direction(v1::DIRECTION_BACKWARDS);
      request.set_after_position(Number(before));
      request.set_limit(1);
      const auto found = Read(request);
      Same("events before " + before.dump(), found.events_size(), 1);
      Same("event before " + before.dump(), found.events(0).position(), std::uint64_t{size()});
    }
  }

 private:
  static void Check(const std::string& what, const grpc::Status& status) {
    if (!status.ok()) {
      throw std::runtime_error(what + ": " + status.error_message());
    }
  }

  v1::ReadResponse Read(const v1::ReadRequest& request) const {
    v1::ReadResponse response;
    Check("read", treering::Read(*store_, options_, request, &response));
    return response;
  }

  // Sets the expectation of an append or of a conflict.
  template <typename Message>
  static void Expect(const json& expectation, Message* message) {
    if (expectation.contains("expected_version")) {
      message->set_expected_version(Number(expectation.at("expected_version")));
    } else {
      message->set_expected_exists(expectation.at("expected_exists"));
    }
  }

  // An append whose expectation is not met.
  v1::AppendRequest Refused(const json& expectation) const {
    v1::AppendRequest request;
    auto& append = *request.add_appends();
    append.set_stream(expected_.front().stream());
    Expect(expectation, &append);
    auto& event = *append.add_events();
    event.set_id("0192f0c1-ffff-7000-8000-000000000000");
    event.set_type("Refused");
    return request;
  }

  void CheckRequestIds() const {
    grpc::ClientContext context;
    options_.ApplyTo(&context);
    const auto call = store_->AppendMany(&context);
    std::vector<std::uint64_t> want;
    v1::AppendManyRequest request;
    for (const auto& id : cases_.at("request_ids")) {
      want.push_back(Number(id));
      auto& item = *request.add_items();
      item.set_request_id(want.back());
      *item.mutable_append() = Refused(cases_.at("expectations").at(0));
    }
    call->Write(request);
    call->WritesDone();
    std::vector<std::uint64_t> found;
    v1::AppendManyResponse response;
    while (call->Read(&response)) {
      for (const auto& result : response.results()) {
        found.push_back(result.request_id());
        Same("reason", static_cast<int>(result.failure().reason()),
             static_cast<int>(v1::FAILURE_REASON_VERSION_CONFLICT));
      }
    }
    Check("AppendMany", call->Finish());
    if (found != want) {
      throw std::runtime_error("request ids " + json(found).dump() + " instead of " +
                               json(want).dump());
    }
  }

  const json cases_;
  const std::vector<v1::RecordedEvent> expected_;
  const std::unique_ptr<v1::EventStoreService::StubInterface> store_;
  const treering::CallOptions options_{.deadline = std::chrono::steady_clock::now() +
                                                   std::chrono::minutes(1)};
};

void Run(const std::string& mode) {
  const char* target = std::getenv("TREERING_SERVER");
  if (target == nullptr) {
    throw std::runtime_error("TREERING_SERVER names no server");
  }
  std::ifstream file(kCasesFile);
  const Conformance conformance(json::parse(file),
                                v1::EventStoreService::NewStub(treering::Connect(target)));
  if (mode == "check") {
    conformance.CheckEvents();
    conformance.CheckNumbers();
  } else if (mode == "write" || mode == "repeat") {
    conformance.Append(mode == "repeat");
  } else {
    throw std::runtime_error("no such mode: " + mode);
  }
  std::cout << mode << ": " << conformance.size() << " events\n";
}

}  // namespace

int main(int count, char** arguments) {
  try {
    if (count != 2) {
      throw std::runtime_error("usage: conformance write|check|repeat");
    }
    Run(arguments[1]);
  } catch (const std::exception& error) {
    std::cerr << error.what() << '\n';
    return EXIT_FAILURE;
  }
}
