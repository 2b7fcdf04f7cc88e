"""All public classes have the legacy interface: signatures, outputs, trees, loading from each other, packed input."""

from __future__ import annotations

import dataclasses
import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from safetensors import safe_open
from tiny import assert_same_tensors, random_params, random_rows, tiny_config

import jaxbert
from jaxbert.api.flax.pretrained import FlaxBertPreTrainedModel
from jaxbert.errors import UserError
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model

ROWS, TOKENS, CHOICES = 4, 12, 2
OUTPUTS = {
    "FlaxBertModel": {"last_hidden_state": (ROWS, TOKENS, 32), "pooler_output": (ROWS, 32)},
    "FlaxBertForPreTraining": {"prediction_logits": (ROWS, TOKENS, 120), "seq_relationship_logits": (ROWS, 2)},
    "FlaxBertForMaskedLM": {"logits": (ROWS, TOKENS, 120)},
    "FlaxBertForNextSentencePrediction": {"logits": (ROWS, 2)},
    "FlaxBertForSequenceClassification": {"logits": (ROWS, 2)},
    "FlaxBertForMultipleChoice": {"logits": (ROWS // CHOICES, CHOICES)},
    "FlaxBertForTokenClassification": {"logits": (ROWS, TOKENS, 2)},
    "FlaxBertForQuestionAnswering": {"start_logits": (ROWS, TOKENS), "end_logits": (ROWS, TOKENS)},
}
PER_EXAMPLE = {"pooler_output", "seq_relationship_logits"}


def config(**changes):
    changes = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}} | changes
    return tiny_config(num_hidden_layers=1, **changes)


@pytest.fixture(scope="module", params=OUTPUTS)
def model(request, tmp_path_factory):
    return make(getattr(jaxbert, request.param), tmp_path_factory.mktemp("drawn"))


def make(kind, folder):
    """Return a model whose every tensor is random; drawing by NumPy compiles nothing."""
    head = make_model(kind.module_class.head, config())
    save_folder(folder, random_params(head), head.config, architecture=kind.__name__.removeprefix("Flax"))
    return kind.from_pretrained(folder)


@pytest.fixture(scope="module")
def shapes(model):
    return OUTPUTS[type(model).__name__]


@pytest.fixture(scope="module")
def rows(model):
    return shaped(type(model), random_rows(rows=ROWS, tokens=TOKENS))


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    model.save_pretrained(path)
    return path


@pytest.fixture(scope="module")
def base_folder(tmp_path_factory):
    return tmp_path_factory.mktemp("base")


@pytest.fixture(scope="module")
def base(base_folder):
    return make(jaxbert.FlaxBertModel, base_folder)


def shaped(kind, rows):
    if kind is not jaxbert.FlaxBertForMultipleChoice:
        return rows
    return {name: x.reshape(-1, CHOICES, TOKENS) for name, x in rows.items()}


def flat(tree):
    return {path: np.asarray(x) for path, x in traverse_util.flatten_dict(tree, sep="/").items()}


def close(found, expected, tolerance=1e-5):
    np.testing.assert_allclose(found, expected, atol=tolerance, rtol=0)


def test_every_class_is_a_public_name():
    others = {"FlaxBertPreTrainedModel", "FlaxBertForCausalLM"}
    assert set(OUTPUTS) | others == {name for name in jaxbert.__all__ if name.startswith("FlaxBert")}
    for name in OUTPUTS:
        kind = getattr(jaxbert, name)
        assert issubclass(kind, FlaxBertPreTrainedModel)
        assert kind.__name__ == name
        assert kind.__call__ is FlaxBertPreTrainedModel.__call__
        assert kind.__init__ is FlaxBertPreTrainedModel.__init__


def test_outputs_have_the_legacy_names_and_shapes(model, shapes, rows):
    out = model(**rows, output_hidden_states=True, output_attentions=True)
    assert list(out.keys()) == [*shapes, "hidden_states", "attentions"]
    for i, (name, shape) in enumerate(shapes.items()):
        assert out[name].shape == shape
        assert out[name] is getattr(out, name) is out[i]
    assert [x.shape for x in out.hidden_states] == [(ROWS, TOKENS, 32)] * 2
    assert [x.shape for x in out.attentions] == [(ROWS, 4, TOKENS, TOKENS)]
    plain = model(**rows)
    assert list(plain.keys()) == list(shapes)
    assert all(getattr(plain, field.name) is None for field in dataclasses.fields(plain) if field.name not in shapes)
    values = model(**rows, return_dict=False)
    assert isinstance(values, tuple)
    for value, name in zip(values, shapes, strict=True):
        close(value, plain[name], 0)


