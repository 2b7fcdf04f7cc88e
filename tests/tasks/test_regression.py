"""Regression's loss is PyTorch's and its metrics are scipy's and scikit-learn's."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sk

from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens
from jaxbert.tasks.regression.task import Regression

TASK = Regression()


def labelled(labels: np.ndarray) -> Examples:
    nothing = np.zeros(len(labels), np.int32)
    return Examples(Tokens.from_lengths(nothing[:0], nothing, nothing), labels)


def test_the_loss_is_that_of_torch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(2, 4, 5)).astype(np.float32)
    mask = rng.random((4, 5)) < 0.6
    batch = {"labels": jnp.asarray(labels), "example_mask": jnp.asarray(mask)}
    found = TASK.sums({"logits": jnp.asarray(scores)[..., None]}, batch, TASK.totals(batch), train=True)
    expected = torch.nn.MSELoss()(torch.tensor(scores[mask]), torch.tensor(labels[mask]))
    assert float(found["loss"] / found["examples"]) == pytest.approx(float(expected), rel=1e-6)


def test_metrics_are_those_of_scipy_and_scikit_learn():
    rng = np.random.default_rng(1)
    expected = rng.integers(0, 6, 60).astype(np.float32)
    found = (expected + rng.normal(size=60)).astype(np.float32)
    metrics = TASK.metrics(found, labelled(expected))
    assert metrics["pearson"] == pytest.approx(stats.pearsonr(found, expected)[0])
    assert metrics["spearman"] == pytest.approx(stats.spearmanr(found, expected)[0])
    assert metrics["mse"] == metrics["loss"] == pytest.approx(sk.mean_squared_error(expected, found), rel=1e-6)
    assert metrics["mae"] == pytest.approx(sk.mean_absolute_error(expected, found), rel=1e-6)
    assert metrics["r2"] == pytest.approx(sk.r2_score(expected, found), rel=1e-6)
    assert set(TASK.metric_names()) == metrics.keys() - {"examples"}


@pytest.mark.parametrize("labels", [[1.0, 1.0], [1.0]])
def test_what_does_not_vary_has_no_correlation(labels):
    metrics = TASK.metrics(np.arange(len(labels)), labelled(np.array(labels)))
    assert (metrics["pearson"], metrics["spearman"], metrics["r2"]) == (0.0, 0.0, 0.0)
