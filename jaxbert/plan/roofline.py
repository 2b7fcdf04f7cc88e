"""The bound of a step: the time that its FLOPs and its bytes need at the device's peaks, against the measured time.

Shares are of the measured time. Computing and moving overlap, so shares need not add up to one, and bytes that a cache
served make the memory's share an upper bound.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

import jax
from transformers import BertConfig

from jaxbert.hardware import DeviceSpec
from jaxbert.train.programs import Program
from jaxbert.train.sharding import optimizer_bytes, param_shardings

_WIDTHS_PER_LAYER = 16
"""Results of a layer, in model widths per token: query, key, value, mixed, projected, normalized; 4 + 4 in the feed-forward
block; 2 after it."""
_PASSES = 5
"""How often each result is moved: written and read forward; read again backward, where its gradient is written and read."""
_EXPLAINS = 0.3
"""The share below which a resource does not explain the step's time."""
_CLEAR = 0.5
"""The share above which a resource is the bound even if others are not known."""

ADVICE = {
    "compute": "the matrix products set the pace: fewer tokens of padding or lower precision make it faster",
    "memory": "moving parameters and activations sets the pace: a larger batch shares the optimizer's traffic",
    "input": "the device waits for batches: prepare them faster, or give each step more work",
    "overhead": "neither products nor memory explain the time: small kernels and the gaps between them do; "
    "a larger batch helps, and --profile shows where",
}


@dataclass(frozen=True)
class StepCost:
    """The cost of one step on one device."""

    seconds: float
    flops: float
    """FLOPs of the matrix products, padding and masked pairs included."""
    bytes_moved: float
    input_share: float
    """The share of the time in which the loop waited for a batch."""
    dispatch_share: float | None
    """The share of the time in which the host was starting steps; None on CPU, where the host itself computes."""


@dataclass(frozen=True)
class Roofline:
    """The bound, or None, with the reason."""

    bound: str | None
    reason: str
    compute_share: float | None
    memory_share: float | None
    input_share: float
    dispatch_share: float | None
    flops_per_step: float
    bytes_per_step: float
    flops_per_byte: float
    balance_flops_per_byte: float | None
    """FLOPs per byte above which computing is the bound and below which moving is, at the device's peaks."""

    def to_dict(self) -> dict[str, object]:
        """Return plain values, rounded, ready for JSON."""
        return {name: round(v, 4) if isinstance(v, float) else v for name, v in asdict(self).items()}


def known_peaks(
    spec: DeviceSpec | None, tflops: float | None, bandwidth_gbs: float | None
) -> tuple[float | None, float | None]:
    """Return FLOP/s and bytes/s of one device: the given values, or else those of the table; None if unknown."""
    if spec is not None:
        tflops, bandwidth_gbs = tflops or spec.bf16_tflops, bandwidth_gbs or spec.bandwidth_gbs
    return None if tflops is None else tflops * 1e12, None if bandwidth_gbs is None else bandwidth_gbs * 1e9


def roofline(cost: StepCost, peak_flops: float | None, peak_bandwidth: float | None) -> Roofline:
    """Find the bound of a step.

    Args:
      cost: the cost of the step.
      peak_flops: FLOP/s of one device, or None.
      peak_bandwidth: bytes/s of its memory, or None.
    """
    compute = cost.flops / peak_flops / cost.seconds if peak_flops else None
    memory = cost.bytes_moved / peak_bandwidth / cost.seconds if peak_bandwidth else None
    bound, reason = _bound(compute, memory, cost.input_share, cost.dispatch_share)
    return Roofline(
        bound=bound,
        reason=reason,
        compute_share=compute,
        memory_share=memory,
        input_share=cost.input_share,
        dispatch_share=cost.dispatch_share,
        flops_per_step=cost.flops,
        bytes_per_step=cost.bytes_moved,
        flops_per_byte=cost.flops / cost.bytes_moved,
        balance_flops_per_byte=peak_flops / peak_bandwidth if peak_flops and peak_bandwidth else None,
    )


def _bound(
    compute: float | None, memory: float | None, waiting: float, dispatch: float | None
) -> tuple[str | None, str]:
    shares = {"compute": compute, "memory": memory, "input": waiting, "overhead": dispatch}
    known = {name: share for name, share in shares.items() if share is not None}
    largest = max(known, key=lambda name: known[name])
    unknown = [what for what, share in (("FLOP/s", compute), ("memory bandwidth", memory)) if share is None]
    if unknown and known[largest] < _CLEAR:
        flags = " and ".join(f"--peak_{'tflops' if what == 'FLOP/s' else 'bandwidth'}" for what in unknown)
        return None, f"the peak {' and '.join(unknown)} of this device are not known: give {flags}"
    if known[largest] < _EXPLAINS:
        largest = "overhead"
    return largest, ADVICE[largest]


def moved_by_optimizer(program: Program) -> int:
    """Return the bytes that the optimizer moves at least, on one device in one step.

    It reads the gradient, and reads and writes parameters and state: 28 bytes per parameter for AdamW in float32.
    """
    part = jax.eval_shape(program.trainable.select, program.model.abstract_params)
    shardings = jax.tree.leaves(param_shardings(program.mesh, part))
    trained = sum(
        math.prod(sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize
        for leaf, sharding in zip(jax.tree.leaves(part), shardings, strict=True)
    )
    return 3 * trained + 2 * sum(optimizer_bytes(program.state_target).values())


def least_bytes(config: BertConfig, by_optimizer: float, row_tokens: float, itemsize: int) -> float:
    """Return the bytes that a training step moves at least: by the optimizer, and for the results of each layer's products.

    Attention weights are left out, because a fused kernel keeps them on the chip.

    Args:
      config: the encoder.
      by_optimizer: bytes moved by the optimizer on one device.
      row_tokens: tokens in the rows of one device, padding included.
      itemsize: bytes of a number in the layers.
    """
    a_token = _PASSES * _WIDTHS_PER_LAYER * config.hidden_size * itemsize * config.num_hidden_layers
    return by_optimizer + a_token * row_tokens
