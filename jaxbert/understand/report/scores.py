"""The scores of each label, the labels that are taken for one another, and scores by length and by columns."""

from __future__ import annotations

import numbers
from collections.abc import Sequence
from typing import Any

import numpy as np

from jaxbert.errors import UserError
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.regression.task import Regression
from jaxbert.understand.records import read_columns
from jaxbert.understand.report.charts import Plane, Series, draw, picked
from jaxbert.understand.report.held_out import HeldOut, Score, labels_of
from jaxbert.understand.report.page import (
    Html,
    bar,
    element,
    figure,
    heat_map,
    joined_html,
    subsection,
    table,
    text_cell,
)

_MOST_LABELS = 200
_DENSE_UP_TO = 30
"""The most labels whose confusions are a picture."""
_MOST_PAIRS = 30
_LENGTH_GROUPS = 6
_MOST_VALUES = 20
"""The most values of a column that are groups of their own; more numbers become ranges."""
_MOST_POINTS = 1000


def label_section(held_out: HeldOut) -> Html | None:
    """Return the table of all labels; of many, those with the lowest F1."""
    per_class: dict[str, dict[str, float]] = held_out.metrics.get("per_class", {})
    if not per_class:
        return None
    shown = list(per_class.items())
    if len(shown) > _MOST_LABELS:
        shown = sorted(shown, key=lambda item: (item[1]["f1"], -item[1]["support"]))[:_MOST_LABELS]
    head = ["label", *shown[0][1]]
    rows = [[element("td", name, dir="auto"), *scores.values()] for name, scores in shown]
    left = len(per_class) - len(shown)
    note = f"The {len(shown)} labels with the lowest F1; {left:,} others are in summary.json." if left else None
    return subsection("Each label", table(head, rows, sortable=True, caption=note))


def confusion_section(held_out: HeldOut) -> Html | None:
    """Return which labels are taken for which: a picture of up to 30 labels, else the most frequent pairs."""
    task, probabilities = held_out.task, held_out.outcome.probabilities
    if not isinstance(task, Classification) or probabilities is None:
        return None
    names, labels, found = task.label_names, labels_of(held_out), task.decision.choose(probabilities)
    pairs, counts = np.unique(labels.astype(np.int64) * len(names) + found, return_counts=True)
    if len(names) <= _DENSE_UP_TO:
        matrix = np.zeros(len(names) ** 2, np.int64)
        matrix[pairs] = counts
        title = "What is taken for what"
        note = element("p", "A row for each true label; colours are shares of the row.", kind="note")
        return subsection(title, note, heat_map(names, matrix.reshape(len(names), -1).tolist()))
    true, given = np.divmod(pairs, len(names))
    wrong = np.flatnonzero(true != given)
    if not len(wrong):
        return None
    first = wrong[np.argsort(-counts[wrong], kind="stable")][:_MOST_PAIRS]
    support = np.bincount(labels, minlength=len(names))
    rows = [
        [
            *(element("td", names[i], dir="auto") for i in (true[p], given[p])),
            int(counts[p]),
            _share(counts[p], support[true[p]]),
        ]
        for p in first
    ]
    caption = f"The {len(first)} most frequent of {len(wrong):,} kinds of confusion."
    head = ["true label", "predicted instead", "examples", "share of the true label"]
    return subsection("What is taken for what", table(head, rows, sortable=True, caption=caption))


def _share(part: Any, whole: Any) -> Html:
    return element("td", f"{part / whole:.1%}", kind="number")


def scatter_section(held_out: HeldOut) -> Html | None:
    """Return true against predicted scores of a regression."""
    judged = held_out.judged
    if not isinstance(held_out.task, Regression) or judged is None:
        return None
    labels, found = np.array(judged.expected), np.array(judged.given)
    if not np.isfinite(found).all():
        return None
    shown = picked(len(labels), _MOST_POINTS)
    chart = draw(
        [Series(labels[shown], found[shown], kind="cloud")], Plane("true score", "predicted score", diagonal=True)
    )
    part = f" {len(shown):,} of {len(labels):,} examples, evenly picked." if len(shown) < len(labels) else ""
    caption = f"True against predicted scores; right answers are on the line.{part}"
    return subsection("Scores", element("div", figure(chart, caption), kind="charts"))


