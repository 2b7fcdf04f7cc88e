"""Prepares batches ahead of the device, in a thread."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

_POLL_SECONDS = 0.1


class Prefetcher:
    """An iterator that runs `depth` items ahead; use it as a context manager so that its thread ends.

    An error in the source is raised at the item where it occurred.

    Args:
      source: the items. If `may_wait`, the end does not wait for the thread.
      prepare: the function that is applied to each item.
      depth: the most items that are ready at once.
      may_wait: whether the source may wait for ever, like the lines of a pipe.
      stop: a function that is called at the end, to wake a source that waits for another Prefetcher.
    """

    def __init__(
        self,
        source: Iterator[Any],
        prepare: Callable[[Any], Any] = lambda item: item,
        depth: int = 3,
        *,
        may_wait: bool = False,
        stop: Callable[[], None] = lambda: None,
    ) -> None:
        self._may_wait, self._stop_source = may_wait, stop
        self._queue: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
        self._stopped = threading.Event()
        self._last: tuple[str, Any] | None = None
        self._thread = threading.Thread(target=self._run, args=(source, prepare), daemon=True, name="prefetch")
        self._thread.start()

    def _run(self, source: Iterator[Any], prepare: Callable[[Any], Any]) -> None:
        try:
            for item in source:
                if not self._put(("item", prepare(item))):
                    return
            self._put(("end", None))
        except BaseException as error:
            self._put(("error", error))

    def _put(self, message: tuple[str, Any]) -> bool:
        while not self._stopped.is_set():
            try:
                self._queue.put(message, timeout=_POLL_SECONDS)
                return True
            except queue.Full:
                continue
        return False

    def __iter__(self) -> Prefetcher:
        return self

    def __next__(self) -> Any:
        kind, value = self._last or self._queue.get()
        if kind == "item":
            return value
        self._last = kind, value  # nothing follows it, so a further call must not wait
        if kind == "error":
            raise value
        raise StopIteration

    @property
    def has_next(self) -> bool:
        """Whether the next item, an error or the end is ready."""
        return self._last is not None or not self._queue.empty()

    def next_within(self, seconds: float) -> Any:
        """Return the next item, or None if none arrives within `seconds` or the source has ended."""
        if self._last is not None:
            return None
        try:
            kind, value = self._queue.get(timeout=seconds)
        except queue.Empty:
            return None
        if kind == "item":
            return value
        self._last = kind, value
        return None

    def stop(self) -> None:
        """Take no more items, and let nobody wait for one."""
        self._stopped.set()
        with contextlib.suppress(queue.Full):
            self._queue.put_nowait(("end", None))

    def timed(self) -> Iterator[tuple[Any, float]]:
        """Yield each item with the seconds that the caller waited for it."""
        while True:
            begin = time.perf_counter()
            try:
                item = next(self)
            except StopIteration:
                return
            yield item, time.perf_counter() - begin

    def __enter__(self) -> Prefetcher:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self._stop_source()
        if not self._may_wait:
            self._thread.join()
