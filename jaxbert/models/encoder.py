"""The BERT encoder as NNX modules, named like Hugging Face's tensors.

The modules only define the computation. They hold one template layer; its parameters have a leading layer axis N, and
`BertEncoder` runs over that axis. `functional` builds, initializes and applies a model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from jax.sharding import Sharding
from transformers import BertConfig

from jaxbert.models.attention.base import Attend, Request
from jaxbert.models.attention.select import Attention
from jaxbert.models.attention.xla import attend_with_weights, xla_attention
from jaxbert.models.layers import (
    ACTIVATIONS,
    DropRates,
    KeyProjection,
    LayerNorm,
    activated_product,
    dropout,
    lookup,
    make_linear,
    multiply,
    multiply_together,
    recomputed_product,
    take_rows,
    use_fp8,
)
from jaxbert.models.residual import NormParams, ResidualNorm

Twice = tuple[Array, Array]
"""Hidden states twice: the input of the next half layer, and its residual. See `ResidualNorm`."""
Remat = Literal["none", "dots", "full"]
_SAVED: dict[str, Any] = {
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,  # the products with weights, not those of attention
    "full": jax.checkpoint_policies.nothing_saveable,
}
"""The arrays of a layer that are kept for the backward pass besides its input."""


@dataclass(frozen=True)
class ForwardOptions:
    """The options of a forward pass; static but for the dropout rates, so that each combination is compiled once."""

    scan_layers: bool = True
    remat: Remat = "none"
    output_hidden_states: bool = False
    output_attentions: bool = False
    padding_reads: bool = False
    """Whether a padding token attends to the tokens of segment 1, as in PyTorch; for rows of one example. If false, it
    attends to padding."""
    fp8: bool = False
    fuse_lookup: bool = False
    """Whether the word embeddings' gradient is computed by `lookup`, for a single device whose memory is slow."""
    attention: Attend = xla_attention
    """The attention backend, but only xla supports weights, head masks, single positions and `padding_reads`."""
    recompute_activation: bool = False
    """Whether the activation of the feed-forward block is computed again in the backward pass, and not saved."""
    residual_norm: ResidualNorm = ResidualNorm()  # noqa: RUF009 (frozen)
    """The computation at the end of each half layer."""
    frozen_layers: int = 0
    """The number of lowest layers that need no gradient of their own, so that none is computed."""
    drop_rates: DropRates | None = None
    """The dropout rates, which may be traced; None: those of the model's configuration. Without a key nothing is dropped."""
    slots: int | None = None
    """Example slots per row; `encode` reads them from the batch."""
    rows: Sharding | None = None
    """The sharding of hidden states by rows. Without it, the compiler shards their width over devices that share parameters,
    and exchanges hidden states where it should gather kernels."""

    words: Sharding | None = None
    """The sharding of the word vectors after they are read from a table that is sharded by width; then they move to `rows`.
    Without this step, the compiler reads the words of all rows on every device."""

    def place_words(self, x_BTD: Array) -> Array:
        """Exchange the sharding of the word vectors, and of their gradients, by width for one by rows."""
        return x_BTD if self.words is None else self.place(jax.lax.with_sharding_constraint(x_BTD, self.words))

    def place(self, x_BTD: Array) -> Array:
        """Keep hidden states, and their gradients, on the devices of their rows."""
        return x_BTD if self.rows is None else jax.lax.with_sharding_constraint(x_BTD, self.rows)

    @property
    def rates(self) -> DropRates:
        """The dropout rates; without any, nothing is dropped."""
        return self.drop_rates or DropRates()

    @property
    def keeps_all(self) -> bool:
        """Whether the call asks for more outputs than a head needs, so that no layer may leave positions out."""
        return self.output_hidden_states or self.output_attentions

    def unroll(self, layers: int) -> int:
        """Return the number of layers that one round of the loop runs."""
        return 1 if self.scan_layers else max(layers, 1)


class EncoderOutput(NamedTuple):
    """The outputs of the encoder; the last two are None unless asked for."""

    hidden_BTD: Array
    """The vectors of all tokens, or [B, P, D] if only some positions were asked for."""
    hidden_states_NBTD: Array | None
    attentions_NBHTT: Array | None


