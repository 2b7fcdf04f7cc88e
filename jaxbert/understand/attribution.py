"""Weights of words by gradients or by replacement, computed in packed rows.

All points on the way from a baseline to a text, and all copies of a text with one word replaced, are examples of their own.
They are packed like any others, so that 32 points of a short text fill one row. `words` says which tokens make a word, and
`explain` makes answers of the weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbert.data.batches import Batch, Prefetcher, batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import Ladder, Layout, choose_layout
from jaxbert.interop.names import flax_path
from jaxbert.models.families import family_of
from jaxbert.models.functional import Params
from jaxbert.options import ExplainOptions
from jaxbert.train.evaluate import Predictor, token_places
from jaxbert.train.programs import Compiled
from jaxbert.train.sharding import own_rows, put_batch, replicated, row_alignment, row_devices, xla_options
from jaxbert.train.step import DeviceBatch
from jaxbert.understand.words import NO_WORD

_MOST_TOKENS = 4096
"""Tokens of one step on one device: the gradient keeps what each layer computed."""


@dataclass(frozen=True)
class Points:
    """The variants of some examples that are computed, P of them; variants of one example follow each other."""

    example: np.ndarray
    """int64 [P]: the example."""
    scale: np.ndarray
    """float32 [P]: the share of the words' own embeddings, 1 at the text and 0 at the baseline."""
    share: np.ndarray
    """float32 [P]: the weight of the gradient in the sum, 0 for none."""
    hidden: np.ndarray
    """int32 [P]: the word that is replaced by the baseline; -1 for none."""
    at_text: np.ndarray
    """int64 [D]: the point that is the text itself."""
    at_baseline: np.ndarray
    """int64 [D]: the point of which all words are replaced."""


@dataclass(frozen=True)
class Attributions:
    """The weights of all words of some texts, and the explained value with and without all words."""

    weights: np.ndarray
    """float64 [U], by the number of the word."""
    values: np.ndarray
    """float64 [D]: the value of each text."""
    baselines: np.ndarray
    """float64 [D]: the value of each text after all words are replaced by the baseline."""


def gradient_points(examples: int, scales: np.ndarray, shares: np.ndarray) -> Points:
    """Return the same points for each of D examples; the last two of `scales` are 1, the text, and 0, the baseline."""
    points, firsts = len(scales), np.arange(examples) * len(scales)
    return Points(
        example=np.repeat(np.arange(examples), points),
        scale=np.tile(scales, examples).astype(np.float32),
        share=np.tile(shares, examples).astype(np.float32),
        hidden=np.full(examples * points, NO_WORD, np.int32),
        at_text=firsts + points - 2,
        at_baseline=firsts + points - 1,
    )


def occlusion_points(words: np.ndarray) -> Points:
    """Return the points with one word replaced, in the order of the words, then the text, then the baseline.

    Args:
      words: int64 [D + 1]; the words of example d are words[d] to words[d + 1] - 1.
    """
    counts = np.diff(words) + 2
    ends = np.cumsum(counts)
    scale, hidden = np.ones(ends[-1], np.float32), np.full(ends[-1], NO_WORD, np.int32)
    scale[ends - 1] = 0.0
    inner = np.ones(ends[-1], bool)
    inner[ends - 1] = inner[ends - 2] = False
    hidden[inner] = np.arange(words[0], words[-1])
    example = np.repeat(np.arange(len(counts)), counts)
    return Points(example, scale, np.zeros(ends[-1], np.float32), hidden, ends - 2, ends - 1)


