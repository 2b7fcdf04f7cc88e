"""How far the probabilities of a model can be trusted: reliability, coverage, and thresholds."""

from __future__ import annotations

import numpy as np

from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.metrics import reliability_bins
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.token_classification.task import TokenClassification
from jaxbert.understand.report.charts import Plane, Series, draw, picked
from jaxbert.understand.report.held_out import HeldOut, labels_of
from jaxbert.understand.report.page import Html, element, figure, shown_number, subsection

_SHARE = (0.0, 1.0)
_HALVES = 0.5
"""The threshold of one label out of two: the more probable one is given."""
_COVERED = (0.5, 0.8, 0.9)
"""The shares of the examples for which the report says how good the surest answers are."""


def trust_section(held_out: HeldOut) -> Html | None:
    """Return the charts of a set's probabilities; None for a task without probabilities."""
    drawn = [chart for chart in (_reliability(held_out), _coverage(held_out), _thresholds(held_out)) if chart]
    return subsection("How far to trust the probabilities", element("div", *drawn, kind="charts")) if drawn else None


def forecasts(held_out: HeldOut) -> tuple[str, np.ndarray, np.ndarray] | None:
    """Return what the probabilities of a set are about, the probabilities, and whether each came true, both [n]."""
    task, outcome, judged = held_out.task, held_out.outcome, held_out.judged
    if isinstance(task, MultiLabel):
        probabilities = outcome.probabilities
        assert probabilities is not None
        about, sure, right = "each label of each example", probabilities.ravel(), labels_of(held_out).ravel()
    elif isinstance(task, TokenClassification):
        labels = np.asarray(outcome.examples.token_labels)
        tagged = labels >= 0
        chosen = outcome.predictions[tagged]
        sure, right = np.exp(chosen.max(-1).astype(np.float64)), chosen.argmax(-1) == labels[tagged]
        about = "the most probable tag of each word"
    elif judged is not None and outcome.probabilities is not None:  # as in `calibration_error`
        sure, right = outcome.probabilities.max(-1), outcome.probabilities.argmax(-1) == labels_of(held_out)
        about = "the most probable label of each example"
    elif judged is not None and judged.confidence is not None and judged.right is not None:
        about, sure, right = "the answer to each example", judged.confidence, judged.right
    else:
        return None
    return (about, sure, right) if len(sure) and np.isfinite(sure).all() else None


def _reliability(held_out: HeldOut) -> Html | None:
    found = forecasts(held_out)
    if found is None:
        return None
    about, sure, right = found
    bins = reliability_bins(sure, right)
    points = Series(bins.confidence, bins.accuracy, kind="dots")
    plane = Plane("mean probability", "share that is right", _SHARE, _SHARE, diagonal=True)
    gap = float(bins.accuracy.dot(bins.counts) - bins.confidence.dot(bins.counts)) / float(bins.counts.sum())
    meaning = "too sure" if gap < 0 else "too unsure"
    caption = (
        f"Reliability: {about}, in {len(bins.counts)} groups of equal size. Expected calibration error {bins.error():.4f}: "
        f"the mean distance to the line; 0 is best. On the whole the model is {meaning} by {abs(gap):.4f}."
    )
    return figure(draw([points], plane), caption)


def _coverage(held_out: HeldOut) -> Html | None:
    judged, score = held_out.judged, held_out.score
    if judged is None or score is None or judged.confidence is None or len(judged.confidence) < 2:
        return None
    order = np.argsort(-judged.confidence, kind="stable")
    scores = score.running(order)
    covered = np.arange(1, len(order) + 1) / len(order)
    shown = picked(len(order))
    chart = draw([Series(covered[shown], scores[shown])], Plane("share that is answered", score.title, _SHARE))
    parts = []
    for share in _COVERED:
        last = max(1, round(share * len(order))) - 1
        parts.append(f"{share:.0%}: {scores[last]:.4f} (probability from {judged.confidence[order[last]]:.4f})")
    caption = (
        f"Coverage: {score.title} if only the surest answers are given. {'; '.join(parts)}; all: {scores[-1]:.4f}."
    )
    return figure(chart, caption)


def _thresholds(held_out: HeldOut) -> Html | None:
    task, probabilities = held_out.task, held_out.outcome.probabilities
    if probabilities is None or not np.isfinite(probabilities).all():
        return None
    if isinstance(task, MultiLabel):
        used = float(task.cuts) if task.thresholds is None else None
        about, sure, right = "labels of all examples together", probabilities.ravel(), labels_of(held_out).ravel() > 0
    elif isinstance(task, Classification) and len(task.label_names) == 2:
        decision = task.decision
        positive = 1 if decision.positive is None else decision.positive
        used = _HALVES if decision.threshold is None else decision.threshold
        about = f"label {task.label_names[positive]}"
        sure, right = probabilities[:, positive], labels_of(held_out) == positive
    else:
        return None
    if not right.any():
        return None
    least, precision, recall, f1 = threshold_curve(sure, right)
    best, shown = int(f1.argmax()), picked(len(least))
    series = [
        Series(least[shown], values[shown], name, colour=colour)  # type: ignore[arg-type]
        for name, values, colour in (("F1", f1, 0), ("precision", precision, 1), ("recall", recall, 2))
    ]
    caption = (
        f"Thresholds: precision, recall and F1 of {about} if it is given at this probability or above. "
        f"In use: {'one for each label' if used is None else f'{shown_number(used)} (dotted)'}. "
        f"Largest F1: {f1[best]:.4f} from {least[best]:.4f}."
    )
    return figure(draw(series, Plane("least probability", "score", _SHARE, (0.0, 1.02), upright=used)), caption)


def threshold_curve(sure: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return each threshold, ascending, with the precision, recall and F1 of what is at or above it; all [n].

    Args:
      sure: probabilities, [N].
      right: whether each is of a true label, bool [N]; at least one is.
    """
    order = np.argsort(-sure, kind="stable")
    values, hits = sure[order], np.cumsum(right[order])
    last = np.append(values[1:] != values[:-1], True)
    values, hits, given = values[last], hits[last], np.flatnonzero(last) + 1
    precision, recall = hits / given, hits / right.sum()
    f1 = 2 * hits / (given + right.sum())
    return values[::-1], precision[::-1], recall[::-1], f1[::-1]
