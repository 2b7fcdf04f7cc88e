"""BERT with a head: each module maps a packed batch to a dictionary of outputs.

Each holds the encoder as `base`, which `functional` shows under the prefix of the model's family. Every dictionary holds the
encoder's output as `encoded`. If a head reads few positions of a row, the last layer computes only those. Scores have the
dtype of the computation; a loss must convert them to float32.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import Array
from transformers import BertConfig

from jaxbert.models.encoder import BertModule, EncoderOutput, ForwardOptions, make_layer_norm, take_positions
from jaxbert.models.layers import ACTIVATIONS, add_bias, dropout, flat_dot_general, make_linear, product

Batch = dict[str, Array]


def _split(key: Array | None) -> tuple[Array | None, Array | None]:
    """Return a key for the encoder and one for the head."""
    return (None, None) if key is None else tuple(jax.random.split(key))


class BertModel(nnx.Module):
    """No head: the hidden vectors of all tokens, and the pooled vectors of the examples."""

    add_pooling_layer: ClassVar[bool] = True

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.base = BertModule(config, dtype, rngs, add_pooling_layer=self.add_pooling_layer)

    def __call__(
        self, batch: Batch, key: Array | None, call: ForwardOptions, head_mask_NH: Array | None = None
    ) -> dict[str, Any]:
        """Return `last_hidden_state` [B, T, D], `pooler_output` [B, S, D] if there is a pooler, and the encoder's output."""
        encoded = self.base.encode(batch, key, call, head_mask_NH)
        outputs = {"last_hidden_state": encoded.hidden_BTD, "encoded": encoded}
        if self.add_pooling_layer:
            outputs["pooler_output"] = self.base.pooler(take_positions(encoded.hidden_BTD, batch["cls_positions"]))
        return outputs


class BertModelWithoutPooler(BertModel):
    """No head and no pooler: only the hidden vectors."""

    add_pooling_layer = False


class _PooledScores(nnx.Module):
    """Scores of each example, from the pooled vector of its first token."""

    scores: ClassVar[int | None] = None
    """The number of scores; None means one per label."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        scores = self.scores or config.num_labels or 2
        self.base = BertModule(config, dtype, rngs)
        self.classifier = make_linear(config.hidden_size, scores, config, dtype, rngs)

    def __call__(
        self, batch: Batch, key: Array | None, call: ForwardOptions, head_mask_NH: Array | None = None
    ) -> dict[str, Any]:
        """Return `logits` [B, S, C], the `pooled` vectors [B, S, D] and the encoder's output."""
        encoder_key, head_key = _split(key)
        first_BSD, encoded = self.base.encode_positions(batch, batch["cls_positions"], encoder_key, call, head_mask_NH)
        pooled_BSD = self.base.pooler(first_BSD)
        logits_BSC = self.classifier(dropout(pooled_BSD, call.rates.classifier, head_key))
        return {"logits": logits_BSC, "pooled": pooled_BSD, "encoded": encoded}


class SequenceClassificationHead(_PooledScores):
    """Scores of the labels for each example."""


class MultipleChoiceHead(_PooledScores):
    """One score per example: how well this choice, which is packed like an example, answers its question."""

    scores = 1


class TokenClassificationHead(nnx.Module):
    """Scores of the labels for each token."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.base = BertModule(config, dtype, rngs, add_pooling_layer=False)
        self.classifier = make_linear(config.hidden_size, config.num_labels or 2, config, dtype, rngs)

    def __call__(
        self, batch: Batch, key: Array | None, call: ForwardOptions, head_mask_NH: Array | None = None
    ) -> dict[str, Any]:
        """Return `logits` [B, T, C] and the encoder's output."""
        encoder_key, head_key = _split(key)
        encoded = self.base.encode(batch, encoder_key, call, head_mask_NH)
        return {
            "logits": self.classifier(dropout(encoded.hidden_BTD, call.rates.classifier, head_key)),
            "encoded": encoded,
        }