def slice_section(held_out: HeldOut) -> Html | None:
    """Return the scores by length, and by each column of `report.slices`."""
    score = held_out.score
    if score is None:
        return None
    lengths = held_out.lengths
    parts: list[Html] = [_slices("tokens", number_groups(lengths.astype(np.float64), _LENGTH_GROUPS), score)]
    columns = held_out.finished.config.report.slices or []
    try:
        found = read_columns(held_out.finished, held_out.name, held_out.outcome.examples, columns) if columns else {}
    except UserError as error:
        parts.append(element("p", f"Not shown by {', '.join(columns)}: {error}", kind="note"))
        found = {}
    parts += [_slices(name, group_values(values), score) for name, values in found.items()]
    return subsection(f"{score.title[0].upper()}{score.title[1:]} of parts of the set", joined_html(parts))


def frequency_section(held_out: HeldOut) -> Html | None:
    """Return the loss of masked tokens by how often they occur in the training documents; None for other tasks."""
    groups: dict[str, dict[str, float]] = held_out.metrics.get("by_frequency", {})
    losses = [group["loss"] for group in groups.values()]
    if not losses or None in losses or not np.isfinite(losses).all():  # null in summary.json, if the model has diverged
        return None
    highest = max(losses) or 1.0
    rows = [
        [element("td", name), group["masked_tokens"], group["loss"], bar(group["loss"] / highest)]
        for name, group in groups.items()
    ]
    head = ["occurrences in the training documents", "masked tokens", "loss", ""]
    return subsection("Loss by the frequency of tokens", table(head, rows))


def _slices(title: str, groups: Sequence[tuple[str, np.ndarray]], score: Score) -> Html:
    scores = [score.of(chosen) for _, chosen in groups]
    highest = 1.0 if not score.is_error else max([found for found in scores if found is not None], default=1.0) or 1.0
    rows = [
        [text_cell(name), len(chosen), found, bar((found or 0.0) / highest)]
        for (name, chosen), found in zip(groups, scores, strict=True)
    ]
    return table([title, element("span", "examples"), score.title, ""], rows)


def number_groups(values: np.ndarray, most: int) -> list[tuple[str, np.ndarray]]:
    """Return at most `most` groups of nearly equal size by ascending values: the range of each, and its indices."""
    last = np.unique(np.quantile(values, np.linspace(0, 1, most + 1)[1:], method="inverted_cdf"))
    group = np.searchsorted(last, values)
    found = []
    for number in np.unique(group):
        chosen = np.flatnonzero(group == number)
        low, high = values[chosen].min(), values[chosen].max()
        found.append((f"{low:,g}" if low == high else f"{low:,g} to {high:,g}", chosen))
    return found


def group_values(values: Sequence[Any]) -> list[tuple[str, np.ndarray]]:
    """Group the values of a column: each value, the most frequent ones first; of many numbers, ranges of them."""
    written = np.array([_written(value) for value in values], object)
    names, place, counts = np.unique(written.astype(str), return_inverse=True, return_counts=True)
    if len(names) > _MOST_VALUES and (numeric := _as_numbers(values)) is not None:
        return number_groups(numeric, _LENGTH_GROUPS)
    order = np.argsort(-counts, kind="stable")
    groups = [(str(names[i]), np.flatnonzero(place == i)) for i in order[:_MOST_VALUES]]
    rest = order[_MOST_VALUES:]
    if len(rest):
        groups.append((f"{len(rest):,} other values", np.flatnonzero(np.isin(place, rest))))
    return groups


def _written(value: Any) -> str:
    return "(empty)" if value is None or value == "" else str(value)


def _as_numbers(values: Sequence[Any]) -> np.ndarray | None:
    """Return a column as numbers, float64 [N]; None if a value is none."""
    try:
        found = np.array([float(v) for v in values if isinstance(v, numbers.Real | str)], np.float64)
    except ValueError:
        return None
    return found if len(found) == len(values) and np.isfinite(found).all() else None
