"""Find the rows of a run whose labels are probably wrong, similar texts with different labels, and outliers.

The evidence is out-of-sample predictions: of folds where the run has them (`out_of_fold.parquet`), else of its validation
and test sets. `confident` judges labels, `near_duplicates` compares texts; here their findings become rows that a person can
read and, in a CSV file, correct (`data.corrections`).
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np

from jaxbert.data.corrections import text_mark
from jaxbert.data.examples import Examples
from jaxbert.data.overview import TRAIN, View
from jaxbert.data.tokens import hash_rows
from jaxbert.errors import UserError
from jaxbert.runs.out_of_fold import FILE, OutOfFold, read_out_of_fold
from jaxbert.tasks.base import Task
from jaxbert.tasks.reading import TextTask
from jaxbert.train.inference import Finished
from jaxbert.understand import confident
from jaxbert.understand.near_duplicates import find_similar
from jaxbert.understand.records import read_records
from jaxbert.understand.reopen import reopen

LABEL, NEAR_DUPLICATE, OUTLIER = REASONS = ("label", "near_duplicate", "outlier")
OUTLIER_SHARE = 0.01
"""The most outliers, as a share of the judged rows."""
_MOST_LIKE = 10
"""The most similar rows that one row names."""
_COLUMNS = (
    "action",
    "label",
    "given",
    "suggested",
    "score",
    "text",
    "text_pair",
    "reasons",
    "set",
    "row",
    "like",
    "text_hash",
)
_HOW = "train again with --train.folds 5, which judges every training row"


@dataclass(frozen=True, eq=False)
class Audit:
    """The findings about the labels of a run."""

    suspects: list[dict[str, Any]]
    """The suspicious rows: probably wrong labels, the worst first, then similar texts with different labels, then outliers.
    Each has `row` (its number in the source, as messages name it), `given` and `suggested` (labels; None for no
    suggestion), `score` (how well the given label fits, from 0 to 1; None where nothing predicts the row), `reasons`
    (`label`, `near_duplicate`, `outlier`), `set`, `record` (the number of the row counted from 0), `like` (similar rows with
    another label), `text`, `text_hash`."""
    summary: dict[str, Any]
    """`task`, `evidence` (`out_of_fold` or `held_out`), `sets`, `rows` (how many were judged), the number of rows for each
    reason, and `note`: what the evidence covers."""
    separator: str = field(default=",", repr=False)
    """`data.label_separator`, for several labels in a field of a table."""

    def to_json_lines(self) -> str:
        """Return one JSON object on each line."""
        return "".join(json.dumps(suspect, ensure_ascii=False) + "\n" for suspect in self.suspects)

    def to_table(self, separator: str = ",") -> str:
        """Return a CSV table for a person, who sets `action` to relabel (with the right `label`) or drop.

        Each action is keep at first, so that the table as it is changes nothing.
        """
        columns = [name for name in _COLUMNS if name != "text_pair" or any(name in s for s in self.suspects)]
        out = io.StringIO()
        writer = csv.writer(out, delimiter=separator)
        writer.writerow(columns)
        for suspect in self.suspects:
            label = suspect["given"] if suspect["suggested"] is None else suspect["suggested"]
            cells = suspect | {"action": "keep", "label": label, "reasons": " ".join(suspect["reasons"])}
            cells["like"] = "; ".join(map(str, suspect["like"]))
            writer.writerow([self._cell(cells.get(name)) for name in columns])
        return out.getvalue()

    def _cell(self, value: Any) -> str:
        if isinstance(value, list):
            plain = self.separator and not any(self.separator in name for name in value)
            return self.separator.join(value) if plain else json.dumps(value, ensure_ascii=False)
        return "" if value is None else str(value)


@dataclass(frozen=True, eq=False)
class _Set:
    """A set of a run, with the predictions of those of its examples for which there are some."""

    view: View
    source: str
    """The set whose source has the records."""
    examples: Examples
    judged: np.ndarray
    """int64 [n]: the examples with predictions."""
    probabilities: np.ndarray | None = None
    """[n, C]"""
    scores: np.ndarray | None = None
    """[n], for scores"""


@dataclass(frozen=True, eq=False)
class _Judgement:
    """The judgement of N given labels."""

    found: np.ndarray
    """bool [N]: probably wrong."""
    score: np.ndarray
    """float64 [N]: how well each label fits, from 0 to 1."""
    suggested: np.ndarray
    """[N, ...]: the labels that the predictions suggest, in the form of the given ones."""
    undecided: np.ndarray
    """int64: the examples that belong to no label, the least certain first."""
    order: np.ndarray
    """float64 [N]: the smallest is the worst."""


def audit_run(path: str | os.PathLike[str], rank_by: confident.RankBy = "self_confidence") -> Audit:
    """Audit the labels of a complete run.

    Args:
      path: the run folder.
      rank_by: the score of labels, for tasks with one label a text; see `confident.label_quality`.

    Raises:
      UserError: if the folder is no complete run, its data have changed, its task has no labels to judge, or nothing was
        predicted out of sample.
    """
    choices = get_args(confident.RankBy)
    if rank_by not in choices:
        raise UserError(f"rank_by is {rank_by!r}, but it must be one of {', '.join(choices)}")
    return audit_finished(reopen(path), rank_by)


def audit_finished(finished: Finished, rank_by: confident.RankBy = "self_confidence") -> Audit:
    """Audit the labels of a run that is open; arguments and errors are those of `audit_run`."""
    rows, evidence = _judged_rows(finished, rank_by)
    texts = _Texts.of(finished, rows.task, rows.sets)
    judged = np.fromiter(rows.places, np.int64)
    like = _conflicts(rows.task, rows.labels, texts, rows.judgement, judged)
    suspects = replace(rows, texts=texts, like=like).suspects()
    counts = {reason: sum(reason in suspect["reasons"] for suspect in suspects) for reason in REASONS}
    names = [one.view.name for one in rows.sets if len(one.judged)]
    note = (
        f"every label of {names[0]} was judged by the fold that did not train on its row"
        if evidence == "out_of_fold"
        else f"only rows of {' and '.join(names)} were judged, which the model did not train on: {_HOW}"
    )
    summary = {"task": rows.task.name, "evidence": evidence, "sets": names, "rows": len(judged), **counts, "note": note}
    return Audit(suspects, summary, finished.config.data.label_separator)


def worst_labels(finished: Finished, most: int) -> tuple[list[dict[str, Any]], int, int]:
    """Return the `most` labels that are most probably wrong, as `Audit.suspects` has them, how many there are, of how many.

    Similar texts are not searched, and only the texts of these rows are read. Errors are those of `audit_run`.
    """
    rows, _ = _judged_rows(finished, "self_confidence")
    wrong = rows.wrong()
    suspects = {index: rows.row(index, [LABEL]) for index in wrong[:most]}
    for one, end in zip(rows.sets, rows.ends.tolist(), strict=True):
        first = end - len(one.examples)
        own = [index for index in suspects if first <= index < end]
        if own and isinstance(rows.task, TextTask):
            records = read_records(finished.config, rows.task, one.view.name, one.examples, np.array(own) - first)
            for index, record in zip(own, records, strict=True):
                pair = {} if record.pair is None else {"text_pair": record.pair}
                suspects[index] |= {"text": record.text, **pair}
    return [*suspects.values()], len(wrong), len(rows.places)


def _judged_rows(finished: Finished, rank_by: confident.RankBy) -> tuple[_Rows, str]:
    """Judge the labels of a run; return the rows, without their texts, and where the predictions come from."""
    task = finished.model.task
    if not has_labels_to_judge(task, finished.inputs.train):
        raise UserError(f"audit checks labels, scores and choices of complete texts, but task {task.name} has none")
    sets, evidence = _sets_of(finished)
    labels = np.concatenate([np.asarray(one.examples.labels) for one in sets])
    ends = np.cumsum([len(one.examples) for one in sets])
    judged = np.concatenate([one.judged + end - len(one.examples) for one, end in zip(sets, ends, strict=True)])
    judgement = _judge(task, labels[judged], sets, rank_by)
    return _Rows(task, sets, ends, labels, judgement, {int(index): at for at, index in enumerate(judged)}), evidence


def has_labels_to_judge(task: Task, examples: Examples) -> bool:
    """Return whether examples have one label, one score or a set of labels each."""
    labels = examples.labels
    answered = task.answer_keys and not task.per_token
    return bool(answered) and labels is not None and (labels.ndim == 1 or labels.dtype == bool)


def _sets_of(finished: Finished) -> tuple[list[_Set], str]:
    """Return the sets of a run with their out-of-sample predictions, and where these come from.

    Raises:
      UserError: if there are no such predictions.
    """
    task, folder = finished.model.task, finished.folder.path
    views = {view.name: view for view in finished.inputs.overview.views}
    nothing = np.zeros(0, np.int64)
    split_off = bool(finished.config.data.validation_fraction)
    held_out = {
        name: TRAIN if split_off and name == "validation" else name for name in finished.outcomes if name in views
    }
    if (folder / FILE).exists():
        train = _with_folds(task, finished.inputs.train, views[TRAIN], read_out_of_fold(folder))
        others = [_Set(views[n], source, finished.outcomes[n].examples, nothing) for n, source in held_out.items()]
        return [train, *others], "out_of_fold"
    found = []
    for name, source in held_out.items():
        outcome = finished.outcomes[name]
        everything = np.arange(len(outcome))
        scores = None
        if outcome.probabilities is None:
            scores = np.asarray(task.labels_and_answers(outcome.predictions, outcome.examples)[1])
        found.append(_Set(views[name], source, outcome.examples, everything, outcome.probabilities, scores))
    if not found:
        raise UserError(f"{folder} has neither folds nor a validation or test set, so no label can be checked: {_HOW}")
    learned = [_Set(views[TRAIN], TRAIN, finished.inputs.train, nothing)] if TRAIN in views else []
    return [*learned, *found], "held_out"


def _with_folds(task: Task, examples: Examples, view: View, folds: OutOfFold) -> _Set:
    """Return the training set with its out-of-fold predictions, in the order of the task's labels."""
    records = examples.source_rows(np.arange(len(examples)))
    at = np.minimum(np.searchsorted(records, folds.rows), len(records) - 1)
    changed = f"the training data have changed since {FILE} was written: give the same data, or train again"
    if folds.task != task.name or set(folds.names) != set(task.output_names if folds.names else ()):
        raise UserError(changed)
    probabilities, labels = folds.probabilities, folds.labels
    if folds.names:
        order = np.array([folds.names.index(name) for name in task.output_names])
        probabilities = None if probabilities is None else probabilities[:, order]
        labels = labels[:, order] if labels.ndim == 2 else np.argsort(order)[labels]
    assert examples.labels is not None
    if not np.array_equal(records[at], folds.rows) or not np.array_equal(np.asarray(examples.labels)[at], labels):
        raise UserError(changed)
    return _Set(view, TRAIN, examples, at, probabilities, folds.scores)


