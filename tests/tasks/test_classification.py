"""Classification's loss is PyTorch's, its metrics and weights are scikit-learn's."""

from __future__ import annotations

import warnings

import jax.numpy as jnp
import numpy as np
import pytest
from sklearn import metrics as sk
from sklearn.utils.class_weight import compute_class_weight

from jaxbert.config import TrainConfig
from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.tasks.classification.task import Classification, resolve_class_weights

NAMES = ("a", "b", "c", "d")


def random_batch(seed: int = 0):
    """Return logits [B, S, C] with nonsense in unused slots, and their batch."""
    rng = np.random.default_rng(seed)
    mask = rng.random((5, 3)) < 0.7
    logits = rng.normal(0, 3, (5, 3, 4)).astype(np.float32)
    labels = rng.integers(0, 4, (5, 3)).astype(np.int32) * mask
    logits[~mask] = 1e4
    return logits, {"labels": jnp.asarray(labels), "example_mask": jnp.asarray(mask)}


def labelled(labels) -> Examples:
    """Return examples of no tokens."""
    nothing = np.zeros(len(labels), np.int32)
    return Examples(Tokens.from_lengths(nothing[:0], nothing, nothing), labels)


def sums_of(task, outputs, batch, *, train):
    return task.sums(outputs, batch, task.totals(batch), train=train)


def torch_loss(logits, batch, smoothing: float = 0.0) -> float:
    torch = pytest.importorskip("torch")
    mask = np.asarray(batch["example_mask"])
    loss = torch.nn.CrossEntropyLoss(label_smoothing=smoothing, reduction="sum")
    labels = torch.tensor(np.asarray(batch["labels"])[mask], dtype=torch.long)
    return float(loss(torch.tensor(logits[mask]), labels))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
def test_the_loss_is_that_of_torch(smoothing):
    logits, batch = random_batch()
    sums = sums_of(Classification(NAMES, label_smoothing=smoothing), {"logits": jnp.asarray(logits)}, batch, train=True)
    assert float(sums["loss"]) == pytest.approx(torch_loss(logits, batch, smoothing), rel=1e-6)


def test_sums_count_real_examples_only():
    logits, batch = random_batch(1)
    mask = np.asarray(batch["example_mask"])
    sums = sums_of(Classification(NAMES), {"logits": jnp.asarray(logits)}, batch, train=True)
    assert int(sums["examples"]) == mask.sum()
    assert int(sums["correct"]) == (logits.argmax(-1) == np.asarray(batch["labels"]))[mask].sum()


def test_weights_scale_each_examples_loss():
    logits, batch = random_batch(2)
    weights = (0.5, 2.0, 0.0, 1.0)
    sums = sums_of(Classification(NAMES, weights), {"logits": jnp.asarray(logits)}, batch, train=True)
    total = 0.0
    for label, weight in enumerate(weights):
        part = {**batch, "example_mask": batch["example_mask"] & (batch["labels"] == label)}
        total += weight * torch_loss(logits, part)
    assert float(sums["loss"]) == pytest.approx(total, rel=1e-6)


def test_evaluation_knows_neither_weights_nor_smoothing():
    logits, batch = random_batch(3)
    outputs = {"logits": jnp.asarray(logits)}
    task = Classification(NAMES, (5.0, 1.0, 1.0, 1.0), 0.3)
    plain = sums_of(Classification(NAMES), outputs, batch, train=False)
    assert float(sums_of(task, outputs, batch, train=False)["loss"]) == float(plain["loss"])
    assert float(sums_of(task, outputs, batch, train=True)["loss"]) != float(plain["loss"])


def test_half_precision_logits_are_summed_in_float32():
    logits, batch = random_batch()
    sums = sums_of(Classification(NAMES), {"logits": jnp.asarray(logits, jnp.bfloat16)}, batch, train=True)
    assert sums["loss"].dtype == jnp.float32
    rounded = np.asarray(jnp.asarray(logits, jnp.bfloat16).astype(jnp.float32))
    assert float(sums["loss"]) == pytest.approx(torch_loss(rounded, batch), rel=1e-6)


