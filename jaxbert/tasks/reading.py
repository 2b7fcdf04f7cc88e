"""Read the data sets of a run: sources by their roles, texts with labels, windows of long texts, progress.

`TextTask` is the base of tasks that label complete texts, or pairs of texts. Each of them defines its labels from the
training labels, encodes them as numbers, and describes them for the overview. `items` reads for tasks with other examples,
and `data` reads and tokenizes a source. With several processes each tokenizes a part of it, and all get all tokens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, ClassVar, Self

import jax
import numpy as np
from jax.experimental import multihost_utils
from rich.status import Status
from rich.text import Text

from jaxbert.config import Config, DataConfig
from jaxbert.data.corrections import Correction, check_corrected_sets, correct, read_corrections, written_labels
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.label_column import LabelRules, Labels, check_map
from jaxbert.data.labels import Head, IntegerLabels, LabelSet, all_written
from jaxbert.data.overview import TRAIN, Labelling, Overview, View, lower_cases, vanished_texts, view_texts
from jaxbert.data.sources import Role, Source, open_source
from jaxbert.data.split import stratified_split
from jaxbert.data.store import Stored, cache_folder, prepare
from jaxbert.data.table import LabelKind, Row, Table, at_row
from jaxbert.data.tokens import Encoded, LongTexts, Reading, Shard, Tokens, encode_part, joined, resolve_shared, say_cut
from jaxbert.errors import UserError
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.tasks.base import Inputs, Task
from jaxbert.terminal import PLAIN_LINE_SECONDS, console, spinner

_SHORT_SECONDS = 2.0
"""Reading that takes no longer shows no progress."""

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class StoredSets:
    """The tokens of a run's data sets, with their labels not yet encoded."""

    train: Stored
    validation: dict[str, Stored]
    test: dict[str, Stored]


def named_sets(specs: str | dict[str, str] | None, name: str) -> dict[str, str]:
    """Return the sources of `data.validation` or `data.test` by name; a single source gets the name `name`."""
    if specs is None:
        return {}
    return {name: specs} if isinstance(specs, str) else dict(specs)


def set_name(role: str, name: str) -> str:
    """Return the name of a set in an overview: its role, followed by its own name if it has one."""
    return role if name == role else f"{role}.{name}"


def training_spec(data: DataConfig) -> str:
    """Return `data.train`.

    Raises:
      UserError: if it is not set.
    """
    if data.train is None:
        raise UserError("data.train is missing: name a file, hf:NAME or tfds:NAME with --data.train")
    return data.train


def read_stored(
    config: Config,
    tokenizer: Any,
    max_length: int,
    labels: LabelKind = "name",
    long_texts: LongTexts = LongTexts(),  # noqa: B008 (frozen)
) -> StoredSets:
    """Tokenize every data set of a run.

    All sources are found first, and validation and test sets are read first, so that mistakes in them are found before a
    large training set is read.

    Raises:
      UserError: for any mistake in the files.
    """
    data, folder = config.data, cache_folder(config.data.cache_dir)

    def find(specs: dict[str, str], role: Role) -> dict[str, Source]:
        return {name: open_source(spec, data, role=role, labelled=True, labels=labels) for name, spec in specs.items()}

    def read(source: Source) -> Stored:
        return prepare_shown(source, tokenizer, max_length, folder, long_texts)

    train = open_source(training_spec(data), data, role="train", labelled=True, limit=data.limit, labels=labels)
    validation = find(named_sets(data.validation, "validation"), "validation")
    test = find(named_sets(data.test, "test"), "test")
    read_validation = {name: read(source) for name, source in validation.items()}
    read_test = {name: read(source) for name, source in test.items()}
    return StoredSets(read(train), read_validation, read_test)


def split_off(train: Examples, config: Config) -> tuple[Examples, dict[str, Examples]]:
    """Return the training examples, and the validation set that `data.validation_fraction` takes from them."""
    assert train.labels is not None
    single = train.labels.ndim == 1 and train.labels.dtype == np.int32
    strata = train.labels if single else np.zeros(len(train), np.int32)
    kept, held_out = stratified_split(strata, config.data.validation_fraction, config.train.seed)
    return train.take(kept), {"validation": train.take(held_out)}


