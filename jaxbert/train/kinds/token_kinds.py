"""What the kinds share whose answers are tokens: long texts are always windows, and some settings have no meaning."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from jaxbert.config import Config
from jaxbert.data.examples import Examples
from jaxbert.data.long_texts import LongTexts, Reading, resolve_shared
from jaxbert.errors import UserError

_WITHOUT_MEANING = (
    "train.class_weights",
    "data.text_pair",
    "data.long_texts",
    "data.label_separator",
    "data.label_format",
    "data.label_map",
    "model.pooling",
)


@dataclass(frozen=True)
class ItemFeed:
    """Inputs that are read one by one: documents or questions."""

    name: str
    items: Iterator[Any]
    tokenize: Callable[[Sequence[Any]], Examples]

    def parts(self) -> Iterator[Any]:
        """Read them."""
        return self.items

    def say_first(self) -> None:
        """Say nothing, as below."""

    def say(self) -> None:
        """Say nothing: what is noticed is said while they are tokenized."""


def refuse(config: Config, *keys: str) -> None:
    """Check that settings without a meaning for these kinds have their defaults; `keys` are further ones.

    Raises:
      UserError: for the first one that has not.
    """
    defaults = Config()
    for key in (*_WITHOUT_MEANING, *keys):
        section, name = key.split(".")
        if getattr(getattr(config, section), name) != getattr(getattr(defaults, section), name):
            raise UserError(f"{key} has no meaning for task {config.task}: remove it")


def reading_of(config: Config, max_length: int) -> Reading:
    """Return how long the windows of a run are, and what they share."""
    return Reading(LongTexts("windows", resolve_shared(config.data.window_stride, max_length)), None, max_length)


def shared_tokens(reading: Reading, max_length: int) -> int:
    """Return what windows share: as in training, or as it is where no training says so."""
    known = reading.long_texts.how == "windows"
    return reading.long_texts.shared if known else resolve_shared(None, max_length)
