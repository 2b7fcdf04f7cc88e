"""A family is a row: another one is read, trained, written and read again under names of its own."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys

import jax
import numpy as np
import pytest
from runs import VOCAB, Problem, small_config
from safetensors.numpy import load_file
from tiny import assert_same_tensors, random_params, write_tensors
from transformers import BertConfig, BertTokenizer

from jaxbert.cli.main import main
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import parse_config, read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.read import read_tensors
from jaxbert.interop.write import save_folder
from jaxbert.models.families import FAMILIES, family_of, published_config, sized_config
from jaxbert.models.families.bert import BERT
from jaxbert.models.functional import make_model
from jaxbert.models.heads import BertModel, MaskedLM, SequenceClassificationHead
from jaxbert.tasks import task_of_model


class ToyConfig(BertConfig):
    model_type = "toy"


TOY = dataclasses.replace(
    BERT, model_type="toy", prefix="toy", architecture="Toy", config_class=lambda: ToyConfig, published={}
)


@pytest.fixture
def toy_problem(tmp_path, monkeypatch):
    """A classification problem whose model is a toy."""
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    problem = Problem.write(tmp_path)
    write_toy(tmp_path / "model", SequenceClassificationHead, "ForSequenceClassification")
    return problem


def toy_config():
    return ToyConfig.from_dict(small_config().to_dict() | {"model_type": "toy"})


def write_toy(folder, head, architecture):
    folder.mkdir(exist_ok=True)
    (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    model = make_model(head, toy_config())
    params = random_params(model)
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    save_folder(folder, params, model.config, tokenizer, architecture=architecture)
    return model, params


def config_in(folder):
    return json.loads((folder / "config.json").read_text())


def test_another_family_is_trained_exported_and_read_again(toy_problem, capsys):
    assert toy_problem.train(train__epochs=None, train__max_steps=1) == 0
    export = toy_problem.folder / "run" / "export"
    before, after = (load_file(folder / "model.safetensors") for folder in (toy_problem.folder / "model", export))
    assert before.keys() == after.keys()
    assert {name.partition(".")[0] for name in after} == {"toy", "classifier"}
    moved = {name for name in after if np.abs(after[name] - before[name]).max() > 0}
    assert "toy.encoder.layer.1.output.dense.weight" in moved
    content = config_in(export)
    assert (content["architectures"], content["model_type"]) == (["ToyForSequenceClassification"], "toy")
    config = read_config(export)
    assert isinstance(config, ToyConfig)
    assert task_of_model(config).name == "classification"
    params, report = load_params(export, make_model(SequenceClassificationHead, config))
    assert (params.keys(), report.fresh, report.unused) == ({"toy", "classifier"}, (), ())
    capsys.readouterr()
    assert main(["predict", "--model", str(export), "--input", str(toy_problem.folder / "dev.csv")]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 37


def test_layers_are_frozen_and_rated_by_the_familys_names(toy_problem):
    """The head alone learns; then the lowest layer and the embeddings keep their bits."""
    folder, run = toy_problem.folder, toy_problem.folder / "run"
    before = load_file(folder / "model" / "model.safetensors")

    def moved(**options):
        assert toy_problem.train(train__epochs=None, train__max_steps=2, **options) == 0
        after = load_file(run / "export" / "model.safetensors")
        return {name for name in after if np.abs(after[name] - before[name]).max() > 0}

    head = {"classifier.weight", "classifier.bias", "toy.pooler.dense.weight", "toy.pooler.dense.bias"}
    assert moved(optimizer__train_only="head") == head
    run = folder / "other"
    of_layers = moved(
        train__output_dir=run,
        optimizer__freeze=["^toy/embeddings/", "^toy/encoder/layer/0/"],
        optimizer__layer_decay=0.5,
    )
    assert head < of_layers
    assert not {name for name in of_layers if name.startswith(("toy.embeddings", "toy.encoder.layer.0."))}


@pytest.mark.parametrize("names", ["bare", "wrapped", "old"])
def test_names_that_others_write_become_the_familys(toy_problem, tmp_path, names):
    model, params = write_toy(tmp_path / "toy", BertModel, "Model")
    bare = load_file(tmp_path / "toy" / "model.safetensors")
    assert not any(name.startswith("toy.") for name in bare)
    assert config_in(tmp_path / "toy")["architectures"] == ["ToyModel"]
    if names == "wrapped":
        write_tensors(tmp_path / "toy", {f"module.toy.{name}": tensor for name, tensor in bare.items()})
    if names == "old":
        old = {"weight": "gamma", "bias": "beta"}
        renamed = {n: ".".join((*n.split(".")[:-1], old[n.split(".")[-1]])) if "LayerNorm" in n else n for n in bare}
        buffers = {"embeddings.position_ids": np.arange(4)}
        write_tensors(tmp_path / "toy", buffers | {renamed[n]: tensor for n, tensor in bare.items()})
    expected = {f"toy.{name}": tensor for name, tensor in bare.items()}
    assert_same_tensors(read_tensors(tmp_path / "toy", TOY), expected)
    found, _ = load_params(tmp_path / "toy", model)
    jax.tree.map(np.testing.assert_array_equal, found, params)
    _, report = load_params(tmp_path / "toy", make_model(MaskedLM, toy_config()), key=jax.random.key(0))
    assert {name.partition(".")[0] for name in report.fresh} == {"cls"}
    assert {name.rpartition(".dense")[0] for name in report.unused} == {"toy.pooler"}


def test_a_misfit_is_said_in_the_familys_names(toy_problem, tmp_path):
    write_toy(tmp_path / "toy", SequenceClassificationHead, "ForSequenceClassification")
    config = toy_config()
    config.num_hidden_layers, config.intermediate_size = 3, 65
    with pytest.raises(
        UserError,
        match=r"missing: 16 of them, toy\.encoder\.layer\.2.*intermediate_size is 64 .*16 are of encoder\.layer\.2:",
    ):
        load_params(tmp_path / "toy", make_model(SequenceClassificationHead, config))


def test_classes_and_heads():
    assert BERT.class_of("ForMaskedLM") == BERT.class_of("BertForMaskedLM") == "BertForMaskedLM"
    assert BERT.head_of("BertForMaskedLM") == "ForMaskedLM"
    assert (BERT.layer_of("bert.encoder.layer.11.output.dense.bias"), BERT.layer_of("cls.predictions.bias")) == (
        11,
        None,
    )


def test_a_family_that_is_not_there_is_refused():
    """As it was before there was a second one in this file, and with the names of all that there are."""
    with pytest.raises(UserError) as caught:
        parse_config({"model_type": "toy"}, "config.json")
    assert str(caught.value) == (
        "config.json has model_type 'toy', but only 'bert' is supported: "
        "name a BERT (by its config.json, not by its name: chinese-roberta-wwm-ext is one)"
    )


@pytest.mark.parametrize("said", [{}, {"model_type": None}])
def test_a_configuration_that_names_no_family_is_of_the_default_one(said):
    content = small_config().to_dict()
    del content["model_type"]
    assert family_of(parse_config(content | said, "config.json")) is BERT


def test_shapes_of_new_and_of_published_models():
    assert family_of(sized_config("tiny", 100)) is BERT
    large, mini_lm = (
        published_config("google-bert/bert-large-cased"),
        published_config("sentence-transformers/all-MiniLM-L6-v2"),
    )
    assert large is not None
    assert mini_lm is not None
    assert (large.vocab_size, large.num_attention_heads, large.intermediate_size) == (28_996, 16, 4096)
    assert large.to_dict() == sized_config("large", 28_996).to_dict()
    assert (mini_lm.hidden_size, mini_lm.num_hidden_layers) == (384, 6)
    assert published_config("nobody/nothing") is None


def test_importing_the_families_brings_in_nothing_heavy():
    heavy = ("jax", "flax", "transformers", "torch", "tokenizers")
    program = f"import sys, jaxbert.models.families; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout == "[]\n"
