"""Confident learning: find the examples whose given label their out-of-sample probabilities contradict. Only NumPy.

The method is that of Northcutt, Jiang and Chuang, "Confident Learning: Estimating Uncertainty in Dataset Labels" (JAIR 70,
2021): thresholds by label, the confident joint, pruning by noise rate. Probabilities must come from models that did not
train on the examples. Where the paper leaves a choice (an example that reaches several thresholds, rounding), the choice
here is that of the library cleanlab, so that the lists are equal; a test compares them.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
from scipy.special import erfc

RankBy = Literal["self_confidence", "normalized_margin"]

_TOLERANCE = 1e-6
"""The most by which rounding lets a probability miss a threshold that it reaches."""
_MAD_TO_DEVIATION = 1.4826
"""A normal distribution's standard deviation divided by its median absolute deviation."""
UNUSUAL_DEVIATIONS = 3.5
"""A residual this many deviations from the median is an outlier (Iglewicz and Hoaglin, 1993)."""


def confident_thresholds(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return for each label the mean probability that its own examples have, [C]; infinity for a label without examples.

    Args:
      labels: given labels, integers [N].
      probabilities: out-of-sample probabilities, [N, C].
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    own = probabilities[np.arange(len(labels)), labels].astype(np.float64)
    sums = np.bincount(labels, own, minlength=len(counts))
    means = np.divide(sums, counts, out=np.full(len(counts), np.inf), where=counts > 0)
    return np.maximum(means, 2 * _TOLERANCE)


def likely_labels(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return the label that each example confidently belongs to, [N]; -1 where no probability reaches its threshold.

    Of several labels that reach their thresholds, an example belongs to the most probable one.
    """
    reached = probabilities >= confident_thresholds(labels, probabilities)[None] - _TOLERANCE
    count = reached.sum(1)
    return np.select([count == 1, count > 1], [reached.argmax(1), probabilities.argmax(1)], -1)


def confident_joint(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return how many of the examples with one label (row) belong to another (column), int64 [C, C].

    The confident examples of a label stand for all of it: their counts are scaled to its number of examples. Every label has
    at least one example that belongs to it.

    Args:
      labels: given labels, integers [N].
      probabilities: out-of-sample probabilities, [N, C].
    """
    likely, width = likely_labels(labels, probabilities), probabilities.shape[1]
    confident = likely >= 0
    pairs = labels[confident].astype(np.int64) * width + likely[confident]
    joint = np.bincount(pairs, minlength=width**2).reshape(width, width)
    np.fill_diagonal(joint, np.maximum(joint.diagonal(), 1))
    columns = np.ascontiguousarray(joint.T) / joint.sum(1)[None] * np.bincount(labels, minlength=width)[None]
    columns = columns / columns.sum() * len(labels)
    return np.stack([_rounded(row) for row in columns.T])


def _rounded(values: np.ndarray) -> np.ndarray:
    """Round numbers so that their sum, a whole number, stays the same: the largest fractions are rounded up.

    Which of equal fractions is rounded up, NumPy's usual sort decides, as in cleanlab.
    """
    whole = np.round(values).astype(np.int64)
    rising = np.argsort(values - whole)
    missing = round(float(values.sum())) - int(whole.sum())
    whole[rising[len(rising) - missing :] if missing > 0 else rising[:-missing]] += np.sign(missing)
    return whole


def find_contradicted(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return whether each given label is probably wrong, bool [N], by pruning by noise rate.

    For each pair of labels, as many examples as the confident joint counts are found: those with the largest margin between
    the two probabilities. An example whose given label is its most probable one is never found, and of each label at least
    one example is not.

    Args:
      labels: given labels, integers [N].
      probabilities: out-of-sample probabilities, [N, C].
    """
    joint, found = confident_joint(labels, probabilities), np.zeros(len(labels), bool)
    for given in np.unique(labels):
        members, noise = np.flatnonzero(labels == given), joint[given]
        if noise[given] == 0:
            noise[np.argmax(noise)] -= 1
        noise[given] = 0
        for other in np.flatnonzero(noise):
            margin = probabilities[members, other] - probabilities[members, given]
            found[members[np.argsort(-margin, kind="stable")[: noise[other]]]] = True
    return found & (probabilities[np.arange(len(labels)), labels] < probabilities.max(1))


def label_quality(labels: np.ndarray, probabilities: np.ndarray, rank_by: RankBy = "self_confidence") -> np.ndarray:
    """Return how well each given label fits, from 0 (certainly wrong) to 1, float64 [N].

    Args:
      labels: given labels, integers [N].
      probabilities: out-of-sample probabilities, [N, C].
      rank_by: `self_confidence`: the probability of the given label. `normalized_margin`: that minus the largest
        probability of another label, scaled from [-1, 1] to [0, 1].
    """
    places = np.arange(len(labels))
    own = probabilities[places, labels].astype(np.float64)
    if rank_by == "self_confidence":
        return own
    others = probabilities.astype(np.float64)
    others[places, labels] = -np.inf
    return (own - others.max(1) + 1) / 2


def find_contradicted_sets(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return for examples with any number of labels whether each mark is probably wrong, bool [N, C].

    Each label is judged alone, as a problem of two labels: given or not.

    Args:
      labels: whether each example has each label, bool [N, C].
      probabilities: the out-of-sample probability of each label, [N, C].
    """
    columns = [
        find_contradicted(given.astype(np.int64), np.stack([1 - own, own], 1))
        for given, own in zip(labels.T, probabilities.T, strict=True)
    ]
    return np.stack(columns, 1)


def set_quality(labels: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return for each mark of `find_contradicted_sets` the probability that it is right, float64 [N, C]."""
    return np.where(labels, probabilities, 1 - probabilities).astype(np.float64)


def find_wrong_choices(right: np.ndarray, probabilities: np.ndarray) -> np.ndarray:
    """Return whether another choice of a question is probably the right one, bool [N].

    The places of choices mean nothing, so there is one threshold: the mean probability of the choices given as right. A
    question is found if the most probable choice is another one and reaches it.

    Args:
      right: the places of the choices given as right, integers [N].
      probabilities: the out-of-sample probability of each choice, [N, C].
    """
    own = probabilities[np.arange(len(right)), right]
    best = probabilities.max(1)
    return (own < best) & (best >= own.mean(dtype=np.float64) - _TOLERANCE)


def residual_spread(residuals: np.ndarray) -> tuple[float, float]:
    """Return the median of residuals, and their deviation by the median absolute deviation, which errors hardly change.

    Where more than half of the residuals are equal, the deviation is the standard deviation.
    """
    middle = float(np.median(residuals))
    spread = _MAD_TO_DEVIATION * float(np.median(np.abs(residuals - middle)))
    return middle, spread or float(np.std(residuals))


def score_quality(residuals: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return for given scores whether each is probably wrong, bool [N], and how well it fits, from 0 to 1, float64 [N].

    A score is found if its residual is `UNUSUAL_DEVIATIONS` or more from the median of all. It fits as well as a residual
    of a normal distribution with the same spread is likely to be as large.

    Args:
      residuals: given minus predicted scores, [N].
    """
    middle, spread = residual_spread(residuals)
    if spread == 0:
        return np.zeros(len(residuals), bool), np.ones(len(residuals))
    deviations = np.abs(residuals - middle) / spread
    return deviations >= UNUSUAL_DEVIATIONS, erfc(deviations / np.sqrt(2))
