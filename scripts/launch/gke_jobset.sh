#!/usr/bin/env bash
# Run jaxbert as a JobSet on TPU slices of the GKE cluster that kubectl talks to.
#
#   bash scripts/launch/gke_jobset.sh --name sst2 --image us-docker.pkg.dev/my-project/jaxbert/jaxbert:tpu \
#        --accelerator tpu-v5-lite-podslice --topology 4x4 --hosts 4 --chips 4 --claim shared \
#        -- train --config configs/sst2.yaml --train.output_dir /shared/runs/sst2
#
#   --name NAME           of the JobSet
#   --image IMAGE         built from scripts/launch/Dockerfile with ACCELERATOR=tpu
#   --accelerator TYPE    label of the node pool: tpu-v5-lite-podslice, tpu-v6e-slice, tpu-v5p-slice
#   --topology TOPOLOGY   of a slice: 4x4
#   --hosts N             of a slice: chips of the topology / chips of a host
#   --chips N             of a host
#   --claim CLAIM         a PersistentVolumeClaim that all pods may write (ReadWriteMany); it is /shared
#   --slices N            (1)
#   --restarts N          after preemption, a lost host or a crash (10)
#   --grace S             seconds to save after SIGTERM (120)
#   --namespace NAMESPACE left out, kubectl's own setting
#   --dry-run             print the manifest, and apply nothing
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck source=common.sh
source "$here/common.sh"

name="" image="" accelerator="" topology="" hosts="" chips="" claim="" slices=1 restarts=10 grace=120 namespace=""
while [ $# -gt 0 ]; do
  case "$1" in
    --name) need_value "$1" $# && name="$2" && shift 2 ;;
    --image) need_value "$1" $# && image="$2" && shift 2 ;;
    --accelerator) need_value "$1" $# && accelerator="$2" && shift 2 ;;
    --topology) need_value "$1" $# && topology="$2" && shift 2 ;;
    --hosts) need_value "$1" $# && hosts="$2" && shift 2 ;;
    --chips) need_value "$1" $# && chips="$2" && shift 2 ;;
    --claim) need_value "$1" $# && claim="$2" && shift 2 ;;
    --slices) need_value "$1" $# && slices="$2" && shift 2 ;;
    --restarts) need_value "$1" $# && restarts="$2" && shift 2 ;;
    --grace) need_value "$1" $# && grace="$2" && shift 2 ;;
    --namespace) need_value "$1" $# && namespace="$2" && shift 2 ;;
    --dry-run) DRY_RUN=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    *) fail "unknown option $1: see $0 --help; jaxbert's own come behind --" ;;
  esac
done
need --name "$name"
need --image "$image"
need --accelerator "$accelerator"
need --topology "$topology"
need --claim "$claim"
need_number --hosts "$hosts"
need_number --chips "$chips"
need_number --slices "$slices"
need_number --restarts "$restarts"
need_number --grace "$grace"
[[ "$name" =~ ^[a-z]([a-z0-9-]*[a-z0-9])?$ ]] || fail "--name is '$name', but it must be lower-case letters, digits and -"
[[ "$topology" =~ ^[0-9]+(x[0-9]+){1,2}$ ]] || fail "--topology is '$topology', but it must be such as 4x4 or 2x2x4"
total=$((${topology//x/*}))
[ $((hosts * chips)) -eq "$total" ] ||
  fail "a slice of $topology has $total chips, but --hosts $hosts with --chips $chips are $((hosts * chips))"
[ $# -gt 0 ] || fail "nothing to run: give jaxbert's verb and options behind --"

arguments="$(python3 -c 'import json, sys; print(json.dumps(sys.argv[1:], ensure_ascii=False))' "$@")"
manifest="$(cat "$here/gke_jobset.yaml")"
fill() { # fill PLACEHOLDER VALUE
  local place="\${$1}"
  manifest="${manifest//"$place"/"$2"}"
}
fill NAME "$name"
fill IMAGE "$image"
fill ACCELERATOR "$accelerator"
fill TOPOLOGY "$topology"
fill HOSTS "$hosts"
fill CHIPS "$chips"
fill CLAIM "$claim"
fill SLICES "$slices"
fill RESTARTS "$restarts"
fill GRACE "$grace"
fill ARGUMENTS "$arguments"

if [ -n "$DRY_RUN" ]; then
  printf '%s\n' "$manifest"
  exit 0
fi
printf '%s\n' "$manifest" | kubectl apply ${namespace:+--namespace "$namespace"} -f -
echo "its log: kubectl logs -f job/$name-slice-0; to stop it, and go on later: kubectl delete jobset $name" >&2