def _judge(task: Task, labels: np.ndarray, sets: Sequence[_Set], rank_by: confident.RankBy) -> _Judgement:
    """Judge the labels of the examples with predictions, all together."""
    nobody = np.zeros(0, np.int64)
    found = [one for one in sets if len(one.judged)]
    if not all(
        np.isfinite(part).all() for one in found for part in (one.probabilities, one.scores) if part is not None
    ):
        raise UserError("some predictions are not finite numbers, so the model has diverged: train with a lower rate")
    if labels.dtype.kind == "f":
        scores = np.concatenate([one.scores for one in found if one.scores is not None]).astype(np.float64)
        residuals = labels - scores
        wrong, quality = confident.score_quality(residuals)
        middle, _ = confident.residual_spread(residuals)
        return _Judgement(wrong, quality, scores, nobody, -np.abs(residuals - middle))
    widest = max(one.probabilities.shape[1] for one in found if one.probabilities is not None)
    parts = [one.probabilities for one in found if one.probabilities is not None]
    probabilities = np.concatenate([np.pad(part, ((0, 0), (0, widest - part.shape[1]))) for part in parts])
    if labels.ndim == 2:
        marks = confident.find_contradicted_sets(labels, probabilities)
        quality = confident.set_quality(labels, probabilities)
        wrong = np.asarray(marks.any(1))
        score = np.where(wrong, np.where(marks, quality, 1).min(1), quality.min(1))
        return _Judgement(wrong, score, labels ^ marks, nobody, score)
    score = confident.label_quality(labels, probabilities, rank_by)
    best = probabilities.argmax(1)
    if not task.label_names_in_head:
        return _Judgement(confident.find_wrong_choices(labels, probabilities), score, best, nobody, score)
    undecided = np.flatnonzero(confident.likely_labels(labels, probabilities) < 0)
    certainty = probabilities[undecided].max(1)
    undecided = undecided[np.argsort(certainty, kind="stable")][: int(OUTLIER_SHARE * len(labels))]
    return _Judgement(confident.find_contradicted(labels, probabilities), score, best, undecided, score)


