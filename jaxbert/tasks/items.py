"""Read the data sets of a run whose examples are more than a text and a label: tagged texts, questions, choices.

The tasks define their items, and `data.items` stores and tokenizes them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from jaxbert.config import Config, DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.items import Encoder, ItemSet, ItemSource, encode_items, hold_items
from jaxbert.data.overview import TRAIN, Overview, View, lower_cases
from jaxbert.data.split import split_groups
from jaxbert.data.store import Stored, cache_folder
from jaxbert.data.table import Facts
from jaxbert.data.tokens import LongTexts, Reading, resolve_shared
from jaxbert.errors import UserError
from jaxbert.tasks.base import Inputs, Task
from jaxbert.tasks.reading import ReadingProgress, named_sets, set_name, tokenizing_shard, training_spec

Found = TypeVar("Found", bound=ItemSet[Any])
_WITHOUT_MEANING = (
    "train.class_weights",
    "train.focal_gamma",
    "data.text_pair",
    "data.long_texts",
    "data.label_separator",
    "data.label_format",
    "data.label_map",
    "model.pooling",
)
"""Settings without a meaning for tasks with an answer for tokens or spans."""


@dataclass(frozen=True)
class ItemSets(Generic[Found]):
    """The items of a run's data sets, before they are tokenized."""

    train: Found
    validation: dict[str, Found]
    test: dict[str, Found]

    def split(self, config: Config) -> ItemSets[Found]:
        """Split a validation set off the training items, group by group, if `data.validation_fraction` is set."""
        if not config.data.validation_fraction:
            return self
        groups = self.train.group_numbers()
        kept, held_out = split_groups(groups, config.data.validation_fraction, config.train.seed)
        return ItemSets(self.train.take(kept), {"validation": self.train.take(held_out)}, self.test)

    def inputs(
        self,
        encode: Callable[[str, Found], tuple[Examples, View]],
        task: Task,
        tokenizer: Any,
        *,
        new_head: bool = False,
    ) -> Inputs:
        """Return the inputs of a run; `encode` tokenizes the items of a set, given its name."""
        views: list[View] = []

        def examples(name: str, found: Found) -> Examples:
            encoded, view = encode(name, found)
            views.append(view)
            return encoded

        return Inputs(
            train=examples(TRAIN, self.train),
            validation={name: examples(set_name("validation", name), found) for name, found in self.validation.items()},
            test={name: examples(set_name("test", name), found) for name, found in self.test.items()},
            task=task,
            overview=Overview(views, lower_cases(tokenizer)),
            new_head=new_head,
        )


def read_items(data: DataConfig, form: type[Found], find: Callable[..., ItemSource[Any]]) -> ItemSets[Found]:
    """Read all sets of a run, each as `form`, from the sources that `find(spec, role=ROLE, limit=N)` opens.

    All sources are found first, and validation and test sets are read first, so that mistakes in them are found early.

    Raises:
      UserError: for any mistake in the files.
    """
    train = find(training_spec(data), role="train", limit=data.limit)
    validation = {name: find(s, role="validation") for name, s in named_sets(data.validation, "validation").items()}
    test = {name: find(spec, role="test") for name, spec in named_sets(data.test, "test").items()}

    folder = cache_folder(data.cache_dir)
    read_validation = {name: hold_shown(source, form, folder) for name, source in validation.items()}
    read_test = {name: hold_shown(source, form, folder) for name, source in test.items()}
    return ItemSets(hold_shown(train, form, folder), read_validation, read_test)


def hold_shown(source: ItemSource[Any], form: type[Found], folder: Path | None = None) -> Found:
    """Return a source's items, from the cache in `folder` if it has them; show progress if it takes long."""
    with ReadingProgress(source.name) as reading:
        all_have = tokenizing_shard().all_have
        return hold_items(form, source, folder=folder, on_rows=reading.add, all_have=all_have)


def encode_shown(
    found: Found, encoder: Encoder[Found], tokenizer: Any, max_length: int, folder: Path | None = None
) -> Stored:
    """Return the tokens of a set, from the cache in `folder` if it has them; show progress if it takes long."""
    with ReadingProgress(found.source) as reading:
        shard = tokenizing_shard()
        return encode_items(found, encoder, tokenizer, max_length, folder=folder, on_rows=reading.add, shard=shard)


@dataclass(frozen=True)
class ItemInputs(Generic[Found]):
    """The items of a source for prediction, read one by one."""

    source: ItemSource[Any]
    form: type[Found]
    examples_of: Callable[[Found], Examples]

    @property
    def name(self) -> str:
        """The source's name in messages."""
        return self.source.name

    def parts(self) -> Iterator[Found]:
        """Yield the items of the source, each as a set of one."""
        facts = Facts()
        for item in self.source.stream(facts):
            yield self.form(self.name, [item], facts)

    def tokenize(self, parts: Sequence[Found]) -> Examples:
        """Return the tokens of some parts."""
        return self.examples_of(self.form.joined(parts))

    def say_first(self) -> None:
        """Do nothing, as in `say`."""

    def say(self) -> None:
        """Do nothing: findings are told while the items are tokenized."""


def refuse(config: Config, *keys: str) -> None:
    """Check that settings without a meaning for token and span tasks have their defaults; `keys` are further settings.

    Raises:
      UserError: for the first setting with another value.
    """
    defaults = Config()
    for key in (*_WITHOUT_MEANING, *keys):
        section, name = key.split(".")
        if getattr(getattr(config, section), name) != getattr(getattr(defaults, section), name):
            raise UserError(f"{key} has no meaning for task {config.task}: remove it")


def reading_of(config: Config, max_length: int) -> Reading:
    """Return the length of a run's windows, and the number of tokens they share."""
    return Reading(LongTexts("windows", resolve_shared(config.data.window_stride, max_length)), None, max_length)


def shared_tokens(reading: Reading, max_length: int) -> int:
    """Return how many tokens windows share: as in training, else the default."""
    known = reading.long_texts.how == "windows"
    return reading.long_texts.shared if known else resolve_shared(None, max_length)
