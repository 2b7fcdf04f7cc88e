#!/usr/bin/env bash
# The parts of gpu_all.sh, which sets OUT, PART_SECONDS, PYTHON, PYTHONPATH, SCRATCH and, for tiny sizes, TOY.
#
#   bash scripts/bench/gpu_parts.sh list       each part and its seconds, most important first
#   bash scripts/bench/gpu_parts.sh NAME       run a part; exit code 3: the time was over
#   bash scripts/bench/gpu_parts.sh summary    write OUT/summary.md
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
[ -z "${TOY:-}" ] || export JAX_DISABLE_MOST_OPTIMIZATIONS=1 # tiny programs compile longer than they run

bench() { # bench OPTION...: time jaxbert on the lengths of the headline
  local sizes=(--model.name_or_path base --lengths uniform:64:192 --data.max_length 512 --data.row_length 512)
  sizes+=(--train.batch_size 512 --bench.steps 20)
  [ -z "${TOY:-}" ] || sizes=(--model.name_or_path tiny --lengths uniform:4:12 --train.batch_size 8 --bench.steps 3)
  "$PYTHON" -m jaxbert bench "${sizes[@]}" --precision.compute bfloat16 --bench.measure_compile false "$@"
}

scenarios() { # scenarios OPTION...: jaxbert and its peers, until shortly before the end of the part
  local minutes most=150
  [ -z "${TOY:-}" ] || most=600
  minutes="$(awk -v seconds="$PART_SECONDS" 'BEGIN { print (seconds - 15) / 60 }')"
  "$PYTHON" scripts/bench/gpu.py --output "$OUT" --minutes "$minutes" --part-seconds "$most" ${TOY:+--toy} ${RETRY:+--retry} "$@"
}

tune() { # kernels, layers, steps sent at once; what is measured afterwards uses the best
  bench --tune --output "$OUT/tune.json"
}

sweep() { # two batch sizes
  local batches=256,1024
  [ -z "${TOY:-}" ] || batches=8
  bench --mode train --sweep "train.batch_size=$batches" --output "$SCRATCH/tuning.json"
}

pretrain() { # masked words on random text
  local sizes=(--model.name_or_path base --data.max_length 512 --train.batch_size 128)
  [ -z "${TOY:-}" ] || sizes=(--model.name_or_path tiny --data.max_length 32 --train.batch_size 8)
  "$PYTHON" scripts/bench/make_text.py "$SCRATCH" ${TOY:+--toy}
  "$PYTHON" -m jaxbert bench "${sizes[@]}" --task pretraining --model.vocab "$SCRATCH/vocab.txt" \
    --data.train "$SCRATCH/text.txt" --data.cache_dir "$SCRATCH/tokens" --precision.compute bfloat16 --mode train \
    --bench.steps 10 --bench.measure_compile false --output "$OUT/pretrain.json"
}

case "$1" in
  list) # with TOY four times as long: the machine may be slow or busy
    printf '%s %s\n' kernels 110 headline 330 tuning 130 trace 70 predict 45 pretrain 60 rest 1200 |
      awk -v times="${TOY:+4}" '{ print $1, $2 * (times ? times : 1) }'
    ;;
  kernels) "$PYTHON" scripts/bench/gpu_kernels.py --output "$OUT/kernels.json" ${TOY:+--toy} ;;
  headline) scenarios --tiers 1 ;;
  tuning)
    trap 'cp "$SCRATCH/tuning.json" "$OUT/" || true' EXIT # a sweep that is stopped writes what it has
    tune || echo "nothing was tuned" >&2
    sweep
    ;;
  trace)
    bench --mode train --bench.steps 5 --profile "$SCRATCH/trace"
    "$PYTHON" scripts/bench/gpu_report.py trace "$SCRATCH/trace" "$OUT"
    ;;
  predict) bench --mode predict --output "$OUT/predict.json" ;;
  pretrain) pretrain ;;
  rest) scenarios ;;
  summary) "$PYTHON" scripts/bench/gpu_report.py summary "$OUT" ;;
  *)
    echo "error: no part $1" >&2
    exit 2
    ;;
esac
