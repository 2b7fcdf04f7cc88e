"""Multi-label's loss is PyTorch's, its metrics are scikit-learn's, its threshold is the best one."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk

from jaxbert.config import TrainConfig
from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.tasks.multi_label.task import MultiLabel, resolve_positive_weights
from jaxbert.tasks.multi_label.threshold import best_threshold

NAMES = ("a", "b", "c")


def random_batch(seed: int = 0):
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 2, (4, 5, 3)).astype(np.float32)
    mask = rng.random((4, 5)) < 0.7
    return logits, {"labels": jnp.asarray(rng.random((4, 5, 3)) < 0.3), "example_mask": jnp.asarray(mask)}


def labelled(labels: np.ndarray) -> Examples:
    nothing = np.zeros(len(labels), np.int32)
    return Examples(Tokens.from_lengths(nothing[:0], nothing, nothing), labels)


@pytest.mark.parametrize("weights", [None, (1.0, 3.0, 0.25)])
def test_the_loss_is_that_of_torch(weights):
    torch = pytest.importorskip("torch")
    logits, batch = random_batch()
    task = MultiLabel(NAMES, weights)
    found = task.sums({"logits": jnp.asarray(logits)}, batch, task.totals(batch), train=True)
    mask = np.asarray(batch["example_mask"])
    loss = torch.nn.BCEWithLogitsLoss(pos_weight=None if weights is None else torch.tensor(weights))
    expected = float(loss(torch.tensor(logits[mask]), torch.tensor(np.asarray(batch["labels"])[mask]).float()))
    assert float(found["loss"]) / int(found["examples"]) == pytest.approx(expected, rel=1e-6)
    plain = task.sums({"logits": jnp.asarray(logits)}, batch, task.totals(batch), train=False)
    assert (float(plain["loss"]) == float(found["loss"])) == (weights is None)


@pytest.mark.parametrize("seed", range(5))
def test_metrics_are_those_of_scikit_learn(seed):
    rng = np.random.default_rng(seed)
    log_odds, labels = rng.normal(0, 2, (40, 3)).astype(np.float32), rng.random((40, 3)) < 0.3
    found = MultiLabel(NAMES, threshold=0.4).metrics(log_odds, labelled(labels))
    probabilities = 1 / (1 + np.exp(-log_odds.astype(np.float64)))
    predicted = probabilities >= 0.4
    numbers = {name for name, value in found.items() if isinstance(value, float)} - {"threshold"}
    assert numbers == set(MultiLabel(NAMES).metric_names()) - ({"f1_macro_present"} - numbers)
    for average in ("micro", "macro"):
        for name in ("f1", "precision", "recall"):
            expected = getattr(sk, f"{name}_score")(labels, predicted, average=average, zero_division=0)
            assert found[f"{name}_{average}"] == pytest.approx(expected)
    assert found["exact_match"] == sk.accuracy_score(labels, predicted)
    losses = [sk.log_loss(labels[:, c], probabilities[:, c], labels=[False, True]) for c in range(3)]
    assert found["loss"] == pytest.approx(np.mean(losses), rel=1e-6)
    assert found["per_class"]["b"]["support"] == labels[:, 1].sum()


@pytest.mark.parametrize("seed", range(20))
def test_no_threshold_is_better(seed):
    rng = np.random.default_rng(seed)
    probabilities = rng.integers(0, 12, (10, 3)) / 11  # many are equal
    labels = rng.random((10, 3)) < probabilities

    def f1(threshold: float) -> float:
        return sk.f1_score(labels, probabilities >= threshold, average="micro", zero_division=0)

    best = max(f1((cut - 0.5) / 11) for cut in range(13))  # between all that a probability can be
    assert f1(best_threshold(probabilities, labels)) == pytest.approx(best)


def test_the_threshold_of_an_evaluation_is_kept_and_answers_follow_it():
    task = MultiLabel(NAMES).learned({"threshold": 0.2})
    assert task.threshold == 0.2
    probabilities = np.array([[0.25, 0.6, 0.1], [0.01, 0.02, 0.03]])
    log_odds = np.log(probabilities / (1 - probabilities))
    first, second = task.answers(log_odds.astype(np.float32), labelled(np.zeros(2)), 0, 2)
    assert (first["labels"], second["labels"]) == (["b", "a"], [])
    assert first["probabilities"]["c"] == pytest.approx(0.1, abs=1e-6)


def test_weights_of_labels():
    labels = np.array([[True, False, False]] * 3 + [[False, True, False]] * 9)
    assert resolve_positive_weights(TrainConfig(class_weights="balanced"), labels, NAMES) == (
        3.0,
        pytest.approx(1 / 3),
        1.0,
    )
    assert resolve_positive_weights(TrainConfig(), labels, NAMES) is None
    with pytest.raises(UserError, match="has 2 weights, but there are 3 labels"):
        resolve_positive_weights(TrainConfig(class_weights=[1, 2]), labels, NAMES)
