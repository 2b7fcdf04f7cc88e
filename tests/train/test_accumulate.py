"""Slices of a step add up to the step, also where a document's windows lie in several of them and where there is dropout."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbert.data.tokens import LongTexts, Reading
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.step import sliced_example_gradient, sliced_gradient, whole_gradient

ROWS, SLOTS, WIDTH, LABELS = 6, 4, 5, 3
LETTERS = ("a", "b", "c")


@pytest.fixture
def problem() -> tuple[dict[str, Any], dict[str, Any]]:
    draws = np.random.default_rng(0)
    document = draws.integers(0, 5, (ROWS, SLOTS)).astype(np.int32)
    document[1, :2], document[4, :2] = 3, 3  # in slices 1 and 0 of two, 1 and 1 of three
    batch = {
        "x": draws.normal(size=(ROWS, SLOTS, WIDTH)).astype(np.float32),
        "example_mask": np.ones((ROWS, SLOTS), bool),
        "example_index": document,
        "labels": document % LABELS,
    }
    batch["example_mask"][0, 1] = False
    return {"w": draws.normal(size=(WIDTH, LABELS)).astype(np.float32)}, jax.tree.map(jnp.asarray, batch)


def forward(part: Any, batch: Any, key: jax.Array) -> dict[str, Any]:
    kept = jax.random.bernoulli(key, 0.7, batch["x"].shape)
    return {"logits": jnp.tanh(batch["x"] * kept) @ part["w"], "encoded": {"layers": None, "hidden": batch["x"]}}


def in_slices(slices: int) -> Any:
    """Return `forward` as slices compute it, each with its own key, all in one differentiable piece."""

    def sliced(part: Any, batch: Any, key: jax.Array) -> dict[str, Any]:
        keys = jax.random.split(key, slices)
        pieces = [forward(part, {"x": batch["x"][i::slices]}, keys[i])["logits"] for i in range(slices)]
        return {"logits": jnp.stack(pieces, 1).reshape(ROWS, SLOTS, LABELS)}

    return sliced


def loss_of(task: Classification, batch: dict[str, Any]) -> Any:
    totals = task.totals(batch)

    def loss(outputs: dict[str, Any], batch: dict[str, Any]) -> Any:
        sums = task.sums(outputs, batch, totals, train=True)
        return sums["loss"] / totals["examples"], sums

    return loss


def whole(loss: Any, slices: int, *given: Any) -> Any:
    """Return the gradient through all slices at once."""
    return jax.jit(lambda *given: whole_gradient(in_slices(slices), loss, *given))(*given)


def sliced(gradient: Any, loss: Any, slices: int, *given: Any) -> Any:
    """Return what is added up slice after slice."""
    return jax.jit(lambda *given: gradient(forward, loss, *given, slices))(*given)


def assert_same(found: Any, expected: Any) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), found, expected)
    assert np.abs(found[0]["w"]).max() > 0.01


@pytest.mark.parametrize("slices", [2, 3, 6])
@pytest.mark.parametrize("pooling", ["mean", "max"])
def test_documents_across_slices(problem, pooling, slices):
    part, batch = problem
    loss = loss_of(Classification(LETTERS, reading=Reading(LongTexts("windows"), pooling, 48)), batch)
    key = jax.random.key(1)
    expected = whole(loss, slices, part, batch, key)
    assert_same(sliced(sliced_example_gradient, loss, slices, part, batch, key), expected)


@pytest.mark.parametrize("slices", [2, 3])
def test_examples_of_one_row(problem, slices):
    part, batch = problem
    del batch["example_index"]
    loss = loss_of(Classification(LETTERS), batch)
    key = jax.random.key(1)
    expected = whole(loss, slices, part, batch, key)
    for gradient in (sliced_gradient, sliced_example_gradient):
        assert_same(sliced(gradient, loss, slices, part, batch, key), expected)
