"""The versions of jaxbert's libraries, and the newest ones that passed its tests (`scripts/test_versions.sh`)."""

from __future__ import annotations

import logging
import platform
import re
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version

from jaxbert import __version__

NEWEST_TESTED = {
    "jax": "0.12.0.1",
    "flax": "0.12.12",
    "optax": "0.2.8",
    "orbax-checkpoint": "0.12.8",
    "transformers": "5.24.0",
    "tokenizers": "0.23.3",
    "datasets": "5.2.0",
}
"""The oldest versions are in `pyproject.toml`; a test compares these with its `tool.jaxbert.newest-tested`."""

_SHOWN = (*NEWEST_TESTED, "jaxlib", "numpy", "safetensors", "torch")
logger = logging.getLogger("jaxbert")


def installed(libraries: Iterable[str] = _SHOWN) -> dict[str, str]:
    """Return the versions of jaxbert, Python and the installed ones of the libraries."""
    found = {"jaxbert": __version__, "python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def untested() -> str:
    """Return the libraries with a newer major or minor version than any that was tested; an empty text if there are none."""
    newer = [
        f"{name} {have} (tested up to {tested})"
        for name, tested in NEWEST_TESTED.items()
        if _minor(have := installed([name]).get(name, "")) > _minor(tested)
    ]
    return ", ".join(newer)


def say_untested() -> None:
    """Print one note about the libraries that are newer than any tested version."""
    if names := untested():
        logger.warning("these libraries are newer than the tested ones, so check that results are as before: %s", names)


def _minor(release: str) -> tuple[int, int]:
    """Return the major and minor number of a version; a part that is no number counts as 0."""
    numbers = [int(part) for part in re.findall(r"\d+", release)[:2]] + [0, 0]
    return numbers[0], numbers[1]
