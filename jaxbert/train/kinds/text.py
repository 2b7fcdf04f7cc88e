"""What tasks that give whole texts, or pairs of them, something have in common: how their sources are read.

A task says what a label is, what the training labels define, and how labels become numbers.
"""

from __future__ import annotations

from typing import Any, ClassVar, Generic, TypeVar, cast

import numpy as np

from jaxbert.config import Config, DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.label_column import Labels
from jaxbert.data.label_fit import Head
from jaxbert.data.label_names import LabelRules, check_map
from jaxbert.data.labels import IntegerLabels, LabelSet, all_written
from jaxbert.data.long_texts import LongTexts, Reading, resolve_shared
from jaxbert.data.overview import Labelling, Overview, View, lower_cases, view_texts
from jaxbert.data.sources import Role
from jaxbert.data.store import Stored
from jaxbert.data.table import LabelKind
from jaxbert.errors import UserError
from jaxbert.tasks.base import Task
from jaxbert.train.inputs import read_source, read_stored, set_name, split_off
from jaxbert.train.kinds.base import Inputs

LabelSpace = TypeVar("LabelSpace")


class TextKind(Generic[LabelSpace]):
    """Read texts with labels; the training rows decide which labels there are."""

    labels: ClassVar[LabelKind] = "name"

    def fit(self, labels: Labels, config: Config, rules: LabelRules, head: Head | None) -> LabelSpace:
        """Return what the labels of the training rows define; `head` is the trained one of the model, if it has one.

        Raises:
          UserError: where they contradict the configuration.
        """
        raise NotImplementedError

    def encode(self, labels: Labels, space: LabelSpace, rules: LabelRules) -> np.ndarray:
        """Return labels as numbers, [N, ...].

        Raises:
          UserError: for one that is not known.
        """
        raise NotImplementedError

    def describe(self, labels: Labels, encoded: np.ndarray, space: LabelSpace) -> Labelling:
        """Return what an overview says of labels, and of the numbers that `encode` has made of them."""
        raise NotImplementedError

    def make_task(self, space: LabelSpace, labels: np.ndarray, config: Config, reading: Reading) -> Task:
        """Return the task of these training labels."""
        raise NotImplementedError

    def space_of(self, task: Any) -> LabelSpace:
        """Return the labels that a task knows."""
        raise NotImplementedError

    def reading_length(self, task: Any) -> int | None:
        """Return the longest piece that the model was taught to read."""
        return task.reading.max_length

    def read(self, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all data sets of a run."""
        reading, rules = _reading(config, max_length), LabelRules.of(config.data)
        stored = read_stored(config, tokenizer, max_length, self.labels, reading.long_texts)
        assert stored.train.labels is not None
        space = self.fit(stored.train.labels, config, rules, head)
        _check_map(rules, [stored.train, *stored.validation.values(), *stored.test.values()], space)
        train, held_out = split_off(self._labelled(stored.train, space, rules), config)
        assert train.labels is not None
        validation = {name: self._labelled(s, space, rules) for name, s in stored.validation.items()}
        test = {name: self._labelled(s, space, rules) for name, s in stored.test.items()}

        def view(name: str, stored: Stored, examples: Examples) -> View:
            assert stored.labels is not None
            assert examples.labels is not None
            labels = self.describe(stored.labels, examples.labels, space)
            pairs = config.data.text_pair is not None
            return view_texts(name, stored, examples.rows, labels, max_length, pairs=pairs)

        views = [view("train", stored.train, train)]
        views += [view(name, stored.train, examples) for name, examples in held_out.items()]
        for role, found, examples in (("validation", stored.validation, validation), ("test", stored.test, test)):
            views += [view(set_name(role, name), found[name], examples[name]) for name in found]
        return Inputs(
            train=train,
            validation=held_out | validation,
            test=test,
            task=self.make_task(space, train.labels, config, reading),
            overview=Overview(views, lower_cases(tokenizer)),
        )

    def read_for(
        self, task: Task, spec: str, data: DataConfig, tokenizer: Any, max_length: int, *, role: Role, labelled: bool
    ) -> Examples:
        """Read one source."""
        reading: Reading = cast(Any, task).reading
        if reading.pairs and data.text_pair is None:
            raise UserError("this model reads pairs of texts: say with --text_pair which column has the second")
        if labelled and self.labels != "list" and (isinstance(data.label, list) or data.label_format == "multi_hot"):
            raise UserError("this model gives one label a text: name one column of labels, which are not multi_hot")
        space, rules = self.space_of(task), LabelRules.of(data)
        stored = read_source(
            *(spec, data, tokenizer, max_length),
            role=role,
            labelled=labelled,
            labels=self.labels,
            long_texts=reading.long_texts,
        )
        if labelled:
            _check_map(rules, [stored], space)
        return self._labelled(stored, space, rules)

    def _labelled(self, stored: Stored, space: LabelSpace, rules: LabelRules) -> Examples:
        labels = None if stored.labels is None else self.encode(stored.labels, space, rules)
        return Examples(stored.tokens, labels, windows=stored.windows)


def _reading(config: Config, max_length: int) -> Reading:
    """Return how long texts are read; with the first window alone they are cut."""
    how, pooling = config.data.long_texts, config.model.pooling
    if how == "cut" or (how == "windows" and pooling == "first"):
        return Reading(max_length=config.data.max_length, pairs=config.data.text_pair is not None)
    long_texts = LongTexts(how, resolve_shared(config.data.window_stride, max_length))
    return Reading(long_texts, pooling if how == "windows" and pooling != "first" else None, max_length)


def _check_map(rules: LabelRules, sources: list[Stored], space: Any) -> None:
    """Check the user's names for labels against those of all sources and of the task."""
    if rules.map and not isinstance(space, LabelSet):
        raise UserError("data.label_map renames labels, but this model gives a score: leave it out")
    if rules.map:
        check_map(rules, all_written(stored.labels for stored in sources), space.names)


def integers_of(settings: dict[str, Any]) -> IntegerLabels:
    """Return what numbers in label columns were in the training of an exported model."""
    found = settings.get("integers")
    known: dict[Any, IntegerLabels] = {"index": "index", "name": "name", "position": "position"}
    return known.get(found, "either") if isinstance(found, str) else "either"
