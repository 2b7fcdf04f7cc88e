#!/usr/bin/env bash
# Run jaxbert on every host of a Cloud TPU slice that is there, over ssh.
#
#   bash scripts/launch/tpu_vm.sh --name my-slice --zone us-west4-a setup
#   bash scripts/launch/tpu_vm.sh --name my-slice --zone us-west4-a run -- train --config configs/sst2.yaml \
#        --train.output_dir /mnt/shared/runs/sst2
#
#   setup         copy the committed files of this checkout to all hosts and install them there
#   run           run jaxbert on all hosts; SIGINT and SIGTERM here become SIGTERM there, and the exit code is jaxbert's
#   stop          send SIGTERM to what `run` started: it saves and ends with 75
#
#   --name NAME           the TPU VM; with --queued, the queued resource
#   --zone ZONE
#   --project PROJECT     left out, gcloud's own setting
#   --queued              all slices of a queued resource (multislice)
#   --prepare COMMAND     run on all hosts before `run`, to mount a shared folder for instance
#   --internal-ip         connect by the internal addresses
#   --dry-run             print what would be run, and run nothing
#
# train.output_dir must be what all hosts share: gs://BUCKET/FOLDER (jaxbert[gcs]), Filestore, a mounted bucket, NFS.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck source=common.sh
source "$here/common.sh"

name="" zone="" project="" prepare="" queued="" action="" connection=()
while [ $# -gt 0 ]; do
  case "$1" in
    --name) need_value "$1" $# && name="$2" && shift 2 ;;
    --zone) need_value "$1" $# && zone="$2" && shift 2 ;;
    --project) need_value "$1" $# && project="$2" && shift 2 ;;
    --prepare) need_value "$1" $# && prepare="$2" && shift 2 ;;
    --queued) queued=1 && shift ;;
    --internal-ip) connection+=(--internal-ip) && shift ;;
    --dry-run) DRY_RUN=1 && shift ;;
    -h | --help) usage && exit 0 ;;
    --) shift && break ;;
    setup | run | stop) [ -z "$action" ] || fail "both $action and $1: give one"; action="$1" && shift ;;
    *) fail "unknown option $1: see $0 --help; jaxbert's own come behind --" ;;
  esac
done
[ -n "$action" ] || fail "what is to be done is missing: setup, run or stop"
need --name "$name"
need --zone "$zone"
[ "$action" != run ] || [ $# -gt 0 ] || fail "nothing to run: give jaxbert's verb and options behind --"
[ "$action" = run ] || [ $# -eq 0 ] || fail "$action takes nothing behind --"
[ "$action" = run ] || [ -z "$prepare" ] || fail "--prepare goes with run"

where=("--zone=$zone" ${project:+"--project=$project"} ${connection[@]+"${connection[@]}"} --worker=all)
group=(gcloud compute tpus tpu-vm)
# All at once: the first hosts wait for the last, and by default gcloud starts 64 at a time.
[ -z "$queued" ] || { group=(gcloud compute tpus queued-resources) && where+=(--node=all --batch-size=all); }

on_all() { # on_all COMMAND: in a shell of every host
  run "${group[@]}" ssh "$name" "${where[@]}" --ssh-flag=-oServerAliveInterval=60 "--command=$1"
}

setup() {
  local archive=jaxbert.tar.gz folder
  folder="$(mktemp -d)"
  # shellcheck disable=SC2064 # expand the name now
  trap "rm -rf '$folder'" EXIT
  run git -C "$here/../.." archive --format=tar.gz --output "$folder/$archive" HEAD
  run "${group[@]}" scp "$folder/$archive" "$name:$archive" "${where[@]}"
  # uv installs a newer Python if the image has 3.10.
  on_all "set -e; mkdir -p jaxbert; tar -xzf $archive -C jaxbert; cd jaxbert; python3 -m pip install --quiet --user uv; \
python3 -m uv venv --quiet --allow-existing --python '>=3.11' .venv; \
python3 -m uv pip install --quiet --python .venv/bin/python '.[tpu,gcs]'"
}

launch() { # launch ARGUMENT...: jaxbert on all hosts, its process number in a file for `stop`
  local command
  command="cd jaxbert && echo \$\$ >../jaxbert.pid && exec .venv/bin/python -m jaxbert $(quoted "$@")"
  on_all "$command"
}

stop() {
  # shellcheck disable=SC2016 # for the shell over there
  on_all 'if [ -s jaxbert.pid ]; then kill -TERM "$(cat jaxbert.pid)"; fi'
}

case "$action" in
  setup) setup ;;
  stop) stop ;;
  run)
    [ -z "$prepare" ] || on_all "$prepare"
    set -m # a group of its own: what is typed here must not cut the connections
    launch "$@" </dev/null &
    pid=$!
    trap 'stop || true' INT TERM
    code=0
    while kill -0 "$pid" 2>/dev/null; do wait "$pid" && code=0 || code=$?; done
    exit "$code"
    ;;
esac