def make_layer_norm(config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> LayerNorm:
    """Make a LayerNorm with the configuration's width and epsilon."""
    return LayerNorm(config.hidden_size, epsilon=config.layer_norm_eps, dtype=dtype, rngs=rngs)


def take_positions(x_BTD: Array, positions_BP: Array) -> Array:
    """Return the vectors at some positions of each row, [B, P, D]."""
    return jnp.take_along_axis(x_BTD, positions_BP[:, :, None], axis=1)


class BertEmbeddings(nnx.Module):
    """The sum of word, position and type embeddings, normalized."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        init = nnx.initializers.normal(config.initializer_range)

        def table(rows: int) -> nnx.Embed:
            return nnx.Embed(rows, config.hidden_size, dtype=dtype, embedding_init=init, rngs=rngs)

        self.word_embeddings = table(config.vocab_size)
        self.position_embeddings = table(config.max_position_embeddings)
        self.token_type_embeddings = table(config.type_vocab_size)
        self.LayerNorm = make_layer_norm(config, dtype, rngs)

    def __call__(
        self,
        input_ids: Array,
        token_type_ids: Array,
        position_ids: Array,
        key: Array | None,
        call: ForwardOptions,
        words_BTD: Array | None = None,
        push_BTD: Array | None = None,
    ) -> Array:
        """Embed tokens; `words_BTD`, if given, are taken as their word embeddings instead of the table's rows.

        `push_BTD` is added to the word embeddings.
        """
        words = self.word_embeddings
        if words_BTD is not None:
            x_BTD = words_BTD.astype(words.dtype)
        elif call.fuse_lookup:
            x_BTD = lookup(words.embedding[...], input_ids, words.dtype)
        else:
            x_BTD = take_rows(words, input_ids)
        x_BTD = call.place_words(x_BTD)
        if push_BTD is not None:
            x_BTD += call.place(push_BTD.astype(x_BTD.dtype))
        x_BTD += take_rows(self.position_embeddings, position_ids) + take_rows(
            self.token_type_embeddings, token_type_ids
        )
        return dropout(self.LayerNorm(x_BTD), call.rates.hidden, key)


class BertSelfAttention(nnx.Module):
    """The queries, keys and values of all heads, and the attention over them."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        width = config.hidden_size
        self.query = make_linear(width, width, config, dtype, rngs)
        self.key = make_linear(width, width, config, dtype, rngs, KeyProjection)
        self.value = make_linear(width, width, config, dtype, rngs)
        self.heads = config.num_attention_heads

    def __call__(
        self,
        x_BTD: Array,
        segment_ids: Array,
        key: Array | None,
        head_mask_H: Array | None,
        call: ForwardOptions,
        positions_BP: Array | None = None,
    ) -> tuple[Array, Array | None]:
        def split_heads(y: Array) -> Array:
            return y.reshape(*y.shape[:2], self.heads, -1)

        queries, query_segment_ids = x_BTD, None
        if positions_BP is not None:
            queries = take_positions(x_BTD, positions_BP)
            query_segment_ids = jnp.take_along_axis(segment_ids, positions_BP, axis=1)
        if call.padding_reads:
            query_segment_ids = jnp.ones_like(segment_ids, shape=(len(segment_ids), 1))
        needs_weights = call.output_attentions or head_mask_H is not None or query_segment_ids is not None
        like = jax.eval_shape(split_heads, queries)
        rate = call.rates.attention
        request = Request.of(like, rate, key)
        if not needs_weights and isinstance(call.attention, Attention) and call.attention.fuses(request):
            return self._attend_fused(x_BTD, segment_ids, key, call), None
        projected = (split_heads(f(x)) for f, x in ((self.query, queries), (self.key, x_BTD), (self.value, x_BTD)))
        arrays, weights = (*projected, segment_ids), None
        if needs_weights:
            out, weights = attend_with_weights(
                *arrays, dropout_rate=rate, key=key, head_mask_H=head_mask_H, query_segment_ids=query_segment_ids
            )
        else:
            out = call.attention(*arrays, dropout_rate=rate, key=key, slots=call.slots)
        return out, weights

    def _attend_fused(self, x_BTD: Array, segment_ids: Array, key: Array | None, call: ForwardOptions) -> Array:
        """Compute keys, values and queries by one product, and let the kernels add the biases."""
        assert isinstance(call.attention, Attention)
        parts = (self.key, self.value, self.query)
        kvq_BTD = multiply_together(parts, x_BTD)
        shape = (len(parts), self.heads, -1)
        bias_CHK = jnp.stack([cast(nnx.Param, part.bias)[...] for part in parts]).reshape(shape)
        kvq_BTCHK = kvq_BTD.reshape(*x_BTD.shape[:2], *shape[:2], bias_CHK.shape[-1])
        rate = call.rates.attention
        return call.attention.attend_fused(kvq_BTCHK, bias_CHK, segment_ids, dropout_rate=rate, key=key)


class BertResidualOutput(nnx.Module):
    """Projection, dropout, residual and normalization."""

    def __init__(self, d_in: int, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.dense = make_linear(d_in, config.hidden_size, config, dtype, rngs)
        self.LayerNorm = make_layer_norm(config, dtype, rngs)

    def __call__(self, product_BTD: Array, residual_BTD: Array, key: Array | None, call: ForwardOptions) -> Twice:
        """Run all but the projection itself: the product comes without its bias."""
        norm = self.LayerNorm
        params = NormParams(*(cast(nnx.Param, part)[...] for part in (self.dense.bias, norm.scale, norm.bias)))
        rate = call.rates.hidden
        return call.residual_norm(product_BTD, residual_BTD, params, epsilon=norm.epsilon, rate=rate, key=key)


class BertAttention(nnx.Module):
    """Self-attention with its output projection."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.self = BertSelfAttention(config, dtype, rngs)
        self.output = BertResidualOutput(config.hidden_size, config, dtype, rngs)


class BertIntermediate(nnx.Module):
    """The first half of the feed-forward block."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.dense = make_linear(config.hidden_size, config.intermediate_size, config, dtype, rngs)
        self.activation = config.hidden_act

    def __call__(self, x_BTD: Array, following: nnx.Linear, *, recompute: bool) -> Array:
        """Return the following layer's product, without its bias; `recompute` saves memory, see `recomputed_product`."""
        bias, kernel = (cast(nnx.Param, part)[...] for part in (self.dense.bias, following.kernel))
        arguments = ACTIVATIONS[self.activation], following.dot_general, multiply(self.dense, x_BTD), bias, kernel
        return recomputed_product(*arguments) if recompute else activated_product(*arguments)


class BertLayer(nnx.Module):
    """One encoder layer."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.attention = BertAttention(config, dtype, rngs)
        self.intermediate = BertIntermediate(config, dtype, rngs)
        self.output = BertResidualOutput(config.intermediate_size, config, dtype, rngs)

    def __call__(
        self,
        hidden: Twice,
        segment_ids: Array,
        key: Array | None,
        head_mask_H: Array | None,
        call: ForwardOptions,
        positions_BP: Array | None = None,
    ) -> tuple[Twice, Array | None]:
        """Run the layer; with positions, only those are queries and are returned, [B, P, D]."""
        keys = (None, None, None) if key is None else jax.random.split(key, 3)
        x_BTD, residual = hidden
        mixed, weights = self.attention.self(x_BTD, segment_ids, keys[0], head_mask_H, call, positions_BP)
        residual = residual if positions_BP is None else take_positions(residual, positions_BP)
        project = self.attention.output
        x, residual = project(multiply(project.dense, mixed), residual, keys[1], call)

        product = self.intermediate(x, self.output.dense, recompute=call.recompute_activation)
        return self.output(product, residual, keys[2], call), weights


class BertEncoder(nnx.Module):
    """All layers: one template layer, run over the leading axis of its parameters."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.layer = BertLayer(config, dtype, rngs)
        self.num_layers = config.num_hidden_layers

    def __call__(
        self,
        x_BTD: Array,
        segment_ids: Array,
        key: Array | None,
        head_mask_NH: Array | None,
        call: ForwardOptions,
        positions_BP: Array | None = None,
    ) -> EncoderOutput:
        graphdef, params_N = nnx.split(self.layer)
        keys_N = None if key is None else jax.random.split(key, self.num_layers)
        stacks_N = params_N, keys_N, head_mask_NH

        def run_layer(hidden: Twice, xs: tuple, positions_BP: Array | None = None) -> tuple[Twice, tuple]:
            params, key, head_mask_H = xs
            layer = nnx.merge(graphdef, params)
            if call.fp8:
                use_fp8(layer)
            placed = call.place(hidden[0]), call.place(hidden[1])
            (x, residual), weights = layer(placed, segment_ids, key, head_mask_H, call, positions_BP)
            shown = hidden[0] if call.output_hidden_states else None
            return (call.place(x), call.place(residual)), (shown, weights if call.output_attentions else None)

        if call.remat != "none":
            # A loop's body is compiled separately; in unrolled layers XLA would merge recomputation and forward pass.
            run_layer = jax.checkpoint(run_layer, policy=_SAVED[call.remat], prevent_cse=not call.scan_layers)
        hidden: Twice = x_BTD, x_BTD
        if call.frozen_layers and not call.keeps_all:
            hidden, stacks_N = self._run_frozen(run_layer, hidden, stacks_N, call)
        count = jax.tree.leaves(stacks_N)[0].shape[0]
        if positions_BP is None:
            (x_BTD, _), (shown, weights) = jax.lax.scan(run_layer, hidden, stacks_N, unroll=call.unroll(count))
            if shown is not None:
                shown = jnp.concatenate([shown, x_BTD[None]])
            return EncoderOutput(x_BTD, shown, weights)
        below, last = (jax.tree.map(lambda a, i=i: a[i], stacks_N) for i in (slice(-1), -1))
        hidden, _ = jax.lax.scan(run_layer, hidden, below, unroll=call.unroll(count - 1))
        (x_BPD, _), _ = run_layer(hidden, last, positions_BP)
        return EncoderOutput(x_BPD, None, None)

    @staticmethod
    def _run_frozen(run_layer: Callable, hidden: Twice, stacks_N: tuple, call: ForwardOptions) -> tuple[Twice, tuple]:
        """Run the frozen layers in their own loop, with a gradient for `hidden` only; also return the other stacks."""
        number = call.frozen_layers
        (params, *others), rest = (
            jax.tree.map(lambda a, part=part: a[part], stacks_N) for part in (slice(number), slice(number, None))
        )
        stacks = jax.lax.stop_gradient(params), *others
        return jax.lax.scan(run_layer, hidden, stacks, unroll=call.unroll(number))[0], rest


class BertPooler(nnx.Module):
    """Dense and tanh over each example's first token."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.dense = make_linear(config.hidden_size, config.hidden_size, config, dtype, rngs)

    def __call__(self, x: Array) -> Array:
        return jnp.tanh(self.dense(x))


class BertModule(nnx.Module):
    """Embeddings, encoder and pooler: the parts that all heads share."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs, *, add_pooling_layer: bool = True) -> None:
        self.embeddings = BertEmbeddings(config, dtype, rngs)
        self.encoder = BertEncoder(config, dtype, rngs)
        if add_pooling_layer:
            self.pooler = BertPooler(config, dtype, rngs)

    def encode(
        self,
        batch: dict[str, Array],
        key: Array | None,
        call: ForwardOptions,
        head_mask_NH: Array | None = None,
        positions_BP: Array | None = None,
    ) -> EncoderOutput:
        """Run embeddings and layers over packed rows (keys as in the packed batch).

        If the batch has `word_vectors` [B, T, D], they replace the word embeddings of `input_ids`: gradients with respect to
        them say how the outputs depend on each token. `word_push` [B, T, D] is added to the word embeddings.

        With `positions_BP`, the last layer computes only these positions: a head that reads one token of an example then
        pays for queries, output and feed-forward block only there. The values are those of the complete layer.
        """
        call = dataclasses.replace(call, slots=batch["cls_positions"].shape[1]) if "cls_positions" in batch else call
        embed_key, layers_key = (None, None) if key is None else jax.random.split(key)
        tokens = batch["input_ids"], batch["token_type_ids"], batch["position_ids"]
        x_BTD = self.embeddings(*tokens, embed_key, call, batch.get("word_vectors"), batch.get("word_push"))
        return self.encoder(x_BTD, batch["segment_ids"], layers_key, head_mask_NH, call, positions_BP)

    def encode_positions(
        self,
        batch: dict[str, Array],
        positions_BP: Array,
        key: Array | None,
        call: ForwardOptions,
        head_mask_NH: Array | None = None,
    ) -> tuple[Array, EncoderOutput]:
        """Return the last hidden vectors at some positions, [B, P, D], and the encoder's output with the other requests."""
        if call.keeps_all:
            encoded = self.encode(batch, key, call, head_mask_NH)
            return take_positions(encoded.hidden_BTD, positions_BP), encoded
        encoded = self.encode(batch, key, call, head_mask_NH, positions_BP)
        return encoded.hidden_BTD, encoded
