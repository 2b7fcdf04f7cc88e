"""The windows of a document, anywhere in a batch, become one; on the device and on the host alike."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.packing import choose_layout
from jaxbert.data.tokens import Tokens
from jaxbert.tasks.base import count_examples
from jaxbert.tasks.pooling import pool_examples, pool_windows

COUNTS = np.array([3, 1, 5, 2, 1, 4])


def documents() -> Examples:
    rng = np.random.default_rng(0)
    lengths = rng.integers(3, 9, COUNTS.sum()).astype(np.int32)
    tokens = Tokens.from_lengths(np.arange(lengths.sum(), dtype=np.int32), lengths, lengths)
    return Examples(tokens, np.arange(len(COUNTS), dtype=np.int32) * 10, windows=Windows.of_counts(COUNTS))


def by_hand(values: np.ndarray, how: str) -> np.ndarray:
    parts = np.split(values, np.cumsum(COUNTS)[:-1])
    return np.stack([part.mean(0) if how == "mean" else part.max(0) for part in parts])


@pytest.mark.parametrize("how", ["mean", "max"])
def test_on_the_device(how):
    examples = documents()
    logits = np.random.default_rng(1).normal(size=(COUNTS.sum(), 3)).astype(np.float32)
    layout = choose_layout(examples.tokens.lengths, 4, row_length=16, windows=examples.windows)
    seen = {}
    for batch in batches(examples, layout, 4, seed=3):
        assert np.unique(np.nonzero(batch["example_mask"])[0]).size > 1  # a document lies in several rows
        on_device = {name: jnp.asarray(value) for name, value in batch.items()}
        pooled, pooled_batch = pool_examples(jnp.asarray(logits[batch["example_ids"]]), on_device, how)
        real = np.asarray(pooled_batch["example_mask"])[0]
        assert real.sum() == int(count_examples(on_device))
        labels = np.asarray(pooled_batch["labels"])[0][real]
        seen |= dict(zip((labels // 10).tolist(), np.asarray(pooled)[0][real], strict=True))
    expected = by_hand(logits, how)
    assert sorted(seen) == list(range(len(COUNTS)))
    for document, values in seen.items():
        np.testing.assert_allclose(values, expected[document], rtol=1e-6)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_on_the_host(how):
    examples = documents()
    logits = np.random.default_rng(1).normal(size=(COUNTS.sum(), 3)).astype(np.float32)
    np.testing.assert_allclose(pool_windows(logits, examples, how), by_hand(logits, how), rtol=1e-6)
    np.testing.assert_allclose(pool_windows(logits, examples, how, 2, 5), by_hand(logits, how)[2:5], rtol=1e-6)


def test_without_windows_nothing_changes():
    batch = {"example_mask": jnp.ones((2, 2), bool)}
    logits = jnp.ones((2, 2, 3))
    assert pool_examples(logits, batch, "mean") == (logits, batch)
    values = np.arange(6)
    np.testing.assert_array_equal(pool_windows(values, documents(), None, 1, 3), [1, 2])


def test_taken_documents_keep_their_windows():
    examples = documents()
    taken = examples.take(np.array([2, 0]))
    assert (taken.windows.counts.tolist(), taken.labels.tolist()) == ([5, 3], [20, 0])
    np.testing.assert_array_equal(taken.tokens.begins, examples.tokens.begins[[4, 5, 6, 7, 8, 0, 1, 2]])
    assert taken.examples_of(np.array([0, 4, 5])).tolist() == [0, 1]
