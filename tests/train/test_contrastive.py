"""Pairs of texts: the mean of each segment, the loss by its definition, the fitted classifier, and the usual promises."""

from __future__ import annotations

import json

import jax.numpy as jnp
import numpy as np
import pytest
from runs import (
    CrashError,
    Problem,
    assert_close_params,
    crash_before,
    make_config,
    make_program,
    random_rows,
    random_tokens,
    run_steps,
    small_config,
    weights,
    whole_losses,
)
from sklearn.linear_model import LogisticRegression
from tiny import random_params

import jaxbert
from jaxbert.config import Config, DataConfig, ModelConfig, OptimizerConfig, TrainConfig
from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.errors import UserError
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.models.mean import one_layer_more, with_mean_layer
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.contrastive import fit_logistic, frozen_parts, pair_loss, with_pairs
from jaxbert.train.inference import open_trained

pytestmark = pytest.mark.usefixtures("shared_programs")
TOKENS = random_tokens(24)
LABELS = (TOKENS.ids[TOKENS.begins + 1] % 2).astype(np.int32)
NAMES = ("bad", "good")
KEYS = {"train__method": "contrastive", "train__epochs": 1, "train__checkpoint_every": 3}


def rows_of(examples, row_length):
    layout = choose_layout(examples.tokens.lengths, len(examples), row_length=row_length, seed=None)
    (batch,) = batches(examples, layout, len(examples), seed=None)
    return {name: batch[name] for name in batch if name not in ("example_ids", "documents")}


def test_the_last_layer_takes_the_mean_of_each_packed_segment():
    """Of its own tokens alone: not of its neighbours in the row, and not of padding."""
    config = small_config()
    plain = make_model(SequenceClassificationHead, config)
    params = random_params(plain)
    whole = make_model(SequenceClassificationHead, one_layer_more(config))
    batch = rows_of(Examples(TOKENS, LABELS), 40)
    arrays = {name: jnp.asarray(array) for name, array in batch.items()}
    every = ForwardOptions(output_hidden_states=True)
    hidden = np.asarray(plain.apply(params, arrays, None, every)["encoded"].hidden_states_NBTD[-1])
    found = np.asarray(whole.apply(with_mean_layer(params, config), arrays, None)["pooled"])
    assert batch["segment_ids"].max() > 2
    assert (batch["segment_ids"] == 0).any()
    for row, slot in np.argwhere(batch["example_mask"]):
        mean = hidden[row, batch["segment_ids"][row] == slot + 1].mean(0)
        expected = np.tanh((mean - mean.mean()) / mean.std() / 8)
        np.testing.assert_allclose(found[row, slot], expected, atol=2e-3)


def test_the_loss_of_pairs():
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(2, 4, 6)), rng.integers(0, 3, (2, 4))
    real = np.array([[True] * 4, [True, True, False, False]])
    texts = [(vectors[at] / np.linalg.norm(vectors[at]), labels[at]) for at in zip(*np.nonzero(real), strict=True)]
    squares = {True: [], False: []}
    for i, (one, own) in enumerate(texts):
        for other, its in texts[:i]:
            squares[own == its].append((one @ other - (own == its)) ** 2)
    assert squares[True]
    expected = (np.mean(squares[True]) + np.mean(squares[False])) / 2
    found = pair_loss(jnp.asarray(vectors), jnp.asarray(labels), jnp.asarray(real))
    assert float(found) == pytest.approx(expected, rel=1e-5)
    alone = pair_loss(jnp.asarray(vectors), jnp.asarray(labels), jnp.zeros((2, 4), bool).at[0, 0].set(True))
    assert float(alone) == 0, "a text without a partner"
    others = pair_loss(jnp.asarray(vectors), jnp.arange(8).reshape(2, 4), jnp.asarray(real))
    assert 0 < float(others) < 1, "no two texts of one label"


def small_run(devices=1, **changes):
    config = make_config(train__batch_size=8, train__method="contrastive", optimizer__learning_rate=1e-3, **changes)
    own = small_config(num_attention_heads=4, num_hidden_layers=1)
    params = with_mean_layer(random_params(make_model(SequenceClassificationHead, own)), own)
    whole = one_layer_more(own)
    task = with_pairs(Classification(NAMES))
    program = make_program(frozen_parts(config, whole), whole, 20, devices, task)
    return params, run_steps(program, params, Examples(TOKENS, LABELS))


def test_packed_on_one_device_and_padded_on_eight():
    first, packed = small_run()
    _, padded = small_run(8, data__packing=False, mesh__fsdp=2)
    assert padded.example_ids == packed.example_ids
    np.testing.assert_allclose(padded.losses, packed.losses, rtol=1e-5)
    assert_close_params(padded.params, packed.params, 1e-4)
    assert packed.losses[-1] < packed.losses[0]
    np.testing.assert_array_equal(packed.params["classifier"]["kernel"], first["classifier"]["kernel"])
    stack, before = (
        params["bert"]["encoder"]["layer"]["output"]["dense"]["kernel"] for params in (packed.params, first)
    )
    assert not stack[-1].any(), "the layer of the mean stays as it is"
    assert np.abs(stack[0] - before[0]).max() > 1e-3


