"""Losses that ask more of a model in training: dropout masks that must agree (R-Drop), and words that are pushed (FGM).

Both are made of the plain forward pass and loss of a step, for any number of rows. What they compute of an example depends
on no other example, so that packed and padded steps agree.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jaxbert.errors import UserError
from jaxbert.models.functional import Params
from jaxbert.models.layers import DropRates
from jaxbert.tasks.base import Sums, Task

DeviceBatch = dict[str, Array]


def with_two_masks(forward: Any, task: Task, totals: Sums, weight: float, rates: DropRates | None) -> tuple[Any, Any]:
    """Return the forward pass and the loss of R-Drop (Liang et al., 2021, arXiv 2106.14448) for a step.

    Each example is computed twice, with two dropout masks. The loss is the mean of both losses plus `weight` times the mean
    of the divergences of one's probabilities from the other's.

    Args:
      forward: the plain forward pass, `(part, batch, key) -> outputs`.
      task: the task, which measures how far two answers are apart.
      totals: the divisors of the step's loss.
      weight: the weight of the divergence.
      rates: the dropout rates, where they are not those of the model.

    Raises:
      UserError: if nothing is dropped, so that there is one mask.
    """
    if rates is not None and not any(rate is not None for rate in rates):
        raise UserError(
            "train.r_drop compares two dropout masks, but model.dropout is 0: raise it, or leave r_drop out"
        )
    target = "token_targets" if task.per_token else "targets"

    def forward_twice(part: Params, batch: DeviceBatch, key: Array) -> dict[str, Any]:
        keys = jax.random.split(key)
        return {name: forward(part, batch, keys[i]) for i, name in enumerate(("one", "other"))}

    def loss(outputs: dict[str, Any], batch: DeviceBatch) -> tuple[Array, Sums]:
        both = outputs["one"], outputs["other"]
        sums, more = (task.sums(each, batch, totals, train=True) for each in both)
        apart = [
            task.distance(one, batch | {target: task.predictions(other, batch)}, totals, 1.0)["loss"]
            for one, other in (both, both[::-1])
        ]
        whole = (sums["loss"] + more["loss"]) / 2 + weight * (apart[0] + apart[1]) / 2
        return whole / totals["examples"], sums | {"loss": whole}

    return forward_twice, loss


def adversarial_gradient(gradient: Any, width: int, epsilon: float) -> Any:
    """Return a function like `gradient` that learns from pushed words too (FGM; Miyato et al., 2017, arXiv 1605.07725).

    The word vectors of each segment are pushed by `epsilon` in the direction in which the loss grows fastest; each segment
    has a direction of its own, whatever shares its row. The result is the mean of the gradients without and with the push;
    the sums are those without it.

    Args:
      gradient: `(forward, loss, part, batch, key) -> (gradient with respect to part, sums)`.
      width: the width of word vectors.
      epsilon: the length of the push of a segment, over all its tokens.
    """

    def adversarial(forward: Any, loss: Any, part: Params, batch: DeviceBatch, key: Array) -> tuple[Params, Sums]:
        def pushed(both: tuple[Params, Array], batch: DeviceBatch, key: Array) -> dict[str, Any]:
            return forward(both[0], batch | {"word_push": both[1]}, key)

        nothing_BTD = jnp.zeros((*batch["input_ids"].shape, width), jnp.float32)
        (plain, direction_BTD), sums = gradient(pushed, loss, (part, nothing_BTD), batch, key)
        push_BTD = jax.lax.stop_gradient(
            segment_push(direction_BTD, batch["segment_ids"], batch["example_mask"].shape[1], epsilon)
        )
        hard, _ = gradient(lambda part, batch, key: pushed((part, push_BTD), batch, key), loss, part, batch, key)
        return jax.tree.map(lambda a, b: (a + b) / 2, plain, hard), sums

    return adversarial


def segment_push(direction_BTD: Array, segment_ids_BT: Array, slots: int, epsilon: float) -> Array:
    """Return directions scaled to the length `epsilon` over the tokens of each segment, [B, T, D]; 0 for padding."""
    squares_BT = jnp.square(direction_BTD).sum(-1)
    add = jax.vmap(lambda ids, squares: jnp.zeros(slots + 1, squares.dtype).at[ids].add(squares))
    lengths_BT = jnp.sqrt(jnp.take_along_axis(add(segment_ids_BT, squares_BT), segment_ids_BT, axis=1))
    known_BT = (segment_ids_BT > 0) & (lengths_BT > 0)
    return direction_BTD * jnp.where(known_BT, epsilon / jnp.where(known_BT, lengths_BT, 1.0), 0.0)[:, :, None]
