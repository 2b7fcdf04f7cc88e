"""Every head computes what PyTorch's class computes, outputs and gradients; the classifier has a file of its own."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from tiny import assert_same_tensors, random_params, random_rows, tiny_config, unpacked_batch

from jaxbert.interop import names
from jaxbert.interop.load import load_params
from jaxbert.interop.write import save_folder
from jaxbert.models import heads
from jaxbert.models.functional import make_model

torch = pytest.importorskip("torch")


@dataclass(frozen=True)
class Case:
    head: type[nnx.Module]
    architecture: str
    per_token: tuple[str, ...] = ()
    per_example: tuple[str, ...] = ()
    changes: tuple[tuple[str, object], ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.per_token + self.per_example


CASES = {
    "base": Case(heads.BertModel, "BertModel", ("last_hidden_state",), ("pooler_output",)),
    "choice": Case(heads.MultipleChoiceHead, "BertForMultipleChoice", (), ("logits",)),
    "token": Case(heads.TokenClassificationHead, "BertForTokenClassification", ("logits",)),
    "answer": Case(heads.QuestionAnsweringHead, "BertForQuestionAnswering", ("start_logits", "end_logits")),
    "masked": Case(heads.MaskedLM, "BertForMaskedLM", ("logits",)),
    "untied": Case(heads.MaskedLM, "BertForMaskedLM", ("logits",), changes=(("tie_word_embeddings", False),)),
    "sentence": Case(heads.NextSentencePrediction, "BertForNextSentencePrediction", (), ("logits",)),
    "pretraining": Case(
        heads.PreTraining, "BertForPreTraining", ("prediction_logits",), ("seq_relationship_logits",)
    ),
}  # fmt: skip


@pytest.fixture(params=CASES)
def case(request):
    return CASES[request.param]


@pytest.fixture
def model(case):
    two = {"id2label": {0: "no", 1: "yes"}, "label2id": {"no": 0, "yes": 1}} if case is CASES["answer"] else {}
    return make_model(case.head, tiny_config(num_hidden_layers=2, hidden_act="gelu_new", **two, **dict(case.changes)))


@pytest.fixture
def params(model):
    return random_params(model)


@pytest.fixture
def folder(case, model, params, tmp_path):
    return save_folder(tmp_path, params, model.config, architecture=case.architecture)


@pytest.fixture
def torch_model(case, folder):
    import transformers

    kind = getattr(transformers, case.architecture)
    found, info = kind.from_pretrained(folder, attn_implementation="eager", output_loading_info=True)
    assert not any(info.values()), info
    return found.eval()


def torch_outputs(case, torch_model, rows):
    inputs = {name: torch.from_numpy(x).long() for name, x in rows.items()}
    if case is CASES["choice"]:
        inputs = {name: x[:, None] for name, x in inputs.items()}
    return torch_model(**inputs)


def weighted(outputs, shown, case, xp):
    """Return a sum over everything that counts, each number with its own weight."""
    rng, total = np.random.default_rng(5), 0.0
    for name in case.outputs:
        x = outputs[name]
        weights = rng.normal(size=tuple(x.shape)).astype(np.float32)
        if name in case.per_token:
            weights *= shown.reshape(shown.shape + (1,) * (x.ndim - 2))
        total = total + (x * xp(weights)).sum()
    return total


def test_outputs_and_every_gradient(case, model, params, torch_model):
    rows = random_rows()
    shown = rows["attention_mask"] == 1
    expected = torch_outputs(case, torch_model, rows)

    def loss_fn(params):
        outputs = model.apply(params, unpacked_batch(rows))
        del outputs["encoded"]
        outputs |= {name: outputs[name][:, 0] for name in case.per_example}
        return weighted(outputs, shown, case, jnp.asarray), outputs

    grads, found = jax.jit(jax.grad(loss_fn, has_aux=True))(params)
    for name in case.outputs:
        chosen = shown if name in case.per_token else ...
        theirs = expected[name].detach().numpy()
        assert found[name].shape == theirs.shape
        np.testing.assert_allclose(np.asarray(found[name])[chosen], theirs[chosen], atol=1e-5, rtol=1e-5)
    weighted(expected, shown, case, torch.from_numpy).backward()
    ours, prefix = names.to_torch(grads), "bert." if case.architecture == "BertModel" else ""
    theirs = {prefix + name: p.grad.numpy() for name, p in torch_model.named_parameters() if p.grad is not None}
    if case is CASES["untied"]:
        theirs["cls.predictions.bias"] = theirs.pop("cls.predictions.decoder.bias")
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        if name.endswith("key.bias"):
            assert not ours[name].any()
        else:
            np.testing.assert_allclose(ours[name], gradient, atol=1e-5 * max(1, abs(gradient).max()), err_msg=name)


def test_the_files_of_torch_come_back(case, model, params, torch_model, folder, tmp_path):
    for kind, save in (("safetensors", torch_model.save_pretrained), ("bin", None)):
        other = tmp_path / kind
        if save is not None:
            save(other)
        else:  # a state dict holds tied tensors under every name
            other.mkdir()
            torch.save(torch_model.state_dict(), other / "pytorch_model.bin")
        found, report = load_params(other, model)
        assert (report.fresh, report.unused) == ((), ())
        assert_same_tensors(names.to_torch(found), names.to_torch(params))