class QuestionAnsweringHead(nnx.Module):
    """Scores of each token as the start and as the end of an answer in its example."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.base = BertModule(config, dtype, rngs, add_pooling_layer=False)
        self.qa_outputs = make_linear(config.hidden_size, 2, config, dtype, rngs)

    def __call__(
        self, batch: Batch, key: Array | None, call: ForwardOptions, head_mask_NH: Array | None = None
    ) -> dict[str, Any]:
        """Return `start_logits` and `end_logits` [B, T], and the encoder's output.

        A packed row holds the scores of several examples: a softmax must run over each example's own tokens.
        """
        encoded = self.base.encode(batch, key, call, head_mask_NH)
        logits_BT2 = self.qa_outputs(encoded.hidden_BTD)
        return {"start_logits": logits_BT2[..., 0], "end_logits": logits_BT2[..., 1], "encoded": encoded}


class _Transform(nnx.Module):
    """Dense layer, activation and LayerNorm before the vocabulary's scores."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.dense = make_linear(config.hidden_size, config.hidden_size, config, dtype, rngs)
        self.LayerNorm = make_layer_norm(config, dtype, rngs)
        self.activation = config.hidden_act

    def __call__(self, x_BPD: Array) -> Array:
        return self.LayerNorm(ACTIVATIONS[self.activation](self.dense(x_BPD)))


class _Predictions(nnx.Module):
    """Scores of every word of the vocabulary, from the table of the word embeddings unless the configuration unties them."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.transform = _Transform(config, dtype, rngs)
        self.bias = nnx.Param(jnp.zeros(config.vocab_size))
        self.tied = getattr(config, "tie_word_embeddings", True)
        if not self.tied:
            init = nnx.initializers.normal(config.initializer_range)
            sizes = config.hidden_size, config.vocab_size
            self.decoder = nnx.Linear(*sizes, use_bias=False, dtype=dtype, kernel_init=init, rngs=rngs)

    def __call__(self, x_BPD: Array, words: nnx.Embed, ids: np.ndarray | None = None) -> Array:
        """Score every word of the vocabulary, or those with some `ids` alone."""
        x_BPD, bias = self.transform(x_BPD), self.bias[...]
        kernel = words.embedding[...].T if self.tied else self.decoder.kernel[...]
        if ids is not None:
            kernel, bias = kernel[:, ids], bias[ids]
        return add_bias(product(flat_dot_general, x_BPD, kernel), bias)


class _Cls(nnx.Module):
    """The layers that pretraining adds to the encoder, under Hugging Face's name `cls`."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs, *, words: bool, next_sentence: bool) -> None:
        if words:
            self.predictions = _Predictions(config, dtype, rngs)
        if next_sentence:
            self.seq_relationship = make_linear(config.hidden_size, 2, config, dtype, rngs)


class MaskedLM(nnx.Module):
    """Scores of the words at masked positions."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.base = BertModule(config, dtype, rngs, add_pooling_layer=False)
        self.cls = _Cls(config, dtype, rngs, words=True, next_sentence=False)

    def __call__(
        self, batch: Batch, key: Array | None, call: ForwardOptions, head_mask_NH: Array | None = None
    ) -> dict[str, Any]:
        """Return `logits` and the encoder's output: [B, P, V] at the batch's `masked_positions` [B, P], else [B, T, V].

        An unused entry of `masked_positions` may be any position of the row.
        """
        if "masked_positions" in batch:
            x_BPD, encoded = self.base.encode_positions(batch, batch["masked_positions"], key, call, head_mask_NH)
        else:
            encoded = self.base.encode(batch, key, call, head_mask_NH)
            x_BPD = encoded.hidden_BTD
        return {"logits": self.cls.predictions(x_BPD, self.base.embeddings.word_embeddings), "encoded": encoded}


@dataclass(frozen=True)
class _Answers:
    """The part of a prompt that its head computes with."""

    places: tuple[int, ...]
    """The places of [MASK] in a segment, from its first token, or negative from behind its last one; M of them."""
    words: tuple[tuple[tuple[int, ...], ...], ...]
    """The M token ids of each word of each label."""


class PromptHead(MaskedLM):
    """Scores of the labels for each example: of the words that stand for them, at the masked places of its segment."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        super().__init__(config, dtype, rngs)
        prompt = config.jaxbert["prompt"]
        words = tuple(tuple(tuple(ids) for ids in of_label) for of_label in prompt["words"])
        self.answers = _Answers(tuple(prompt["places"]), words)

    def __call__(
        self, batch: Batch, key: Array | None, call: ForwardOptions, head_mask_NH: Array | None = None
    ) -> dict[str, Any]:
        """Return `logits` [B, S, C], float32, and the encoder's output.

        The score of a word is the sum of its tokens' scores, that of a label the mean of its words'. The normalizers of
        the vocabulary are the same for all labels and left out: a softmax over labels is that of mean log-probabilities.
        """
        places_BSM = self._places(batch)
        rows, slots, masks = places_BSM.shape
        x_BPD, encoded = self.base.encode_positions(batch, places_BSM.reshape(rows, -1), key, call, head_mask_NH)
        words = [ids for of_label in self.answers.words for ids in of_label]
        scores_BPV = self.cls.predictions(x_BPD, self.base.embeddings.word_embeddings, np.array(words).reshape(-1))
        scores_BSMKM = scores_BPV.astype(jnp.float32).reshape(rows, slots, masks, len(words), masks)
        scores_BSK = jnp.einsum("BSMKM->BSK", scores_BSMKM)
        counts = [len(of_label) for of_label in self.answers.words]
        mean_KC = np.repeat(np.eye(len(counts), dtype=np.float32) / np.array(counts)[:, None], counts, axis=0)
        logits_BSC = jnp.einsum("BSK,KC->BSC", scores_BSK, mean_KC, precision=jax.lax.Precision.HIGHEST)
        return {"logits": logits_BSC, "encoded": encoded}

    def _places(self, batch: Batch) -> Array:
        """Return the masked places of each example in its row, [B, S, M]; any places of an unused slot."""
        first_BS, segment_ids = batch["cls_positions"], batch["segment_ids"]
        slots_S = jnp.arange(1, first_BS.shape[1] + 1)
        lengths_BS = (segment_ids[:, None, :] == slots_S[None, :, None]).sum(-1)
        within_11M = np.array(self.answers.places)[None, None]
        places_BSM = first_BS[..., None] + within_11M + jnp.where(within_11M < 0, lengths_BS[..., None], 0)
        return jnp.clip(places_BSM, 0, segment_ids.shape[1] - 1)


