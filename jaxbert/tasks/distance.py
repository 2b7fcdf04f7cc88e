"""How far a student's answers are from its teacher's: divergences of probabilities at a temperature, 0 where both agree.

Both sides are logits, or log-probabilities, which are logits less a number for each row. A divergence at temperature T is
multiplied by T squared, so that its gradient keeps its size (Hinton et al., 2015, arXiv 1503.02531).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def divergence(logits: Array, targets: Array, temperature: float) -> Array:
    """Return the Kullback-Leibler divergence of softmax probabilities over the last axis, [..., C] to [...], float32.

    Args:
      logits: the student's logits.
      targets: the teacher's logits or log-probabilities; they get no gradient.
      temperature: the number by which both are divided first.
    """
    ours, theirs = (jax.nn.log_softmax(x.astype(jnp.float32) / temperature) for x in (logits, targets))
    return temperature**2 * (jnp.exp(theirs) * (theirs - ours)).sum(-1)


def binary_divergence(logits: Array, targets: Array, temperature: float) -> Array:
    """Return the divergence of the sigmoid probabilities of each logit, in the shape of the logits, float32.

    Args:
      logits: the student's logits.
      targets: the teacher's log-odds; they get no gradient.
      temperature: the number by which both are divided first.
    """
    ours, theirs = (x.astype(jnp.float32) / temperature for x in (logits, targets))
    present = jax.nn.sigmoid(theirs)
    absent = 1 - present
    return temperature**2 * (
        present * (jax.nn.log_sigmoid(theirs) - jax.nn.log_sigmoid(ours))
        + absent * (jax.nn.log_sigmoid(-theirs) - jax.nn.log_sigmoid(-ours))
    )
