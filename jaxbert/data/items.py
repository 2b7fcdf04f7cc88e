"""Turn a source into items, and items into tokens: take them from the cache, or make them part by part.

Items are examples of more than a text and a label (tagged texts, questions, choices). They take two steps, each with its
own entry in the cache: the records of a source become items, which do not depend on a model, and the items become tokens
with further columns of the task. Only one part is in memory at a time. The task defines its items and how they are
tokenized; `store` keeps the files, and turns texts into tokens."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, Self, TypeVar

import numpy as np

from jaxbert.config import COLUMN_KEYS, FILE_KEYS, DataConfig
from jaxbert.data import store
from jaxbert.data.examples import Windows
from jaxbert.data.store import Stored, StoredColumn, Writer
from jaxbert.data.table import Facts, Row
from jaxbert.data.tokens import PART_CHARACTERS, Encoded, Shard, Tokens, Watcher, forget_lengths, hash_rows, hash_texts
from jaxbert.errors import UserError

_MOST_ITEMS = 16_384


class Item(Protocol):
    """One example of a source: more than a text and a label."""

    @property
    def row(self) -> Row: ...

    @property
    def kept(self) -> Mapping[str, Any]:
        """The columns that are copied to the answer."""
        ...

    def pack(self) -> Any:
        """Return plain values for JSON, without `kept`."""
        ...

    @classmethod
    def unpack(cls, values: Any) -> Self:
        """Return the item that `pack` turned into plain values."""
        ...

    def key(self) -> str:
        """Return a text that is equal for two items if they are equal, labels left out."""
        ...

    def group(self) -> str | None:
        """Return the text whose items must all be in one of training and validation; None for no such text."""
        ...


AnyItem = TypeVar("AnyItem", bound=Item)
Made = TypeVar("Made")


@dataclass(frozen=True)
class Lazy(Sequence[Made]):
    """The members of a sequence at some places; each is built when it is read."""

    members: Sequence[Any]
    make: Callable[[Any], Made]
    places: np.ndarray | None = None
    """The indices of the members; None for all, in order."""

    def __len__(self) -> int:
        return len(self.members) if self.places is None else len(self.places)

    def __getitem__(self, index: Any) -> Any:
        place = range(len(self))[index]
        if isinstance(place, range):
            return [self[i] for i in place]
        return self.make(self.members[place if self.places is None else int(self.places[place])])


@dataclass(frozen=True)
class ItemSet(Generic[AnyItem]):
    """The items of a source, or some of them."""

    form: ClassVar[type[Any]]
    """The class of an item."""
    source: str
    """The source's name in messages."""
    items: Sequence[AnyItem]
    facts: Facts = field(default_factory=Facts)
    known: Mapping[str, Any] | None = None
    """The notes that were stored with the items; None if there are none."""
    groups: np.ndarray | None = None
    """uint64 [D]: equal for two items of one group; None if not stored."""
    entry: str | None = None
    """A name that identifies the content; None if it cannot be identified."""

    def __len__(self) -> int:
        return len(self.items)

    @classmethod
    def survey(cls, items: Sequence[AnyItem], notes: dict[str, Any]) -> None:
        """Update the notes, plain values over all items that a task needs, with these items."""

    @cached_property
    def notes(self) -> Mapping[str, Any]:
        """The notes of `survey` on all items."""
        if self.known is not None:
            return self.known
        notes: dict[str, Any] = {}
        for part in in_slices(self.items):
            self.survey(part, notes)
        return notes

    def take(self, indices: np.ndarray) -> Self:
        """Return the items at `indices`, in that order."""
        entry = None if self.entry is None else store.entry_of([self.entry, int(hash_rows([indices])[0])])
        return replace(self, items=Lazy(self.items, lambda item: item, indices), known=None, groups=None, entry=entry)

    def kept_rows(self) -> list[Mapping[str, Any]]:
        """Return the columns that are copied to the answer of each item."""
        return [item.kept for item in self.items]

    def group_numbers(self) -> np.ndarray:
        """Return the group of each item, int64 [D]; groups are numbered from 0 in the order of their first items."""
        if self.groups is None:
            keys = hash_texts([item.group() or str(number) for number, item in enumerate(self.items)])
        else:
            keys = self.groups
        _, first, which = np.unique(keys, return_index=True, return_inverse=True)
        return np.argsort(np.argsort(first))[which]

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Concatenate parts of a source that are in memory."""
        return replace(parts[0], items=[item for part in parts for item in part.items], known=None)


AnySet = TypeVar("AnySet", bound=ItemSet[Any])


@dataclass(frozen=True)
class ItemSource(Generic[AnyItem]):
    """The items of a source that was found and is not read yet."""

    name: str
    """The source's name in messages."""
    read: Callable[[Facts], Iterator[AnyItem]]
    """Read the items; raises UserError for a malformed one."""
    identity: Callable[[], Any]
    """Return plain values that change with the content; None if it cannot be identified."""
    settings: Sequence[Any]
    """Plain values that change what `read` makes of the content."""
    empty: str
    """The message for a source without items."""
    limit: int | None = None
    """The number of wanted items; None for all that `read` gives."""

    def stream(self, facts: Facts) -> Iterator[AnyItem]:
        """Read the wanted items, and note findings about the source in `facts`.

        Raises:
          UserError: for a malformed item, and if there is none.
        """
        found = False
        for item in islice(self.read(facts), self.limit):
            found = True
            yield item
        if not found:
            raise UserError(f"{self.name}: {self.empty}")