class NextSentencePrediction(nnx.Module):
    """Two scores per example: that the second sentence follows the first, and that it does not."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.base = BertModule(config, dtype, rngs)
        self.cls = _Cls(config, dtype, rngs, words=False, next_sentence=True)

    def __call__(
        self, batch: Batch, key: Array | None, call: ForwardOptions, head_mask_NH: Array | None = None
    ) -> dict[str, Any]:
        """Return `logits` [B, S, 2] and the encoder's output."""
        first_BSD, encoded = self.base.encode_positions(batch, batch["cls_positions"], key, call, head_mask_NH)
        return {"logits": self.cls.seq_relationship(self.base.pooler(first_BSD)), "encoded": encoded}


class PreTraining(nnx.Module):
    """Both tasks of BERT's pretraining: masked words and next sentence."""

    def __init__(self, config: BertConfig, dtype: Any, rngs: nnx.Rngs) -> None:
        self.base = BertModule(config, dtype, rngs)
        self.cls = _Cls(config, dtype, rngs, words=True, next_sentence=True)

    def __call__(
        self, batch: Batch, key: Array | None, call: ForwardOptions, head_mask_NH: Array | None = None
    ) -> dict[str, Any]:
        """Return `prediction_logits` as `MaskedLM` does, `seq_relationship_logits` [B, S, 2] and the encoder's output."""
        x_BPD, first_BSD, encoded = self._encode(batch, key, call, head_mask_NH)
        return {
            "prediction_logits": self.cls.predictions(x_BPD, self.base.embeddings.word_embeddings),
            "seq_relationship_logits": self.cls.seq_relationship(self.base.pooler(first_BSD)),
            "encoded": encoded,
        }

    def _encode(
        self, batch: Batch, key: Array | None, call: ForwardOptions, head_mask_NH: Array | None
    ) -> tuple[Array, Array, EncoderOutput]:
        """Return the vectors of the words to predict and of first tokens; both come from one run of the last layer."""
        cls_positions = batch["cls_positions"]
        if "masked_positions" not in batch:
            encoded = self.base.encode(batch, key, call, head_mask_NH)
            return encoded.hidden_BTD, take_positions(encoded.hidden_BTD, cls_positions), encoded
        masked_positions = batch["masked_positions"]
        positions = jnp.concatenate([masked_positions, cls_positions], axis=1)
        x_BPD, encoded = self.base.encode_positions(batch, positions, key, call, head_mask_NH)
        masked = masked_positions.shape[1]
        return x_BPD[:, :masked], x_BPD[:, masked:], encoded
