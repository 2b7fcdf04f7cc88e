#!/usr/bin/env bash
# Build the documents as a site into site/; a broken link, or a page that is in no menu, is an error.
#
#   bash scripts/docs.sh            build
#   bash scripts/docs.sh serve      build, show it at http://127.0.0.1:8000, and build again when a file changes
#
# The environment in .venv-docs/ has only mkdocs: it reads the sources of jaxbert and does not import them.
set -euo pipefail
cd "$(dirname "$0")/.."
VENV=.venv-docs
source scripts/environment.sh

make_environment
mapfile -t requirements < <("$VENV/bin/python" -c '
import tomllib
print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["docs"], sep="\n")')
install "${requirements[@]}"

if [ "${1:-build}" = serve ]; then
  exec "$VENV/bin/mkdocs" serve
fi
NO_MKDOCS_2_WARNING=1 "$VENV/bin/mkdocs" build --strict
echo "built: site/index.html"
