"""Split a validation set off the training examples: label by label, or group by group."""

from __future__ import annotations

import numpy as np

from jaxbert.errors import UserError

# Keeps this draw apart from the other draws of the same seed.
_PURPOSE = 0x73706C69


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted example indices of training and of validation, int64.

    `labels` are label indices, [N]. Validation gets `fraction` of the examples (rounded) and about as much of each label:
    one example or more of each label that has two, if validation is large enough. Every label keeps a training example.

    Raises:
      UserError: if validation would be empty, or a label would have no training example.
    """
    counts = np.bincount(labels)
    present = np.flatnonzero(counts)
    rng = np.random.default_rng([seed, _PURPOSE])
    in_validation = np.zeros(len(labels), bool)
    for label, count in zip(present, _rows_per_class(counts[present], fraction), strict=True):
        in_validation[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def _rows_per_class(counts: np.ndarray, fraction: float) -> np.ndarray:
    """Distribute the validation examples over the classes by largest remainder, within the bounds of each class."""
    highest = counts - 1
    total = round(fraction * int(counts.sum()))
    if not 0 < fraction < 1 or not 1 <= total <= highest.sum():
        raise UserError(
            f"data.validation_fraction is {fraction}, which is {total} of {counts.sum()} rows, but validation must get at "
            f"least 1 and at most {highest.sum()}, so that training keeps every label: choose another fraction, or give "
            "data.validation"
        )
    lowest = np.minimum(highest, 1 if total >= np.count_nonzero(highest) else 0)
    exact = counts * fraction
    taken = np.clip(np.floor(exact).astype(int), lowest, highest)
    while taken.sum() < total:
        taken[np.argmax(np.where(taken < highest, exact - taken, -np.inf))] += 1
    while taken.sum() > total:
        taken[np.argmax(np.where(taken > lowest, taken - exact, -np.inf))] -= 1
    return taken


def split_groups(groups: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted example indices of training and of validation, int64; no group is in both.

    `groups` are the groups of the examples, [N], numbered from 0. Validation gets complete groups, drawn at random, until
    it has `fraction` of the examples.

    Raises:
      UserError: if one of the two parts would be empty.
    """
    counts = np.bincount(groups)
    order = np.random.default_rng([seed, _PURPOSE]).permutation(len(counts))
    before = np.cumsum(counts[order]) - counts[order]
    chosen = order[before < round(fraction * len(groups))]
    in_validation = np.isin(groups, chosen)
    if in_validation.all() or not in_validation.any():
        raise UserError(
            f"data.validation_fraction is {fraction}, which leaves one part of {len(groups)} rows in {len(counts)} groups "
            "empty: choose another fraction, or give data.validation"
        )
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)