def quadrature(steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Return points in (0, 1) and their weights, [steps]: the rule of Gauss and Legendre."""
    points, weights = np.polynomial.legendre.leggauss(steps)
    return (points + 1) / 2, weights / 2


@dataclass
class Attributor:
    """Computes weights of words with the model of a `Predictor`; it compiles few programs, and keeps them."""

    predictor: Predictor
    baseline: int | None
    """The token whose embedding is the baseline; None for zeros."""
    probability: bool
    """Whether the explained value is a probability, and not its log-odds or its logarithm."""
    longest: int
    """The most tokens of a segment."""
    ladder: Ladder = field(init=False)

    def __post_init__(self) -> None:
        mesh = self.predictor.mesh
        devices = row_devices(mesh)
        jit_options: dict[str, Any] = {"out_shardings": replicated(mesh), "compiler_options": xla_options(mesh)}
        most = _MOST_TOKENS * devices
        self.ladder = Ladder(self.predictor.batch_size, self.longest, most, devices, row_alignment(mesh))
        self._gradients = Compiled(self._make_step(gradients=True), **jit_options)
        self._values = Compiled(self._make_step(gradients=False), **jit_options)

    def __call__(self, params: Params, examples: Examples, words: np.ndarray, options: ExplainOptions) -> Attributions:
        """Return the weights of the words.

        Args:
          params: the parameters of the model.
          examples: the texts; `labels` are the outputs to explain, as the task's `explained` takes them, and `token_labels`
            the number of each token's word, -1 for none.
          words: int64 [D + 1]; the words of text d have the numbers words[d] to words[d + 1] - 1.
          options: the method and its steps.
        """
        method, count = options.method, len(examples)
        if method == "occlusion":
            points = occlusion_points(words)
        elif method == "gradient_x_input":
            points = gradient_points(count, np.array([1.0, 0.0]), np.array([1.0, 0.0]))
        else:
            scales, shares = quadrature(options.steps)
            points = gradient_points(count, np.append(scales, [1.0, 0.0]), np.append(shares, [0.0, 0.0]))
        sums, values = self._run(params, examples, points)
        text, baseline = values[points.at_text], values[points.at_baseline]
        if method == "occlusion":
            hidden = points.hidden != NO_WORD
            weights = text[points.example[hidden]] - values[hidden]
        else:
            labels = examples.token_labels
            assert labels is not None
            mine = labels >= words[0]
            mine &= labels < words[-1]
            weights = np.bincount(labels[mine] - words[0], sums[mine], minlength=int(words[-1] - words[0]))
        return Attributions(weights, text, baseline)

    def _run(self, params: Params, examples: Examples, points: Points) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums of gradients, aligned with `examples.tokens.ids`, and the value at each point, float64."""
        spread = examples.take(points.example)
        single = spread.windows is None or bool((spread.windows.counts == 1).all())
        spread = Examples(spread.tokens, spread.labels, None, spread.token_labels, None if single else spread.windows)
        gradients = bool(points.share.any())
        program = self._gradients if gradients else self._values
        sums, values = np.zeros(len(examples.tokens.ids)), np.zeros(len(points.example))
        for batch, outputs in self._steps(program, params, spread, points):
            found = outputs["values"].ravel().astype(np.float64)
            owner, real = _example_of(spread, batch), batch["example_mask"]
            numbers = batch["example_index"] if "example_index" in batch else np.arange(real.size).reshape(real.shape)
            values[owner[real]] = found[numbers[real]]
            if gradients:
                places, targets = token_places(batch, spread)
                sums += np.bincount(targets, outputs["gradients"].ravel()[places], minlength=len(sums))
        return sums, values

    def _steps(
        self, program: Compiled, params: Params, spread: Examples, points: Points
    ) -> Iterator[tuple[Batch, dict[str, np.ndarray]]]:
        """Yield each batch with its outputs, one step late, so that the device does not wait for the host."""
        mesh = self.predictor.mesh
        layout, size = self._layout(spread)

        def filled() -> Iterator[Batch]:
            for batch in batches(spread, layout, size, seed=None, own_rows=partial(own_rows, mesh)):
                owner = _example_of(spread, batch)
                yield batch | {name: getattr(points, name)[owner] for name in ("scale", "share", "hidden")}

        pending: tuple[Batch, Any] | None = None
        with Prefetcher(filled(), lambda batch: (batch, put_batch(batch, mesh))) as loader:
            for batch, on_device in loader:
                outputs = program(params, on_device)
                if pending is not None:
                    yield pending[0], jax.device_get(pending[1])
                pending = batch, outputs
        if pending is not None:
            yield pending[0], jax.device_get(pending[1])

    def _layout(self, spread: Examples) -> tuple[Layout, int]:
        """Return the layout, and the number of points in a step; the windows of a point are in one step."""
        lengths, windows = spread.tokens.lengths, spread.windows
        if windows is None:
            return self.ladder.choose(lengths)
        size = max(1, self.ladder.most_tokens // int(windows.sum(lengths).max()))
        rows, alignment = self.ladder.row_multiple, self.ladder.alignment
        return choose_layout(lengths, size, row_multiple=rows, alignment=alignment, seed=None, windows=windows), size

    def _make_step(self, *, gradients: bool) -> Callable[[Params, DeviceBatch], dict[str, Array]]:
        """Return `(params, batch) -> outputs`: the value of each example and, with `gradients`, their gradients [B, T].

        The gradient is with respect to the share of a word's own embedding: the sum over the width of the gradient times the
        difference between the embedding and the baseline. Times the point's share, it is the point's part of the integral
        (Sundararajan et al., 2017, equation 1).
        """
        model, task, call = self.predictor.model, self.predictor.task, self.predictor.call
        family = family_of(model.config)
        path = flax_path(f"{family.prefix}.{family.word_embeddings}")

        def step(params: Params, batch: DeviceBatch) -> dict[str, Array]:
            table: Any = params
            for part in path:
                table = table[part]
            words_BTD = jnp.take(table, batch["input_ids"], axis=0)
            base_D = jnp.zeros_like(table[0]) if self.baseline is None else table[self.baseline]
            slots_BT = jnp.maximum(batch["segment_ids"] - 1, 0)
            scale_BT, share_BT, hidden_BT = (
                jnp.take_along_axis(batch[name], slots_BT, axis=1) for name in ("scale", "share", "hidden")
            )
            word_BT = batch["token_labels"]
            scale_BT = jnp.where(word_BT < 0, 1.0, jnp.where(word_BT == hidden_BT, 0.0, scale_BT))

            def value(scale_BT: Array) -> tuple[Array, Array]:
                own_BT1 = scale_BT[:, :, None]
                vectors_BTD = own_BT1 * words_BTD + (1 - own_BT1) * base_D[None, None]
                outputs = model.apply(params, batch | {"word_vectors": vectors_BTD}, None, call)
                values = task.explained(outputs, batch)
                if self.probability:
                    values = jax.nn.sigmoid(values) if task.explains == "log_odds" else jnp.exp(values)
                return values.sum(), values

            if not gradients:
                return {"values": value(scale_BT)[1]}
            grads_BT, values = jax.grad(value, has_aux=True)(scale_BT)
            return {"values": values, "gradients": grads_BT * share_BT}

        return step


def _example_of(examples: Examples, batch: Batch) -> np.ndarray:
    """Return the example of each slot of a batch, [B, S]; any example in an unused slot."""
    ids = batch["example_ids"]
    return ids if examples.windows is None else examples.windows.examples_of(ids)
