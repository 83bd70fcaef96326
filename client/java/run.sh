#!/usr/bin/env bash
# Makes, builds and tests the Java example. Every language has a run.sh with these commands:
#
#   ./run.sh available           fails, and says what is missing, if it can't be used here
#   ./run.sh generate            makes the stubs from the protos
#   ./run.sh build               makes the stubs and builds everything
#   ./run.sh test                runs the tests against the server at TREERING_SERVER; prints them
#   ./run.sh conformance write   appends the cases of ../conformance to the server's empty log
#   ./run.sh conformance check   reads them there, whoever wrote them, and compares
#   ./run.sh conformance repeat  appends them once more: each has to be found as a duplicate
#
# `make client-java` in the project's root does all of it, on both databases. `test` and
# `conformance` take what `build` has made. With TREERING_RESTART, a command that restarts the
# server where it is, `test` tries what happens then.
set -euo pipefail
cd "$(dirname "$0")"

# The same Java as Maven takes. Nothing here runs for long: its first compiler does, in half the time.
java="${JAVA_HOME:+$JAVA_HOME/bin/}java"
soon=-XX:TieredStopAtLevel=1

maven() {
  local options=(--batch-mode --no-transfer-progress --strict-checksums --quiet)
  # Without a home, what Maven fetches is kept here.
  [[ -n "${HOME:-}" ]] || options+=("-Dmaven.repo.local=$PWD/.cache/repository")
  MAVEN_OPTS="${MAVEN_OPTS:-} $soon" mvn "${options[@]}" "$@"
}

available() {
  command -v mvn >/dev/null || { echo "no mvn on the PATH" >&2; return 1; }
  command -v "${java}c" >/dev/null || { echo "no javac on the PATH" >&2; return 1; }
  local version
  version=$("${java}c" -version 2>&1)
  version=${version#javac }
  [[ "${version%%[.-]*}" -ge 17 ]] || { echo "needs Java 17, has $version" >&2; return 1; }
}

case "${1:-}" in
  available) available ;;
  generate) maven generate-sources ;;
  build) maven package -DskipTests ;;
  test)
    : "${TREERING_SERVER:?names no server}"
    "$java" $soon -cp "target/test-classes:target/classes:target/lib/*" \
      org.junit.platform.console.ConsoleLauncher execute --scan-classpath target/test-classes \
      --disable-banner --disable-ansi-colors --details=tree --fail-if-no-tests
    ;;
  conformance)
    exec "$java" $soon -cp "target/classes:target/lib/*" \
      io.treering.conformance.Conformance "${@:2}"
    ;;
  *)
    sed -n '2,/^set/s/^# \{0,1\}//p' "$0" >&2
    exit 2
    ;;
esac
