"""The loss of a masked, packed batch and its gradients are PyTorch's for the same examples, each in a row of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params, tiny_config

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import Layout
from jaxbert.data.tokens import Tokens
from jaxbert.interop import names
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model
from jaxbert.tasks.pretraining.masking import Masking, MaskingVocabulary
from jaxbert.tasks.pretraining.task import Pretraining

torch = pytest.importorskip("torch")

SIZE, COUNT = 120, 9


@pytest.fixture
def batch():
    rng = np.random.default_rng(0)
    lengths = rng.integers(6, 16, COUNT).astype(np.int32)
    tokens = Tokens.from_lengths(rng.integers(5, SIZE, lengths.sum()).astype(np.int32), lengths, lengths // 2)
    ids = np.arange(SIZE)
    masking = Masking(MaskingVocabulary(ids >= 5, ids >= 90, ids[5:].astype(np.int32), 4), 0.3, True, 3, 0, ids)
    data = Examples(tokens, rng.integers(0, 2, COUNT).astype(np.int32))
    (batch,) = batches(data, Layout(40, (5,), 4), COUNT, seed=0)
    return masking.collate(batch, 0)


def one_a_row(batch) -> dict:
    """Return the examples as PyTorch wants them."""
    rows = {name: [] for name in ("input_ids", "token_type_ids", "attention_mask", "labels")}
    for row, slot in np.argwhere(batch["example_mask"]):
        own = batch["segment_ids"][row] == slot + 1
        labels = np.full(own.shape, -100)
        real = batch["masked_weights"][row] > 0
        labels[batch["masked_positions"][row][real]] = batch["masked_labels"][row][real]
        values = batch["input_ids"][row], batch["token_type_ids"][row], np.ones_like(labels), labels
        for name, value in zip(rows, values, strict=True):
            rows[name].append(np.pad(value[own], (0, 16 - own.sum()), constant_values=-100 if name == "labels" else 0))
    return {name: torch.from_numpy(np.stack(values)).long() for name, values in rows.items()}


@pytest.mark.parametrize("pairs", [True, False], ids=["pairs", "no pairs"])
def test_loss_and_gradients(batch, tmp_path, pairs):
    import transformers

    task = Pretraining(pairs)
    model = make_model(task.head, tiny_config())
    params = random_params(model)
    on_device = {name: jnp.asarray(array) for name, array in batch.items() if name != "example_ids"}

    def loss_of(params):
        totals = task.totals(on_device)
        return task.sums(model.apply(params, on_device), on_device, totals, train=True)["loss"] / totals["examples"]

    loss, grads = jax.jit(jax.value_and_grad(loss_of))(params)
    folder = save_folder(tmp_path, params, model.config, architecture=task.architecture)
    peer = getattr(transformers, f"Bert{task.architecture}").from_pretrained(folder, attn_implementation="eager").eval()
    inputs = one_a_row(batch)
    if pairs:
        inputs["next_sentence_label"] = torch.from_numpy(batch["labels"][batch["example_mask"]]).long()
    expected = peer(**inputs).loss
    expected.backward()
    np.testing.assert_allclose(float(loss), expected.item(), rtol=1e-5)
    found = names.to_torch(grads)
    compared = 0
    for name, parameter in peer.named_parameters():
        if name in found and not name.endswith("key.bias"):  # ours is not trained
            scale = float(parameter.grad.abs().max())
            np.testing.assert_allclose(found[name], parameter.grad.numpy(), atol=1e-5 * max(scale, 1.0), err_msg=name)
            compared += 1
    assert compared >= len(found) - 4
