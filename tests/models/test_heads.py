"""What the heads share: few positions instead of all, and packed rows instead of padded ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import random_params, random_rows, tiny_config, unpacked_batch

from jaxbert.models import heads
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import make_model

POSITIONS = np.asarray([[1, 3, 2], [3, 3, 0], [2, 0, 1], [0, 1, 2]], np.int32)


def pieces(batch):
    """Cut unpacked rows into their examples: slices of each row's shown tokens."""
    return [slice(0, int(n)) for n in (np.asarray(batch["segment_ids"]) > 0).sum(1)]


def pack(batch):
    """Put all rows into one, one segment each; return it and where each example begins."""
    starts, packed = [], {name: [] for name in ("input_ids", "token_type_ids", "position_ids", "segment_ids")}
    for i, piece in enumerate(pieces(batch)):
        starts.append(len(packed["input_ids"]))
        for name, values in packed.items():
            values.extend([i + 1] * piece.stop if name == "segment_ids" else np.asarray(batch[name])[i, piece].tolist())
    rows = {name: jnp.asarray([[*values, 0, 0]], jnp.int32) for name, values in packed.items()}
    return rows | {"cls_positions": jnp.asarray([starts], jnp.int32)}, np.asarray(starts)


@pytest.mark.parametrize("head", [heads.MaskedLM, heads.PreTraining])
@pytest.mark.parametrize("call", [ForwardOptions(), ForwardOptions(output_hidden_states=True)])
def test_masked_positions_are_a_choice_of_all(head, call):
    model = make_model(head, tiny_config())
    batch, name = unpacked_batch(random_rows()), "logits" if head is heads.MaskedLM else "prediction_logits"

    def loss_fn(params, batch):
        outputs = model.apply(params, batch, call=call)
        logits = outputs[name]
        if "masked_positions" not in batch:
            logits = jnp.take_along_axis(logits, jnp.asarray(POSITIONS)[:, :, None], axis=1)
        others = outputs.get("seq_relationship_logits", jnp.zeros(()))
        return (jax.nn.log_softmax(logits) ** 2).sum() + (others**2).sum(), (logits, others)

    run = jax.jit(jax.value_and_grad(loss_fn, has_aux=True))
    (_, expected), expected_grads = run(random_params(model), batch)
    (_, found), grads = run(random_params(model), batch | {"masked_positions": jnp.asarray(POSITIONS)})
    assert found[0].shape == (4, 3, 120)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    for one, other in zip(jax.tree.leaves(grads), jax.tree.leaves(expected_grads), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * max(1, abs(np.asarray(other)).max()))


def test_the_last_layer_runs_once_and_at_the_wanted_positions_only():
    model = make_model(heads.PreTraining, tiny_config())
    batch = unpacked_batch(random_rows()) | {"masked_positions": jnp.asarray(POSITIONS)}
    text = str(jax.make_jaxpr(lambda params: model.apply(params, batch)["prediction_logits"])(random_params(model)))
    # Feed-forward blocks: the loop's body over 12 tokens, and the last layer over 3 masked and 1 first token.
    assert "f32[4,12,64]" in text
    assert "f32[4,4,64]" in text
    assert "f32[4,3,64]" not in text
    assert "f32[4,12,120]" not in text


TOKEN_OUTPUTS = {
    heads.BertModel: ("last_hidden_state",),
    heads.TokenClassificationHead: ("logits",),
    heads.QuestionAnsweringHead: ("start_logits", "end_logits"),
    heads.MaskedLM: ("logits",),
    heads.PreTraining: ("prediction_logits",),
}
SLOT_OUTPUTS = {
    heads.BertModel: ("pooler_output",),
    heads.SequenceClassificationHead: ("logits",),
    heads.MultipleChoiceHead: ("logits",),
    heads.NextSentencePrediction: ("logits",),
    heads.PreTraining: ("seq_relationship_logits",),
}


@pytest.mark.parametrize("head", TOKEN_OUTPUTS | SLOT_OUTPUTS, ids=lambda head: head.__name__)
def test_packed_equals_padded(head):
    model = make_model(head, tiny_config())
    params, batch = random_params(model), unpacked_batch(random_rows())
    packed, starts = pack(batch)
    expected, found = (jax.jit(model.apply)(params, rows) for rows in (batch, packed))
    for name in SLOT_OUTPUTS.get(head, ()):
        np.testing.assert_allclose(found[name][0], expected[name][:, 0], atol=1e-5)
    for name in TOKEN_OUTPUTS.get(head, ()):
        for i, (piece, start) in enumerate(zip(pieces(batch), starts, strict=True)):
            one, other = found[name][0, start : start + piece.stop], expected[name][i, piece]
            np.testing.assert_allclose(one, other, atol=1e-5)
