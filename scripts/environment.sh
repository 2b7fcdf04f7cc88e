# Sourced by the other scripts: make .venv with a Python of 3.11 or newer, and install into it.
# `PYTHON` chooses the interpreter, `VENV` the folder.

VENV="${VENV:-.venv}"

make_environment() {
  local python="${PYTHON:-python3}"
  if ! "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    echo "error: $python is not Python 3.11 or newer: install one, or name one with PYTHON=/path/to/python3" >&2
    exit 2
  fi
  [ -x "$VENV/bin/python" ] || "$python" -m venv "$VENV"
  "$VENV/bin/python" -m pip install --quiet --upgrade pip
}

install() { # install REQUIREMENT...
  echo "installing: $*"
  # Python compiles what it imports and keeps it: pip would compile all 340 MB of sources first, a minute and a half of a core.
  local compile=--no-compile
  if [ -n "${PYTHONDONTWRITEBYTECODE:-}" ]; then compile=--compile; fi # here nothing that is imported is kept
  "$VENV/bin/python" -m pip install --quiet "$compile" "$@"
}
