#!/usr/bin/env bash
# All measurements on one NVIDIA GPU in one command, on a machine without network that is there for a short time.
#
#   bash scripts/bench/gpu_all.sh OUT [--minutes 12] [--wheels FOLDER] [--toy]
#
# gpu_parts.sh lists the parts, most important first: kernels (values, gradients, leaks), headline (jaxbert beside the
# strongest programs), tuning, trace, predict, pretrain, rest. Each has its own limit of time. After each part OUT holds its
# result, parts.tsv (what was run) and summary.md; all output is in OUT/log. The same command goes on with what is missing;
# parts that failed come last. The exit code is 0 if nothing is missing, 1 if a part failed, 3 if only the time was over.
#
# --minutes N      the most minutes of this call
# --wheels FOLDER  the packages that the machine lacks, from scripts/bench/gpu_wheels.sh; jaxbert is that of this checkout
# --toy            tiny sizes, on any machine
# PYTHON (python3) has jax, flax, optax, orbax-checkpoint, torch, transformers and accelerate.
set -uo pipefail
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
ROOT="$(dirname "$(dirname "$HERE")")"
LEAST=20 # seconds that must be left for a part to begin

fail() { # fail MESSAGE: a mistake of the user
  echo "error: $1" >&2
  exit 2
}

OUT="" MINUTES=12 WHEELS="" TOY="${TOY:-}"
while [ $# -gt 0 ]; do
  case "$1" in
    --toy) TOY=1 ;;
    --minutes | --wheels)
      [ $# -ge 2 ] || fail "$1 needs a value"
      if [ "$1" = --minutes ]; then MINUTES="$2"; else WHEELS="$2"; fi
      shift
      ;;
    -*) fail "there is no option $1: see the head of $0" ;;
    *)
      [ -z "$OUT" ] || fail "there are two folders of results, $OUT and $1: name one"
      OUT="$1"
      ;;
  esac
  shift
done
[ -n "$OUT" ] || fail "name the folder of the results: bash $0 OUT"
[[ "$MINUTES" =~ ^[0-9]+(\.[0-9]+)?$ ]] || fail "--minutes is '$MINUTES', but it must be a number"
[ -n "$TOY" ] || [ -e /dev/nvidia0 ] || command -v nvidia-smi >/dev/null ||
  fail "this machine has no NVIDIA GPU; --toy runs tiny sizes anywhere"
mkdir -p "$OUT" || exit 2
OUT="$(cd "$OUT" && pwd)"
DONE="$OUT/parts.tsv"
touch "$DONE"
PARTS="${GPU_PARTS:-$HERE/gpu_parts.sh}"
PYTHON="${PYTHON:-python3}"
END="$(awk -v minutes="$MINUTES" 'BEGIN { print int(60 * minutes) }')" # SECONDS counts from the start of this script
SCRATCH="$(mktemp -d)"
trap 'rm -rf "$SCRATCH"' EXIT

PYTHONPATH="$ROOT${PYTHONPATH:+:$PYTHONPATH}"
if [ -n "$WHEELS" ]; then
  "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$SCRATCH/site" "$WHEELS"/*.whl ||
    fail "the packages in $WHEELS cannot be installed"
  PYTHONPATH="$PYTHONPATH:$SCRATCH/site"
fi
export OUT PYTHON PYTHONPATH TOY SCRATCH HF_HUB_OFFLINE=1
[ -n "$TOY" ] || nvidia-smi >>"$OUT/log" 2>&1 || true

state_of() { # state_of NAME: how the part ended last, or nothing
  awk -F '\t' -v name="$1" '$1 == name { print $2 }' "$DONE"
}

note() { # note NAME STATE SECONDS: keep how a part ended
  grep -v "^$1	" "$DONE" >"$SCRATCH/parts.tsv"
  printf '%s\t%s\t%s\n' "$1" "$2" "$3" | tee -a "$SCRATCH/parts.tsv"
  cp "$SCRATCH/parts.tsv" "$DONE"
}

run_part() { # run_part NAME SECONDS: run a part within its seconds and those that are left
  local name="$1" most="$2" begin=$SECONDS code state left=$((END - SECONDS))
  if [ "$left" -lt "$LEAST" ]; then
    LATE="$LATE $name"
    return
  fi
  [ "$most" -lt "$left" ] || most="$left"
  echo "== $name, at most $most s" >>"$OUT/log"
  PART_SECONDS="$most" timeout --signal=INT --kill-after=10 "$most" bash "$PARTS" "$name" >>"$OUT/log" 2>&1
  code=$?
  case "$code" in
    0) state="done" ;;
    3) state="unfinished" LATE="$LATE $name" ;;
    124 | 137) state="stopped after $most s" FAILED="$FAILED $name" ;;
    *) state="failed (exit code $code): $(tail -n 1 "$OUT/log" | tr '\t' ' ' | cut -c 1-200)" FAILED="$FAILED $name" ;;
  esac
  note "$name" "$state" $((SECONDS - begin))
  bash "$PARTS" summary >>"$OUT/log" 2>&1 || echo "no summary: see $OUT/log" >&2
}

LATE="" FAILED="" AGAIN=()
while read -r name most; do
  case "$(state_of "$name")" in
    "done") ;;
    "" | unfinished) run_part "$name" "$most" </dev/null ;;
    *) AGAIN+=("$name $most") ;;
  esac
done < <(bash "$PARTS" list)
export RETRY=1 # what failed is run again
for line in ${AGAIN[@]+"${AGAIN[@]}"}; do
  read -r name most <<<"$line"
  run_part "$name" "$most" </dev/null
done

[ -z "$FAILED" ] || echo "failed:$FAILED (see $OUT/log)" >&2
[ -z "$LATE" ] || echo "the time was over before:$LATE; the same command goes on" >&2
[ -z "$FAILED" ] || exit 1
[ -z "$LATE" ] || exit 3
