"""Settings that were tuned are used where they fit, the user's own settings win, and a damaged file is ignored."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from etils import epath
from runs import make_config, make_program, small_config

from jaxbert.models.attention.base import Hardware
from jaxbert.models.attention.pallas import KernelSettings
from jaxbert.models.attention.select import Attention, visited_tile
from jaxbert.train import tuned
from jaxbert.train.programs import Program, training_layout
from jaxbert.train.tuned import NOTHING_TUNED, Tuned, find_tuned, keep_tuned, kernel_place, step_place

KERNEL = KernelSettings(32, 32, 8, 3)


@pytest.fixture
def file(tmp_path, monkeypatch) -> epath.Path:
    """The file of a folder of compiled programs that is empty."""
    path = epath.Path(tmp_path / "xla" / "tuned.json")
    monkeypatch.setattr(tuned, "tuned_file", lambda: path)
    return path


def open_program(*, on_gpu: bool = False, **changes) -> tuple[Program, object]:
    """Return a program and its layout; on a GPU only by its word."""
    config = make_config(**{"model__scan_layers": None, "train__batch_size": 16, "data__row_length": 40} | changes)
    program = make_program(config, small_config(), steps=5, devices=1)
    if on_gpu:
        attention = Attention("pallas", Hardware("gpu", (9, 0)), interpret=True)
        program.__dict__["call"] = dataclasses.replace(program.call, attention=attention)
    return program, training_layout(config, np.full(64, 9, np.int32), program.mesh)


def keep(file, program, layout, steps=None, kernel=None) -> None:
    steps = {"scan_layers": True, "steps_per_dispatch": 4} if steps is None else steps
    place = kernel_place(program, layout.row_length)
    kernels = [] if kernel is None else [{"place": place, "settings": dataclasses.asdict(kernel), "candidates": []}]
    entry = {"place": step_place(program, layout), "settings": steps, "candidates": []}
    keep_tuned(file, {"kernels": kernels, "steps": [entry]})


def test_what_was_kept_is_used_and_said(file, caplog):
    program, layout = open_program()
    assert find_tuned(program, layout) == NOTHING_TUNED
    assert not program.call.scan_layers
    keep(file, program, layout)
    with caplog.at_level(logging.INFO, logger="jaxbert"):
        found = find_tuned(program, layout)
    assert found == Tuned(scan_layers=True, steps_per_dispatch=4)
    assert caplog.messages == [f"tuned settings are used ({file}): model.scan_layers true, train.steps_per_dispatch 4"]
    changed = dataclasses.replace(program, tuned=found)
    assert changed.call.scan_layers
    assert changed.training_call.scan_layers
    assert (program.steps_per_dispatch, changed.steps_per_dispatch) == (1, 4)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model__scan_layers": False}, Tuned(None, 4)),
        ({"model__remat": "full"}, Tuned(None, 4)),
        ({"train__steps_per_dispatch": 2}, Tuned(True, None)),
        ({"train__steps_per_dispatch": 1, "model__scan_layers": True}, NOTHING_TUNED),
    ],
)
def test_a_setting_of_the_user_wins(file, changes, expected):
    keep(file, *open_program())
    program, layout = open_program(**changes)
    assert find_tuned(program, layout) == expected
    program = dataclasses.replace(program, tuned=expected)
    if "train__steps_per_dispatch" in changes:
        assert program.steps_per_dispatch == changes["train__steps_per_dispatch"]
    if "model__scan_layers" in changes:
        assert program.call.scan_layers == changes["model__scan_layers"]


def test_kernels_are_tuned_in_training_steps_alone(file):
    """Evaluations with a model that is opened again have the digits of those in its run."""
    program, layout = open_program(on_gpu=True)
    keep(file, program, layout, steps={}, kernel=KERNEL)
    assert find_tuned(program, layout) == Tuned(kernel=KERNEL)
    changed = dataclasses.replace(program, tuned=Tuned(kernel=KERNEL))
    changed.__dict__["call"] = program.call
    request = changed.attention_request(layout.row_length)
    assert changed.training_call.attention.kernel == KERNEL
    assert changed.call.attention.kernel is None
    assert [visited_tile(call.attention, request) for call in (changed.call, changed.training_call)] == [64, 32]


def test_kernels_mean_nothing_to_other_attention(file):
    keep(file, *open_program(on_gpu=True), steps={}, kernel=KERNEL)
    assert find_tuned(*open_program()) == NOTHING_TUNED


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("device", "NVIDIA H100"),
        ("jaxlib", "0.1"),
        ("dtype", "bfloat16"),
        ("row_length", 16),
        ("layers", 12),
        ("tokens", 1),
    ],
)
def test_settings_of_another_place_are_not_used(file, key, value):
    program, layout = open_program()
    keep(file, program, layout)
    content = json.loads(file.read_text())
    content["steps"][0]["place"][key] = value
    file.write_text(json.dumps(content))
    assert find_tuned(program, layout) == NOTHING_TUNED


def test_sizes_of_one_class_share_their_settings(file):
    program, layout = open_program()
    keep(file, program, layout)
    near = dataclasses.replace(layout, row_length=layout.row_length + 8)
    assert find_tuned(program, near).steps_per_dispatch == 4
    far = dataclasses.replace(layout, row_length=2 * layout.row_length)
    assert find_tuned(program, far) == NOTHING_TUNED


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: "{",
        lambda content: "[]",
        lambda content: json.dumps({"kernels": []}),
        lambda content: json.dumps(content).replace('"steps_per_dispatch": 4', '"steps_per_dispatch": 0'),
        lambda content: json.dumps(content).replace('"steps_per_dispatch": 4', '"steps_per_dispatch": "many"'),
        lambda content: json.dumps(content).replace('"scan_layers": true', '"scan_layers": "yes"'),
        lambda content: json.dumps(content).replace('"tile": 32', '"tile": 33'),
        lambda content: json.dumps(content).replace('"tile": 32', '"tile": 32.0'),
        lambda content: json.dumps(content).replace('"stages": 3', '"stages": -1'),
        lambda content: json.dumps(content).replace('"warps": 8', '"warp": 8'),
        lambda content: json.dumps(content | {"steps": [7]}),
    ],
)
def test_a_damaged_file_is_ignored_with_a_line(file, damage, caplog):
    program, layout = open_program()
    keep(file, program, layout, kernel=KERNEL)
    before = file.read_text()
    file.write_text(damage(json.loads(before)))
    assert file.read_text() != before
    assert find_tuned(program, layout) == NOTHING_TUNED
    assert "is damaged and is ignored" in caplog.text
    keep(file, program, layout)
    assert "is damaged and is replaced" in caplog.text
    assert find_tuned(program, layout).steps_per_dispatch == 4


def test_entries_of_one_place_are_replaced_and_others_stay(file):
    program, layout = open_program()
    other = dataclasses.replace(layout, row_length=4 * layout.row_length)
    keep(file, program, layout, kernel=KERNEL)
    keep(file, program, other)
    keep(file, program, layout, steps={"steps_per_dispatch": 8})
    content = json.loads(file.read_text())
    assert (len(content["kernels"]), len(content["steps"])) == (1, 2)
    assert find_tuned(program, layout) == Tuned(None, 8)
    assert find_tuned(program, other) == Tuned(True, 4)
    assert sorted(path.name for path in file.parent.iterdir()) == ["tuned.json", "tuned.json.lock"]


def test_two_machines_that_keep_settings_at_once_lose_none(file, monkeypatch):
    """They may share a home folder: each reads what the other has written."""
    read, inside = tuned._read, threading.Barrier(2)

    def read_together(*args):
        content = read(*args)
        with contextlib.suppress(threading.BrokenBarrierError):
            inside.wait(0.2)
        return content

    monkeypatch.setattr(tuned, "_read", read_together)
    entries = [{"place": {"device": name}, "settings": {"scan_layers": True}, "candidates": []} for name in "ab"]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda entry: keep_tuned(file, {"kernels": [], "steps": [entry]}), entries))
    kept = json.loads(file.read_text())["steps"]
    assert sorted(entry["place"]["device"] for entry in kept) == ["a", "b"]


def test_processes_that_found_different_settings_use_none(file, monkeypatch, caplog):
    """They would compile different programs, and wait for each other."""
    program, layout = open_program()
    keep(file, program, layout)
    monkeypatch.setattr(tuned, "all_alike", lambda checksum: len(checksum) != 16)
    assert find_tuned(program, layout) == NOTHING_TUNED
    assert "the processes of this run have found different ones" in caplog.text


def test_without_a_folder_of_compiled_programs_nothing_is_looked_up(monkeypatch):
    monkeypatch.setattr(tuned, "tuned_file", lambda: None)
    assert find_tuned(*open_program()) == NOTHING_TUNED