@dataclass(frozen=True, eq=False)
class _Texts:
    """The texts of all sets."""

    texts: list[str]
    pairs: list[str] | None

    @classmethod
    def of(cls, finished: Finished, task: Task, sets: Sequence[_Set]) -> _Texts | None:
        """Read the texts; None for a task whose examples are more than texts."""
        if not isinstance(task, TextTask):
            return None
        records = [
            record
            for one in sets
            for record in read_records(finished.config, task, one.view.name, one.examples, np.arange(len(one.examples)))
        ]
        paired = finished.config.data.text_pair is not None
        return cls([record.text for record in records], [record.pair or "" for record in records] if paired else None)


def _conflicts(
    task: Task, labels: np.ndarray, texts: _Texts | None, judgement: _Judgement, judged: np.ndarray
) -> Mapping[int, np.ndarray]:
    """Return for each example with similar ones of another label those, in the order of the sets."""
    if texts is None:
        return {}
    similar = find_similar(texts.texts, texts.pairs)
    if labels.dtype.kind == "f":
        given = labels[judged].astype(np.float64)
        limit = confident.UNUSUAL_DEVIATIONS * confident.residual_spread(given - judgement.suggested)[1]
        groups = [members for members in similar.groups() if np.ptp(labels[members]) > limit]
        return {int(i): others[np.abs(labels[others] - labels[i]) > limit] for others in groups for i in others}
    keys = hash_rows(np.packbits(labels, axis=1)) if labels.ndim == 2 else labels
    return {int(i): others[keys[others] != keys[i]] for others in similar.sharing(keys) for i in others}


