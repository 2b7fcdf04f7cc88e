"""A program written for the legacy class runs unchanged: signature, outputs, parameters, and use inside jit and grad."""

from __future__ import annotations

import inspect
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from flax.core import freeze
from tiny import random_rows, tiny_config

from jaxbert import FlaxBertForSequenceClassification
from jaxbert.errors import UserError


def two_layers(**changes):
    return tiny_config(**({"num_hidden_layers": 2} | changes))


@pytest.fixture(scope="module")
def model():
    return FlaxBertForSequenceClassification(two_layers(initializer_range=0.2), seed=1)


@pytest.fixture(scope="module")
def rows():
    return random_rows()


def close(found, expected, tolerance=1e-6):
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


def test_importing_the_package_brings_in_nothing():
    program = "import sys, jaxbert; assert not {'jax', 'flax', 'transformers', 'torch'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True)


def test_signatures_are_the_legacy_ones():
    call = list(inspect.signature(FlaxBertForSequenceClassification.__call__).parameters.values())
    positional = [p.name for p in call if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == [
        "self", "input_ids", "attention_mask", "token_type_ids", "position_ids", "head_mask",
        "encoder_hidden_states", "encoder_attention_mask", "params", "dropout_rng", "train", "output_attentions",
        "output_hidden_states", "return_dict", "past_key_values",
    ]  # fmt: skip
    assert [p.name for p in call if p.kind is p.KEYWORD_ONLY] == ["segment_ids", "cls_positions"]


def test_outputs_work_as_attribute_key_and_tuple(model, rows):
    out = model(**rows, output_hidden_states=True, output_attentions=True)
    assert out.logits.shape == (4, 3)
    assert out["logits"] is out.logits
    assert out[0] is out.logits
    assert out.keys() == {"logits", "hidden_states", "attentions"}
    assert out.to_tuple()[1] is out.hidden_states
    assert [x.shape for x in out.hidden_states] == [(4, 12, 32)] * 3
    assert [x.shape for x in out.attentions] == [(4, 4, 12, 12)] * 2
    assert isinstance(out.hidden_states, tuple)
    assert model(**rows).keys() == {"logits"}
    assert model(**rows).attentions is None


def test_return_dict_false_is_a_tuple(model, rows):
    out = model(**rows, return_dict=False)
    assert isinstance(out, tuple)
    assert len(out) == 1
    assert len(model(**rows, output_attentions=True, return_dict=False)) == 2


def test_the_config_chooses_what_the_call_leaves_open(rows):
    config = two_layers(output_hidden_states=True, return_dict=False)
    out = FlaxBertForSequenceClassification(config)(**rows)
    assert isinstance(out, tuple)
    assert len(out[1]) == 3


def test_defaults_are_all_ones_zeros_and_arange(model, rows):
    ids = np.maximum(rows["input_ids"], 1)
    explicit = model(ids, np.ones((4, 12)), np.zeros((4, 12)), np.arange(12)[None]).logits
    close(model(ids).logits, explicit, 0)
    close(model(ids.tolist()).logits, explicit, 0)
    close(model(ids.astype(np.int64)).logits, explicit, 0)


def test_padding_is_not_seen(model, rows):
    changed = rows | {"input_ids": np.where(rows["attention_mask"] == 1, rows["input_ids"], 7)}
    close(model(**changed).logits, model(**rows).logits, 0)
    assert abs(model(changed["input_ids"]).logits - model(**rows).logits).max() > 1e-3


def test_packed_rows_equal_unpacked_ones(model, rows):
    lengths = rows["attention_mask"].sum(1)
    ids = np.zeros((1, 40), np.int32)
    types, segments, starts, start = np.zeros_like(ids), np.zeros_like(ids), np.zeros((1, 4), np.int32), 0
    for i in range(3):
        place = slice(start, start + lengths[i])
        ids[0, place], segments[0, place], starts[0, i] = rows["input_ids"][i, : lengths[i]], i + 1, start
        types[0, place] = rows["token_type_ids"][i, : lengths[i]]
        start += lengths[i]
    packed = model(ids, token_type_ids=types, segment_ids=segments, cls_positions=starts).logits
    assert packed.shape == (1, 4, 3)
    close(packed[0, :3], model(**rows).logits[:3])


def test_wrong_inputs_are_named(model, rows):
    with pytest.raises(ValueError, match="segment_ids and cls_positions"):
        model(**rows, segment_ids=rows["attention_mask"])
    with pytest.raises(ValueError, match="40 positions"):
        model(np.ones((1, 41), np.int32))
    with pytest.raises(ValueError, match="segment_ids has shape"):
        model(rows["input_ids"], rows["attention_mask"][:, :-1])
    with pytest.raises(ValueError, match="head_mask"):
        model(**rows, head_mask=np.ones(4))
    with pytest.raises(ValueError, match=r"\[rows, tokens\]"):
        model(np.ones(5, np.int32))


def test_a_call_compiles_once_per_shape(rows):
    model = FlaxBertForSequenceClassification(two_layers(max_position_embeddings=39))
    for _ in range(3):
        model(**rows)
    assert model.module._programs.forward._cache_size() == 1


def test_works_inside_jit_grad_and_vmap(model, rows):
    ids = jnp.asarray(rows["input_ids"])
    out = jax.jit(lambda params, ids: model(ids, params=params))(model.params, ids)
    close(out.logits, model(ids).logits)
    assert out.keys() == {"logits"}

    def loss(params):
        return model(**rows, params=params, train=True, dropout_rng=jax.random.PRNGKey(0))[0].sum()

    grads = jax.grad(loss)(model.params)
    assert jax.tree.structure(grads) == jax.tree.structure(model.params)
    assert abs(grads["bert"]["encoder"]["layer"]["1"]["output"]["dense"]["kernel"]).max() > 0
    each = jax.vmap(lambda ids: model(ids[None], params=model.params).logits[0])(ids)
    close(each, model(ids).logits)


def test_a_legacy_training_loop_learns(rows):
    model = FlaxBertForSequenceClassification(two_layers(num_hidden_layers=1, initializer_range=0.1))
    labels = jax.nn.one_hot(jnp.asarray([0, 1, 2, 1]), 3)
    tx = optax.adam(3e-3)

    @jax.jit
    def step(params, state, key):
        def loss_fn(params):
            logits = model.__call__(**rows, params=params, dropout_rng=key, train=True)[0]
            return optax.softmax_cross_entropy(logits, labels).mean()

        loss, grads = jax.value_and_grad(loss_fn)(params)
        updates, state = tx.update(grads, state)
        return optax.apply_updates(params, updates), state, loss

    params, state, losses = model.params, tx.init(model.params), []
    for i in range(30):
        params, state, loss = step(params, state, jax.random.PRNGKey(i))
        losses.append(float(loss))
    assert losses[-1] < 0.5 * losses[0]


def test_dropout_needs_train_and_a_key(model, rows):
    key = jax.random.PRNGKey(0)
    dropped = model(**rows, train=True, dropout_rng=key).logits
    assert abs(dropped - model(**rows).logits).max() > 1e-3
    close(dropped, model(**rows, train=True, dropout_rng=key).logits, 0)
    close(model(**rows, dropout_rng=key).logits, model(**rows).logits, 0)
    with pytest.raises(ValueError, match="dropout_rng"):
        model(**rows, train=True)
    still = FlaxBertForSequenceClassification(two_layers(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0))
    close(still(**rows, train=True).logits, still(**rows).logits, 0)


def test_head_mask_switches_heads_off(model, rows):
    close(model(**rows, head_mask=np.ones((2, 4))).logits, model(**rows).logits)
    mask = np.ones((2, 4))
    mask[1, 2] = 0
    out = model(**rows, head_mask=mask, output_attentions=True)
    assert not out.attentions[1][:, 2].any()
    assert out.attentions[1][:, 1].any()
    assert abs(out.logits - model(**rows).logits).max() > 1e-4


def test_module_apply_takes_the_legacy_arguments(model, rows):
    variables = {"params": model.params}
    positions, heads = np.broadcast_to(np.arange(12), (4, 12)), np.ones((2, 4))
    inputs = (rows["input_ids"], rows["attention_mask"], rows["token_type_ids"], positions, heads)
    close(model.module.apply(variables, *inputs).logits, model(**rows).logits)
    key = jax.random.PRNGKey(2)
    noisy = model.module.apply(variables, *inputs, deterministic=False, rngs={"dropout": key}, return_dict=False)
    close(noisy[0], model(**rows, train=True, dropout_rng=key).logits)
    drawn = model.module.init({"params": key, "dropout": key}, *inputs, return_dict=False)["params"]
    assert jax.tree.structure(drawn) == jax.tree.structure(model.params)


def test_params_are_the_legacy_tree(model):
    paths = set(traverse_util.flatten_dict(model.params))
    assert paths == model.required_params == set(traverse_util.flatten_dict(model.params_shape_tree))
    assert ("bert", "encoder", "layer", "0", "attention", "self", "query", "kernel") in paths
    shapes = jax.tree.map(lambda x: (x.shape, x.dtype), model.params_shape_tree)
    assert shapes == jax.tree.map(lambda x: (x.shape, x.dtype), model.params)


def test_setting_params_checks_their_names(rows):
    model = FlaxBertForSequenceClassification(two_layers())
    other = FlaxBertForSequenceClassification(two_layers(), seed=5).params
    model.params = freeze(other)
    assert isinstance(model.params, dict)
    close(model(**rows).logits, model(**rows, params=freeze(other)).logits, 0)
    del other["classifier"]
    with pytest.raises(ValueError, match="classifier/bias, classifier/kernel"):
        model.params = other
    with pytest.raises(ValueError, match="classifier/bias"):
        model(**rows, params=other)


def test_without_init_params_stay_outside(rows):
    model = FlaxBertForSequenceClassification(two_layers(), _do_init=False)
    with pytest.raises(ValueError, match="_do_init=False"):
        _ = model.params
    with pytest.raises(ValueError, match="_do_init=False"):
        model.params = {}
    params = model.init_weights(jax.random.PRNGKey(0), (1, 1))
    assert model(**rows, params=params).logits.shape == (4, 3)
    del params["classifier"]
    completed = model.init_weights(jax.random.PRNGKey(1), (1, 1), params)
    assert completed["bert"]["pooler"]["dense"]["kernel"] is params["bert"]["pooler"]["dense"]["kernel"]
    assert completed["classifier"]["kernel"].shape == (32, 3)


def test_the_seed_decides_the_parameters():
    kernels = [
        FlaxBertForSequenceClassification(two_layers(), seed=s).params["classifier"]["kernel"] for s in (0, 0, 1)
    ]
    close(kernels[0], kernels[1], 0)
    assert abs(kernels[0] - kernels[2]).max() > 0


@pytest.mark.parametrize(("cast", "dtype"), [("to_bf16", jnp.bfloat16), ("to_fp16", jnp.float16)])
def test_casting(model, rows, cast, dtype):
    low = getattr(model, cast)(model.params)
    assert {x.dtype for x in jax.tree.leaves(low)} == {jnp.dtype(dtype)}
    assert {x.dtype for x in jax.tree.leaves(model.to_fp32(low))} == {jnp.dtype(jnp.float32)}
    flat = traverse_util.flatten_dict(model.params)
    mask = traverse_util.unflatten_dict({path: path[-2] != "LayerNorm" for path in flat})
    partly = traverse_util.flatten_dict(getattr(model, cast)(model.params, mask))
    assert all((x.dtype == jnp.float32) == (path[-2] == "LayerNorm") for path, x in partly.items())
    close(model(**rows, params=low).logits, model(**rows).logits, 0.1)


def test_dtype_is_that_of_the_computation(rows):
    model = FlaxBertForSequenceClassification(two_layers(), dtype=jnp.bfloat16)
    assert model(**rows).logits.dtype == model.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(model.params)} == {jnp.dtype(jnp.float32)}
    close(
        model(**rows).logits.astype(jnp.float32), FlaxBertForSequenceClassification(two_layers())(**rows).logits, 0.02
    )


def test_a_config_that_cannot_be_computed_is_refused():
    with pytest.raises(UserError, match="relative_key"):
        FlaxBertForSequenceClassification(two_layers(position_embedding_type="relative_key"))
