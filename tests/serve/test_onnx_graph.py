"""The ONNX graphs compute what the models compute: every head, packed and padded, and each number format."""

from __future__ import annotations

import dataclasses
from functools import cache

import jax
import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from runs import random_tokens, small_config
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.errors import UserError
from jaxbert.interop.names import to_torch
from jaxbert.models.families import FAMILIES
from jaxbert.models.families.bert import BERT
from jaxbert.models.functional import make_model
from jaxbert.models.heads import (
    MultipleChoiceHead,
    QuestionAnsweringHead,
    SequenceClassificationHead,
    TokenClassificationHead,
)
from jaxbert.models.layers import ACTIVATIONS
from jaxbert.serve import onnx_graph
from jaxbert.serve.onnx_engine import open_session
from jaxbert.serve.onnx_graph import ONNX_ACTIVATIONS, PADDED_INPUTS, make_graph
from jaxbert.serve.onnx_ops import GraphWriter

HEADS = (SequenceClassificationHead, TokenClassificationHead, QuestionAnsweringHead, MultipleChoiceHead)
TOKENS = random_tokens(23)
EXAMPLES = Examples(TOKENS)


@cache
def model_of(head):
    """A model with random tensors, and these."""
    model = make_model(head, small_config())
    return model, random_params(model)


@cache
def session_of(head, form, quantize=None):
    """The graph of a model, checked, in onnxruntime."""
    model, params = model_of(head)
    graph = make_graph(head, model.config, to_torch(params), form=form, quantize=quantize)
    onnx.checker.check_model(graph, full_check=True)
    return open_session(graph.SerializeToString(), 1)


def run(session, batch):
    """The outputs of a graph by name; an array that it does not read is left out."""
    feeds = {each.name: np.asarray(batch[each.name]) for each in session.get_inputs()}
    return dict(zip([each.name for each in session.get_outputs()], session.run(None, feeds), strict=True))


@cache
def packed_batch():
    """All examples in a few rows: several in each, and unused slots."""
    layout = choose_layout(TOKENS.lengths, len(TOKENS), row_length=40, seed=None)
    (batch,) = batches(EXAMPLES, layout, len(TOKENS), seed=None)
    assert 1 < batch["example_mask"].sum(1).max() > batch["example_mask"].sum(1).min()
    return batch


@cache
def padded_rows():
    """The same examples one in a row, int64, in the order of the source."""
    length = int(TOKENS.lengths.max())
    place = np.arange(length)[None]
    mask = place < TOKENS.lengths[:, None]
    ids = np.zeros((len(TOKENS), length), np.int64)
    ids[mask] = TOKENS.ids
    types = (place >= TOKENS.first_lengths[:, None]) & mask
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": types.astype(np.int64)}


def by_example(outputs, batch):
    """The outputs of packed rows in the order of the source: [N, ...], or [N, T, ...] with zeros after each example."""
    found = {}
    for name, values in outputs.items():
        values = np.asarray(values)
        rows, slots = np.nonzero(batch["example_mask"])
        order = batch["example_ids"][rows, slots]
        if values.shape[1] == batch["example_mask"].shape[1]:
            parts = values[rows, slots]
        else:
            parts = np.zeros((len(TOKENS), int(TOKENS.lengths.max()), *values.shape[2:]), values.dtype)
            for number, (row, slot) in enumerate(zip(rows, slots, strict=True)):
                own = values[row][batch["segment_ids"][row] == slot + 1]
                parts[number, : len(own)] = own
        found[name] = np.zeros_like(parts)
        found[name][order] = parts
    return found


def difference(some, others):
    assert some.keys() == others.keys()
    return max(np.abs(some[name] - others[name]).max() for name in some)


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_the_packed_graph_computes_what_the_model_computes(head):
    model, params = model_of(head)
    names = [each.name for each in session_of(head, "packed").get_outputs()]

    @jax.jit
    def logits(batch):
        outputs = model.apply(params, batch)
        return {name: outputs[name] for name in names}

    batch = packed_batch()
    expected = by_example(logits({name: batch[name] for name in batch if name != "example_ids"}), batch)
    assert np.abs(next(iter(expected.values()))).max() > 0.1
    assert difference(by_example(run(session_of(head, "packed"), batch), batch), expected) < 1e-5  # 1e-4 is promised


@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_packed_is_padded(head):
    packed = by_example(run(session_of(head, "packed"), packed_batch()), packed_batch())
    rows = padded_rows()
    if head is MultipleChoiceHead:  # a question with all these choices
        (found,) = run(session_of(head, "padded"), {name: values[None] for name, values in rows.items()}).values()
        padded = {"logits": found.T}
    else:
        padded = run(session_of(head, "padded"), rows)
    if head in (TokenClassificationHead, QuestionAnsweringHead):
        real = rows["attention_mask"].astype(bool)
        packed, padded = ({name: values[real] for name, values in part.items()} for part in (packed, padded))
    assert difference(packed, padded) < 1e-5


def test_ragged_is_packed():
    """Texts one after the other in one row; also one text alone."""
    head = SequenceClassificationHead
    expected = by_example(run(session_of(head, "packed"), packed_batch()), packed_batch())["logits"]
    types = np.concatenate(
        [np.arange(n) >= first for n, first in zip(TOKENS.lengths, TOKENS.first_lengths, strict=True)]
    )
    for count in (1, len(TOKENS)):
        total = int(TOKENS.lengths[:count].sum())
        joined = {"input_ids": TOKENS.ids[:total].astype(np.int32), "token_type_ids": types[:total].astype(np.int32)}
        ends = {"ends": np.cumsum(TOKENS.lengths[:count]).astype(np.int32)}
        (logits,) = run(session_of(head, "ragged"), joined | ends).values()
        np.testing.assert_allclose(logits, expected[:count], atol=1e-5)


