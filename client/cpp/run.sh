#!/usr/bin/env bash
# Makes, builds and tests the C++ example. Every language has a run.sh with these commands:
#
#   ./run.sh available           fails, and says what is missing, if it can't be used here
#   ./run.sh generate            makes the stubs from the protos
#   ./run.sh build               makes the stubs and builds everything
#   ./run.sh test                runs the tests against the server at TREERING_SERVER; prints them
#   ./run.sh conformance write   appends the cases of ../conformance to the server's empty log
#   ./run.sh conformance check   reads them there, whoever wrote them, and compares
#   ./run.sh conformance repeat  appends them once more: each has to be found as a duplicate
#
# `make client-cpp` in the project's root does all of it, on both databases. `test` and
# `conformance` take what `build` has made. With TREERING_RESTART, a command that restarts the
# server where it is, `test` tries what happens then.
set -euo pipefail
cd "$(dirname "$0")"

# What is needed, and Debian's package of it.
available() {
  local missing=()
  command -v c++ >/dev/null || missing+=(g++)
  command -v make >/dev/null || missing+=(make)
  command -v cmake >/dev/null || missing+=(cmake)
  command -v protoc >/dev/null || missing+=(protobuf-compiler)
  command -v grpc_cpp_plugin >/dev/null || missing+=(protobuf-compiler-grpc)
  command -v pkg-config >/dev/null || { echo "missing, by the name of Debian 12: pkgconf" >&2; return 1; }
  pkg-config --exists 'protobuf >= 3.21' || missing+=(libprotobuf-dev)
  pkg-config --exists 'grpc++ >= 1.51' || missing+=(libgrpc++-dev)
  pkg-config --exists 'nlohmann_json >= 3.11' || missing+=(nlohmann-json3-dev)
  pkg-config --exists 'gtest >= 1.12' || missing+=(libgtest-dev)
  [[ ${#missing[@]} == 0 ]] || { echo "missing, by the names of Debian 12: ${missing[*]}" >&2; return 1; }
}

configure() {
  cmake -S . -B .cache/build -DCMAKE_COMPILE_WARNING_AS_ERROR=ON
}

generate() {
  configure
  cmake --build .cache/build --target stubs
}

build() {
  configure
  cmake --build .cache/build --parallel "$(nproc)"
  # Another version would format otherwise.
  if command -v clang-format-14 >/dev/null; then
    clang-format-14 --dry-run --Werror */*.h */*.cc
  fi
}

case "${1:-}" in
  available) available ;;
  generate) generate ;;
  build) build ;;
  test)
    : "${TREERING_SERVER:?names no server}"
    bin/treering_test
    bin/example_test
    ;;
  conformance) exec bin/conformance "${@:2}" ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
