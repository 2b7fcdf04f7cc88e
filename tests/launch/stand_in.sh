#!/usr/bin/env bash
# Stands in for python in the tests of local.sh: `-m jaxbert WHAT...` says what it was given, then does WHAT.
echo "process $JAX_PROCESS_ID of $JAX_NUM_PROCESSES at $JAX_COORDINATOR_ADDRESS"
echo "$JAX_PLATFORMS $XLA_FLAGS" >&2
shift 2
wait_long() {
  sleep 30 &
  sleeping=$!
  wait $sleeping
}
case "$1-$JAX_PROCESS_ID" in
  fail-1) exit 3 ;;
  stop-1) exit 75 ;;
  stop-0) sleep 0.5 && exit 75 ;;
  fail-0 | signal-*)
    trap 'echo "signal $JAX_PROCESS_ID" >&2; kill ${sleeping:-} 2>/dev/null; exit 75' TERM INT
    echo ready
    wait_long
    ;;
  deaf-1) exit 4 ;;
  deaf-0)
    trap '' TERM
    echo $$ >"$2"
    for _ in {1..300}; do sleep 0.1; done
    ;;
  echo-*) printf '<%s>' "${@:2}" ;;
esac
