"""The settings that are mappings: distillation from a teacher (`train.distill`), pruning (`train.prune`), and changed texts
(`train.augment`).
"""

from __future__ import annotations

import dataclasses
import numbers
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Self

from jaxbert.errors import UserError
from jaxbert.ranges import NotNegativeNumber, PositiveNumber, Range, Share, check_fields

Weight = Annotated[float, Range(least=0, most=1)]


def _read(section: Any, values: Mapping[str, Any] | None, key: str) -> Any:
    """Make a dataclass of settings from a mapping.

    Raises:
      UserError: for an unknown name.
    """
    known = [field.name for field in dataclasses.fields(section)]
    for name in values or {}:
        if name not in known:
            raise UserError(f"{key} has {name!r}, but its settings are {', '.join(known)}")
    return section(**(values or {}))


@dataclass(frozen=True)
class Distilling:
    """How a student learns from its teacher's answers."""

    temperature: PositiveNumber = 2.0
    """The number by which the logits of both are divided before they are compared; regression has none."""
    weight: Weight = 0.5
    """The share of the loss that compares the student's answers with the teacher's; the rest is the task's own loss."""
    hidden: NotNegativeNumber = 0.0
    """The weight of a further loss: how far the first token's vector after each layer points away from the teacher's."""

    def __post_init__(self) -> None:
        check_fields(self, "train.distill: {}".format)

    @classmethod
    def of(cls, values: Mapping[str, Any] | None) -> Self:
        """Read `train.distill`.

        Raises:
          UserError: for an unknown name, or a value out of its range.
        """
        return _read(cls, values, "train.distill")


@dataclass(frozen=True)
class SelfTraining:
    """How a model labels texts that have no label, to be trained again on them."""

    rounds: Annotated[int, Range(least=1, most=10)] = 1
    """How often the texts get labels; after each time there is a training from the beginning."""
    threshold: Annotated[float, Range(above=0, most=1)] = 0.9
    """The least calibrated confidence of a label that is learned."""

    def __post_init__(self) -> None:
        check_fields(self, "train.self_training: {}".format)

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Read `train.self_training`.

        Raises:
          UserError: for an unknown name, or a value out of its range.
        """
        return _read(cls, values, "train.self_training")


@dataclass(frozen=True)
class Pruning:
    """What is left of a model, and when the rest is removed."""

    layers: int | float | None = None
    """The number of layers to keep, or their share below 1; None for all."""
    heads: int | float | None = None
    """The number of attention heads to keep in each layer, or their share below 1; None for all."""
    intermediate: int | float | None = None
    """The number of columns of the feed-forward block to keep in each layer, or their share below 1; None for all."""
    steps: tuple[int, ...] = (0,)
    """The steps before which something is removed, the same amount each time; 0: before the first step."""
    examples: int = 1024
    """The most examples by which the importance is measured: of the validation set, else of the training set."""

    def __post_init__(self) -> None:
        for name in ("layers", "heads", "intermediate"):
            value = getattr(self, name)
            if value is not None and not (
                _is_number(value) and ((value >= 1 and value == int(value)) or 0 < value < 1)
            ):
                raise UserError(
                    f"train.prune: {name} is {value!r}, but it must be a whole number from 1, or a share above 0 and below 1"
                )
        if self.layers is self.heads is self.intermediate is None:
            raise UserError("train.prune names nothing to prune: set layers, heads or intermediate")
        whole = isinstance(self.steps, tuple | list) and all(type(step) is int and step >= 0 for step in self.steps)
        if not whole or not self.steps or list(self.steps) != sorted(set(self.steps)):
            raise UserError(
                f"train.prune: steps is {self.steps!r}, but it must be a rising list of whole numbers, [0] or [100, 200]"
            )
        if type(self.examples) is not int or self.examples < 1:
            raise UserError(f"train.prune: examples is {self.examples!r}, but it must be a whole number, at least 1")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Read `train.prune`.

        Raises:
          UserError: for an unknown name, or a value out of its range.
        """
        steps = values.get("steps")
        return _read(cls, {**values, **({"steps": tuple(steps)} if isinstance(steps, list) else {})}, "train.prune")

    def kept(self, name: str, whole: int) -> int:
        """Return how many of `whole` layers, heads or columns are left at the end.

        Raises:
          UserError: if the model has fewer.
        """
        wanted = getattr(self, name)
        if wanted is None:
            return whole
        count = max(1, round(wanted * whole)) if wanted < 1 else int(wanted)
        if count > whole:
            raise UserError(f"train.prune: {name} is {count}, but the model has {whole}: lower it, or leave it out")
        return count


@dataclass(frozen=True)
class Augmenting:
    """How the texts that a run trains on are changed, differently in each epoch."""

    word_dropout: Share = 0.0
    """The share of the words that are left out."""
    swap: Weight = 0.0
    """The share of the words that change places, in two neighbouring spans of a text."""
    punctuation: Weight = 0.0
    """The most punctuation marks that are put into a text, as a share of its words; at least one is."""
    refill: Weight = 0.0
    """The share of the words in whose place `refill_model` puts another one."""
    refill_model: str | None = None
    """A model that predicts masked words: a folder, a run or a name on the Hub, with the vocabulary of the run's model."""
    share: Annotated[float, Range(above=0, most=1)] = 1.0
    """The share of the texts that are changed in an epoch; the others stay as they are."""

    def __post_init__(self) -> None:
        check_fields(self, "train.augment: {}".format)
        if not (self.word_dropout or self.swap or self.punctuation or self.refill):
            raise UserError("train.augment changes nothing: set word_dropout, swap, punctuation or refill")
        if bool(self.refill) != (self.refill_model is not None):
            given, missing = ("refill", "refill_model") if self.refill else ("refill_model", "refill")
            raise UserError(f"train.augment: {given} is set, but {missing} is not: set both, or neither")

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Self:
        """Read `train.augment`.

        Raises:
          UserError: for an unknown name, or a value out of its range.
        """
        return _read(cls, values, "train.augment")


def _is_number(value: Any) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool)
