#!/usr/bin/env bash
# Makes, builds and tests the example for browsers. It has the commands that run.sh has in every
# language, but for `conformance`: a browser's messages are those of TypeScript.
#
#   ./run.sh available   fails, and says what is missing, if it can't be used here
#   ./run.sh generate    makes the stubs and the sidecar's descriptors from the protos
#   ./run.sh build       makes them and builds everything
#   ./run.sh test        runs the tests against the server at TREERING_SERVER; prints them
#   ./run.sh page        serves the page at http://127.0.0.1:8080
#
# `make client-browser` in the project's root does all of it, on both databases. `test` takes what
# `build` has made, and needs TREERING_RESTART, a command that restarts the server where it is.
set -euo pipefail
cd "$(dirname "$0")"

# Without a home, npm, Go and buf do not know where to keep what they fetch and compile.
if [[ -z "${HOME:-}" ]]; then
  export HOME="$PWD/.cache" npm_config_cache="${npm_config_cache:-$PWD/.cache/npm}"
  export GOFLAGS="${GOFLAGS:-} -modcacherw"
fi
# No other Go than the one that is installed, no setting of a workspace around us.
export GOTOOLCHAIN=local GOWORK=off

# Go for the sidecar, Node for the page: what their own examples need.
available() {
  ../go/run.sh available && ../typescript/run.sh available
}

# What the lock file says, if it is not there already. No package runs anything of its own.
install() {
  [[ node_modules/.package-lock.json -nt package-lock.json ]] ||
    npm ci --ignore-scripts --no-audit --no-fund
}

generate() {
  install
  rm -rf src/gen
  npx --no-install buf generate
  npx --no-install buf build ../../protos --exclude-source-info --output sidecar/treering.binpb
}

build() {
  generate
  # The helper of TypeScript, copied as anyone would.
  cp ../typescript/src/treering.ts src/treering.ts
  rm -rf dist page/*.js
  npx --no-install tsc
  npx --no-install esbuild src/page.ts src/checks-page.ts --bundle --format=esm --outdir=page --log-level=warning
  go -C sidecar build -o ../bin/sidecar .
  go -C sidecar vet .
  local unformatted
  unformatted=$(gofmt -d sidecar)
  [[ -z "$unformatted" ]] || { printf 'not formatted:\n%s\n' "$unformatted" >&2; return 1; }
}

case "${1:-}" in
  available) available ;;
  generate) generate ;;
  build) build ;;
  test)
    : "${TREERING_SERVER:?names no server}"
    CHROMIUM=$(command -v chromium || true) node --test --test-reporter=spec dist/browser.test.js
    ;;
  page) exec npx --no-install esbuild --servedir=page --serve=127.0.0.1:8080 ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