def read_by(data: DataConfig) -> list[Any]:
    """Return the settings for reading a source, as plain values."""
    return [getattr(data, key) for key in (*COLUMN_KEYS, *FILE_KEYS, "label_names")]


def hold_items(
    form: type[AnySet],
    source: ItemSource[Any],
    *,
    folder: Path | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
    all_have: Callable[[bool], bool] = bool,
) -> AnySet:
    """Return the items of a source, from the cache in `folder` if it has them.

    Args:
      form: the class of the set.
      source: the source to read, if the cache does not have its items.
      folder: the cache, for the next start; None for no cache.
      on_rows: called with the number of items read since the last call.
      all_have: returns whether its argument is true in every process of the run.

    Raises:
      UserError: for the first malformed item, and if there is none.
    """
    names: list[str | None] = []

    def key() -> str | None:
        content = source.identity()
        made = [form.__module__, form.__qualname__, list(source.settings), source.limit]
        names.append(None if content is None else store.entry_of(["items", content, made]))
        return names[-1]

    def write(written: Path) -> None:
        facts, notes = Facts(), dict[str, Any]()
        with Writer(written, {"groups": StoredColumn("<u8")}) as writer:
            for part in in_slices(source.stream(facts)):
                form.survey(part, notes)
                first = writer.items
                keys = [item.group() or str(number) for number, item in enumerate(part, first)]
                writer.add_items([item.pack() for item in part], {"groups": hash_texts(keys)})
                on_rows(len(part))
            writer.finish(None, notes={"facts": facts.to_dict(), "survey": notes})

    stored = store.cached(source.name, key, write, folder=folder, all_have=all_have, said=False)
    items = Lazy(stored.items, form.form.unpack)
    facts, notes = Facts(**stored.notes["facts"]), stored.notes["survey"]
    entry = names[0] if len(set(names)) == 1 else None  # a file that changed while it was read has no name
    return form(source.name, items, facts, notes, stored.columns["groups"], entry)


def in_slices(items: Iterable[AnyItem]) -> Iterator[list[AnyItem]]:
    """Yield lists of at most `_MOST_ITEMS` items with about the same number of characters."""
    part: list[AnyItem] = []
    characters = 0
    for item in items:
        part.append(item)
        characters += len(item.key()) + 1
        if characters > PART_CHARACTERS or len(part) == _MOST_ITEMS:
            yield part
            part, characters = [], 0
    if part:
        yield part


