"""Settings that a task has no use for: said, rather than left without effect."""

from __future__ import annotations

from jaxbert.config import Config
from jaxbert.errors import UserError


def refuse(config: Config, *keys: str) -> None:
    """Check that each of these keys has its default.

    Raises:
      UserError: for the first one that has not.
    """
    defaults = Config()
    for key in keys:
        section, name = key.split(".")
        if getattr(getattr(config, section), name) != getattr(getattr(defaults, section), name):
            raise UserError(f"{key} has no meaning for task {config.task}: remove it")
