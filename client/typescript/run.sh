#!/usr/bin/env bash
# Makes, builds and tests the TypeScript example. Every language has a run.sh with these commands:
#
#   ./run.sh available           fails, and says what is missing, if it can't be used here
#   ./run.sh generate            makes the stubs from the protos
#   ./run.sh build               makes the stubs and builds everything
#   ./run.sh test                runs the tests against the server at TREERING_SERVER; prints them
#   ./run.sh conformance write   appends the cases of ../conformance to the server's empty log
#   ./run.sh conformance check   reads them there, whoever wrote them, and compares
#   ./run.sh conformance repeat  appends them once more: each has to be found as a duplicate
#
# `make client-typescript` in the project's root does all of it, on both databases. `test` and
# `conformance` take what `build` has made. With TREERING_RESTART, a command that restarts the
# server where it is, `test` tries what happens then.
set -euo pipefail
cd "$(dirname "$0")"

# Without a home, npm does not know where to keep what it fetches.
if [[ -z "${HOME:-}" ]]; then
  export HOME="$PWD/.cache" npm_config_cache="${npm_config_cache:-$PWD/.cache/npm}"
fi

available() {
  command -v node >/dev/null || { echo "no node on the PATH" >&2; return 1; }
  command -v npm >/dev/null || { echo "no npm on the PATH" >&2; return 1; }
  local version
  version=$(node --version)
  version=${version#v}
  [[ "${version%%.*}" -ge 20 ]] || { echo "needs Node 20, has $version" >&2; return 1; }
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
}

case "${1:-}" in
  available) available ;;
  generate) generate ;;
  build)
    generate
    rm -rf dist
    npx --no-install tsc
    ;;
  test)
    : "${TREERING_SERVER:?names no server}"
    node --test --test-reporter=spec dist/treering.test.js dist/example/accounts.test.js
    ;;
  conformance) exec node dist/conformance.js "${@:2}" ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
