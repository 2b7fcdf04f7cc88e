#!/usr/bin/env bash
# Collect the packages that jaxbert needs and a GPU machine without network lacks, for gpu_all.sh --wheels.
#
#   bash scripts/bench/gpu_wheels.sh FOLDER [REQUIREMENT...]
#
# Without REQUIREMENTs these are the ones that an image with jax, flax, optax, orbax-checkpoint, torch, transformers, accelerate,
# matplotlib and rich lacks. `datasets` and `zstandard` are not among them: measurements need neither. PYTHON runs pip;
# PYTHON_VERSION (3.12) is the machine's. The folder must stay below MOST_MEGABYTES (60).
set -euo pipefail
FOLDER="${1:?the folder of the packages}"
shift
[ $# -gt 0 ] || set -- 'jsonargparse>=4.53' 'docstring-parser>=0.17' 'typeshed-client>=2.8.2' 'tensorboardX>=2.6.4'

mkdir -p "$FOLDER"
"${PYTHON:-python3}" -m pip download --quiet --no-deps --only-binary=:all: --python-version "${PYTHON_VERSION:-3.12}" \
  --implementation cp --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 --dest "$FOLDER" "$@"
du -k "$FOLDER"/*.whl
kilobytes="$(du -sk "$FOLDER" | cut -f 1)"
if [ "$kilobytes" -gt $((1024 * ${MOST_MEGABYTES:-60})) ]; then
  echo "error: $FOLDER has $((kilobytes / 1024)) MB: remove what is not needed" >&2
  exit 1
fi
