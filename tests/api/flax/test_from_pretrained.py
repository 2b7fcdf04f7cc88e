"""Loading, overriding, saving and uploading through the public class."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util
from tiny import assert_same_tensors, random_params, random_rows, tiny_config, tiny_model, write_tensors, write_tiny

from jaxbert import FlaxBertForSequenceClassification
from jaxbert.errors import UserError
from jaxbert.interop import names
from jaxbert.interop.read import read_tensors


@pytest.fixture
def folder(tmp_path):
    write_tiny(tmp_path / "model")
    return tmp_path / "model"


def load(*args, **kwargs):
    return FlaxBertForSequenceClassification.from_pretrained(*args, **kwargs)


def flat(tree):
    return {path: np.asarray(x) for path, x in traverse_util.flatten_dict(tree, sep="/").items()}


def assert_loaded(params):
    assert_same_tensors(flat(params), flat(names.unstack_layers(random_params(tiny_model()))))


def test_safetensors(folder):
    assert_loaded(load(folder).params)
    assert_loaded(load(str(folder), jnp.float32).params)
    assert all(isinstance(x, jax.Array) for x in jax.tree.leaves(load(folder).params))


def test_what_older_programs_left_is_read_as_by_the_command_line(folder, tmp_path, caplog):
    write_tensors(folder, {f"module.{name}": tensor for name, tensor in read_tensors(folder).items()})
    content = json.loads((folder / "config.json").read_text())
    (folder / "config.json").unlink()
    (folder / "bert_config.json").write_text(json.dumps(content | {"model_type": None, "architectures": None}))
    folder.rename(tmp_path / "checkpoint-500")
    assert_loaded(load(tmp_path).params)
    assert [
        said in caplog.text for said in ("its subfolder checkpoint-500 is used", "no model_type", "begins with module.")
    ]


def test_a_file_of_weights(folder):
    assert_loaded(load(folder / "model.safetensors").params)
    assert_loaded(load(str(folder / "model.safetensors"), config=tiny_config()).params)


def test_from_pt(folder):
    torch = pytest.importorskip("torch")
    state = {name: torch.from_numpy(tensor.copy()) for name, tensor in read_tensors(folder).items()}
    (folder / "model.safetensors").unlink()
    torch.save(state, folder / "pytorch_model.bin")
    assert_loaded(load(folder, from_pt=True).params)


def test_msgpack(folder):
    tree = names.unstack_layers(random_params(tiny_model()))
    (folder / "model.safetensors").unlink()
    (folder / "flax_model.msgpack").write_bytes(serialization.to_bytes(tree))
    assert_loaded(load(folder).params)


def test_hub_arguments_and_subfolder(folder):
    options = {"revision": "main", "token": None, "local_files_only": True, "trust_remote_code": False}
    assert_loaded(load(folder.parent, subfolder="model", **options).params)


def test_overrides(folder):
    model = load(
        folder, num_labels=5, ignore_mismatched_sizes=True, seed=3, input_shape=(1, 8), hidden_dropout_prob=0.3
    )
    assert model.params["classifier"]["kernel"].shape == (32, 5)
    assert model.config.id2label[4] == "LABEL_4"
    assert (model.config.hidden_dropout_prob, model.input_shape) == (0.3, (1, 8))
    named = load(folder, id2label={0: "x", 1: "y"}, label2id={"x": 0, "y": 1}, ignore_mismatched_sizes=True)
    assert (named.config.num_labels, named.config.label2id) == (2, {"x": 0, "y": 1})
    assert load(folder, id2label={0: "x", 1: "y", 2: "z"}).config.id2label[2] == "z"
    assert load(folder, dtype=jnp.bfloat16).dtype == jnp.bfloat16
    assert load(folder, config=tiny_config(hidden_act="relu")).config.hidden_act == "relu"
    assert load(folder, config=str(folder)).config.num_labels == 3
    with pytest.raises(UserError, match="mish"):
        load(folder, hidden_act="mish")
    with pytest.raises(TypeError, match="nonsense"):
        load(folder, nonsense=1)


def test_another_number_of_labels_must_be_allowed(folder):
    with pytest.raises(UserError, match="ignore_mismatched_sizes"):
        load(folder, num_labels=5)


def test_any_size_may_be_ignored(folder, caplog):
    with caplog.at_level(logging.WARNING):
        model = load(folder, vocab_size=150, ignore_mismatched_sizes=True)
    assert model.params["bert"]["embeddings"]["word_embeddings"]["embedding"].shape == (150, 32)
    assert "word_embeddings.weight [120, 32] instead of [150, 32]" in caplog.text


def test_fresh_and_unused_tensors_are_said(folder, caplog):
    tensors = {name: x for name, x in read_tensors(folder).items() if not name.startswith("classifier")}
    write_tensors(folder, tensors | {"cls.predictions.bias": np.zeros(120, np.float32)})
    with caplog.at_level(logging.WARNING):
        model = load(folder)
    assert "new, to be trained: classifier.bias, classifier.weight; left unused: cls.predictions.bias" in caplog.text
    bare, params = load(folder, _do_init=False)
    assert params.keys() == {"bert"}
    completed = bare.init_weights(bare.key, (1, 1), params)
    np.testing.assert_array_equal(completed["classifier"]["kernel"], model.params["classifier"]["kernel"])


def test_do_init_false_returns_the_params(folder):
    model, params = load(folder, _do_init=False)
    assert_loaded(params)
    with pytest.raises(ValueError, match="_do_init=False"):
        _ = model.params
    assert model(**random_rows(), params=params).logits.shape == (4, 3)


def test_save_and_load_again(folder, tmp_path):
    model = load(folder)
    model.save_pretrained(tmp_path / "again")
    assert_loaded(load(tmp_path / "again").params)
    content = json.loads((tmp_path / "again" / "config.json").read_text())
    assert content["architectures"] == ["BertForSequenceClassification"]
    assert content["id2label"]["2"] == "good"


def test_save_other_params_and_the_legacy_format(folder, tmp_path):
    model = load(folder)
    doubled = jax.tree.map(lambda x: 2 * x, model.params)
    model.save_pretrained(str(tmp_path / "again"), params=doubled, safe_serialization=False)
    tree = serialization.msgpack_restore((tmp_path / "again" / "flax_model.msgpack").read_bytes())
    assert_same_tensors(flat(tree), flat(doubled))
    assert_same_tensors(flat(load(tmp_path / "again").params), flat(doubled))
    model.save_pretrained(tmp_path / "again")
    assert not (tmp_path / "again" / "flax_model.msgpack").exists()


def test_uploads(folder, monkeypatch):
    calls = []

    class Api:
        def __init__(self, token=None):
            calls.append(("token", token))

        def create_repo(self, repo_id, **kwargs):
            calls.append(("create", repo_id, kwargs))
            return SimpleNamespace(repo_id=f"me/{repo_id}")

        def upload_folder(self, *, folder_path, repo_id, **kwargs):
            assert (folder_path / "model.safetensors").is_file()
            calls.append(("upload", repo_id, kwargs["commit_message"]))
            return "address"

    monkeypatch.setattr("jaxbert.api.flax.upload.HfApi", Api)
    model = load(folder)
    assert model.push_to_hub("mine", private=True, commit_message="First") == "address"
    model.save_pretrained(folder, push_to_hub=True, token="t")
    assert calls == [
        ("token", None),
        ("create", "mine", {"private": True, "exist_ok": True}),
        ("upload", "me/mine", "First"),
        ("token", "t"),
        ("create", "model", {"private": None, "exist_ok": True}),
        ("upload", "me/model", "Upload model"),
    ]


@pytest.mark.parametrize("name", ["./none", "org/none"])
def test_an_unknown_model_is_one_line(name):
    with pytest.raises(UserError, match="none"):
        load(name, local_files_only=True)
