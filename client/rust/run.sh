#!/usr/bin/env bash
# Makes, builds and tests the Rust example. Every language has a run.sh with these commands:
#
#   ./run.sh available           fails, and says what is missing, if it can't be used here
#   ./run.sh generate            makes the stubs from the protos
#   ./run.sh build               makes the stubs and builds everything
#   ./run.sh test                runs the tests against the server at TREERING_SERVER; prints them
#   ./run.sh conformance write   appends the cases of ../conformance to the server's empty log
#   ./run.sh conformance check   reads them there, whoever wrote them, and compares
#   ./run.sh conformance repeat  appends them once more: each has to be found as a duplicate
#
# `make client-rust` in the project's root does all of it, on both databases. `test` and
# `conformance` take what `build` has made. With TREERING_RESTART, a command that restarts the
# server where it is, `test` tries what happens then.
set -euo pipefail
cd "$(dirname "$0")"

# Without a home, cargo does not know where to keep what it fetches.
if [[ -z "${HOME:-}" ]]; then
  export CARGO_HOME="${CARGO_HOME:-$PWD/.cache/cargo}"
fi
# In the home of somebody else, rustup does not find the toolchains that lie beside it.
if [[ ! -d "${HOME:-}/.rustup/toolchains" && -d "$(dirname "$(command -v cargo)")/../../.rustup" ]]; then
  export RUSTUP_HOME="${RUSTUP_HOME:-$(dirname "$(command -v cargo)")/../../.rustup}"
fi
# Where .gitignore, `make clean` and `conformance` know it.
export CARGO_TARGET_DIR="$PWD/target"

available() {
  local wanted have
  command -v cargo >/dev/null || { echo "no cargo on the PATH" >&2; return 1; }
  wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
  have=$(rustc --version | cut -d ' ' -f 2)
  [[ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -1)" == "$wanted" ]] ||
    { echo "needs Rust $wanted, has $have" >&2; return 1; }
}

# The stubs, which build.rs makes whenever the protos have changed, and what is needed for them.
generate() {
  cargo build --locked --lib
}

build() {
  cargo build --locked --lib --bins --tests
  # Where they come with the toolchain, as they do with rustup's default one.
  ! cargo fmt --version &>/dev/null || cargo fmt --check
  ! cargo clippy --version &>/dev/null || cargo clippy --locked --lib --bins --tests -- --deny warnings
}

case "${1:-}" in
  available) available ;;
  generate) generate ;;
  build) build ;;
  test)
    : "${TREERING_SERVER:?names no server}"
    # One after the other, since one of them restarts the server.
    cargo test --locked --offline -- --test-threads=1 --nocapture
    ;;
  conformance) exec target/debug/conformance "${@:2}" ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
