"""Preparing ahead: in order, with errors where they occur, and no thread left behind."""

from __future__ import annotations

import threading
import time

import pytest

from jaxbert.data.batches import Prefetcher


def threads() -> int:
    return sum(thread.name == "prefetch" for thread in threading.enumerate())


@pytest.fixture(autouse=True)
def _no_thread_is_left():
    yield
    assert threads() == 0


def test_items_come_prepared_and_in_order():
    with Prefetcher(iter(range(20)), lambda x: x * 10) as loader:
        assert list(loader) == [x * 10 for x in range(20)]


def test_it_runs_ahead_but_not_far():
    taken = []

    def source():
        for i in range(100):
            taken.append(i)
            yield i

    with Prefetcher(source(), lambda x: x, depth=3) as loader:
        assert next(loader) == 0
        deadline = time.monotonic() + 5
        while len(taken) < 4 and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.05)
        assert 4 <= len(taken) <= 6


def test_an_error_of_the_source_comes_behind_the_items_before_it():
    def source():
        yield 1
        yield 2
        raise ValueError("row 3")

    with Prefetcher(source(), lambda x: x) as loader:
        assert [next(loader), next(loader)] == [1, 2]
        with pytest.raises(ValueError, match="row 3"):
            next(loader)


def test_an_error_of_the_preparation_is_raised():
    with Prefetcher(iter([1, 0, 2]), lambda x: 1 / x) as loader:
        assert next(loader) == 1.0
        with pytest.raises(ZeroDivisionError):
            next(loader)


def test_leaving_early_ends_the_thread():
    def endless():
        while True:
            yield 0

    with Prefetcher(endless(), lambda x: x) as loader:
        next(loader)
        assert threads() == 1


def test_an_error_of_the_consumer_ends_the_thread():
    def consume():
        with Prefetcher(iter(range(1000)), lambda x: x) as loader:
            next(loader)
            raise RuntimeError("consumer")

    with pytest.raises(RuntimeError, match="consumer"):
        consume()


@pytest.mark.parametrize("fails", [False, True])
def test_behind_the_end_it_stays_ended(fails):
    def source():
        yield 1
        if fails:
            raise ValueError("broken")

    with Prefetcher(source(), lambda x: x) as loader:
        next(loader)
        for _ in range(3):
            with pytest.raises(ValueError if fails else StopIteration):
                next(loader)