def random_predictions(count: int, labels, classes: int, seed: int = 0):
    """Return log-probabilities that are right more often than not, and labels out of `labels`."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(labels, count).astype(np.int32)
    logits = rng.normal(size=(count, classes)) + 1.2 * np.eye(classes)[truth]
    return (logits - np.log(np.exp(logits).sum(-1, keepdims=True))).astype(np.float32), truth


CASES = [
    (200, range(4), 4),
    (200, (1, 2), 4),
    (37, (3,), 4),
    (1, (0,), 4),
    (150, range(2), 2),
    (9, (1,), 2),
]


@pytest.mark.parametrize(("count", "present", "classes"), CASES)
def test_metrics_are_those_of_scikit_learn(count, present, classes):
    """Classes that are absent, a single example, two classes and more."""
    names = NAMES[:classes]
    predictions, labels = random_predictions(count, list(present), classes)
    found = Classification(names).metrics(predictions, labelled(labels))
    predicted = predictions.argmax(-1)
    everything = list(range(classes))
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(labels, predicted))
    # scikit-learn asks that probabilities add up to 1 more exactly than float32 does.
    probabilities = np.exp(predictions.astype(np.float64))
    probabilities /= probabilities.sum(-1, keepdims=True)
    assert found["loss"] == pytest.approx(sk.log_loss(labels, probabilities, labels=everything), rel=1e-5)
    assert found["examples"] == count
    numbers = {name for name, value in found.items() if isinstance(value, float)}
    assert numbers == set(Classification(names).metric_names()) - ({"f1_macro_present"} - numbers)
    options = {"labels": everything, "zero_division": 0}
    for average in ("macro", "weighted"):
        for name in ("precision", "recall", "f1"):
            expected = getattr(sk, f"{name}_score")(labels, predicted, average=average, **options)
            assert found[f"{name}_{average}"] == pytest.approx(expected), (name, average)
    report = sk.classification_report(labels, predicted, target_names=names, output_dict=True, **options)
    for name in names:
        expected = {key.replace("f1-score", "f1"): value for key, value in report[name].items()}
        assert found["per_class"][name] == pytest.approx(expected)
    assert found["confusion_matrix"] == sk.confusion_matrix(labels, predicted, labels=everything).tolist()
    if classes == 2:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "A single label was found", UserWarning)
            assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(labels, predicted))
    else:
        assert "mcc" not in found


def test_balanced_weights_are_those_of_scikit_learn():
    labels = np.random.default_rng(0).choice(4, 300, p=[0.6, 0.25, 0.1, 0.05])
    weights = resolve_class_weights(TrainConfig(class_weights="balanced"), labels, NAMES)
    np.testing.assert_allclose(weights, compute_class_weight("balanced", classes=np.arange(4), y=labels))


def test_a_label_without_examples_weighs_one():
    labels = np.array([0, 0, 0, 1, 2, 2])
    assert resolve_class_weights(TrainConfig(class_weights="balanced"), labels, NAMES) == (0.5, 1.5, 0.75, 1.0)


def test_given_weights():
    labels = np.array([0, 1, 2, 3])
    assert resolve_class_weights(TrainConfig(), labels, NAMES) is None
    assert resolve_class_weights(TrainConfig(class_weights=[1, 2, 3, 4]), labels, NAMES) == (1.0, 2.0, 3.0, 4.0)
    with pytest.raises(
        UserError, match="class_weights has 2 weights, but there are 4 labels: give one for each of a, b"
    ):
        resolve_class_weights(TrainConfig(class_weights=[1, 2]), labels, NAMES)


def test_answers_name_the_label_and_all_probabilities():
    predictions = np.log(np.array([[0.1, 0.6, 0.2, 0.1], [0.97, 0.01, 0.01, 0.01]], np.float32))
    first, second = Classification(NAMES).answers(predictions, labelled(np.zeros(2)), 0, 2)
    assert first == {"label": "b", "score": 0.6, "probabilities": {"a": 0.1, "b": 0.6, "c": 0.2, "d": 0.1}}
    assert (second["label"], second["score"]) == ("a", 0.97)