def test_the_tree_and_its_shapes(model, rows):
    bare = isinstance(model, jaxbert.FlaxBertModel)
    encoder = "encoder/layer/0/output/dense/kernel" if bare else "bert/encoder/layer/0/output/dense/kernel"
    names = flat(model.params).keys()
    assert encoder in names
    assert bare != any(name.startswith("bert/") for name in names)
    assert {tuple(name.split("/")) for name in names} == model.required_params
    assert jax.tree.map(jnp.shape, model.params) == jax.tree.map(jnp.shape, model.params_shape_tree)


def test_params_may_be_given(model, rows):
    zeros = jax.tree.map(jnp.zeros_like, model.params)
    assert not any(np.asarray(x).any() for x in model(**rows, params=zeros).to_tuple())


def test_without_init_params_stay_outside(model, folder):
    bare, params = type(model).from_pretrained(folder, _do_init=False)
    with pytest.raises(ValueError, match="_do_init=False"):
        _ = bare.params
    assert_same_tensors(flat(params), flat(model.params))


def test_saving_and_loading_again_is_exact(model, folder, tmp_path):
    architecture = json.loads((folder / "config.json").read_text())["architectures"]
    assert architecture == [type(model).__name__.removeprefix("Flax")]
    with safe_open(folder / "model.safetensors", framework="np") as file:
        prefixed = any(name.startswith("bert.") for name in file.keys())  # noqa: SIM118 (not a mapping)
    assert prefixed != isinstance(model, jaxbert.FlaxBertModel)
    again = type(model).from_pretrained(folder)
    assert_same_tensors(flat(again.params), flat(model.params))
    again.save_pretrained(tmp_path, safe_serialization=False)
    (tmp_path / "model.safetensors").unlink()
    assert_same_tensors(flat(type(model).from_pretrained(tmp_path).params), flat(model.params))


def test_a_base_model_gets_a_fresh_head(model, base, base_folder):
    kind, prefix = type(model), "" if isinstance(model, jaxbert.FlaxBertModel) else "bert/"
    found = flat(kind.from_pretrained(base_folder).params)
    assert found.keys() == {"/".join(path) for path in model.required_params}
    expected = {prefix + name: x for name, x in flat(base.params).items()}
    common = found.keys() & expected.keys()
    assert expected.keys() - common <= {f"{prefix}pooler/dense/{leaf}" for leaf in ("kernel", "bias")}
    assert_same_tensors({name: found[name] for name in common}, {name: expected[name] for name in common})
    _, params = kind.from_pretrained(base_folder, _do_init=False)
    assert flat(params).keys() == common


@pytest.mark.parametrize("kind", [jaxbert.FlaxBertModel, jaxbert.FlaxBertForTokenClassification])
def test_new_models_draw_their_params_and_drop_in_training(kind):
    model, rows = kind(config(), seed=1), random_rows()
    drawn = model.module.init({"params": model.key}, **rows)["params"]
    assert_same_tensors(flat(drawn), flat(model.params))
    completed = model.init_weights(model.key, (1, 1), {"encoder": {}})
    assert flat(completed).keys() == flat(model.params).keys()
    key = jax.random.PRNGKey(0)
    assert abs(model(**rows, train=True, dropout_rng=key)[0] - model(**rows)[0]).max() > 1e-3
    with pytest.raises(ValueError, match="dropout_rng"):
        model(**rows, train=True)


def test_bfloat16_computes_with_float32_params(tmp_path):
    rows = random_rows()
    model = make(jaxbert.FlaxBertForPreTraining, tmp_path)
    found = type(model).from_pretrained(tmp_path, dtype=jnp.bfloat16)
    assert {x.dtype for x in jax.tree.leaves(found.params)} == {jnp.dtype(jnp.float32)}
    expected = model(**rows)
    for ours, theirs in zip(found(**rows).to_tuple(), expected.to_tuple(), strict=True):
        assert ours.dtype == jnp.bfloat16
        close(ours.astype(jnp.float32), theirs, 0.05 * float(abs(theirs).max()))