def test_the_classifier_is_a_logistic_regression():
    rng = np.random.default_rng(0)
    vectors, labels = rng.normal(size=(60, 5)), rng.integers(0, 3, 60)
    vectors[:, 0] += labels
    kernel, bias = fit_logistic(vectors, labels, np.ones(60), 3)
    found = vectors @ kernel + bias
    rows = np.concatenate([vectors, np.ones((60, 1))], axis=1)
    reference = LogisticRegression(C=10, tol=1e-9, max_iter=1000, fit_intercept=False).fit(rows, labels)
    np.testing.assert_allclose(found - found.mean(1, keepdims=True), reference.decision_function(rows), atol=1e-3)
    assert fit_logistic(vectors, labels % 2, np.ones(60), 3)[1][2] < 0, "a label without a row is no answer"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    problem = Problem.write(tmp_path_factory.mktemp("contrastive"))
    keys = KEYS | {"data__validation": problem.folder / "dev.csv", "train__epochs": 2}
    assert problem.train(**keys, train__output_dir=problem.folder / "whole") == 0
    return problem, keys


def test_a_crash_changes_no_bit(trained, monkeypatch):
    problem, keys = trained
    run = problem.folder / "stopped"
    with monkeypatch.context() as patch:
        crash_before(patch, 8)
        with pytest.raises(CrashError):
            problem.train(**keys, train__output_dir=run)
    assert problem.train(**keys, train__output_dir=run) == 0
    assert whole_losses(run) == whole_losses(problem.folder / "whole")
    assert weights(run) == weights(problem.folder / "whole")


def test_the_export_is_a_plain_classifier(trained):
    """PyTorch reads it, and `evaluate` and `predict` give the numbers of the run."""
    torch = pytest.importorskip("torch")
    from transformers import AutoTokenizer, BertForSequenceClassification

    problem, _ = trained
    run = problem.folder / "whole"
    summary = json.loads((run / "summary.json").read_text())
    assert summary["eval"]["accuracy"] > 0.6
    model = open_trained(str(run))
    data = DataConfig(text="text", label="label")
    assert model.evaluate(str(problem.folder / "dev.csv"), data).metrics["loss"] == summary["eval"]["loss"]
    reader, tokenizer = (
        BertForSequenceClassification.from_pretrained(run / "export").eval(),
        AutoTokenizer.from_pretrained(run / "export"),
    )
    assert reader.config.num_hidden_layers == 3
    texts = [text for text, _ in random_rows(5, seed=3)]
    with torch.no_grad():
        logits = reader(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1).numpy()
    answers = jaxbert.load(run).predict(texts)
    ours = [[answer["probabilities"][name] for name in NAMES] for answer in answers]
    np.testing.assert_allclose(logits, ours, atol=1e-4)


def test_a_trained_mean_is_not_added_again_and_no_step_is_a_probe(trained, tmp_path):
    problem, keys = trained
    again = {**keys, "model__name_or_path": problem.folder / "whole", "train__epochs": 0}
    assert problem.train(**again, train__output_dir=tmp_path / "again") == 0
    config = json.loads((tmp_path / "again" / "export" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["steps"] == 0
    model = jaxbert.load(problem.folder / "whole")
    model.calibrate(str(problem.folder / "dev.csv"))  # changes the classifier, and the layer of the mean stays one
    model.export(tmp_path / "calibrated")
    again["model__name_or_path"] = tmp_path / "calibrated"
    assert problem.train(**again, train__output_dir=tmp_path / "third") == 0
    assert json.loads((tmp_path / "third" / "export" / "config.json").read_text())["num_hidden_layers"] == 3
    less = {**again, "model__layers": "[0, 1]", "model__head": "new"}  # without the layer of the mean: it is added
    assert problem.train(**less, train__output_dir=tmp_path / "less") == 0
    config = json.loads((tmp_path / "less" / "export" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    before = json.loads((problem.folder / "whole" / "summary.json").read_text())["eval"]["accuracy"]
    assert json.loads((tmp_path / "again" / "summary.json").read_text())["eval"]["accuracy"] == pytest.approx(
        before, abs=0.1
    )


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        ({"task": "multi_label"}, "works only with task classification, but task is multi_label"),
        ({"train": {"r_drop": 1.0}}, "train.r_drop does not work with train.method contrastive"),
        ({"train": {"ema": 0.9}}, "train.ema does not work with train.method contrastive"),
        ({"train": {"accumulation_steps": 2}}, "train.accumulation_steps does not work"),
        ({"train": {"batch_size": 1}}, "train.batch_size is 1, but train.method contrastive compares the texts"),
        ({"data": {"long_texts": "windows"}}, "data.long_texts is windows"),
        ({"optimizer": {"train_only": "head"}}, "optimizer.train_only does not work"),
        ({"train": {"method": "plain", "epochs": 0}}, "train.epochs is 0, which only train.method"),
        ({"train": {"method": "setfit"}}, "train.method is 'setfit'"),
    ],
)
def test_what_does_not_go_together(sections, said):
    kinds = {"train": TrainConfig, "data": DataConfig, "optimizer": OptimizerConfig, "model": ModelConfig}
    parts = {"train": {"method": "contrastive"}} | sections
    parts["train"] = {"method": "contrastive"} | parts["train"]

    def make():
        return Config(**{name: kinds[name](**keys) if name in kinds else keys for name, keys in parts.items()})

    with pytest.raises(UserError, match=said):
        make()
