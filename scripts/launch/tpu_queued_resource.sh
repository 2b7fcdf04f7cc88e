#!/usr/bin/env bash
# Ask for a Cloud TPU slice, wait until it is there, run jaxbert on all its hosts, and delete it.
#
#   bash scripts/launch/tpu_queued_resource.sh --name my-run --zone us-west4-a --accelerator-type v5litepod-16 \
#        --runtime-version v2-alpha-tpuv5-lite --spot --attempts 5 \
#        --prepare 'sudo mkdir -p /mnt/shared && sudo mount 10.0.0.2:/share /mnt/shared' \
#        -- train --config configs/sst2.yaml --train.output_dir /mnt/shared/runs/sst2
#
#   --name NAME               of the queued resource and of its nodes
#   --zone ZONE
#   --project PROJECT         left out, gcloud's own setting
#   --accelerator-type TYPE   such as v5litepod-16, v6e-32
#   --runtime-version VERSION such as v2-alpha-tpuv5-lite, v2-alpha-tpuv6e
#   --slices N                several slices (1)
#   --spot | --reserved       left out, on demand
#   --attempts N              when it is preempted or ends with 75: delete it, ask again and go on, N times in all (1)
#   --poll SECONDS            between two looks at the queue (30)
#   --prepare COMMAND         run on all hosts before jaxbert, to mount the shared folder for instance
#   --keep                    do not delete it at the end
#   --dry-run                 print what would be run, and run nothing
#
# The exit code is jaxbert's: 0 done, 2 wrong input, 75 stopped after saving.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck source=common.sh
source "$here/common.sh"

name="" zone="" project="" type="" version="" tier="" slices=1 attempts=1 poll=30 prepare="" keep=""
while [ $# -gt 0 ]; do
  case "$1" in
    --name) need_value "$1" $# && name="$2" && shift 2 ;;
    --zone) need_value "$1" $# && zone="$2" && shift 2 ;;
    --project) need_value "$1" $# && project="$2" && shift 2 ;;
    --accelerator-type) need_value "$1" $# && type="$2" && shift 2 ;;
    --runtime-version) need_value "$1" $# && version="$2" && shift 2 ;;
    --slices) need_value "$1" $# && slices="$2" && shift 2 ;;
    --attempts) need_value "$1" $# && attempts="$2" && shift 2 ;;
    --poll) need_value "$1" $# && poll="$2" && shift 2 ;;
    --prepare) need_value "$1" $# && prepare="$2" && shift 2 ;;
    --spot | --reserved) tier="$1" && shift ;;
    --keep) keep=1 && shift ;;
    --dry-run) DRY_RUN=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) fail "unknown option $1: see $0 --help; jaxbert's own come behind --" ;;
  esac
done
need --name "$name"
need --zone "$zone"
need --accelerator-type "$type"
need --runtime-version "$version"
need_number --slices "$slices"
need_number --attempts "$attempts"
need_number --poll "$poll"
[ $# -gt 0 ] || fail "nothing to run: give jaxbert's verb and options behind --"

where=("--zone=$zone" ${project:+"--project=$project"})
resources=(gcloud compute tpus queued-resources)
nodes=("--node-id=$name")
[ "$slices" -eq 1 ] || nodes=("--node-count=$slices" "--node-prefix=$name")
hosts=(bash "$here/tpu_vm.sh" --queued --name "$name" --zone "$zone" ${project:+--project "$project"} ${DRY_RUN:+--dry-run})

child="" interrupted=""
trap 'interrupted=1; [ -z "$child" ] || kill -TERM "$child"' INT TERM

state() { # what the queue says of it, in capitals
  "${resources[@]}" describe "$name" "${where[@]}" '--format=value(state.state)'
}

wait_until_active() {
  local now
  if [ -n "$DRY_RUN" ]; then
    run "${resources[@]}" describe "$name" "${where[@]}" '--format=value(state.state)'
    return
  fi
  while [ -z "$interrupted" ]; do
    now="$(state)" || return 1
    case "$now" in
      ACTIVE) return 0 ;;
      FAILED | SUSPENDING | SUSPENDED | DELETING) echo "$name is $now" >&2 && return 1 ;;
    esac
    echo "$name is ${now:-unknown}: looking again in $poll s" >&2
    sleep "$poll" &
    wait $! || true
  done
  return 1
}

gone() { # whether the machines were taken away, so that the exit code is not jaxbert's
  [ -z "$DRY_RUN" ] && [ "$(state || echo GONE)" != ACTIVE ]
}

attempt() { # attempt ARGUMENT...: one machine from the queue to the end of the run
  local code=0
  run "${resources[@]}" create "$name" "${where[@]}" "${nodes[@]}" "--accelerator-type=$type" "--runtime-version=$version" \
    ${tier:+"$tier"} || return 1
  wait_until_active || return 1
  "${hosts[@]}" setup || return 1
  "${hosts[@]}" ${prepare:+--prepare "$prepare"} run -- "$@" &
  child=$!
  while kill -0 "$child" 2>/dev/null; do wait "$child" && code=0 || code=$?; done
  child=""
  return "$code"
}

delete() {
  run "${resources[@]}" delete "$name" "${where[@]}" --force --quiet ||
    echo "error: $name could not be deleted: it may still cost money" >&2
}

for ((number = 1; number <= attempts; number++)); do
  code=0
  attempt "$@" || code=$?
  again=""
  if [ "$code" -eq 75 ] || { [ "$code" -ne 0 ] && [ "$code" -ne 2 ] && gone; }; then again=1; fi
  if [ -n "$interrupted" ] || [ "$number" -eq "$attempts" ]; then again=""; fi
  [ -n "$keep" ] && [ -z "$again" ] || delete
  [ -n "$again" ] || break
  echo "attempt $number of $attempts ended with $code" >&2
done
exit "$code"
