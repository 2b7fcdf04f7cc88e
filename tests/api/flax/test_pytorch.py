"""The public classes and PyTorch's are one model: equal values at every token, padding too, whoever wrote the checkpoint."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from tiny import assert_same_tensors, random_params, tiny_config

import jaxbert
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model

torch = pytest.importorskip("torch")

TOKENS = 10
CLASSES = [name for name in jaxbert.__all__ if name.startswith("FlaxBertFor")] + ["FlaxBertModel"]
CLASSES.remove("FlaxBertForCausalLM")


def config(**changes):
    return tiny_config(num_hidden_layers=1, id2label={0: "no", 1: "yes"}, label2id={"no": 0, "yes": 1}, **changes)


def padded_rows():
    """Padded on the right, on the left, in the middle, and not at all."""
    rng = np.random.default_rng(3)
    shown = np.array([[1] * 7 + [0] * 3, [0] * 4 + [1] * 6, [1, 1, 0, 0, 0, 1, 1, 1, 1, 0], [1] * 10], np.int32)
    ids = rng.integers(1, 120, shown.shape).astype(np.int32)
    types = np.broadcast_to(np.arange(TOKENS) > 4, shown.shape).astype(np.int32)
    return {"input_ids": ids, "attention_mask": shown, "token_type_ids": types}


@pytest.fixture(scope="module", params=CLASSES)
def kind(request):
    return getattr(jaxbert, request.param)


@pytest.fixture(scope="module")
def rows(kind):
    choices = kind is jaxbert.FlaxBertForMultipleChoice
    return {name: x.reshape(2, 2, -1) if choices else x for name, x in padded_rows().items()}


@pytest.fixture(scope="module")
def folder(kind, tmp_path_factory):
    """A model whose every tensor is random."""
    head = make_model(kind.module_class.head, config())
    architecture = kind.__name__.removeprefix("Flax")
    return save_folder(tmp_path_factory.mktemp("drawn"), random_params(head), config(), architecture=architecture)


@pytest.fixture(scope="module")
def model(kind, folder):
    return kind.from_pretrained(folder)


def torch_class(kind):
    import transformers

    return getattr(transformers, kind.__name__.removeprefix("Flax"))


def load_torch(kind, folder):
    return torch_class(kind).from_pretrained(folder, attn_implementation="eager").eval()


def tensors(inputs):
    return {name: torch.tensor(x).long() for name, x in inputs.items()}


def flat(tree):
    return {path: np.asarray(x) for path, x in traverse_util.flatten_dict(tree, sep="/").items()}


def assert_same_outputs(ours, theirs):
    """Compare all that both return; PyTorch's version 5 has `cross_attentions` where there are none."""
    names = [name for name in theirs if name != "cross_attentions"]
    assert list(ours) == names
    for name in names:
        pairs = (
            zip(ours[name], theirs[name], strict=True)
            if isinstance(ours[name], tuple)
            else [(ours[name], theirs[name])]
        )
        for one, other in pairs:
            np.testing.assert_allclose(one, other.numpy(), atol=1e-5, rtol=0, err_msg=name)


def test_equal_at_every_token_wherever_the_padding_is(kind, model, folder, rows):
    asked = {"output_hidden_states": True, "output_attentions": True}
    with torch.no_grad():
        theirs = load_torch(kind, folder)(**tensors(rows), **asked)
    assert_same_outputs(model(**rows, **asked), theirs)


def test_from_pytorch_and_back(kind, model, folder, rows, tmp_path):
    """A checkpoint of PyTorch's, safetensors or .bin, is the same parameters; ours is PyTorch's tensors, bit for bit."""
    theirs = load_torch(kind, folder)
    state = {name: x.numpy() for name, x in theirs.state_dict().items()}
    theirs.save_pretrained(tmp_path / "safetensors")
    assert_same_tensors(flat(kind.from_pretrained(tmp_path / "safetensors").params), flat(model.params))
    torch.save(theirs.state_dict(), folder / "pytorch_model.bin")
    found = kind.from_pretrained(folder / "pytorch_model.bin", from_pt=True)
    (folder / "pytorch_model.bin").unlink()
    assert_same_tensors(flat(found.params), flat(model.params))
    model.save_pretrained(tmp_path / "ours")
    again = load_torch(kind, tmp_path / "ours").state_dict()
    assert_same_tensors({name: x.numpy() for name, x in again.items()}, state)


def test_heads_and_bodies_are_exchanged_with_pytorch(tmp_path):
    """A body of PyTorch's starts a head of ours; PyTorch's body reads our head's folder, in bfloat16 too."""
    from transformers import BertModel

    body = BertModel(config())
    body.save_pretrained(tmp_path / "body")
    head = jaxbert.FlaxBertForSequenceClassification.from_pretrained(tmp_path / "body")
    kernel = head.params["bert"]["encoder"]["layer"]["0"]["output"]["dense"]["kernel"]
    np.testing.assert_array_equal(kernel.T, body.encoder.layer[0].output.dense.weight.detach().numpy())
    for name, params in {"float32": head.params, "bfloat16": head.to_bf16(head.params)}.items():
        head.save_pretrained(tmp_path / name, params=params)
        found = BertModel.from_pretrained(tmp_path / name)
        assert str(found.dtype) == f"torch.{name}"
        half = jaxbert.FlaxBertModel.from_pretrained(tmp_path / name)
        weight = found.encoder.layer[0].output.dense.weight.detach().float().numpy()
        assert half.params["encoder"]["layer"]["0"]["output"]["dense"]["kernel"].dtype == name
        np.testing.assert_array_equal(
            np.asarray(half.params["encoder"]["layer"]["0"]["output"]["dense"]["kernel"], np.float32).T, weight
        )


def test_an_answering_loss_over_all_positions(tmp_path):
    """The usual loss takes the softmax over padding too, so its logits count."""
    from transformers import BertForQuestionAnswering

    rows = padded_rows()
    starts, ends = np.array([1, 5, 0, 3]), np.array([2, 6, 1, 9])
    head = make_model(jaxbert.FlaxBertForQuestionAnswering.module_class.head, config())
    save_folder(tmp_path, random_params(head), config(), architecture="BertForQuestionAnswering")
    model = jaxbert.FlaxBertForQuestionAnswering.from_pretrained(tmp_path)
    theirs = BertForQuestionAnswering.from_pretrained(tmp_path).eval()
    expected = theirs(**tensors(rows), start_positions=torch.tensor(starts), end_positions=torch.tensor(ends)).loss

    def loss_fn(logits, positions):
        return optax.softmax_cross_entropy_with_integer_labels(logits, jnp.asarray(positions)).mean()

    out = model(**rows, output_hidden_states=True, output_attentions=True)
    found = (loss_fn(out.start_logits, starts) + loss_fn(out.end_logits, ends)) / 2
    np.testing.assert_allclose(found, expected.item(), rtol=1e-5)


@pytest.mark.parametrize("act", ["quick_gelu", "gelu_new", "silu"])
def test_activations(act):
    from transformers.activations import ACT2FN

    from jaxbert.models.layers import ACTIVATIONS

    x = np.linspace(-6, 6, 101, dtype=np.float32)
    np.testing.assert_allclose(ACTIVATIONS[act](jnp.asarray(x)), ACT2FN[act](torch.tensor(x)).numpy(), atol=1e-6)
    assert jaxbert.FlaxBertModel(config(hidden_act=act), _do_init=False).config.hidden_act == act
