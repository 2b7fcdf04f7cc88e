"""Predictions for sets of any size come back complete and in order, each example computed once."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import ids_of, random_tokens, small_config
from tiny import random_params

from jaxbert.config import DataConfig, MeshConfig
from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.memory import hold
from jaxbert.data.packing import padded_layout
from jaxbert.data.tokens import LongTexts, Reading
from jaxbert.errors import UserError
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import FunctionalModel, make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.evaluate import Predictor
from jaxbert.train.inference import TrainedModel
from jaxbert.train.sharding import make_mesh

TASK = Classification(("bad", "good"))


@pytest.mark.parametrize("learned", [Reading(pairs=False), Reading(pairs=True), None])
def test_pairs_for_a_model_of_single_texts_are_said(learned, caplog):
    """A model of another program does not say what it has learned from."""
    task = Classification(("bad", "good"), reading=learned or Reading())
    config = small_config() if learned is None else task.configure(small_config())
    predictor = SimpleNamespace(task=task, model=SimpleNamespace(config=config))
    model = TrainedModel(task, None, None, predictor, 64)
    with hold([{"text": "w1", "text_pair": "w2"}], "rows") as spec:
        model.open_inputs(spec, DataConfig(text_pair="text_pair"))
    assert ("has learned from single texts" in caplog.text) == (learned == Reading(pairs=False))


def test_pairs_for_a_model_that_reads_windows_are_refused():
    """Their second texts would be lost."""
    task = Classification(("bad", "good"), reading=Reading(LongTexts("windows", 4), "mean", 24))
    with hold([{"text": "w1", "text_pair": "w2"}], "rows") as spec:
        for read in (partial(task.open_inputs, kept=()), task.read_for):
            with pytest.raises(UserError, match="long_texts windows, which does not work with pairs"):
                read(spec, DataConfig(text_pair="text_pair"), None, 24)


def sums_of_ids(params, batch, key, call):
    """Stand for a model: an example's logits are 0 and the weighted sum of its tokens."""
    slots = jnp.arange(1, batch["cls_positions"].shape[1] + 1)
    mine = batch["segment_ids"][:, None, :] == slots[None, :, None]
    weighted = (batch["input_ids"] * (batch["position_ids"] + 1))[:, None, :]
    sums = jnp.where(mine, weighted, 0).sum(-1).astype(jnp.float32) * params["scale"]
    return {"logits": jnp.stack([jnp.zeros_like(sums), sums], -1)}


def expected_of(tokens) -> np.ndarray:
    sums = []
    for example in range(len(tokens)):
        ids = ids_of(tokens, example)
        sums.append((ids * np.arange(1, len(ids) + 1)).sum() / 2000)
    return np.asarray(jax.nn.log_softmax(np.stack([np.zeros(len(sums)), sums], -1).astype(np.float32)))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 100])
@pytest.mark.parametrize("batch_size", [1, 3, 8, 33, 256])
def test_any_size_of_set_and_batch(count, batch_size):
    model = FunctionalModel(small_config(), SequenceClassificationHead, {}, sums_of_ids)
    predictor = Predictor(model, TASK, make_mesh(MeshConfig()), ForwardOptions(), batch_size)
    tokens = random_tokens(count, seed=count)
    examples = Examples(tokens)
    found = predictor({"scale": jnp.float32(1 / 2000)}, examples)
    np.testing.assert_allclose(found, expected_of(tokens), rtol=1e-5, atol=1e-6)


def test_a_second_evaluation_compiles_nothing():
    model = FunctionalModel(small_config(), SequenceClassificationHead, {}, sums_of_ids)
    predictor = Predictor(model, TASK, make_mesh(MeshConfig()), ForwardOptions(), 16)
    tokens = random_tokens(100)
    examples = Examples(tokens)
    first = predictor({"scale": jnp.float32(1)}, examples)
    count = predictor.step.count
    np.testing.assert_array_equal(predictor({"scale": jnp.float32(1)}, examples), first)
    assert predictor.step.count == count <= 4