def test_a_padded_graph_has_the_names_and_axes_that_other_programs_expect():
    """Those of `optimum`, of any number of rows and any length; more choices are an axis of their own."""
    expected = {
        SequenceClassificationHead: {"logits": ["batch_size", 2]},
        TokenClassificationHead: {"logits": ["batch_size", "sequence_length", 2]},
        QuestionAnsweringHead: {part: ["batch_size", "sequence_length"] for part in ("start_logits", "end_logits")},
        MultipleChoiceHead: {"logits": ["batch_size", "num_choices"]},
    }
    for head, outputs in expected.items():
        session = session_of(head, "padded")
        choices = ["num_choices"] if head is MultipleChoiceHead else []
        for each in session.get_inputs():
            assert (each.type, each.shape) == ("tensor(int64)", ["batch_size", *choices, "sequence_length"])
        assert tuple(each.name for each in session.get_inputs()) == PADDED_INPUTS
        assert {each.name: each.shape for each in session.get_outputs()} == outputs


def test_a_packed_graph_reads_the_packed_batch():
    batch = packed_batch()
    for head in HEADS:
        for each in session_of(head, "packed").get_inputs():
            assert each.type == "tensor(int32)"
            assert batch[each.name].dtype == np.int32
    assert {each.name for each in session_of(QuestionAnsweringHead, "packed").get_inputs()} == {
        *("input_ids", "token_type_ids", "position_ids", "segment_ids")
    }


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_every_activation_is_that_of_the_model(name):
    assert ONNX_ACTIVATIONS.keys() == ACTIVATIONS.keys()
    writer = GraphWriter({}, None)
    writer.name_output(ONNX_ACTIVATIONS[name](writer, "x"), "y")
    x, y = (helper.make_tensor_value_info(each, onnx.TensorProto.FLOAT, ["n"]) for each in "xy")
    graph = helper.make_graph(writer.nodes, name, [x], [y], writer.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    values = np.linspace(-6, 6, 97, dtype=np.float32)
    (found,) = open_session(model.SerializeToString(), 1).run(None, {"x": values})
    np.testing.assert_allclose(found, ACTIVATIONS[name](values), atol=2e-6)


@pytest.mark.parametrize(("quantize", "most"), [("int8", 0.12), ("fp16", 5e-3)])
@pytest.mark.parametrize("head", HEADS, ids=lambda head: head.__name__)
def test_other_number_formats_are_close(head, quantize, most):
    """Of logits of about 1; in both graphs."""
    batch = packed_batch()
    exact, found = (by_example(run(session_of(head, "packed", each), batch), batch) for each in (None, quantize))
    assert 0 < difference(found, exact) < most
    if head is not MultipleChoiceHead:
        exact, found = (run(session_of(head, "padded", each), padded_rows()) for each in (None, quantize))
        assert 0 < difference(found, exact) < most


def test_int8_holds_every_table_and_every_layer():
    """The head and the pooler aside, and what has one number for each output; in a file of at most 30%."""
    config = small_config(vocab_size=3000, hidden_size=128, intermediate_size=512)
    model = make_model(SequenceClassificationHead, config)
    tensors = to_torch(random_params(model))
    sizes = {}
    for quantize in (None, "int8"):
        graph = make_graph(model.head, config, tensors, form="padded", quantize=quantize)
        sizes[quantize] = len(graph.SerializeToString())
    assert sizes["int8"] <= 0.3 * sizes[None]
    held = {each.name: numpy_helper.to_array(each) for each in graph.graph.initializer}
    matrices = {name: value for name, value in held.items() if value.ndim == 2 and value.shape[1] > 1}
    wide = {name for name, value in matrices.items() if value.dtype != np.int8}
    assert wide == {"bert.pooler.dense.weight", "classifier.weight"}
    assert len(matrices) - len(wide) == 3 + 2 * 4  # query, key and value are one
    words = held["bert.embeddings.word_embeddings.weight"] * held["bert.embeddings.word_embeddings.scale"]
    exact = tensors["bert.embeddings.word_embeddings.weight"]
    assert (np.abs(words - exact) <= np.abs(exact).max(1, keepdims=True) / 254 * 1.001).all()


def test_another_family_has_its_names(monkeypatch):
    toy = dataclasses.replace(BERT, model_type="toy", prefix="toy", architecture="Toy")
    monkeypatch.setitem(FAMILIES, "toy", toy)
    monkeypatch.setattr(onnx_graph, "family_of", lambda config: toy)
    _, params = model_of(SequenceClassificationHead)
    renamed = {name.replace("bert.", "toy."): value for name, value in to_torch(params).items()}
    graph = make_graph(SequenceClassificationHead, small_config(), renamed, form="packed")
    assert "toy.encoder.layer.1.output.dense.weight" in {each.name for each in graph.graph.initializer}


def test_a_tensor_that_is_not_computed_is_no_graph():
    """A family whose layers have one more must not become a graph without it."""
    _, params = model_of(SequenceClassificationHead)
    more = to_torch(params) | {"bert.embeddings.extra.weight": np.zeros(3, np.float32)}
    with pytest.raises(AssertionError, match=r"leaves out: \['bert.embeddings.extra.weight'\]"):
        make_graph(SequenceClassificationHead, small_config(), more, form="packed")


def test_a_model_above_two_gigabytes_is_refused(monkeypatch):
    monkeypatch.setattr(onnx_graph, "_MOST_BYTES", 10_000)
    _, params = model_of(SequenceClassificationHead)
    with pytest.raises(UserError, match="more than the 2 GB that an ONNX file holds"):
        make_graph(SequenceClassificationHead, small_config(), to_torch(params), form="packed")