@dataclass(frozen=True)
class Encoder(Generic[AnySet]):
    """How a task tokenizes its items."""

    columns: Mapping[str, StoredColumn]
    """The task's further columns, stored beside the tokens."""
    settings: Sequence[Any]
    """Plain values that change the result of `encode`, besides items, tokenizer and `max_length`."""
    encode: Callable[[AnySet], Encoded]
    """Tokenize some items in memory; `whole` and `windows` have one entry for each item."""
    say: Callable[[AnySet, Stored], None] = lambda items, stored: None
    """Tell the user the findings about all items, once their tokens are stored."""


def encode_items(
    found: AnySet,
    encoder: Encoder[AnySet],
    tokenizer: Any,
    max_length: int,
    *,
    folder: Path | None = None,
    on_rows: Callable[[int], None] = lambda rows: None,
    shard: Shard = Shard(),  # noqa: B008 (frozen)
) -> Stored:
    """Return the tokens of a set, from the cache in `folder` if it has them.

    Args:
      found: the items.
      encoder: the task's encoder.
      tokenizer: a transformers tokenizer.
      max_length: the longest segment in tokens, special tokens included.
      folder: the cache, for the next start; None for no cache.
      on_rows: called with the number of items tokenized since the last call.
      shard: the part that this process tokenizes; every process of the run has the same items at the same time.

    Raises:
      UserError: for an item that the task cannot encode.
    """
    unknown_id = getattr(tokenizer, "unk_token_id", None)

    def key() -> str | None:
        whole = None if found.entry is None else ["encoded", found.entry, list(encoder.settings)]
        return store.entry_name(whole, tokenizer, max_length)

    def write(written: Path) -> None:
        watcher, unknown = Watcher(tokenizer), 0
        with Writer(written, encoder.columns) as writer:
            for part in in_slices(found.items):
                rows = watcher.place_rows([item.row for item in part], found.source)
                writer.add_rows(hash_texts([item.key() for item in part]), rows)
                low, high = shard.bounds(len(part))
                mine = replace(found, items=part[low:high], known=found.notes, groups=None)
                for encoded in shard.gather(_encode(encoder, mine)):
                    writer.add(encoded)
                    unknown += 0 if unknown_id is None else int(np.count_nonzero(encoded.ids == unknown_id))
                on_rows(len(part))
            writer.finish(None, watcher, unknown)

    stored = store.cached(found.source, key, write, folder=folder, all_have=shard.all_have)
    forget_lengths(tokenizer)
    assert stored.seen is not None
    stored = replace(stored, seen=replace(stored.seen, facts=found.facts))
    encoder.say(found, stored)
    return stored


def _encode(encoder: Encoder[AnySet], found: AnySet) -> Encoded:
    """Tokenize some items; an empty set gives empty arrays."""
    if len(found):
        encoded = encoder.encode(found)
        columns = {name: encoded.columns[name].astype(column.dtype) for name, column in encoder.columns.items()}
        return replace(encoded, columns=columns)
    nothing = np.zeros(0, np.int32)
    columns = {name: np.zeros((0, *column.shape), column.dtype) for name, column in encoder.columns.items()}
    return Encoded(nothing, nothing, nothing, 0, nothing, nothing, columns)


def encode_in_memory(found: AnySet, encoder: Encoder[AnySet]) -> Stored:
    """Return the tokens of items in memory, for prediction, without the cache."""
    encoded = encoder.encode(found)
    stored = Stored(
        tokens=Tokens.from_lengths(encoded.ids, encoded.lengths, encoded.first_lengths),
        labels=None,
        cut=encoded.cut,
        windows=Windows.of_counts(encoded.windows),
        columns=encoded.columns,
    )
    encoder.say(found, stored)
    return stored
