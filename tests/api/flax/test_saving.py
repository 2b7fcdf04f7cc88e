"""Saving in every format: one file or shards, whole or in part, in the formats of the arrays, and uploading."""

from __future__ import annotations

import json
import logging
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization, traverse_util
from huggingface_hub import ModelCard
from huggingface_hub.errors import EntryNotFoundError
from tiny import assert_same_tensors, random_params, tiny_config, write_tiny

import jaxbert
from jaxbert import FlaxBertForSequenceClassification as Classifier
from jaxbert.errors import UserValueError
from jaxbert.interop.write import parse_size, save_folder
from jaxbert.models.functional import make_model

BIAS = ("bert", "encoder", "layer", "1", "attention", "self", "key", "bias")


def flat(tree):
    return {path: np.asarray(x) for path, x in traverse_util.flatten_dict(tree, sep="/").items()}


def same(found, expected):
    assert_same_tensors(flat(found), flat(expected))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    write_tiny(folder)
    return Classifier.from_pretrained(folder)


def files(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("safe", [True, False])
def test_shards_of_both_formats(model, tmp_path, safe):
    model.save_pretrained(tmp_path, max_shard_size="50kB", safe_serialization=safe)
    names = files(tmp_path)
    assert not {"model.safetensors", "flax_model.msgpack"} & set(names)
    for stem, separator, suffix, there in (
        ("model", ".", "safetensors", True),
        ("flax_model", "/", "msgpack", not safe),
    ):
        index = tmp_path / f"{stem}.{suffix}.index.json"
        assert index.exists() == there
        if not there:
            continue
        content = json.loads(index.read_text())
        shards = set(content["weight_map"].values())
        assert shards == {f"{stem}-{i + 1:05d}-of-{len(shards):05d}.{suffix}" for i in range(len(shards))} <= set(names)
        assert len(shards) >= 2
        assert content["metadata"]["total_size"] == sum(x.nbytes for x in flat(model.params).values())
        assert all((tmp_path / shard).stat().st_size < 60_000 for shard in shards)
        assert separator.join(("bert", "embeddings", "LayerNorm", "bias")) in content["weight_map"]
    same(Classifier.from_pretrained(tmp_path).params, model.params)
    for path in tmp_path.glob("model*"):
        if not safe:
            path.unlink()
    same(Classifier.from_pretrained(tmp_path).params, model.params)


def test_an_earlier_save_leaves_nothing_that_is_read_instead(model, tmp_path):
    doubled = jax.tree.map(lambda x: 2 * x, model.params)
    (tmp_path / "flax_model_card.msgpack").write_bytes(b"mine")
    model.save_pretrained(tmp_path, max_shard_size="50kB", safe_serialization=False)
    model.save_pretrained(tmp_path, params=doubled)
    assert files(tmp_path) == ["config.json", "flax_model_card.msgpack", "model.safetensors"]
    same(Classifier.from_pretrained(tmp_path).params, doubled)
    model.save_pretrained(tmp_path, max_shard_size=50_000, safe_serialization=False)
    assert not {"model.safetensors", "flax_model.msgpack"} & set(files(tmp_path))
    same(Classifier.from_pretrained(tmp_path).params, model.params)
    model.save_pretrained(tmp_path, params=doubled, safe_serialization=False)
    own = ["config.json", "flax_model.msgpack", "flax_model_card.msgpack", "model.safetensors"]
    assert files(tmp_path) == own


def test_pytorch_reads_shards(model, tmp_path):
    pytest.importorskip("torch")
    from transformers import BertForSequenceClassification

    model.save_pretrained(tmp_path, max_shard_size="50kB")
    theirs = BertForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_array_equal(theirs.classifier.weight.detach().numpy().T, model.params["classifier"]["kernel"])
    theirs.save_pretrained(tmp_path / "again", max_shard_size="50kB")
    assert (tmp_path / "again" / "model.safetensors.index.json").is_file()
    same(Classifier.from_pretrained(tmp_path, subfolder="again").params, model.params)


@pytest.mark.parametrize("safe", [True, False])
@pytest.mark.parametrize(("cast", "dtype"), [("to_fp16", jnp.float16), ("to_bf16", jnp.bfloat16)])
def test_half_precision_stays(model, tmp_path, caplog, safe, cast, dtype):
    params = traverse_util.flatten_dict(getattr(model, cast)(model.params))
    params[BIAS] = params[BIAS].astype(jnp.float32)  # one tensor of one layer
    params = traverse_util.unflatten_dict(params)
    model.save_pretrained(tmp_path, params=params, safe_serialization=safe)
    if not safe:
        (tmp_path / "model.safetensors").unlink()
    with caplog.at_level(logging.WARNING):
        found = Classifier.from_pretrained(tmp_path)
    same(found.params, params)
    count = len(flat(params))
    assert f"{count - 1} of {count} tensors are {jnp.dtype(dtype).name}" in caplog.text
    assert "to_fp32" in caplog.text
    _, outside = Classifier.from_pretrained(tmp_path, _do_init=False, dtype=dtype)
    same(outside, params)


def test_full_precision_is_not_warned_of(model, tmp_path, caplog):
    model.save_pretrained(tmp_path)
    with caplog.at_level(logging.WARNING):
        Classifier.from_pretrained(tmp_path)
    assert not caplog.text


def test_params_that_lack_a_tensor(model, tmp_path, caplog):
    part = traverse_util.flatten_dict(model.params)
    for path in [path for path in part if path[0] == "classifier"]:
        del part[path]
    part = traverse_util.unflatten_dict(part)
    model.save_pretrained(tmp_path / "head", params=part)
    bare, params = Classifier.from_pretrained(tmp_path / "head", _do_init=False)
    same(params, part)
    completed = bare.init_weights(bare.key, (1, 1), params)
    assert flat(completed).keys() == flat(model.params).keys()
    part = traverse_util.flatten_dict(part)
    del part[BIAS]
    for safe in (True, False):
        model.save_pretrained(tmp_path / "layer", params=traverse_util.unflatten_dict(part), safe_serialization=safe)
    tree = serialization.msgpack_restore((tmp_path / "layer" / "flax_model.msgpack").read_bytes())
    assert traverse_util.flatten_dict(tree).keys() == part.keys()
    with pytest.raises(UserValueError, match=r"missing: bert\.encoder\.layer\.1\.attention\.self\.key\.bias"):
        Classifier.from_pretrained(tmp_path / "layer")


def test_the_model_without_a_head_in_shards(tmp_path):
    head = make_model(jaxbert.FlaxBertModel.module_class.head, tiny_config())
    save_folder(tmp_path / "one", random_params(head), head.config, architecture="BertModel")
    model = jaxbert.FlaxBertModel.from_pretrained(tmp_path / "one")
    model.save_pretrained(tmp_path / "many", max_shard_size="50kB", safe_serialization=False)
    weight_map = json.loads((tmp_path / "many" / "flax_model.msgpack.index.json").read_text())["weight_map"]
    assert "embeddings/LayerNorm/bias" in weight_map
    same(jaxbert.FlaxBertModel.from_pretrained(tmp_path / "many").params, model.params)


def test_sizes():
    assert [parse_size(x) for x in (7, "7B", "5kB", "10 GB", "2GiB", "1mib")] == [7, 7, 5000, 10**10, 2**31, 2**20]
    for wrong in (0, -1, "", "10", "GB", "1.5GB", "1XB", None, 1.5):
        with pytest.raises(jaxbert.UserError, match="max_shard_size"):
            parse_size(wrong)


def test_a_wrong_size_is_a_value_error(model, tmp_path):
    with pytest.raises(ValueError, match="300MB"):
        model.save_pretrained(tmp_path, max_shard_size="large")


@pytest.fixture
def calls(monkeypatch):
    """What a Hub that is not there would have been asked."""
    calls = {}

    class Api:
        def __init__(self, token=None):
            calls["token"] = token

        def create_repo(self, repo_id, **kwargs):
            calls["create"] = kwargs
            return SimpleNamespace(repo_id=repo_id)

        def create_branch(self, repo_id, **kwargs):
            calls["branch"] = kwargs

        def upload_folder(self, *, folder_path, repo_id, allow_patterns, **kwargs):
            calls["files"] = {name for name in allow_patterns if (folder_path / name).is_file()}
            calls["card"] = (folder_path / "README.md").read_text() if "README.md" in allow_patterns else None
            calls["upload"] = kwargs
            return "address"

    monkeypatch.setattr("jaxbert.api.flax.upload.HfApi", Api)
    return calls


def test_arguments_of_an_upload(model, calls, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(ModelCard, "load", lambda *_, **__: (_ for _ in ()).throw(EntryNotFoundError("no card")))
    options = {"use_temp_dir": False, "max_shard_size": "50kB", "safe_serialization": False, "tags": ["news"]}
    assert model.push_to_hub("me/mine", revision="new", create_pr=False, use_auth_token="t", **options) == "address"
    assert calls["token"] == "t"
    assert calls["branch"] == {"branch": "new", "exist_ok": True}
    assert {"config.json", "README.md", "model.safetensors.index.json", "flax_model.msgpack.index.json"} <= calls[
        "files"
    ]
    assert calls["files"] == set(files(tmp_path / "mine"))
    assert ModelCard(calls["card"]).data.tags == ["news"]
    assert calls["upload"].keys() == {"commit_message", "commit_description", "revision", "create_pr"}
    with pytest.raises(TypeError, match="nonsense"):
        model.push_to_hub("mine", nonsense=1)


def test_an_upload_in_the_legacy_order(model, calls, monkeypatch):
    card = ModelCard("---\ntags:\n- old\n---\nmine\n")
    monkeypatch.setattr(ModelCard, "load", lambda *_, **__: card)
    model.push_to_hub("mine", True, "First", True, "t", "5GB", True, True, "refs/pr/1", "Long", ["old", "new"])
    assert calls["create"] == {"private": True, "exist_ok": True}
    assert "branch" not in calls
    assert calls["files"] == {"config.json", "model.safetensors", "README.md"}
    assert ModelCard(calls["card"]).data.tags == ["old", "new"]
    assert calls["upload"] == {
        "commit_message": "First",
        "commit_description": "Long",
        "revision": "refs/pr/1",
        "create_pr": True,
    }


def test_saving_may_upload(model, calls, tmp_path):
    with pytest.raises(TypeError, match="nonsense"):
        model.save_pretrained(tmp_path, push_to_hub=True, nonsense=1)
    model.save_pretrained(
        tmp_path, push_to_hub=True, repo_id="me/mine", commit_message="First", private=True, token="t"
    )
    assert (calls["token"], calls["upload"]["commit_message"]) == ("t", "First")
    assert calls["files"] == {"config.json", "model.safetensors"}