def test_bert_itself_one_example_at_a_time():
    model = make_model(SequenceClassificationHead, small_config())
    params = random_params(model)
    tokens = random_tokens(9)
    layout = padded_layout(tokens.lengths, 1, None, 1)
    apply = jax.jit(lambda batch: TASK.predictions(model.apply(params, batch), batch))
    alone = np.concatenate([np.asarray(apply(batch))[0] for batch in batches(Examples(tokens), layout, 1, seed=None)])
    predictor = Predictor(model, TASK, make_mesh(MeshConfig()), ForwardOptions(), 4)
    ids = np.concatenate([b["example_ids"][0] for b in batches(Examples(tokens), layout, 1, seed=None)])
    np.testing.assert_allclose(predictor(params, Examples(tokens))[ids], alone, rtol=1e-4, atol=1e-5)


def test_long_examples_make_smaller_steps(monkeypatch):
    monkeypatch.setattr("jaxbert.train.evaluate._MOST_TOKENS", 16)  # a device; some examples are longer than half of it
    model = FunctionalModel(small_config(), SequenceClassificationHead, {}, sums_of_ids)
    predictor = Predictor(model, TASK, make_mesh(MeshConfig()), ForwardOptions(), 256)
    tokens = random_tokens(100)
    examples = Examples(tokens)
    found = predictor({"scale": jnp.float32(1 / 2000)}, examples)
    np.testing.assert_allclose(found, expected_of(tokens), rtol=1e-5, atol=1e-6)
    (layout,) = predictor.layouts.values()
    assert layout.row_counts[-1] * tokens.lengths.max() <= 2 * 16 * jax.device_count() < tokens.lengths.sum()


@pytest.mark.parametrize(("windows", "size"), [(None, 12), (Windows.of_counts(np.full(50, 2)), 1)])
def test_many_labels_make_smaller_steps(monkeypatch, windows, size):
    """The windows of a text may be 32 steps apart: what is kept meanwhile is bounded."""
    monkeypatch.setattr("jaxbert.train.evaluate._MOST_VALUES", 1200)
    model = FunctionalModel(small_config(num_labels=100), SequenceClassificationHead, {}, sums_of_ids)
    predictor = Predictor(model, TASK, make_mesh(MeshConfig()), ForwardOptions(), 256)
    assert predictor.examples_a_step(Examples(random_tokens(100), windows=windows)) == size


def test_an_evaluation_keeps_few_predictions_and_never_many(monkeypatch):
    model = FunctionalModel(small_config(), SequenceClassificationHead, {}, sums_of_ids)
    predictor = Predictor(model, TASK, make_mesh(MeshConfig()), ForwardOptions(), 8)
    few, many = (Examples(random_tokens(count), np.zeros(count, np.int32)) for count in (50, 51))
    params = {"scale": jnp.float32(1 / 2000)}
    monkeypatch.setattr("jaxbert.train.evaluate._MOST_VALUES", 100)
    evaluation = predictor.evaluate(params, {"few": few, "many": many})
    assert evaluation.metrics["sets"].keys() == {"few", "many"}
    assert evaluation.outcomes.keys() == {"few"}
    np.testing.assert_array_equal(evaluation.outcomes["few"].predictions, predictor(params, few))
    assert evaluation.outcomes["few"].metrics == evaluation.metrics["sets"]["few"]


def test_metrics_are_made_of_pieces(monkeypatch):
    """An evaluation needs no predictions of a whole set."""
    model = FunctionalModel(small_config(), SequenceClassificationHead, {}, sums_of_ids)
    predictor = Predictor(model, TASK, make_mesh(MeshConfig()), ForwardOptions(), 8)
    labels = np.random.default_rng(0).integers(0, 2, 100).astype(np.int32)
    examples, params = Examples(random_tokens(100), labels), {"scale": jnp.float32(1 / 2000)}
    expected = TASK.metrics(predictor(params, examples), examples)
    monkeypatch.setattr(Predictor, "__call__", lambda *args: pytest.fail("all predictions were kept"))
    assert predictor.evaluate(params, {"": examples}).metrics == expected
