#!/usr/bin/env bash
# Run jaxbert as several processes on this machine, on its CPU: to try out what a cluster will do.
#
#   bash scripts/launch/local.sh -n 2 -d 4 -- train --config configs/quickstart.yaml
#
#   -n N          processes (2)
#   -d D          fake devices of each (1)
#   --grace S     seconds between the first signal to the others and the last, when one has failed (10)
#   --dry-run     print what would be run, and run nothing
#   --            what follows is jaxbert's
#
# Standard output is passed on as it is; every line on standard error begins with the number of its process. SIGINT, SIGTERM and
# SIGHUP are passed on to all. When one process fails, the others are ended, and its exit code is that of the script; 75
# (stopped after saving) is none that others are ended for. PYTHON names the interpreter, else .venv or python.
set -uo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck source=common.sh
source "$here/common.sh"

processes=2 devices=1 grace=10
while [ $# -gt 0 ]; do
  case "$1" in
    -n) need_value "$1" $# && processes="$2" && shift 2 ;;
    -d) need_value "$1" $# && devices="$2" && shift 2 ;;
    --grace) need_value "$1" $# && grace="$2" && shift 2 ;;
    --dry-run) DRY_RUN=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) fail "unknown option $1: see $0 --help; jaxbert's own come behind --" ;;
  esac
done
[ $# -gt 0 ] || fail "nothing to run: give jaxbert's verb and options behind --"
need_number -n "$processes"
need_number -d "$devices"
need_number --grace "$grace"

if [ -z "${PYTHON:-}" ]; then
  PYTHON=python
  [ -x "$here/../../.venv/bin/python" ] && PYTHON="$here/../../.venv/bin/python"
fi
free_port='import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
port="${JAX_COORDINATOR_PORT:-}"
if [ -z "$port" ]; then
  if [ -n "$DRY_RUN" ]; then port=PORT; else port="$(python3 -c "$free_port")" || exit 1; fi
fi
flags="${XLA_FLAGS:+$XLA_FLAGS }--xla_force_host_platform_device_count=$devices"

variables_of() { # variables_of NUMBER: one a line, for the process of that number
  printf '%s\n' "JAX_PLATFORMS=cpu" "XLA_FLAGS=$flags" "JAX_COORDINATOR_ADDRESS=localhost:$port" \
    "JAX_NUM_PROCESSES=$processes" "JAX_PROCESS_ID=$1"
}

pids=() codes=()
signal_all() { # signal_all NAME: to all that have not ended
  local number
  for number in "${!pids[@]}"; do
    [ -n "${codes[number]:-}" ] || kill "-$1" "${pids[number]}" 2>/dev/null
  done
}

collect() { # note the exit codes of those that have ended
  local number
  running=0
  for number in "${!pids[@]}"; do
    [ -z "${codes[number]:-}" ] || continue
    if kill -0 "${pids[number]}" 2>/dev/null; then
      running=$((running + 1))
      continue
    fi
    wait "${pids[number]}" 2>/dev/null
    codes[number]=$?
    case "${codes[number]}" in
      0) ;;
      75) stopped=75 ;;
      *) if [ "$failed" -eq 0 ]; then failed="${codes[number]}" && failed_number="$number"; fi ;;
    esac
  done
}

if [ -n "$DRY_RUN" ]; then
  for ((number = 0; number < processes; number++)); do
    mapfile -t variables < <(variables_of "$number")
    run env "${variables[@]}" "$PYTHON" -m jaxbert "$@"
  done
  exit 0
fi

set -m # each process in a group of its own: a key at the terminal reaches them once, through this script
trap 'signal_all TERM' TERM HUP
trap 'signal_all INT' INT
for ((number = 0; number < processes; number++)); do
  mapfile -t variables < <(variables_of "$number")
  env "${variables[@]}" "$PYTHON" -m jaxbert "$@" </dev/null 2> >(trap '' INT TERM HUP; exec sed -u "s/^/[$number] /" >&2) &
  pids[number]=$!
done

failed=0 failed_number='' stopped=0 running=$processes
while collect && [ "$running" -gt 0 ] && [ "$failed" -eq 0 ]; do sleep 0.2; done
if [ "$running" -gt 0 ]; then
  echo "process $failed_number ended with $failed: ending the other $running" >&2
  signal_all TERM
  for ((tenth = 0; tenth < 10 * grace && running > 0; tenth++)); do
    sleep 0.1
    collect
  done
  signal_all KILL
  while collect && [ "$running" -gt 0 ]; do sleep 0.1; done
fi
exit $((failed ? failed : stopped))
