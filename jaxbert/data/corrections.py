"""Corrections of labels that a person made in a CSV file, as `jaxbert audit` writes it: keep, relabel or drop a row.

A correction names a row as messages do, and has a hash of its text, so that a file about other data is refused. Corrections
change the labels after they were read: the token cache has the labels as they were written, whatever is corrected.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, get_args

import numpy as np

from jaxbert.config import DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.files import extension_of
from jaxbert.data.label_column import Labels
from jaxbert.data.overview import TRAIN
from jaxbert.data.sources import Source, open_source
from jaxbert.data.store import make_label_column
from jaxbert.data.table import LabelKind, Table, Wanted
from jaxbert.data.tokens import Seen
from jaxbert.errors import UserError, nearest, quoted, shorten

Action = Literal["keep", "relabel", "drop"]
ACTIONS = get_args(Action)
_NEEDED = ("row", "action", "label", "text_hash")
_FURTHER = ("set", "given")
_HASH = "t{:016x}"
"""A letter first: a spreadsheet would take digits for a number, and round it."""

logger = logging.getLogger("jaxbert")


def text_mark(text_hash: int) -> str:
    """Return the hash of a text, as `Seen.hashes` has it, in the form in which a file of corrections has it."""
    return _HASH.format(int(text_hash))


class Correction(NamedTuple):
    """A line of a file of corrections."""

    where: str
    """The line, for messages."""
    set: str
    """The set whose source has the row: `train`, `validation.en`."""
    row: str
    """The number of the row, with its file if the source is several files."""
    action: Action
    label: str
    """The right label, for `relabel`."""
    given: str | None
    """The label that the row had; None if the file does not say it."""
    text_hash: str


def read_corrections(files: str | Sequence[str]) -> list[list[Correction]]:
    """Read files of corrections, each as a list.

    Raises:
      UserError: for a file that is missing or lacks a column, an unknown action, and a row that is named twice.
    """
    return [list(_read(name)) for name in ([files] if isinstance(files, str) else files)]


def _read(name: str) -> Iterator[Correction]:
    if extension_of(name) not in (".csv", ".tsv"):
        raise UserError(
            f"data.corrections {name}: must be a .csv file, as `jaxbert audit RUN --output FILE.csv` writes it"
        )
    data = DataConfig(text="row")
    source = open_source(name, data, role="train", labelled=False, optional=(*_NEEDED[1:], *_FURTHER))
    first: dict[tuple[str, str], str] = {}
    for part in _parts(source):
        for column in _NEEDED[1:]:
            if column not in part.kept:
                raise UserError(
                    f"{name}: no column {column!r}, so it holds no corrections: `jaxbert audit RUN --output FILE.csv` "
                    "writes such a file, and a person sets its actions"
                )
        for index, row in enumerate(part.texts):
            fields = {column: str(values[index] or "").strip() for column, values in part.kept.items()}
            where = f"{name}, row {part.rows[index]}"
            found = _correction(where, row.strip(), fields, "given" in part.kept)
            other = first.setdefault((found.set, found.row), where)
            if other != where:
                raise UserError(
                    f"{where}: row {found.row} of {found.set} is corrected twice (first in {other}): keep one line"
                )
            yield found


def _parts(source: Source) -> Iterator[Table]:
    """Yield the parts of a file of corrections, whose messages name the key of that file."""
    try:
        yield from source.parts()
    except UserError as error:
        raise UserError(str(error).replace("(data.text)", "(data.corrections)")) from error


def _correction(where: str, row: str, fields: dict[str, str], says_given: bool) -> Correction:
    action = fields["action"].lower()
    if action not in ACTIONS:
        near = nearest(action, ACTIONS)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(
            f"{where}: the action is {shorten(fields['action'])!r}, but it must be keep, relabel or drop{hint}"
        )
    return Correction(
        where=where,
        set=fields.get("set") or TRAIN,
        row=row,
        action=action,  # type: ignore[arg-type]
        label=fields["label"],
        given=fields.get("given") if says_given else None,
        text_hash=fields["text_hash"],
    )


def check_corrected_sets(files: Sequence[Sequence[Correction]], sets: Sequence[str]) -> None:
    """Check that all corrections are of the sets of the run.

    Raises:
      UserError: for the first that is not.
    """
    for correction in (correction for file in files for correction in file):
        if correction.set not in sets:
            raise UserError(
                f"{correction.where}: corrects a row of {correction.set!r}, but the run has the sets {quoted(sets)}"
            )


@dataclass(frozen=True, eq=False)
class Corrected:
    """The labels of a source after corrections."""

    labels: np.ndarray
    """[D, ...]: the label of each record."""
    kept: np.ndarray
    """bool [D]: whether each record is kept."""

    def apply(self, examples: Examples) -> Examples:
        """Return examples of the source with the corrected labels, without the dropped ones.

        Raises:
          UserError: if none is left.
        """
        records = examples.source_rows(np.arange(len(examples)))
        changed, kept = replace(examples, labels=self.labels[records]), np.flatnonzero(self.kept[records])
        if not len(kept):
            raise UserError("data.corrections drops all rows of a set: keep some")
        return changed if len(kept) == len(records) else changed.take(kept)


def correct(
    name: str,
    labels: np.ndarray,
    seen: Seen,
    files: Sequence[Sequence[Correction]],
    encode: Callable[[Sequence[str], Sequence[str]], np.ndarray],
) -> Corrected | None:
    """Return the labels of a source as corrected by files, one after another; None if no file corrects a row of it.

    Args:
      name: the set whose source it is.
      labels: the labels of its records, [D, ...].
      seen: facts about its texts.
      files: the corrections of each file.
      encode: returns labels, [n, ...], for labels as a person writes them, given with the places in which they stand.

    Raises:
      UserError: for a row that the source lacks or that has another text or another label than when the file was written,
        and for an unknown label.
    """
    mine = [[correction for correction in file if correction.set == name] for file in files]
    if not any(mine):
        return None
    places = {str(seen.place(index)): index for index in range(len(seen))}
    labels, kept = np.array(labels), np.ones(len(labels), bool)
    for file in mine:
        records = np.array([_find(correction, places, seen, kept) for correction in file], np.int64)
        _check_given(file, records, labels, encode)
        chosen = np.array([correction.action == "relabel" for correction in file], bool)
        if chosen.any():
            relabelled = [correction for correction in file if correction.action == "relabel"]
            labels[records[chosen]] = encode([c.label for c in relabelled], [c.where for c in relabelled])
        dropped = np.array([correction.action == "drop" for correction in file], bool)
        kept[records[dropped]] = False
    counts = [sum(c.action == action for file in mine for c in file) for action in ("relabel", "drop", "keep")]
    logger.warning(
        "data.corrections, %s: %d rows have another label, %d are left out, %d are kept as they are", name, *counts
    )
    return Corrected(labels, kept)


def _find(correction: Correction, places: dict[str, int], seen: Seen, kept: np.ndarray) -> int:
    """Return the record that a correction is about."""
    index = places.get(correction.row)
    if index is None or not kept[index]:
        raise UserError(
            f"{correction.where}: {correction.set} has no row {shorten(correction.row)}"
            + ("" if index is None else " any more, because an earlier file drops it")
            + ": the corrections are of other data, or data.limit leaves the row out"
        )
    if correction.text_hash != text_mark(seen.hashes[index]):
        raise UserError(
            f"{correction.where}: row {correction.row} of {correction.set} has another text than the corrected one "
            "(text_hash differs): the corrections are of other data"
        )
    return index


def _check_given(
    file: Sequence[Correction],
    records: np.ndarray,
    labels: np.ndarray,
    encode: Callable[[Sequence[str], Sequence[str]], np.ndarray],
) -> None:
    """Check that the rows to change have the labels that the file says they had."""
    told = [index for index, c in enumerate(file) if c.given is not None and c.action != "keep"]
    if not told:
        return
    given = encode([file[index].given or "" for index in told], [file[index].where for index in told])
    now = labels[records[told]]
    same = np.isclose(given, now) if now.dtype.kind == "f" else (given == now).reshape(len(told), -1).all(1)
    if not same.all():
        wrong = file[told[int(np.argmin(same))]]
        raise UserError(
            f"{wrong.where}: row {wrong.row} of {wrong.set} does not have the label {shorten(wrong.given or '')!r} any "
            "more: the data have changed since the file was written"
        )


def written_labels(texts: Sequence[str], places: Sequence[str], kind: LabelKind, separator: str) -> Labels:
    """Return labels that a person wrote, as those of a column of the data are read; `places` are for messages."""
    wanted = Wanted("row", None, "label", True, kind, separator)
    column = make_label_column(wanted, "data.corrections")
    table = Table(list(texts), None, list(texts), None, "data.corrections", places)  # type: ignore[arg-type]
    codes = column.add(table)
    vocabulary = column.finish()
    assert codes is not None
    assert vocabulary is not None
    return Labels(codes, vocabulary, "data.corrections")
