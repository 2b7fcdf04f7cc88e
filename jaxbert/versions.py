"""The libraries that jaxbert stands on, and up to which release its tests have passed (`scripts/test_versions.sh`)."""

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
"""The oldest ones stand in `pyproject.toml`, where a test compares these with `tool.jaxbert.newest-tested`."""

_SHOWN = (*NEWEST_TESTED, "jaxlib", "numpy", "safetensors", "torch")
logger = logging.getLogger("jaxbert")


def installed(libraries: Iterable[str] = _SHOWN) -> dict[str, str]:
    """Return the versions of jaxbert, Python and the libraries, those that are there."""
    found = {"jaxbert": __version__, "python": platform.python_version()}
    for name in libraries:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def untested() -> str:
    """Name the libraries with a newer major or minor version than any that was tested; empty where there are none."""
    newer = [
        f"{name} {have} (tested up to {tested})"
        for name, tested in NEWEST_TESTED.items()
        if _minor(have := installed([name]).get(name, "")) > _minor(tested)
    ]
    return ", ".join(newer)


def say_untested() -> None:
    """Say in one note which libraries are newer than any that was tested."""
    if names := untested():
        logger.warning("newer than tested, see that results are as before: %s", names)


def _minor(release: str) -> tuple[int, int]:
    """Return major and minor of a version; what is no number counts as 0."""
    numbers = [int(part) for part in re.findall(r"\d+", release)[:2]] + [0, 0]
    return numbers[0], numbers[1]