def prepare_shown(
    source: Source,
    tokenizer: Any,
    max_length: int,
    folder: Path | None = None,
    long_texts: LongTexts = LongTexts(),  # noqa: B008 (frozen)
) -> Stored:
    """Return a source's tokens, from the cache in `folder` if it has them; show progress if it takes long."""
    with ReadingProgress(source.name) as reading:
        shard = tokenizing_shard()
        return prepare(
            source, tokenizer, max_length, folder=folder, on_rows=reading.add, shard=shard, long_texts=long_texts
        )


class ReadingProgress:
    """Shows progress through a source, unless reading takes only a moment or it is `silent`."""

    def __init__(self, name: str, doing: str = "tokenizing", *, silent: bool = False) -> None:
        self._name, self._doing, self._silent = name, doing, silent
        self._rows = 0
        self._begin = self._last_plain_line = time.monotonic()
        self._status: Status | None = None

    def __enter__(self) -> ReadingProgress:
        return self

    def __exit__(self, *_: object) -> None:
        if self._status is not None:
            self._status.stop()

    def add(self, rows: int) -> None:
        """Count rows, and show the count now and then."""
        self._rows += rows
        if self._silent:
            return
        now = time.monotonic()
        rate = f"{self._rows / max(now - self._begin, 1e-9):,.0f} rows/s"
        line = f"{self._doing} {self._name}: {self._rows:,} rows, {rate}"
        if console.is_terminal and now - self._begin > _SHORT_SECONDS:
            self._status = self._status or console.status("", spinner=spinner())
            self._status.start()
            self._status.update(Text(line))
        elif not console.is_terminal and now - self._last_plain_line > PLAIN_LINE_SECONDS:
            self._last_plain_line = now
            console.print(Text(line), soft_wrap=True)


def tokenizing_shard() -> Shard:
    """Return this process's part of tokenizing, with the devices' network for the exchange."""
    count = jax.process_count()
    return Shard() if count == 1 else Shard(jax.process_index(), count, _gather_encoded, _all_say_yes)


def _all_say_yes(mine: bool) -> bool:
    return bool(multihost_utils.process_allgather(np.int32(mine)).all())


def _gather_encoded(mine: Encoded) -> list[Encoded]:
    """Exchange all arrays as one, padded to a power of two so that few programs are compiled.

    The columns of all processes have the same names, dtypes (of 4 or 8 bytes) and shapes after the first axis.
    """
    columns = dict(mine.columns)
    arrays = [mine.ids, mine.lengths, mine.first_lengths, mine.windows, mine.whole, *columns.values()]
    words = [np.ascontiguousarray(array).reshape(-1).view(np.int32) for array in arrays]
    sizes = np.array([*map(len, words), mine.cut], np.int32)
    all_sizes = np.asarray(multihost_utils.process_allgather(sizes))
    longest = int(all_sizes[:, :-1].sum(1).max())
    message = np.zeros(1 << longest.bit_length(), np.int32)
    content = np.concatenate(words)
    message[: len(content)] = content
    messages = np.asarray(multihost_utils.process_allgather(message))

    def unpack(message: np.ndarray, sizes: np.ndarray) -> Encoded:
        ends = np.cumsum(sizes[:-1])
        parts = np.split(message[: ends[-1]], ends[:-1])
        found = [part.view(a.dtype).reshape(-1, *a.shape[1:]) for part, a in zip(parts, arrays, strict=True)]
        ids, lengths, first_lengths, windows, whole, *others = found
        further = dict(zip(columns, others, strict=True))
        return Encoded(ids, lengths, first_lengths, int(sizes[-1]), windows, whole, further)

    return [unpack(message, sizes) for message, sizes in zip(messages, all_sizes, strict=True)]


