#!/usr/bin/env bash
# From nothing to a classifier: install, train a tiny model on the shipped reviews, measure it, use it.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
  install '.[cuda]'
else
  install .
fi

run=runs/quickstart
rm -rf "$run"
"$VENV/bin/jaxbert" train --config configs/quickstart.yaml --train.output_dir "$run"
"$VENV/bin/jaxbert" evaluate --model "$run" --data configs/reviews/test.csv --output "$run/test.json"

echo
echo "three sentences that it has never seen:"
printf '%s\n' \
  "The soup was cold and the waiter ignored us." \
  "The room was small, but the staff were wonderful." \
  "屏幕很清晰，电池也很耐用，非常满意。" |
  "$VENV/bin/jaxbert" predict --model "$run" --input -
echo
echo "the model for PyTorch and transformers is in $run/export"
