#!/usr/bin/env bash
# Makes, builds and tests the Go example. Every language has a run.sh with these commands:
#
#   ./run.sh available           fails, and says what is missing, if it can't be used here
#   ./run.sh generate            makes the stubs from the protos
#   ./run.sh build               makes the stubs and builds everything
#   ./run.sh test                runs the tests against the server at TREERING_SERVER; prints them
#   ./run.sh conformance write   appends the cases of ../conformance to the server's empty log
#   ./run.sh conformance check   reads them there, whoever wrote them, and compares
#   ./run.sh conformance repeat  appends them once more: each has to be found as a duplicate
#
# `make client-go` in the project's root does all of it, on both databases. `test` and
# `conformance` take what `build` has made. With TREERING_RESTART, a command that restarts the
# server where it is, `test` tries what happens then.
set -euo pipefail
cd "$(dirname "$0")"

# Without a home, Go and buf do not know where to keep what they fetch and compile.
if [[ -z "${HOME:-}" ]]; then
  export GOCACHE="${GOCACHE:-$PWD/.cache/build}" GOPATH="${GOPATH:-$PWD/.cache/path}"
  export GOFLAGS="${GOFLAGS:-} -modcacherw" BUF_CACHE_DIR="${BUF_CACHE_DIR:-$PWD/.cache/buf}"
fi
# No other Go than the one that is installed, no setting of a workspace around us.
export GOTOOLCHAIN=local GOWORK=off

# The project's own buf, as `make` installs it, or that of the PATH.
buf() {
  local own=../../.venv/bin/buf
  [[ -x "$own" ]] || own=buf
  command "$own" "$@"
}

available() {
  local wanted have
  command -v go >/dev/null || { echo "no go on the PATH" >&2; return 1; }
  wanted=$(sed -n 's/^go //p' go.mod)
  have=$(go env GOVERSION)
  have=${have#go}
  [[ "$(printf '%s\n' "$wanted" "$have" | sort -V | head -1)" == "$wanted" ]] ||
    { echo "needs Go $wanted, has $have" >&2; return 1; }
}

generate() {
  rm -rf treering/v1
  buf generate
}

build() {
  generate
  # Compiled once, so that each use of it starts at once.
  go build -o bin/ ./example/accounts ./conformance
  go test -c -o bin/ ./treering ./example
  go vet ./...
  local unformatted
  unformatted=$(gofmt -d treering/*.go example conformance)
  [[ -z "$unformatted" ]] || { printf 'not formatted:\n%s\n' "$unformatted" >&2; return 1; }
}

case "${1:-}" in
  available) available ;;
  generate) generate ;;
  build) build ;;
  test)
    : "${TREERING_SERVER:?names no server}"
    bin/treering.test -test.v
    bin/example.test -test.v
    ;;
  conformance) exec bin/conformance "${@:2}" ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
