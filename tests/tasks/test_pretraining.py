"""The loss of pretraining is the mean over masked tokens plus that over pairs; what is counted of an example is its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params, tiny_config

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import Layout
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.models.functional import make_model
from jaxbert.tasks.pretraining.masking import FREQUENCIES, Masking, MaskingVocabulary, frequency_groups
from jaxbert.tasks.pretraining.task import Pretraining

SIZE, COUNT = 120, 12


def examples(seed: int = 0) -> Examples:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(6, 14, COUNT).astype(np.int32)
    tokens = Tokens.from_lengths(rng.integers(5, SIZE, lengths.sum()).astype(np.int32), lengths, lengths // 2)
    tokens.ids[tokens.begins] = 2
    return Examples(tokens, rng.integers(0, 2, COUNT).astype(np.int32))


def masked_batch(data: Examples, slots: int = 4) -> dict[str, np.ndarray]:
    ids = np.arange(SIZE)
    vocabulary = MaskingVocabulary(ids >= 5, ids >= 90, ids[5:].astype(np.int32), 4)
    layout = Layout(48, (12,), slots)
    (batch,) = batches(data, layout, COUNT, seed=None)
    return Masking(vocabulary, 0.4, False, 3, 0, frequency_groups(ids)).collate(batch, None)


@pytest.fixture(params=[True, False], ids=["pairs", "no pairs"])
def task(request):
    return Pretraining(request.param)


@pytest.fixture
def model(task):
    return make_model(task.head, tiny_config())


def outputs_of(model, params, batch):
    """Return what the model computes, as one program: by itself each operation would be compiled for a second."""
    on_device = {name: jnp.asarray(array) for name, array in batch.items() if name != "example_ids"}
    return jax.jit(model.apply)(params, on_device)


def test_loss_is_a_mean_of_masked_tokens_and_one_of_pairs(task, model):
    batch = masked_batch(examples())
    outputs = outputs_of(model, random_params(model), batch)
    totals = task.totals(batch)
    sums = task.sums(outputs, batch, totals, train=True)
    real = batch["masked_weights"] > 0
    scores = jax.nn.log_softmax(outputs["prediction_logits" if task.next_sentence else "logits"])
    expected = -np.asarray(scores)[real, batch["masked_labels"][real]].mean()
    if task.next_sentence:
        pairs = np.asarray(jax.nn.log_softmax(outputs["seq_relationship_logits"]))[batch["example_mask"]]
        expected -= pairs[np.arange(COUNT), batch["labels"][batch["example_mask"]]].mean()
    assert real.sum() > 20
    np.testing.assert_allclose(sums["loss"] / totals["examples"], expected, rtol=1e-5)
    assert int(sums["examples"]) == COUNT
    assert int(sums["masked"]) == real.sum()


def test_slices_add_up_to_the_step(task, model):
    batch = masked_batch(examples())
    params, totals = random_params(model), task.totals(batch)
    whole = task.sums(outputs_of(model, params, batch), batch, totals, train=True)
    parts = []
    for rows in (slice(0, 5), slice(5, 12)):
        part = {name: array[rows] for name, array in batch.items()}
        parts.append(task.sums(outputs_of(model, params, part), part, totals, train=True))
    for name, value in whole.items():
        np.testing.assert_allclose(parts[0][name] + parts[1][name], value, rtol=1e-5)


def test_metrics_are_those_of_the_loss(task, model):
    data = examples()
    batch = masked_batch(data)
    outputs = outputs_of(model, random_params(model), batch)
    real = batch["example_mask"]
    found = np.asarray(task.predictions(outputs, batch))
    predictions = np.zeros((COUNT, found.shape[-1]), np.float32)
    predictions[batch["example_ids"][real]] = found[real]
    metrics = task.metrics(predictions, data)
    totals = task.totals(batch)
    sums = task.sums(outputs, batch, totals, train=True)
    np.testing.assert_allclose(metrics["loss"], sums["loss"] / COUNT, rtol=1e-5)
    np.testing.assert_allclose(metrics["masked_accuracy"], sums["masked_correct"] / sums["masked"], rtol=1e-5)
    np.testing.assert_allclose(metrics["perplexity"], np.exp(metrics.get("masked_loss", metrics["loss"])), rtol=1e-5)
    assert metrics["masked_tokens"] == int(sums["masked"])
    assert {name for name, value in metrics.items() if isinstance(value, float)} == set(task.metric_names())
    assert task.default_metric in metrics
    groups = frequency_groups(batch["masked_labels"])
    scores = jax.nn.log_softmax(outputs["prediction_logits" if task.next_sentence else "logits"])
    losses = -np.take_along_axis(np.asarray(scores), batch["masked_labels"][..., None], -1)[..., 0]
    assert [*metrics["by_frequency"]] == ["1 to 9", "10 to 99", "100 to 999"], "those that are masked"
    for name, of_group in metrics["by_frequency"].items():
        chosen = (batch["masked_weights"] > 0) & (groups == FREQUENCIES.index(name))
        assert of_group["masked_tokens"] == chosen.sum()
        np.testing.assert_allclose(of_group["loss"], losses[chosen].mean(), rtol=1e-5)


def test_what_a_neighbour_holds_changes_nothing(task, model):
    """All that is predicted of an example stays the same, to the bit, when the others of its row change."""
    data, params = examples(), random_params(model)
    batch = masked_batch(data)
    row = int(batch["example_mask"].sum(1).argmax())
    assert batch["example_mask"][row].sum() >= 3
    neighbour = batch["segment_ids"][row] == 2
    changed = {name: array.copy() for name, array in batch.items()}
    changed["input_ids"][row, neighbour] = 7 + np.arange(neighbour.sum())
    before, after = (np.asarray(task.predictions(outputs_of(model, params, b), b)) for b in (batch, changed))
    same = (before == after).all(-1)
    assert not same[row, 1]
    assert same[row, [0, 2]].all()
    assert same[np.arange(len(same)) != row].all()


def test_a_step_without_masks_has_a_finite_loss(task, model):
    batch = masked_batch(examples())
    batch["masked_weights"] *= 0
    sums = task.sums(outputs_of(model, random_params(model), batch), batch, task.totals(batch), train=True)
    assert np.isfinite(sums["loss"])


def test_there_are_no_answers(task):
    with pytest.raises(UserError, match="fine-tune it with"):
        task.answers(np.zeros((1, 3)), examples(), 0, 1)
