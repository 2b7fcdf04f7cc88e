"""What cuDNN is told of the segments, and that the call lowers for CUDA. It runs on NVIDIA GPUs alone: UNMEASURED here."""

from __future__ import annotations

import re

import jax
import jax._src.cudnn.fused_attention_stablehlo as fused
import jax.numpy as jnp
import numpy as np
import pytest
from attention_cases import cube, packed_segments

from jaxbert.models.attention.base import Hardware, Spread
from jaxbert.models.attention.cudnn import compiling_for, segment_spans
from jaxbert.models.attention.select import Attention
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.families import sized_config
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.train.sharding import batch_spread


def runs_of(row):
    """Return start and length of each run of equal ids."""
    starts = [t for t in range(len(row)) if t == 0 or row[t] != row[t - 1]]
    return [(a, b - a) for a, b in zip(starts, [*starts[1:], len(row)], strict=True)]


@pytest.mark.parametrize("seed", range(5))
def test_lengths_and_offsets(seed):
    segments = packed_segments(4, 60, seed)
    most = int(segments.max()) + 1
    lengths, offsets = map(np.asarray, segment_spans(jnp.asarray(segments), most))
    assert lengths.shape == (4, most)
    assert offsets.shape == (4, most + 1)
    assert lengths.dtype == offsets.dtype == np.int32
    for row, found_lengths, found_offsets in zip(segments, lengths, offsets, strict=True):
        runs = runs_of(row)
        rest = [-1] * (most - len(runs))
        assert found_lengths.tolist() == [length for _, length in runs] + rest
        assert found_offsets.tolist() == [start for start, _ in runs] + rest + [-1]


def test_a_row_of_one_segment_has_room_for_two():
    lengths, offsets = segment_spans(jnp.ones((1, 5), jnp.int32), 1)
    assert lengths.tolist() == [[5, -1]]
    assert offsets.tolist() == [[0, -1, -1]]


@pytest.fixture
def hopper():
    """A GPU that is not here, of which JAX asks compute capability and cuDNN."""
    hardware = Hardware("gpu", (9, 0))
    with compiling_for(hardware):
        yield hardware


@pytest.mark.parametrize(("capability", "answers"), [((8, 0), (True, False)), ((10, 0), (True, True))])
def test_jax_asks_the_hardware_of_the_program(capability, answers):
    """As versions, of which 10.0 is above 9.0, and only as long as a program is compiled."""
    before = fused.check_compute_capability
    with compiling_for(Hardware("gpu", capability)):
        assert tuple(fused.check_compute_capability(needed) for needed in ("8.0", "9.0")) == answers
        assert fused.is_cuda_compute_capability_equal("{}.{}".format(*capability))
        assert not fused.is_cuda_compute_capability_equal("10.3")
    assert fused.check_compute_capability is before


@pytest.mark.parametrize("devices", [1, 8])
def test_a_training_step_lowers_for_cuda(hopper, devices):
    """Forward and backward call cuDNN without dropout, and with as many segments as a row has slots, and one for padding."""
    spread = batch_spread(cube()) if devices > 1 else Spread()
    config = sized_config("tiny", 100, hidden_dropout_prob=0.1, attention_probs_dropout_prob=0.0)
    model = make_model(SequenceClassificationHead, config, jnp.bfloat16)
    ids = jax.ShapeDtypeStruct((8, 64), jnp.int32)
    names = "input_ids", "token_type_ids", "position_ids", "segment_ids"
    batch = dict.fromkeys(names, ids) | {"cls_positions": jax.ShapeDtypeStruct((8, 6), jnp.int32)}
    call = ForwardOptions(attention=Attention("cudnn", hopper, spread))

    def loss(params, batch, key):
        return model.apply(params, batch, key, call)["logits"].sum()

    traced = jax.jit(jax.grad(loss)).trace(model.abstract_params, batch, jax.random.key(0))
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    calls = re.findall(r"custom_call @(__cudnn\$fmha\w+)", text)
    assert calls == ["__cudnn$fmhaSoftmax", "__cudnn$fmhaSoftmaxBackward"]
    assert re.findall(r"max_seg_per_batch\\22: (\d+)", text) == ["7", "7"]
    # One device has all 8 rows and 2 heads; of eight devices, each has 2 rows and 1 head.
    shape = ("8", "2", "64", "64") if devices == 1 else ("2", "1", "64", "64")
    size = r"\\22(\d+)\\22"
    assert re.findall(rf"dimensions\\22: \[{size}, {size}, {size}, {size}\]", text) == [shape, shape]