def test_gradient_checkpointing_changes_no_gradient(tmp_path):
    rows = random_rows()
    kept = make(jaxbert.FlaxBertForMaskedLM, tmp_path)
    lean, enabled = (type(kept).from_pretrained(tmp_path, gradient_checkpointing=lean) for lean in (True, False))
    enabled.enable_gradient_checkpointing()

    def grad_fn(model):
        return jax.jit(jax.grad(lambda params: (model(**rows, params=params).logits ** 2).mean()))

    texts = [str(jax.make_jaxpr(grad_fn(model))(kept.params)) for model in (kept, lean, enabled)]
    assert ["prevent_cse" in text for text in texts] == [False, True, True]
    grads, lean_grads = (jax.tree.leaves(grad_fn(model)(kept.params)) for model in (kept, lean))
    for one, other in zip(grads, lean_grads, strict=True):
        close(one, other)


def pack(rows):
    """Put all rows into one; return it, and for each of its tokens which row and token it was."""
    taken = [(i, t) for i, n in enumerate(rows["attention_mask"].sum(1)) for t in range(n)]
    owner, token = (np.asarray(x) for x in zip(*taken, strict=True))
    packed = {name: rows[name][owner, token][None] for name in ("input_ids", "token_type_ids")}
    packed |= {"segment_ids": owner[None] + 1, "cls_positions": np.flatnonzero(token == 0)[None]}
    return packed, owner, token


def test_packed_rows_equal_unpacked_ones(model, rows, shapes):
    expected = model(**rows)
    unpacked = random_rows(rows=ROWS, tokens=TOKENS)
    packed, owner, token = pack(unpacked)
    found = model(**packed)
    for name, shape in shapes.items():
        if name in PER_EXAMPLE or (len(shape) == 2 and name == "logits"):
            close(found[name][0].reshape(shape), expected[name])
        else:
            close(found[name][0], np.asarray(expected[name])[owner, token])
    with pytest.raises(ValueError, match="no attention_mask"):
        model(**packed, attention_mask=np.ones_like(packed["input_ids"]))


def test_padding_of_a_packed_row_may_be_longer_than_the_model_reads(tmp_path):
    model = make(jaxbert.FlaxBertForTokenClassification, tmp_path)
    ids, segments = np.ones((1, 100), np.int32), np.zeros((1, 100), np.int32)
    segments[0, 3:20], segments[0, 20:30] = 1, 2
    found = model(ids, segment_ids=segments).logits
    assert np.isfinite(found).all()
    close(found[0, 20:30], model(ids[:, :10]).logits[0])


def test_first_positions_are_asked_for_where_they_are_read(tmp_path):
    packed, _, _ = pack(random_rows())
    del packed["cls_positions"]
    model = make(jaxbert.FlaxBertForTokenClassification, tmp_path)
    assert model(**packed).logits.shape == (*packed["input_ids"].shape, 2)
    with pytest.raises(ValueError, match="segment_ids and cls_positions"):
        make(jaxbert.FlaxBertForSequenceClassification, tmp_path)(**packed)


def test_the_model_without_a_pooler(base, base_folder):
    model = jaxbert.FlaxBertModel.from_pretrained(base_folder, add_pooling_layer=False)
    assert model.params.keys() == {"embeddings", "encoder"}
    out = model(**random_rows())
    assert list(out.keys()) == ["last_hidden_state"]
    assert out.pooler_output is None
    assert len(out.to_tuple()) == 1


def test_choices_are_rows_of_a_third_axis(tmp_path):
    model = make(jaxbert.FlaxBertForMultipleChoice, tmp_path)
    rows = shaped(type(model), random_rows())
    positions = np.broadcast_to(np.arange(12), (2, 2, 12))
    close(model(**rows, position_ids=positions).logits, model(**rows).logits, 0)
    swapped = {name: x[:, ::-1] for name, x in rows.items()}
    close(model(**swapped).logits, model(**rows).logits[:, ::-1])
    with pytest.raises(ValueError, match="choices"):
        model(rows["input_ids"][0])


def test_answers_need_two_scores():
    with pytest.raises(UserError, match="num_labels=2"):
        jaxbert.FlaxBertForQuestionAnswering(config(id2label=dict(enumerate("abc")), label2id=None))


def test_init_takes_what_the_legacy_one_took():
    init = inspect.signature(FlaxBertPreTrainedModel.__init__).parameters
    defaults = {name: p.default for name, p in init.items() if p.default is not p.empty}
    assert defaults == {
        "input_shape": (1, 1), "seed": 0, "dtype": jnp.float32, "_do_init": True, "gradient_checkpointing": False,
    }  # fmt: skip
    with pytest.raises(TypeError, match="nonsense"):
        jaxbert.FlaxBertModel(config(), nonsense=1)
    assert jaxbert.FlaxBertModel.module_class(config=config(), dtype=jnp.bfloat16).dtype == jnp.bfloat16
    assert not jaxbert.FlaxBertModel.can_generate()
