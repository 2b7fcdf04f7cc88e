"""Devices of several slices: only `data` goes across the network between them."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from runs import make_config, make_program, small_config

from jaxbert.data.batches import one_row
from jaxbert.data.packing import Layout
from jaxbert.plan.hlo_cost import read_cost
from jaxbert.train.sharding import arrange


@dataclasses.dataclass(frozen=True)
class Device:
    """As much of a device as arranging asks for."""

    id: int
    slice_index: int
    process_index: int
    platform: str = "cpu"
    device_kind: str = "cpu"


def devices(slices: int, each: int) -> list[Device]:
    """Return devices in an order that mixes the slices."""
    return [Device(s * each + i, s, s) for i in range(each) for s in range(slices)]


@pytest.mark.parametrize("shape", [(4, 2, 1), (2, 4, 1), (2, 2, 2), (8, 1, 1)])
def test_slices_meet_along_data_alone(shape):
    slices = np.vectorize(lambda device: device.slice_index)(arrange(list(shape), devices(2, 4)))
    assert slices.shape == shape
    assert all((block == block.flat[0]).all() for block in slices), "fsdp and tensor stay within a slice"
    np.testing.assert_array_equal(slices[:, 0, 0], np.repeat([0, 1], shape[0] // 2))


def test_where_fsdp_goes_across_slices_it_is_said_and_slices_stay_together(caplog):
    with caplog.at_level("INFO", "jaxbert"):
        grid = arrange([1, 8, 1], devices(2, 4))
    assert [device.id for device in grid.flat] == list(range(8))
    assert "goes across 2 slices" in caplog.text


def collective_bytes(program):
    batch, step = program.batch_target(one_row(Layout(64, (128,), 4)), 128), program.train_step()
    compiled = step.compile(program.state_target, batch, program.arguments_target)
    return sum(read_cost(compiled.as_text()).collective_bytes.values())


def test_words_are_exchanged_and_not_read_for_all_rows_on_every_device():
    """Which is what the compiler does by itself with `data` and `fsdp` both in use."""
    program, alone = (
        make_program(make_config(mesh__data=2, mesh__fsdp=4), small_config(vocab_size=4000), 1) for _ in range(2)
    )
    vars(alone)["call"] = dataclasses.replace(alone.call, words=None)
    assert collective_bytes(program) < 0.6 * collective_bytes(alone)
