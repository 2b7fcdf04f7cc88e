"""The clock of the peers: what is warm-up, when enough is timed, and what is no rate at all."""

from __future__ import annotations

from argparse import Namespace

import recipe


class FakeTime:
    """A clock that stands still until it is told."""

    now = 0.0

    def perf_counter(self) -> float:
        return self.now


def make(monkeypatch, *, step_seconds: float, cycle: int = 1, programs=recipe.zero, **options) -> tuple[int, dict]:
    """Run until enough is timed; return how many steps ran in all, and the result."""
    fake = FakeTime()
    monkeypatch.setattr(recipe, "time", fake)
    values = Namespace(**{"skip_steps": 3, "skip_seconds": 100.0, "seconds": 10.0} | options)
    clock = recipe.Clock(values, lambda: None, cycle=cycle, programs=programs)
    clock.start()
    steps, enough = 0, False
    while not enough:
        fake.now += step_seconds
        enough = clock.step(4, 40)
        steps += 1
    clock.stop()
    return steps, clock.result()


def test_warm_up_is_left_out(monkeypatch):
    steps, result = make(monkeypatch, step_seconds=1.0)
    assert steps == 13
    assert (result["steps_skipped"], result["steps_timed"], result["seconds_timed"]) == (3, 10, 10.0)
    assert (result["examples_per_second"], result["real_tokens_per_second"], result["step_ms"]) == (4.0, 40.0, 1000.0)


def test_slow_steps_need_less_warm_up_but_one_and_two_that_count(monkeypatch):
    steps, result = make(monkeypatch, step_seconds=200.0)
    assert (steps, result["steps_skipped"], result["steps_timed"]) == (3, 1, 2)
    assert make(monkeypatch, step_seconds=1.0, skip_steps=0)[1]["steps_skipped"] == 1


def test_whole_cycles_are_timed(monkeypatch):
    assert make(monkeypatch, step_seconds=1.0, cycle=7)[1]["steps_timed"] == 14


def test_a_run_that_is_too_short_has_no_rate(monkeypatch):
    monkeypatch.setattr(recipe, "time", FakeTime())
    clock = recipe.Clock(Namespace(skip_steps=3, skip_seconds=9.0, seconds=None), lambda: None)
    clock.start()
    assert not any(clock.step(4, 40) for _ in range(3))
    clock.stop()
    assert clock.result()["examples_per_second"] is None


def test_timing_begins_anew_behind_a_compilation(monkeypatch):
    counts = iter([1, 1, 1, 2, 2, *[2] * 20])  # behind the warm-up, then behind each step; the third one compiles
    steps, result = make(monkeypatch, step_seconds=1.0, programs=lambda: next(counts))
    assert (steps, result["steps_skipped"], result["steps_timed"]) == (16, 6, 10)
    assert result["examples_per_second"] == 4.0
