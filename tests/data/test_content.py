"""A data set is told from another by what is in it, and by nothing else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from jaxbert.data.examples import Examples, Windows, content_of
from jaxbert.data.tokens import Tokens

NAMES = ("alpha", "beta", "gamma")


def tokens(rows):
    lengths = np.array([len(row) for row in rows], np.int32)
    return Tokens.from_lengths(np.concatenate(rows).astype(np.int32), lengths, lengths)


ROWS = [[2, 7, 3], [2, 8, 9, 3], [2, 3], [2, 7, 7, 3]]
PLAIN = Examples(tokens(ROWS), np.array([0, 2, 1, 0], np.int32))


def test_it_counts_what_is_there():
    content = content_of([PLAIN], NAMES)
    assert (content.examples, content.tokens) == (4, 13)
    assert content == content_of([Examples(tokens(ROWS), PLAIN.labels.copy())], NAMES)


def test_labels_are_compared_by_name():
    numbered_otherwise = dataclasses.replace(PLAIN, labels=np.array([2, 1, 0, 2], np.int32))
    assert content_of([numbered_otherwise], ("beta", "gamma", "alpha")) == content_of([PLAIN], NAMES)
    several = dataclasses.replace(PLAIN, labels=np.eye(3, dtype=bool)[PLAIN.labels])
    other_columns = dataclasses.replace(PLAIN, labels=several.labels[:, [1, 2, 0]])
    assert content_of([other_columns], ("beta", "gamma", "alpha")) == content_of([several], NAMES)
    tags = dataclasses.replace(PLAIN, labels=None, token_labels=np.array([-100, 0, -100] + 10 * [2], np.int32))
    other_tags = dataclasses.replace(tags, token_labels=np.array([-100, 2, -100] + 10 * [1], np.int32))
    assert content_of([other_tags], ("beta", "gamma", "alpha")) == content_of([tags], NAMES)


CHANGED = {
    "a token": dataclasses.replace(PLAIN, tokens=tokens([[2, 7, 3], [2, 8, 9, 3], [2, 3], [2, 7, 8, 3]])),
    "where a row ends": dataclasses.replace(PLAIN, tokens=tokens([[2, 7, 3, 2], [8, 9, 3], [2, 3], [2, 7, 7, 3]])),
    "the order of rows": PLAIN.take(np.array([1, 0, 2, 3])),
    "the second text": dataclasses.replace(
        PLAIN, tokens=dataclasses.replace(PLAIN.tokens, first_lengths=np.array([3, 2, 2, 4], np.int32))
    ),
    "a label": dataclasses.replace(PLAIN, labels=np.array([0, 2, 1, 1], np.int32)),
    "no labels": dataclasses.replace(PLAIN, labels=None),
    "windows": dataclasses.replace(PLAIN, windows=Windows.of_counts(np.array([1, 1, 1, 1]))),
    "a missing row": PLAIN.take(np.array([0, 1, 2])),
}


@pytest.mark.parametrize("changed", CHANGED.values(), ids=CHANGED)
def test_a_change_shows(changed):
    assert content_of([changed], NAMES).checksum != content_of([PLAIN], NAMES).checksum


def test_a_score_is_no_name():
    scores = dataclasses.replace(PLAIN, labels=np.array([0.5, 1, 2, 0], np.float32))
    other = dataclasses.replace(PLAIN, labels=np.array([0.5, 1, 2, 0.25], np.float32))
    assert content_of([scores]).checksum != content_of([other]).checksum


def test_the_parts_of_a_split_are_one_set():
    kept, held_out = PLAIN.take(np.array([0, 1, 3])), PLAIN.take(np.array([2]))
    content = content_of([kept, held_out], NAMES)
    assert (content.examples, content.tokens) == (4, 13)
    assert content.checksum != content_of([PLAIN.take(np.array([0, 1, 2])), PLAIN.take(np.array([3]))], NAMES).checksum


def test_a_long_text_counts_once():
    in_training = Examples(tokens(ROWS), rows=np.array([0, 1, 1, 2]))
    assert content_of([in_training]).examples == 3


def test_blocks_change_nothing(monkeypatch):
    whole = content_of([PLAIN], NAMES)
    monkeypatch.setattr("jaxbert.data.examples._BLOCK", 3)
    assert content_of([PLAIN], NAMES) == whole
