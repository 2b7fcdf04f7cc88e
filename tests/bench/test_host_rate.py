"""The consumer of the host's benchmark: what it takes, and when it says that the device was idle."""

from __future__ import annotations

import host_rate
import numpy as np
import pytest

TOKENS = 100


class Clock:
    """Seconds that pass only while somebody sleeps, each time `late` seconds more than asked for."""

    def __init__(self, late: float) -> None:
        self.now, self.late = 0.0, late

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds + self.late


def batch() -> dict[str, np.ndarray]:
    return {
        "segment_ids": np.ones((1, TOKENS), np.int32),
        "example_mask": np.ones((1, 1), bool),
        "cls_positions": np.zeros((1, 1), np.int32),
    }


@pytest.mark.parametrize(("late", "idle"), [(0.0, 0.0), (0.05, 0.0), (0.15, 0.05)])
def test_the_device_is_idle_when_a_step_is_dispatched_after_the_one_before_has_ended(late, idle):
    """A step takes 0.1 s and is dispatched when the last but one has ended, or `late` seconds after."""
    clock = Clock(late)
    taken = host_rate.consume(iter([batch()] * 50), 1000.0, 60.0, clock, clock.sleep)
    assert (taken.steps, taken.examples, taken.tokens) == (49, 49, 49 * TOKENS)
    np.testing.assert_allclose(taken.idle, 48 * idle, atol=1e-6)
    np.testing.assert_allclose(taken.seconds, 49 * 0.1 + 48 * idle, atol=1e-6)


@pytest.mark.parametrize(("needed", "waited", "idle"), [(0.05, 0.0, 0.0), (0.2, 1.0, 0.5)])
def test_the_waits_that_are_computed(needed, waited, idle):
    """Steps of 0.1 s: if a batch takes longer, the loop waits for it all the time, the device half of the time."""
    computed = host_rate.compute_waits([needed] * 400, [TOKENS] * 400, 1000.0)
    np.testing.assert_allclose(computed, (waited, idle), atol=0.003)


def test_a_single_batch_waits_for_nothing():
    assert host_rate.compute_waits([0.5], [TOKENS], 1000.0) == (0.0, 0.0)


@pytest.mark.parametrize("wrong", [["--data", "train.tsv"], ["--at_once", "0"]])
def test_a_wrong_option_is_one_line(tmp_path, monkeypatch, capsys, wrong):
    monkeypatch.setattr("sys.argv", ["host_rate.py", "--cache", str(tmp_path), *wrong])
    with pytest.raises(SystemExit) as stopped:
        host_rate.main()
    assert stopped.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("host_rate.py: error: --")


@pytest.mark.parametrize(("long", "idle"), [(0.35, 0.0), (0.45, 0.0), (2.0, 1.5 / 41)])
def test_a_batch_that_takes_long_is_hidden_by_those_that_are_ready(long, idle):
    """Three are in the queue and one waits for room, while one or two steps run."""
    seconds = [0.01] * 400
    seconds[200] = long
    _, computed = host_rate.compute_waits(seconds, [TOKENS] * 400, 1000.0)
    np.testing.assert_allclose(computed, idle, atol=0.003)


def test_it_ends_in_time():
    clock = Clock(0.0)
    taken = host_rate.consume(iter([batch()] * 50), 1000.0, 2.0, clock, clock.sleep)
    assert 19 <= taken.steps <= 21


def test_a_cache_is_written_and_its_processes_fill_all_rows(tmp_path):
    lengths = np.arange(3, 33, dtype=np.int32).repeat(10)
    host_rate.write_cache(tmp_path, lengths)
    examples = host_rate.open_examples(tmp_path)
    np.testing.assert_array_equal(examples.tokens.lengths, lengths)
    layout = host_rate.choose_layout(lengths, 100, row_length=64, row_multiple=4)
    works = [host_rate.Work(tmp_path, layout, 100, p, 4, 1.0, 1e6) for p in range(4)]
    shares = [next(host_rate.endless(examples, work)) for work in works]
    assert sum((share["input_ids"] > 0).sum() for share in shares) == host_rate.batch_size_of(shares[0]).tokens
