#!/usr/bin/env bash
# Make the environment of legacy.py: the last transformers that had Flax classes. bash scripts/bench/legacy_env.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
VENV="${1:-.venv-legacy}"
source scripts/environment.sh

make_environment
install transformers==4.57.6 jax==0.10.2 flax==0.12.8 optax==0.2.8
"$VENV/bin/python" -W ignore -c 'import transformers; transformers.FlaxBertForSequenceClassification' >/dev/null
echo "$VENV/bin/python runs scripts/bench/legacy.py"
