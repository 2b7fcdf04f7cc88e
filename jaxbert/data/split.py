"""Split the training examples, label by label or group by group: a validation set, or folds."""

from __future__ import annotations

import numpy as np

from jaxbert.errors import UserError

# Keeps this draw apart from the other draws of the same seed.
_PURPOSE = 0x73706C69
_FOLDS, _ORDER = 0x666F6C64, 0x6F726472


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


def make_folds(count: int, strata: np.ndarray, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return the fold of each example, int32 [N], from 0 to `count - 1`.

    Without groups the examples of each stratum are dealt out in random order, one fold after the other, and the next stratum
    begins where the last one ended: neither the sizes of two folds nor their numbers of a stratum differ by more than one.
    Complete groups are dealt out from the largest to the smallest (equal ones in random order), each to the fold with the
    smallest shares of the group's strata and, of several such folds, with the fewest examples.

    Args:
      count: the number of folds.
      strata: the stratum of each example, such as its label, integers from 0, [N].
      seed: decides the random order.
      groups: the group of each example, integers from 0, [N]; None if each example is on its own.

    Raises:
      UserError: if there are fewer examples or groups than folds.
    """
    rng = np.random.default_rng([seed, _FOLDS])
    there = len(strata) if groups is None else len(np.unique(groups))
    if there < count:
        unit = "training rows" if groups is None else "groups of training rows"
        raise UserError(f"train.folds is {count}, but there are only {there} {unit}: lower it")
    if groups is None:
        order = rng.permutation(len(strata))
        by_stratum = order[np.argsort(strata[order], kind="stable")]
        folds = np.empty(len(strata), np.int32)
        folds[by_stratum] = np.arange(len(strata)) % count
        return folds
    _, groups = np.unique(groups, return_inverse=True)
    totals = np.bincount(strata)
    sizes = np.zeros((there, len(totals)))
    np.add.at(sizes, (groups, strata), 1)
    shuffled = rng.permutation(there)
    held, fold_of = np.zeros((count, len(totals))), np.empty(there, np.int32)
    for group in shuffled[np.argsort(-sizes[shuffled].sum(1), kind="stable")]:
        shares = held @ (sizes[group] / np.maximum(totals, 1))
        fold_of[group] = chosen = np.lexsort((held.sum(1), shares))[0]
        held[chosen] += sizes[group]
    return fold_of[groups]


def make_order(strata: np.ndarray, seed: int, groups: np.ndarray | None = None) -> np.ndarray:
    """Return a random order of the examples of which every beginning has nearly the same share of each stratum, int64 [N].

    Args:
      strata: the stratum of each example, integers from 0, [N].
      seed: decides the random order.
      groups: the group of each example, [N]: the order then is one of complete groups, and strata do not count.
    """
    rng = np.random.default_rng([seed, _ORDER])
    if groups is not None:
        _, groups = np.unique(groups, return_inverse=True)
        return np.argsort(rng.permutation(int(groups.max()) + 1)[groups], kind="stable")
    order = rng.permutation(len(strata))
    places = np.empty(len(strata))
    for stratum in np.unique(strata):
        members = order[strata[order] == stratum]
        places[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(places, kind="stable")
