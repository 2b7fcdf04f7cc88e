"""A checkpoint fits whole, or gives its encoder to a fresh head when that is wanted, or is an error that lists all."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import traverse_util
from tiny import assert_same_tensors, random_params, tiny_model, write_tensors

from jaxbert.errors import UserError
from jaxbert.interop.load import load_params

KEY = jax.random.key(3)
HEAD = ("classifier.bias", "classifier.weight")
POOLER = ("bert.pooler.dense.bias", "bert.pooler.dense.weight")


def without(tensors, *prefixes):
    return {name: tensor for name, tensor in tensors.items() if not name.startswith(prefixes)}


def flat(tree):
    return traverse_util.flatten_dict(tree, sep="/")


def error_of(folder, **kwargs) -> str:
    with pytest.raises(UserError) as caught:
        load_params(folder, tiny_model(), **kwargs)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("key", [None, KEY])
def test_a_whole_checkpoint_loads_exactly(folder, tensors, key):
    params, report = load_params(folder, tiny_model(), key=key)
    assert_same_tensors(flat(params), flat(random_params(tiny_model())))
    assert (len(report.loaded), report.fresh, report.unused) == (len(tensors), (), ())
    assert jax.tree.structure(params) == jax.tree.structure(tiny_model().abstract_params)


def test_a_bare_encoder_gets_a_fresh_head(folder, tensors):
    bare = {name.removeprefix("bert."): tensor for name, tensor in without(tensors, "classifier").items()}
    write_tensors(folder, bare)
    params, report = load_params(folder, tiny_model(), key=KEY)
    assert report.fresh == HEAD
    assert_same_tensors(flat(params["bert"]), flat(random_params(tiny_model())["bert"]))
    kernel = params["classifier"]["kernel"]
    assert kernel.std() == pytest.approx(0.02, rel=0.3)
    assert not params["classifier"]["bias"].any()
    again, _ = load_params(folder, tiny_model(), key=KEY)
    np.testing.assert_array_equal(again["classifier"]["kernel"], kernel)
    other, _ = load_params(folder, tiny_model(), key=jax.random.key(4))
    assert (other["classifier"]["kernel"] != kernel).any()


def test_a_masked_lm_gives_its_encoder(folder, tensors):
    head = {"cls.predictions.bias": np.zeros(120, np.float32)}
    write_tensors(folder, without(tensors, "classifier", "bert.pooler") | head)
    _, report = load_params(folder, tiny_model(), key=KEY)
    assert set(report.fresh) == {*HEAD, *POOLER}
    assert report.unused == ("cls.predictions.bias",)
    assert "classifier.weight" in str(report)
    assert "left unused: cls.predictions.bias" in str(report)


def test_another_number_of_labels_gets_a_fresh_head(folder, tensors):
    params, report = load_params(folder, tiny_model(id2label=dict(enumerate("abcde")), label2id=None), key=KEY)
    assert params["classifier"]["kernel"].shape == (32, 5)
    assert report.fresh == report.unused == HEAD
    message = None
    with pytest.raises(UserError) as caught:
        load_params(folder, tiny_model(id2label=dict(enumerate("abcde")), label2id=None))
    message = str(caught.value)
    assert "classifier.bias [3] instead of [5]" in message
    assert "classifier.weight [3, 32] instead of [5, 32]" in message


def test_prediction_needs_a_trained_head(folder, tensors):
    write_tensors(folder, without(tensors, "classifier"))
    message = error_of(folder)
    assert "missing: classifier.bias, classifier.weight" in message
    assert "no trained head" in message


@pytest.mark.parametrize("key", [None, KEY])
def test_all_misfits_are_listed_in_one_line(folder, tensors, key):
    broken = without(tensors, "bert.encoder.layer.1.output", "bert.embeddings.LayerNorm.bias")
    broken["bert.encoder.layer.0.output.dense.bias"] = np.zeros(5, np.float32)
    broken["bert.encoder.layer.3.output.dense.bias"] = np.zeros(32, np.float32)
    write_tensors(folder, broken)
    message = error_of(folder, key=key)
    for name in tensors.keys() - broken.keys():
        assert name in message
    assert "unexpected: bert.encoder.layer.3.output.dense.bias" in message
    assert "misshapen: bert.encoder.layer.0.output.dense.bias [5] instead of [32]" in message


def renamed(tensors, old, new):
    return {new + n.removeprefix(old) if n.startswith(old) else n: tensor for n, tensor in tensors.items()}


@pytest.mark.parametrize("key", [None, KEY])
@pytest.mark.parametrize(
    ("changes", "edit", "expected"),
    [
        (
            {"num_hidden_layers": 5},
            None,
            "missing: 32 of them, bert.encoder.layer.3.attention.output.LayerNorm.bias, .* and 27 others "
            r"\(all 32 are of encoder.layer.3 to 4: the checkpoint has 3 layers, its configuration num_hidden_layers 5\)",
        ),
        (
            {"num_hidden_layers": 2},
            None,
            r"unexpected: 16 of .* \(all 16 are of encoder.layer.2: the checkpoint has 3 layers, its configuration num_",
        ),
        (
            {"vocab_size": 200},
            None,
            r"misshapen: .*word_embeddings.weight \[120, 32\] instead of \[200, 32\] "
            r"\(vocab_size is 120 in the checkpoint, 200 in its configuration\)$",
        ),
        (
            {"hidden_size": 48, "max_position_embeddings": 20},
            None,
            r"\(max_position_embeddings is 40 in the checkpoint, 20 in its configuration; hidden_size is 32 in the "
            r"checkpoint, 48 in its configuration\)$",
        ),
        (
            {},
            lambda tensors: renamed(tensors, "bert.", "model."),
            r"\(the encoder's names begin with model., but those of 2 tensors do not \(classifier.bias\): save the",
        ),
    ],
)
def test_what_misfits_have_in_common_is_said(folder, tensors, key, changes, edit, expected):
    if edit:
        write_tensors(folder, edit(tensors))
    with pytest.raises(UserError, match=expected) as caught:
        load_params(folder, tiny_model(**changes), key=key)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("key", [None, KEY])
def test_another_kind_of_model_is_named(folder, tensors, key):
    write_tensors(folder, {n.replace("bert.", "roberta."): t for n, t in tensors.items() if n.startswith("bert.")})
    with pytest.raises(
        UserError, match=r"55 of 55 names begin with roberta.: this is no BERT, or one inside of another"
    ):
        load_params(folder, tiny_model(), key=key)


@pytest.mark.parametrize("lost", ["classifier.weight", "bert.pooler.dense.bias"])
def test_half_a_head_is_damage(folder, tensors, lost):
    write_tensors(folder, without(tensors, lost))
    assert f"missing: {lost}" in error_of(folder, key=KEY)


def test_an_unexpected_head_is_an_error_for_prediction(folder, tensors):
    write_tensors(folder, tensors | {"cls.predictions.bias": np.zeros(120, np.float32)})
    assert "unexpected: cls.predictions.bias" in error_of(folder)


def test_every_bit_flipped_in_the_header_is_found(folder, tensors):
    path, model = folder / "model.safetensors", tiny_model()
    good = path.read_bytes()
    header = 8 + int.from_bytes(good[:8], "little")
    rng = np.random.default_rng(0)
    for position in (*range(32), *rng.choice(header, 400, replace=False)):
        broken = bytearray(good)
        broken[position] ^= 1 << rng.integers(8)
        path.write_bytes(broken)
        with pytest.raises(UserError, match=str(folder)):
            load_params(folder, model)


@pytest.mark.parametrize("kind", ["FlaxBertForSequenceClassification", "FlaxBertForMaskedLM", "FlaxBertModel"])
@pytest.mark.real
def test_legacy_checkpoints_load(shared_data, kind):
    _, report = load_params(shared_data / "legacy_flax" / kind, tiny_model(), key=KEY)
    assert len(report.loaded) >= 53
