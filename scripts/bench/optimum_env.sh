#!/usr/bin/env bash
# Make the environment of optimum_open.py: optimum with onnxruntime, and the transformers that it wants.
#
#   bash scripts/bench/optimum_env.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
VENV="${1:-.venv-optimum}"
source scripts/environment.sh

make_environment
install 'optimum-onnx[onnxruntime]==0.1.0' transformers==4.57.6
"$VENV/bin/python" -W ignore -c 'from optimum.onnxruntime import ORTModelForSequenceClassification' >/dev/null
echo "$VENV/bin/python runs scripts/bench/optimum_open.py"
