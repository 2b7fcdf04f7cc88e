"""Split validation rows off the training rows: label by label, or group by group."""

from __future__ import annotations

import numpy as np

from jaxbert.errors import UserError

# Keeps this draw apart from the other draws of the same seed.
_PURPOSE = 0x73706C69


def stratified_split(labels: np.ndarray, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the sorted row indices of training and of validation, int64.

    `labels` are label indices, [rows]. Validation gets `fraction` of the rows (rounded) and about as much of each label:
    at least one row of each label that has two, as far as the rows go. Every label keeps a row in training.

    Raises:
      UserError: if validation would be empty, or a label would be left without training rows.
    """
    counts = np.bincount(labels)
    present = np.flatnonzero(counts)
    rng = np.random.default_rng([seed, _PURPOSE])
    in_validation = np.zeros(len(labels), bool)
    for label, count in zip(present, _rows_per_class(counts[present], fraction), strict=True):
        in_validation[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return np.flatnonzero(~in_validation), np.flatnonzero(in_validation)


def _rows_per_class(counts: np.ndarray, fraction: float) -> np.ndarray:
    """Share the validation rows out over the classes, by largest remainder between the bounds of each."""
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
    """Return the sorted row indices of training and of validation, int64; no group is in both.

    `groups` says to which group each row belongs, [rows], numbered from 0. Validation gets whole groups, drawn at random,
    until it has `fraction` of the rows.

    Raises:
      UserError: if one of the parts would be empty.
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
