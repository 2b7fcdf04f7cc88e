"""A trained model as an ONNX graph: the computation of `models`, written with `onnx.helper` from the checkpoint's tensors.

A graph has one of three forms. The padded one has the inputs and outputs that other programs expect. The packed one takes
the packed batch. The ragged one takes texts one after the other in a single row, as Triton joins requests. `onnx_ops` writes
the weights, `onnx_export` the files.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from flax import nnx
from onnx import TensorProto, helper
from transformers import BertConfig

from jaxbert.errors import UserError
from jaxbert.models.families import family_of
from jaxbert.models.families.base import Family
from jaxbert.models.heads import MultipleChoiceHead, SequenceClassificationHead, TokenClassificationHead
from jaxbert.options import Quantize
from jaxbert.serve.onnx_ops import MASKED, GraphWriter

_OPSET, _IR_VERSION = 20, 9
"""The oldest versions with `Gelu`; older runtimes can read the file than those of the library's own default."""
_MOST_BYTES = 2**31 - 2**20
"""The most bytes of weights in one file: its format ends at 2 GB."""
_NOTHING = 60.0
"""How far below the largest score of a row the scores of masked tokens lie, at most."""
PADDED_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
"""The inputs of a padded graph, int64 [batch_size, sequence_length]."""
PACKED_INPUTS = ("input_ids", "token_type_ids", "position_ids", "segment_ids", "cls_positions")
"""The inputs of a packed graph, int32: the keys of the packed batch."""
RAGGED_INPUTS = ("input_ids", "token_type_ids", "ends")
"""The inputs of a ragged graph, int32: the tokens of all texts [tokens], their types, and where each text ends [texts]."""
Form = Literal["padded", "packed", "ragged"]

Shape = tuple[str | int, ...]
Activation = Callable[[GraphWriter, str], str]


def _sigmoid_times(factor: float) -> Activation:
    def apply(graph: GraphWriter, x: str) -> str:
        scaled = x if factor == 1 else graph.add("Mul", x, graph.number(factor))
        return graph.add("Mul", x, graph.add("Sigmoid", scaled))

    return apply


def _operator(kind: str, **attributes: Any) -> Activation:
    return lambda graph, x: graph.add(kind, x, **attributes)


ONNX_ACTIVATIONS: dict[str, Activation] = {
    "gelu": _operator("Gelu", approximate="none"),
    "gelu_new": _operator("Gelu", approximate="tanh"),
    "gelu_pytorch_tanh": _operator("Gelu", approximate="tanh"),
    "quick_gelu": _sigmoid_times(1.702),
    "relu": _operator("Relu"),
    "silu": _sigmoid_times(1.0),
    "swish": _sigmoid_times(1.0),
    "tanh": _operator("Tanh"),
}
"""The activations of `models.layers`, by the same names."""


def make_graph(
    head: type[nnx.Module],
    config: BertConfig,
    tensors: Mapping[str, np.ndarray],
    *,
    form: Form,
    quantize: Quantize | None = None,
    metadata: Mapping[str, str] | None = None,
) -> Any:
    """Return the graph of a model, an `onnx.ModelProto`.

    Args:
      head: the head, one of those that `onnx_export.check_head` accepts.
      config: the configuration.
      tensors: all tensors of the model by their names in PyTorch, float32.
      form: what the graph takes: `PADDED_INPUTS`, `PACKED_INPUTS` or, for heads that read first tokens, `RAGGED_INPUTS`.
      quantize: the number format; None for float32.
      metadata: texts that are kept in the graph.

    Raises:
      UserError: for a model above 2 GB.
    """
    graph = GraphWriter(tensors, quantize)
    model = _Bert(graph, config, family_of(config), head)
    shapes = {"padded": model.padded, "packed": model.packed, "ragged": model.ragged}[form]()
    assert not graph.unread, f"tensors that the graph leaves out: {graph.unread}"
    if sum(len(each.raw_data) for each in graph.initializers) > _MOST_BYTES:
        raise UserError(
            "the weights of this model take more than the 2 GB that an ONNX file holds: export it without --format onnx"
        )
    inputs = {
        name: shape for name, shape in model.input_shapes(form).items() if name in _used(graph)
    }  # a graph whose outputs are those of tokens needs no places of first tokens
    kind = TensorProto.INT64 if form == "padded" else TensorProto.INT32
    made = helper.make_model(
        helper.make_graph(
            graph.nodes,
            form,
            [helper.make_tensor_value_info(name, kind, shape) for name, shape in inputs.items()],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in shapes.items()],
            graph.initializers,
        ),
        producer_name="jaxbert",
        opset_imports=[helper.make_opsetid("", _OPSET)],
        ir_version=_IR_VERSION,
    )
    helper.set_model_props(made, dict(metadata or {}))
    return made