def resolve_max_length(max_length: int | None, positions: int) -> int:
    """Return the longest segment in tokens, for a model with this many positions.

    Raises:
      UserError: if `max_length` is larger than the number of positions.
    """
    if max_length is not None and max_length > positions:
        raise UserError(
            f"data.max_length is {max_length}, but the model has {positions} positions: lower it to {positions}"
        )
    return max_length or positions


class TextTask(Task):
    """A task on texts with labels; the training examples decide the set of labels."""

    has_text_labels = True
    label_kind: ClassVar[LabelKind] = "name"
    """The kind of a label in its column."""
    asks_tokenizer: ClassVar[bool] = False
    """Whether the task needs the tokenizer, for `prepared`."""
    reading: Reading
    """How long texts are read."""

    @classmethod
    def fit(
        cls, labels: Labels, config: Config, rules: LabelRules, head: Head | None, reading: Reading
    ) -> tuple[Self, bool]:
        """Return the task that the labels of the training examples define, and whether it needs a new head.

        Args:
          labels: the labels of the training examples.
          config: the configuration of the run.
          rules: the user's rules for labels.
          head: the trained head of the model, if it has one.
          reading: how long texts are read.

        Raises:
          UserError: if the labels contradict the configuration.
        """
        raise NotImplementedError

    def prepared(self, config: Config, tokenizer: Any) -> Self:
        """Return the task with what it needs of the tokenizer, before the labels are encoded; see `asks_tokenizer`."""
        raise NotImplementedError

    def weigh(self, labels: np.ndarray, config: Config) -> Self:
        """Return the task with label weights, computed from the encoded labels of the training examples."""
        return self

    def encode(self, labels: Labels, rules: LabelRules) -> np.ndarray:
        """Return labels as numbers, [N, ...].

        Raises:
          UserError: for an unknown label.
        """
        raise NotImplementedError

    def overview(self, labels: Labels, encoded: np.ndarray) -> Labelling:
        """Return the description of labels for an overview; `encoded` is the result of `encode`."""
        raise NotImplementedError

    def check_map(self, rules: LabelRules, sources: Sequence[Stored]) -> None:
        """Check the names in `data.label_map` against the labels of all sources and of the task.

        Raises:
          UserError: for a name that does not occur.
        """
        check_map(rules, all_written(stored.labels for stored in sources), self.output_names)

    @property
    def reading_length(self) -> int | None:
        """The longest segment in training, in tokens; None for the model's own limit."""
        return self.reading.max_length

    @classmethod
    def read(cls, config: Config, tokenizer: Any, max_length: int, head: Head | None = None) -> Inputs:
        """Read all data sets of a run."""
        reading, rules = _reading(config, max_length), LabelRules.of(config.data)
        files = read_corrections(config.data.corrections) if config.data.corrections else []
        stored = read_stored(config, tokenizer, max_length, cls.label_kind, reading.long_texts)
        assert stored.train.labels is not None
        task, new_head = cls.fit(stored.train.labels, config, rules, head, reading)
        if cls.asks_tokenizer:
            task = task.prepared(config, tokenizer)
        if rules.map:
            task.check_map(rules, [stored.train, *stored.validation.values(), *stored.test.values()])
        whole = task._labelled(stored.train, rules)
        train, held_out = split_off(whole, config) if config.data.validation_fraction else (whole, {})
        validation = {name: task._labelled(s, rules) for name, s in stored.validation.items()}
        test = {name: task._labelled(s, rules) for name, s in stored.test.items()}
        if files:
            sources = {TRAIN: (stored.train, whole)}
            sources |= {set_name("validation", name): (s, validation[name]) for name, s in stored.validation.items()}
            sources |= {set_name("test", name): (s, test[name]) for name, s in stored.test.items()}
            apply = task._corrector(files, sources, rules)
            train, held_out = apply(TRAIN, train), {name: apply(TRAIN, part) for name, part in held_out.items()}
            validation = {name: apply(set_name("validation", name), part) for name, part in validation.items()}
            test = {name: apply(set_name("test", name), part) for name, part in test.items()}
        assert train.labels is not None

        def view(name: str, stored: Stored, examples: Examples) -> View:
            assert stored.labels is not None
            assert examples.labels is not None
            labels = task.overview(stored.labels, examples.labels)
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
            task=task.weigh(train.labels, config),
            overview=Overview(views, lower_cases(tokenizer)),
            new_head=new_head,
        )

    def read_for(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        _check_pairs(self.reading, data)
        if self.label_kind != "list" and (isinstance(data.label, list) or data.label_format == "multi_hot"):
            raise UserError("this model gives each text one label: name one column of labels, which are not multi_hot")
        rules = LabelRules.of(data)
        source = open_source(spec, data, role="test", labelled=True, labels=self.label_kind)
        stored = prepare_shown(source, tokenizer, max_length, long_texts=self.reading.long_texts)
        if rules.map:
            self.check_map(rules, [stored])
        return self._labelled(stored, rules)

    def read_unlabelled(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Examples:
        stored = self.store_unlabelled(spec, data, tokenizer, max_length)
        return Examples(stored.tokens, windows=stored.windows)

    def store_unlabelled(self, spec: str, data: DataConfig, tokenizer: Any, max_length: int) -> Stored:
        """Return the tokens of texts without labels, for training, and what was seen of the texts.

        Raises:
          UserError: for any mistake in the source.
        """
        source = open_source(spec, data, role="unlabelled", labelled=False)
        return prepare_shown(source, tokenizer, max_length, cache_folder(data.cache_dir), self.reading.long_texts)

    def open_inputs(
        self, spec: str, data: DataConfig, tokenizer: Any, max_length: int, kept: tuple[str, ...]
    ) -> TextInputs:
        _check_pairs(self.reading, data)
        source = open_source(spec, data, role="predict", labelled=False, kept=kept)
        return TextInputs(source, tokenizer, max_length, self.reading.long_texts)

    def _corrector(
        self, files: list[list[Correction]], sources: Mapping[str, tuple[Stored, Examples]], rules: LabelRules
    ) -> Callable[[str, Examples], Examples]:
        """Return a function that corrects examples, given the set of whose source they are; `sources` are those by set."""
        by_name = self.label_kind == "list" and getattr(self, "integers", None) == "position"
        rules = rules._replace(map={}, format="names" if by_name else "auto")

        def encode(texts: Sequence[str], places: Sequence[str]) -> np.ndarray:
            labels = written_labels(texts, places, self.label_kind, rules.separator)
            if self.label_kind == "number":  # `encode` would say what is odd about a whole column
                return np.asarray(labels.codes).view(np.float32)
            return self.encode(labels, rules)

        check_corrected_sets(files, list(sources))
        found = {}
        for name, (stored, whole) in sources.items():
            assert stored.seen is not None
            assert whole.labels is not None
            found[name] = correct(name, whole.labels, stored.seen, files, encode)

        def apply(name: str, examples: Examples) -> Examples:
            change = found[name]
            return examples if change is None else change.apply(examples)

        return apply

    def _labelled(self, stored: Stored, rules: LabelRules) -> Examples:
        labels = None if stored.labels is None else self.encode(stored.labels, rules)
        return Examples(stored.tokens, labels, windows=stored.windows)


class LabelTask(TextTask):
    """A task on texts whose labels have names."""

    label_names_in_head = True
    head = SequenceClassificationHead
    architecture = "ForSequenceClassification"
    label_names: tuple[str, ...]
    integers: IntegerLabels
    """The meaning of an integer in a label column."""

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the labels, in index order."""
        return self.label_names

    @property
    def label_set(self) -> LabelSet:
        """The names of the labels, with the meaning of integers."""
        return LabelSet(self.label_names, self.integers)


@dataclass
class TextInputs:
    """The texts of a source for prediction; counts cut and empty ones."""

    source: Source
    tokenizer: Any
    max_length: int
    long_texts: LongTexts
    _texts: int = 0
    _pieces: int = 0
    _cut: int = 0
    _vanished: int = 0
    _first_cut: Row | None = None
    _first_vanished: Row | None = None
    _said: set[str] = field(default_factory=set)

    @property
    def name(self) -> str:
        """The source's name in messages."""
        return self.source.name

    @property
    def cut(self) -> int:
        """The number of texts so far that lost their end."""
        return 0 if self.long_texts.how == "windows" else self._cut

    def parts(self) -> Iterator[Table]:
        """Yield the source part by part."""
        return self.source.parts()

    def tokenize(self, parts: Sequence[Table]) -> Examples:
        """Return the tokens of some parts; each text is one segment or several windows."""
        table = concatenate_tables(parts)
        encoded = joined(list(encode_part(table, self.tokenizer, self.max_length, self.long_texts)))
        tokens = Tokens.from_lengths(encoded.ids, encoded.lengths, encoded.first_lengths)
        gone = np.flatnonzero(vanished_texts(encoded.whole, tokens, pairs=table.pairs is not None))
        if len(gone) and self._first_vanished is None:
            self._first_vanished = table.rows[gone[0]]
        if encoded.cut and self._first_cut is None:
            self._first_cut = table.rows[int(np.argmax(encoded.whole > self.max_length))]
        self._texts += len(table)
        self._pieces += len(encoded.windows) and len(encoded.lengths)
        self._cut += encoded.cut
        self._vanished += len(gone)
        return Examples(tokens, windows=Windows.of_counts(encoded.windows) if len(encoded.windows) else None)

    def say_first(self) -> None:
        """Tell the user the first text that was cut, and the first without tokens."""
        cut = "cut" if self.long_texts.how == "cut" else f"read as {self.long_texts.how}"
        for row, what in (
            (self._first_cut, f"longer than {self.max_length} tokens and {cut}"),
            (self._first_vanished, "the tokenizer leaves nothing of this text, and its answer means nothing"),
        ):
            if row is not None and what not in self._said:
                self._said.add(what)
                logger.warning("%s: %s (the number of such texts is printed at the end)", at_row(self.name, row), what)

    def say(self) -> None:
        """Tell the user how many texts were cut, and how many have no tokens."""
        if self._cut:
            say_cut(self.name, self._cut, self._texts, self._pieces, self.max_length)
        if self._first_vanished is not None:
            message = "%s: the tokenizer leaves nothing of %d of %d texts, first row %s: their answers mean nothing"
            logger.warning(message, self.name, self._vanished, self._texts, self._first_vanished)


def concatenate_tables(parts: Sequence[Table]) -> Table:
    """Concatenate parts of a source, without their labels."""
    if len(parts) == 1:
        return parts[0]
    chained = chain.from_iterable
    rows: Sequence[Any] = [part.row(index) for part in parts for index in range(len(part))]
    return replace(
        parts[0],
        texts=list(chained(part.texts for part in parts)),
        pairs=None if parts[0].pairs is None else list(chained(part.pairs or () for part in parts)),
        labels=None,
        rows=rows,
        kept={name: list(chained(part.kept[name] for part in parts)) for name in parts[0].kept},
    )


def _check_pairs(reading: Reading, data: DataConfig) -> None:
    """Check that the column of the second text is known if the model reads pairs, and not given if it cannot.

    Raises:
      UserError: if not.
    """
    if reading.pairs and data.text_pair is None:
        raise UserError("this model reads pairs of texts: name the column of the second text with --text_pair")
    if reading.long_texts.how != "cut" and data.text_pair is not None:
        raise UserError(
            f"this model reads long texts with long_texts {reading.long_texts.how}, which does not work with pairs: leave "
            "text_pair out"
        )


def _reading(config: Config, max_length: int) -> Reading:
    """Return how long texts are read; if only the first window counts, they are cut."""
    how, pooling = config.data.long_texts, config.model.pooling
    if how == "cut" or (how == "windows" and pooling == "first"):
        return Reading(max_length=config.data.max_length, pairs=config.data.text_pair is not None)
    long_texts = LongTexts(how, resolve_shared(config.data.window_stride, max_length))
    return Reading(long_texts, pooling if how == "windows" and pooling != "first" else None, max_length)
