#!/usr/bin/env bash
# Make the environment of the server `infinity` of serve.py: infinity_emb, and the versions that it wants.
#
#   bash scripts/bench/infinity_env.sh [FOLDER]
set -euo pipefail
cd "$(dirname "$0")/../.."
VENV="${1:-.venv-infinity}"
source scripts/environment.sh

make_environment
install torch==2.13.0 'infinity-emb[server,torch]==0.0.78'
"$VENV/bin/infinity_emb" v2 --help >/dev/null
echo "$VENV/bin/infinity_emb is what scripts/bench/serve.py --server infinity starts"