@dataclass(frozen=True, eq=False)
class _Rows:
    """Makes rows of the findings."""

    task: Task
    sets: Sequence[_Set]
    ends: np.ndarray
    labels: np.ndarray
    judgement: _Judgement
    places: Mapping[int, int]
    """The place of an example among those that were judged."""
    texts: _Texts | None = None
    like: Mapping[int, np.ndarray] = field(default_factory=dict)

    def wrong(self) -> list[int]:
        """Return the examples whose labels are probably wrong, the worst first."""
        judged, found = list(self.places), np.flatnonzero(self.judgement.found)
        return [judged[at] for at in found[np.argsort(self.judgement.order[found], kind="stable")]]

    def suspects(self) -> list[dict[str, Any]]:
        """Return all rows, each once."""
        reasons = {index: [LABEL] for index in self.wrong()}
        judged, judgement = list(self.places), self.judgement
        for index, others in self.like.items():
            if len(others):
                reasons.setdefault(index, []).append(NEAR_DUPLICATE)
        for at in judgement.undecided:
            reasons.setdefault(judged[at], []).append(OUTLIER)
        return [self.row(index, because) for index, because in reasons.items()]

    def row(self, index: int, reasons: list[str]) -> dict[str, Any]:
        """Return an example as `Audit.suspects` has it."""
        one, within = self._place(index)
        at, suggested, score = self.places.get(index), None, None
        if at is not None:
            score = round(float(self.judgement.score[at]), 6)
            better = self.judgement.suggested[at]
            suggested = None if np.array_equal(better, self.labels[index]) else self._written(better)
        row = {
            "row": one.view.seen.place(within),
            "given": self._written(self.labels[index]),
            "suggested": suggested,
            "score": score,
            "reasons": reasons,
            "set": one.source,
            "record": int(one.examples.source_rows(np.array([within]))[0]),
            "like": [self._named(int(other), one.source) for other in self.like.get(index, ())[:_MOST_LIKE]],
        }
        if self.texts is not None:
            row["text"] = self.texts.texts[index]
            if self.texts.pairs is not None:
                row["text_pair"] = self.texts.pairs[index]
        return row | {"text_hash": text_mark(one.view.seen.hashes[within])}

    def _place(self, index: int) -> tuple[_Set, int]:
        """Return the set of an example, and its index there."""
        number = int(np.searchsorted(self.ends, index, side="right"))
        one = self.sets[number]
        return one, index - int(self.ends[number]) + len(one.examples)

    def _named(self, index: int, source: str) -> int | str:
        """Return the number of a similar row, with its set if that is another one."""
        one, within = self._place(index)
        place = one.view.seen.place(within)
        return place if one.source == source else f"{one.source}, row {place}" if isinstance(place, int) else place

    def _written(self, label: Any) -> Any:
        """Return a label as a person writes it."""
        if self.labels.ndim == 2:
            return [name for name, given in zip(self.task.output_names, label, strict=True) if given]
        if self.labels.dtype.kind == "f":
            return float(f"{float(label):.7g}")
        return self.task.output_names[int(label)] if self.task.label_names_in_head else int(label)
