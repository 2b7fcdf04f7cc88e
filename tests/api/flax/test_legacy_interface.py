"""A program for transformers 4.57 finds its orders, names, kinds of errors and Auto classes; models share programs."""

from __future__ import annotations

import copy
import inspect
import pickle

import flax.errors
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.core import FrozenDict, freeze
from tiny import random_rows, tiny_config, write_tiny
from transformers import BertConfig, RobertaConfig

import jaxbert
from jaxbert import FlaxBertForSequenceClassification as Classifier
from jaxbert.api.flax import flax_bert
from jaxbert.errors import UserError, UserOSError, UserValueError

TASKS = (
    *("ForPreTraining", "ForMaskedLM", "ForSequenceClassification", "ForQuestionAnswering", "ForTokenClassification"),
    *("ForMultipleChoice", "ForNextSentencePrediction"),
)


def config(**changes):
    two = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}}
    return tiny_config(num_hidden_layers=1, initializer_range=0.2, **two, **changes)


@pytest.fixture(scope="module")
def model():
    return Classifier(config(), seed=1)


@pytest.fixture(scope="module")
def rows():
    return random_rows()


def equal(found, expected):
    np.testing.assert_array_equal(found, expected)


def test_params_are_the_eighth_argument(model, rows):
    other = jax.tree.map(lambda x: 2 * x, model.params)
    expected = model(**rows, params=other).logits
    assert abs(expected - model(**rows).logits).max() > 1e-3
    ids, mask, types = (rows[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    equal(model(ids, mask, types, None, None, None, None, other).logits, expected)
    equal(model(ids, mask, types, None, None, None, None, freeze(other), None, False).logits, expected)
    out = model(ids, mask, types, None, None, None, None, other, None, False, True, True, False, None)
    assert isinstance(out, tuple)
    assert len(out) == 3
    equal(model(**rows, params={}).logits, model(**rows).logits)


@pytest.mark.parametrize("name", ["encoder_hidden_states", "encoder_attention_mask", "past_key_values"])
def test_what_a_decoder_reads_is_refused(model, rows, name):
    with pytest.raises(UserValueError, match=f"{name}: only a decoder reads that"):
        model(**rows, **{name: np.ones((4, 12, 32))})
    model(**rows, **{name: None})


def test_values_at_padding_are_finite_whatever_is_masked(model, rows):
    out = model(rows["input_ids"], np.zeros((4, 12), np.int32), rows["token_type_ids"])
    assert np.isfinite(out.logits).all()


def test_errors_are_of_the_legacy_kinds(model, rows, tmp_path):
    write_tiny(tmp_path / "model")
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged" / "config.json").write_text("{")
    (tmp_path / "damaged" / "model.safetensors").write_bytes(b"")
    for arguments in ({"subfolder": "none"}, {"subfolder": "none", "local_files_only": True}):
        with pytest.raises(UserOSError, match="no such folder"):
            Classifier.from_pretrained(tmp_path / "model", **arguments)
    for missing in (tmp_path / "none", "./none", "org/none"):
        with pytest.raises(UserOSError, match="none"):
            Classifier.from_pretrained(missing, local_files_only=True)
    (tmp_path / "model" / "model.safetensors").rename(tmp_path / "away.safetensors")
    with pytest.raises(UserOSError, match="no weights"):
        Classifier.from_pretrained(tmp_path / "model")
    (tmp_path / "away.safetensors").rename(tmp_path / "model" / "model.safetensors")
    with pytest.raises(UserOSError, match=r"config\.json"):
        Classifier.from_pretrained(tmp_path / "damaged")
    with pytest.raises(UserOSError, match="it is empty"):
        Classifier.from_pretrained(tmp_path / "damaged", config=config())
    with pytest.raises(UserOSError, match="cannot be written"):
        model.save_pretrained(tmp_path / "model" / "config.json")
    with pytest.raises(UserValueError, match="ignore_mismatched_sizes=True"):
        Classifier.from_pretrained(tmp_path / "model", num_labels=9)
    with pytest.raises(UserValueError, match="instead of"):
        Classifier.from_pretrained(tmp_path / "model", vocab_size=9)
    with pytest.raises(UserValueError, match="mish"):
        Classifier.from_pretrained(tmp_path / "model", hidden_act="mish")
    with pytest.raises(UserValueError, match="only BertConfig"):
        Classifier.from_pretrained(tmp_path / "model", config=RobertaConfig())
    with pytest.raises(flax.errors.InvalidRngError, match="dropout_rng") as caught:
        model(**rows, train=True)
    assert isinstance(caught.value, UserError)
    assert "http" not in str(caught.value)
    with pytest.raises(UserValueError, match=r"\[rows, tokens\]"):
        model(rows["input_ids"][0])


@pytest.mark.parametrize("kind", [Classifier, jaxbert.FlaxAutoModel.from_config])
def test_configurations_that_cannot_be_computed_are_refused(kind):
    with pytest.raises(UserValueError, match="position_embedding_type 'relative_key'"):
        kind(config(position_embedding_type="relative_key"))
    with pytest.raises(UserValueError, match="is_decoder true"):
        kind(config(is_decoder=True))
    with pytest.raises(UserValueError, match="RobertaConfig"):
        kind(RobertaConfig())


@pytest.mark.parametrize("task", ["", *TASKS])
def test_auto_classes(task, tmp_path):
    auto = getattr(jaxbert, f"FlaxAutoModel{task}")
    expected = getattr(jaxbert, f"FlaxBert{task or 'Model'}")
    name = {"ForPreTraining": "FOR_PRETRAINING", "ForMaskedLM": "FOR_MASKED_LM"}.get(task)
    name = name or "".join(f"_{c}" if c.isupper() else c.upper() for c in task)[1:].upper()
    mapping = getattr(jaxbert, f"FLAX_MODEL_{name}_MAPPING" if task else "FLAX_MODEL_MAPPING")
    assert mapping[BertConfig] is expected
    assert list(mapping.keys()) == [BertConfig]
    made = auto.from_config(config(), seed=3, dtype=jnp.bfloat16, _do_init=False, trust_remote_code=True)
    assert type(made) is expected
    assert made.dtype == jnp.bfloat16
    with pytest.raises(OSError, match="from_pretrained"):
        auto()


def test_auto_classes_load(tmp_path):
    write_tiny(tmp_path)
    found = jaxbert.FlaxAutoModelForSequenceClassification.from_pretrained(
        tmp_path, num_labels=3, seed=0, trust_remote_code=False, dtype=jnp.float32
    )
    assert type(found) is Classifier
    auto, params = jaxbert.FlaxAutoModel.from_pretrained(str(tmp_path), config=tiny_config(), _do_init=False)
    assert type(auto) is jaxbert.FlaxBertModel
    equal(params["embeddings"]["LayerNorm"]["scale"], found.params["bert"]["embeddings"]["LayerNorm"]["scale"])
    with pytest.raises(UserValueError, match="RobertaConfig"):
        jaxbert.FlaxAutoModel.from_pretrained(tmp_path, config=RobertaConfig())


def test_a_bert_that_writes_is_refused_with_the_way_out():
    for use in (
        lambda: jaxbert.FlaxBertForCausalLM(config()),
        lambda: jaxbert.FlaxBertForCausalLM.from_pretrained("bert-base-uncased"),
        lambda: jaxbert.FlaxAutoModelForCausalLM.from_pretrained("bert-base-uncased"),
        lambda: jaxbert.FlaxAutoModelForCausalLM.from_config(config()),
    ):
        with pytest.raises(UserValueError, match="BertLMHeadModel"):
            use()


def test_names():
    for task in TASKS:
        kind = getattr(jaxbert, f"FlaxBert{task}")
        assert kind.module_class is getattr(flax_bert, f"FlaxBert{task}Module")
        assert inspect.isclass(kind.module_class)
        assert issubclass(kind, jaxbert.FlaxBertPreTrainedModel)
        assert (kind.base_model_prefix, kind.main_input_name, kind.config_class) == ("bert", "input_ids", BertConfig)
    assert jaxbert.FlaxBertModel.module_class is flax_bert.FlaxBertModule
    module = flax_bert.FlaxBertForMaskedLMModule(config=config(), dtype=jnp.bfloat16, gradient_checkpointing=True)
    assert module.dtype == jnp.bfloat16
    assert set(dir(jaxbert)) == set(jaxbert.__all__)
    assert all(getattr(jaxbert, name) is not None for name in jaxbert.__all__)


def test_a_completed_tree_is_frozen_as_the_legacy_one(model):
    completed = model.init_weights(model.key, (1, 1), {"bert": model.params["bert"]})
    assert isinstance(completed, FrozenDict)
    assert isinstance(model.init_weights(model.key, (1, 1)), dict)
    equal(completed["classifier"]["kernel"], model.params["classifier"]["kernel"])


def test_a_second_model_of_a_configuration_compiles_nothing(model, rows):
    model(**rows)
    programs = model.module._programs
    compiled = programs.draw._cache_size(), programs.forward._cache_size()
    renamed = config(architectures=["X"])
    renamed.id2label, renamed.label2id = {0: "a", 1: "b"}, {"a": 0, "b": 1}
    second = Classifier(renamed, seed=2)
    second(**rows)
    assert second.module._programs is programs
    assert (programs.draw._cache_size(), programs.forward._cache_size()) == compiled
    assert abs(second.params["classifier"]["kernel"] - model.params["classifier"]["kernel"]).max() > 0


@pytest.mark.parametrize(
    "changes",
    [{"hidden_act": "relu"}, {"hidden_dropout_prob": 0.2}, {"layer_norm_eps": 1e-3}, {"tie_word_embeddings": False}],
)
def test_another_configuration_shares_nothing(model, changes):
    other = Classifier(config(**changes), _do_init=False)
    assert other.module._programs is not model.module._programs
    later = config()
    first = Classifier(later, _do_init=False)
    later.update(changes)  # what a model was made of stays what it was
    assert first.module._programs is model.module._programs
    assert first.module.model.config.hidden_act == "gelu"


@pytest.mark.parametrize("again", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_models_are_copied_and_pickled(model, rows, again):
    found = again(model)
    assert type(found) is Classifier
    assert found.module is not model.module
    equal(found(**rows).logits, model(**rows).logits)
    equal(again(model.module).apply({"params": model.params}, **rows).logits, model(**rows).logits)
    bare = again(jaxbert.FlaxBertModel(config(), _do_init=False, add_pooling_layer=False, dtype=jnp.bfloat16))
    assert "pooler" not in bare.params_shape_tree
    assert (bare.dtype, bare.module.dtype) == (jnp.bfloat16, jnp.bfloat16)


def test_casts_leave_numpy_and_integers_alone(model):
    host = jax.device_get(model.params)
    assert {x.dtype.name for x in jax.tree.leaves(model.to_fp16(host))} == {"float32"}
    mixed = {"a": jnp.ones(2), "b": np.ones(2, np.float32), "c": jnp.ones(2, jnp.int32)}
    assert {name: x.dtype.name for name, x in model.to_bf16(mixed).items()} == {
        "a": "bfloat16",
        "b": "float32",
        "c": "int32",
    }
    assert isinstance(model.to_fp16(freeze(model.params)), FrozenDict)
    masked = model.to_fp16(mixed, {"a": False, "b": True, "c": True})
    assert masked["a"].dtype == jnp.float32
    assert {x.dtype.name for x in jax.tree.leaves(jax.jit(model.to_bf16)(model.params))} == {"bfloat16"}


def test_shapes_are_the_models_own(model):
    model.params_shape_tree.clear()
    assert "classifier" in model.params_shape_tree