def _used(graph: GraphWriter) -> set[str]:
    return {name for node in graph.nodes for name in node.input}


@dataclass(frozen=True)
class _Rows:
    """What the graph's inputs say of the tokens."""

    input_ids: str
    token_type_ids: str
    position_ids: str
    mask: str
    """What is added to the logits of attention, [B, 1, T or 1, T]."""
    firsts: tuple[str, str] | None = None
    """If the last layer computes each example's first token alone: their places, int64 [B, S, 1], and mask, [B, 1, S, T]."""


@dataclass(frozen=True)
class _Bert:
    """One model; the layers' names are the attributes of the modules in `models`."""

    graph: GraphWriter
    config: BertConfig
    family: Family
    head: type[nnx.Module]

    @property
    def _pools(self) -> bool:
        """Whether the head reads each example's first token alone."""
        return self.head in (SequenceClassificationHead, MultipleChoiceHead)

    @property
    def _chooses(self) -> bool:
        return self.head is MultipleChoiceHead

    def input_shapes(self, form: Form) -> dict[str, Shape]:
        """Return the inputs and their shapes."""
        if form == "ragged":
            return {name: ("texts" if name == "ends" else "tokens",) for name in RAGGED_INPUTS}
        if form == "packed":
            return {name: ("rows", "slots" if name == "cls_positions" else "tokens") for name in PACKED_INPUTS}
        choices: Shape = ("num_choices",) if self._chooses else ()
        return dict.fromkeys(PADDED_INPUTS, ("batch_size", *choices, "sequence_length"))

    def padded(self) -> dict[str, Shape]:
        """Write the graph of padded rows; return its outputs and their shapes."""
        graph = self.graph
        ids, attended, types = PADDED_INPUTS
        if self._chooses:  # each choice is a row
            shape = graph.add("Shape", ids)
            length = graph.add("Gather", shape, graph.integers(-1))
            rows = graph.add("Concat", graph.integers(-1), length, axis=0)
            ids, attended, types = (graph.add("Reshape", name, rows) for name in PADDED_INPUTS)
        length = graph.add("Squeeze", graph.add("Shape", ids, start=1, end=2), graph.integers(0))
        zero, one = (graph.add("Squeeze", graph.integers(number), graph.integers(0)) for number in (0, 1))
        positions = graph.add("Unsqueeze", graph.add("Range", zero, length, one), graph.integers(0))
        hidden = graph.add("Sub", graph.number(1), graph.cast(attended))
        mask = graph.add("Mul", hidden, graph.number(MASKED[graph.float]))
        x = self._encode(_Rows(ids, types, positions, graph.add("Unsqueeze", mask, graph.integers(1, 2))))
        if not self._pools:
            return self._score_tokens(x, ("batch_size", "sequence_length"))
        logits = self._score(graph.add("Gather", x, zero, axis=1))
        if self._chooses:
            choices = graph.add("Slice", shape, graph.integers(0), graph.integers(2))
            graph.name_output(graph.add("Reshape", logits, choices), "logits")
            return {"logits": ("batch_size", "num_choices")}
        graph.name_output(logits, "logits")
        return {"logits": ("batch_size", self._scores)}

    def packed(self) -> dict[str, Shape]:
        """Write the graph of packed rows; return its outputs and their shapes."""
        graph = self.graph
        ids, types, positions, segments, firsts = PACKED_INPUTS
        if not self._pools:
            rows = _Rows(ids, types, positions, self._same_segment(segments, segments))
            return self._score_tokens(self._encode(rows), ("rows", "tokens"))
        firsts = graph.add("Cast", firsts, to=TensorProto.INT64)
        graph.name_output(self._score_firsts(ids, types, positions, segments, firsts), "logits")
        return {"logits": ("rows", "slots", self._scores)}

    def ragged(self) -> dict[str, Shape]:
        """Write the graph of texts one after the other; return its outputs and their shapes.

        All texts are one packed row, whose positions, segments and first tokens follow from where each text ends.
        """
        assert self._pools, self.head
        graph = self.graph
        ids, types, ends = RAGGED_INPUTS
        ends = graph.add("Cast", ends, to=TensorProto.INT64)
        zero, one = (graph.add("Squeeze", graph.integers(number), graph.integers(0)) for number in (0, 1))
        tokens = graph.add("Range", zero, graph.add("Squeeze", graph.add("Shape", ids), graph.integers(0)), one)
        ended = graph.add(
            "GreaterOrEqual",
            graph.add("Unsqueeze", tokens, graph.integers(1)),
            graph.add("Unsqueeze", ends, graph.integers(0)),
        )
        text = graph.add("ReduceSum", graph.add("Cast", ended, to=TensorProto.INT64), graph.integers(1), keepdims=0)
        begins = graph.add(
            "Concat", graph.integers(0), graph.add("Slice", ends, graph.integers(0), graph.integers(-1)), axis=0
        )
        positions = graph.add("Sub", tokens, graph.add("Gather", begins, text))
        row = (graph.add("Unsqueeze", x, graph.integers(0)) for x in (ids, types, positions, text, begins))
        logits = graph.add("Squeeze", self._score_firsts(*row), graph.integers(0))
        graph.name_output(logits, "logits")
        return {"logits": ("texts", self._scores)}

    def _score_firsts(self, ids: str, types: str, positions: str, segments: str, firsts: str) -> str:
        """Return the scores of the examples of packed rows, [B, S, C], given the places of their first tokens (int64)."""
        graph = self.graph
        places = graph.add("Unsqueeze", firsts, graph.integers(2))
        own = graph.add("GatherND", segments, places, batch_dims=1)
        alone = places, self._same_segment(own, segments)
        return self._score(self._encode(_Rows(ids, types, positions, self._same_segment(segments, segments), alone)))

    def _same_segment(self, queries: str, keys: str) -> str:
        """Return the mask of packed rows: padding attends to padding, so that all values stay finite."""
        graph = self.graph
        same = graph.add(
            "Equal", graph.add("Unsqueeze", queries, graph.integers(2)), graph.add("Unsqueeze", keys, graph.integers(1))
        )
        masked = graph.add("Where", same, graph.number(0), graph.number(MASKED[graph.float]))
        return graph.add("Unsqueeze", masked, graph.integers(1))

    @property
    def _scores(self) -> int:
        return 1 if self._chooses else self.config.num_labels or 2

    def _encode(self, rows: _Rows) -> str:
        """Run embeddings and layers; return the vectors of all tokens, or of the first ones."""
        graph, layers = self.graph, ".".join((self.family.prefix, *self.family.layers))
        x = self._embed(rows)
        last = self.config.num_hidden_layers - 1
        for number in range(last + 1):
            residual, mask = x, rows.mask
            if number == last and rows.firsts is not None:
                residual, mask = graph.add("GatherND", x, rows.firsts[0], batch_dims=1), rows.firsts[1]
            mixed = self._attend(x, residual, f"{layers}.{number}.attention.self", mask)
            part = f"{layers}.{number}.attention.output"
            x = self._finish_half(graph.dense(mixed, f"{part}.dense"), residual, part)
            wide = graph.dense(x, f"{layers}.{number}.intermediate.dense")
            wide = ONNX_ACTIVATIONS[self.config.hidden_act](graph, wide)
            part = f"{layers}.{number}.output"
            x = self._finish_half(graph.dense_by_token(wide, f"{part}.dense"), x, part)
        return x

    def _embed(self, rows: _Rows) -> str:
        graph, part = self.graph, f"{self.family.prefix}.{self.family.embeddings}"
        words = graph.lookup(f"{part}.word_embeddings", rows.input_ids)
        places = graph.lookup(f"{part}.position_embeddings", rows.position_ids)
        types = graph.lookup(f"{part}.token_type_embeddings", rows.token_type_ids)
        total = graph.add("Add", words, graph.add("Add", places, types))
        return graph.norm(total, f"{part}.LayerNorm", self.config.layer_norm_eps)

    def _finish_half(self, x: str, residual: str, part: str) -> str:
        total = self.graph.add("Add", x, residual)
        return self.graph.norm(total, f"{part}.LayerNorm", self.config.layer_norm_eps)

    def _attend(self, x: str, queries: str, part: str, mask: str) -> str:
        """Return the mixed values, [B, T, D], or [B, S, D] if `queries` are those of S tokens."""
        graph, heads = self.graph, self.config.num_attention_heads
        width = self.config.hidden_size // heads
        scale = 1 / math.sqrt(width)
        query, key, value = (f"{part}.{name}" for name in ("query", "key", "value"))
        if queries == x:
            joined = graph.dense(x, query, key, value, scales=(scale, 1, 1))
            parts = graph.split("Split", [joined], 3, axis=-1, num_outputs=3)
        else:
            both = graph.split("Split", [graph.dense(x, key, value)], 2, axis=-1, num_outputs=2)
            parts = [graph.dense(queries, query, scales=(scale,)), *both]
        by_head = graph.integers(0, 0, heads, width)
        q, k, v = (
            graph.add("Transpose", graph.add("Reshape", each, by_head), perm=perm)
            for each, perm in zip(parts, ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]), strict=True)
        )
        scores = self._without_denormals(graph.add("Add", graph.add("MatMul", q, k), mask))
        weights = graph.add("Softmax", scores, axis=-1)
        mixed = graph.add("Transpose", graph.add("MatMul", weights, v), perm=[0, 2, 1, 3])
        return graph.add("Reshape", mixed, graph.integers(0, 0, heads * width))

    def _without_denormals(self, scores: str) -> str:
        """Raise masked scores so far that their weight is a normal number, yet nothing beside the others.

        Processors take many times as long for numbers too small to be normal: with most of the scores masked, softmax in
        onnxruntime takes eight times as long. A weight of exp(-60) changes no bit of a sum of ordinary numbers.
        """
        graph = self.graph
        if graph.float is not np.float32:
            return scores
        largest = graph.add("ReduceMax", scores, graph.integers(-1), keepdims=1)
        return graph.add("Max", scores, graph.add("Add", largest, graph.number(-_NOTHING)))

    def _score(self, x: str) -> str:
        """Return the scores of first tokens: pooler and classifier, in float32 where the layers are in int8."""
        graph, pooler = self.graph, f"{self.family.prefix}.{self.family.pooler}.dense"
        pooled = graph.add("Tanh", graph.dense(x, pooler, exact=True))
        return graph.dense(pooled, ".".join(self.family.classifier), exact=True)

    def _score_tokens(self, x: str, tokens: Shape) -> dict[str, Shape]:
        """Write the outputs of all tokens."""
        graph = self.graph
        if self.head is TokenClassificationHead:
            graph.name_output(graph.dense(x, ".".join(self.family.classifier), exact=True), "logits")
            return {"logits": (*tokens, self._scores)}
        both = graph.split("Split", [graph.dense(x, "qa_outputs", exact=True)], 2, axis=-1, num_outputs=2)
        for name, scores in zip(("start_logits", "end_logits"), both, strict=True):
            graph.name_output(graph.add("Squeeze", scores, graph.integers(-1)), name)
        return {"start_logits": tokens, "end_logits": tokens}
