"""One model that answers requests: it reads their texts, packs batches for its devices, and makes the answers.

All shapes of a batch are compiled by `warm_up`, and none later. Each device has a thread (`device.py`): while the device
computes, the answers of its last batch are made, and its next batch is packed if it is full; onnxruntime keeps the
thread, which then does both between two batches. Another thread tokenizes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import jax
import numpy as np

from jaxbert.config import DataConfig
from jaxbert.data.batches import Batch, fill_rows
from jaxbert.data.examples import Examples
from jaxbert.data.memory import hold
from jaxbert.data.packing import Layout, StepPlan
from jaxbert.data.table import Table, check_texts
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.options import ServeOptions
from jaxbert.serve.device import Device, ReadyBatch, copies_of
from jaxbert.serve.forms import RefusedError
from jaxbert.serve.metrics import Metrics
from jaxbert.serve.onnx_engine import is_onnx
from jaxbert.serve.scheduler import Packed, Scheduler, Waiting, serving_layouts
from jaxbert.tasks.base import Gathered, count_predictions
from jaxbert.tasks.reading import TextInputs, TextTask
from jaxbert.train.asked import reads_pairs, rows_of_texts
from jaxbert.train.evaluate import Ensemble, token_places
from jaxbert.train.inference import TrainedModel
from jaxbert.train.sharding import platform_of, row_alignment

logger = logging.getLogger("jaxbert")
_CPU_TOKENS, _DEVICE_TOKENS = 256, 16_384
"""The most tokens of a batch on CPU, where larger ones are hardly faster and let others wait, and on each other device."""
_LONGEST_SECONDS, _LEAST_TOKENS = 0.03, 64
"""A batch on CPU that takes longer is halved, unless it has so few tokens: each request waits for one batch and its own."""
_LONGEST_ROW, _ROOM = 1024, 4
"""The longest shape, and the tokens of the largest one in budgets, for an engine that computes only what is used of it."""
_NEWEST = 0.2
"""The weight of the last full batch in the mean of their seconds."""
_TIMINGS = 3
"""How often a full batch is timed at the start; the shortest time counts, since the first one also gets memory."""
_USUAL_TOKENS = 64
"""The tokens of the texts with which a full batch is timed at the start."""
_FULL = 0.5
"""The least share of the budget that a batch must fill to be timed."""
_OWN_NAME = "inputs"
_SHORT_CHARACTERS = 2000
"""The most characters of the texts of a request that are tokenized at once: less than a millisecond's work."""


@dataclass(frozen=True)
class ReadTexts:
    """The texts of a request as tokens."""

    examples: Examples | None
    """The texts that could be read, in their order; None if there is none."""
    mistakes: dict[int, RefusedError]
    """The mistake of each other text, by its place in the request."""


@dataclass(frozen=True)
class Computed:
    """The answers of a request's readable texts, in their order, and how long it took."""

    answers: list[dict[str, Any]]
    raw: np.ndarray | None
    """float64 [n, C]: log-probabilities, or log-odds of labels that do not exclude each other; None unless asked for."""
    waited: float
    """Seconds before the first batch."""
    computed: float
    """Seconds from the first batch to the last result."""


@dataclass(eq=False)
class _Asked:
    """What the engine knows of a request that waits."""

    examples: Examples
    gathered: list[Gathered]
    """The predictions so far, for each model of an ensemble."""
    missing: int
    """Segments that are not computed yet."""
    done: Callable[[Computed | Exception], None]
    raw: bool
    begun: float = 0.0


class Engine:
    """Answers requests with one model; every method may be called from any thread."""

    def __init__(self, trained: TrainedModel, data: DataConfig, options: ServeOptions, metrics: Metrics) -> None:
        """Prepare the shapes; call `warm_up` and `start` before requests.

        Args:
          trained: the model.
          data: the columns of rows; texts without names need none.
          options: the limits.
          metrics: where batches are counted.
        """
        self.trained, self.task = trained, trained.task
        if reads_pairs(self.task) and data.text_pair is None:
            data = replace(data, text_pair="text_pair")
        self._data, self._options, self._metrics = data, options, metrics
        copies = copies_of(trained, options.devices)
        self.devices = [Device(copy, self, f"device-{number}") for number, copy in enumerate(copies)]
        mesh = copies[0].predictor.mesh
        self.budget = options.batch_tokens or (_CPU_TOKENS if platform_of(mesh) == "cpu" else _DEVICE_TOKENS)
        self._chooses = options.batch_tokens is None and platform_of(mesh) == "cpu"
        trims, longest, room = is_onnx(trained), trained.max_length, self.budget
        if trims:
            longest, room = max(longest, min(self.budget, _LONGEST_ROW)), self.budget * _ROOM
        self.layouts = serving_layouts(longest, room, alignment=row_alignment(mesh))
        self._members = len(trained.params) if isinstance(trained.predictor, Ensemble) else 1
        self._scheduler = Scheduler(self.layouts, self.budget, trims)
        self._changed = threading.Condition()
        self._gathers = threading.Lock()
        self._closed = False
        self.reading: Executor = ThreadPoolExecutor(1, "tokenize")
        """The thread in which texts are to be read that `read_short` leaves."""
        self._reads = threading.Lock()  # tokenizers allow one thread at a time
        self._full_seconds = 0.0

    def warm_up(self) -> int:
        """Compile all shapes on every device, and time a full batch; return the number of shapes."""
        shapes = [(layout, rows) for layout in self.layouts for rows in layout.row_counts]
        with ThreadPoolExecutor(len(self.devices), "compile") as threads:
            list(threads.map(lambda device: [device.compute(_filler(*shape)) for shape in shapes], self.devices))
        self._full_seconds = self._time_full()
        while self._chooses and self._full_seconds > _LONGEST_SECONDS and self.budget >= 2 * _LEAST_TOKENS:
            self.budget //= 2
            self._scheduler.budget = self.budget
            self._full_seconds = self._time_full()
        return len(shapes)

    def _time_full(self) -> float:
        """Return the seconds of a full batch."""
        length = min(_USUAL_TOKENS, self.trained.max_length, self.budget)
        lengths = np.full(self.budget // length, length, np.int32)
        scheduler = Scheduler(self.layouts, self.budget, self._scheduler.trims)
        scheduler.add(Waiting(lengths))
        packed = scheduler.take()
        assert packed is not None
        count = len(packed.lengths)
        tokens = Tokens.from_lengths(np.zeros(count * length, np.int32), packed.lengths, packed.lengths)
        batch, seconds = fill_rows(packed.plan, packed.layout, Examples(tokens)), list[float]()
        for _ in range(_TIMINGS):
            begin = time.perf_counter()
            self.devices[0].compute(batch)
            seconds.append(time.perf_counter() - begin)
        return min(seconds) * self.budget / (count * length)

    def start(self) -> None:
        """Begin to compute."""
        for device in self.devices:
            device.start()

    @property
    def alive(self) -> bool:
        """Whether requests are computed."""
        return all(device.alive for device in self.devices)

    @property
    def programs(self) -> int:
        """The number of compiled programs, of all devices."""
        return sum(int(device.model.predictor.step.count) for device in self.devices)

    @property
    def kind(self) -> str:
        """What computes: `jax` or `onnx`."""
        return "onnx" if is_onnx(self.trained) else "jax"

    @cached_property
    def number_format(self) -> str:
        """The number format of matrix products, such as `float32`."""
        if is_onnx(self.trained):
            return "onnx"
        predictor, batch = self.devices[0].model.predictor, _filler(self.layouts[0], 1)
        model = predictor.model
        outputs = jax.eval_shape(lambda p, b: model.apply(p, b, None, predictor.call), model.abstract_params, batch)
        return str(jax.tree.leaves(outputs["encoded"])[0].dtype)

    @property
    def waiting(self) -> int:
        """The number of requests that wait."""
        return len(self._scheduler)

    def read(self, items: Sequence[Any], *, truncate: bool = True) -> ReadTexts:
        """Tokenize the texts of a request as `predict` does; call it in the thread `reading`.

        Args:
          items: texts, pairs, lists of words or rows.
          truncate: whether a text may lose its end; if not, it is a mistake.

        Raises:
          RefusedError: if all texts together have too many tokens.
        """
        with self._reads:
            return self._read(items, truncate)

    def read_short(self, items: Sequence[Any], *, truncate: bool = True) -> ReadTexts | None:
        """Do `read` at once, in any thread, which costs less than to wake another one.

        Returns:
          The tokens; None if it would take long: for long texts, rows, other tasks, and while another thread reads.
        """
        parts = [part for item in items for part in (item if isinstance(item, list | tuple) else (item,))]
        if not all(isinstance(part, str) for part in parts) or sum(map(len, parts)) > _SHORT_CHARACTERS:
            return None
        if not isinstance(self.task, TextTask) or not self._reads.acquire(blocking=False):
            return None
        try:
            return self._read(items, truncate)
        finally:
            self._reads.release()

    def _read(self, items: Sequence[Any], truncate: bool) -> ReadTexts:
        begin = time.perf_counter()
        found = self._read_each(items, truncate)
        self._metrics.observe("te_request_tokenization_duration", time.perf_counter() - begin)
        if found.examples is not None and (tokens := len(found.examples.tokens.ids)) > self._options.max_tokens:
            raise RefusedError(
                f"inputs: {tokens} tokens, but at most {self._options.max_tokens} a request", "too_large"
            )
        return found

    def _read_each(self, items: Sequence[Any], truncate: bool) -> ReadTexts:
        try:
            return ReadTexts(self._tokenize(items, truncate), {})
        except RefusedError as error:
            mistakes = {0: error}
        if len(items) == 1:
            return ReadTexts(None, mistakes)
        mistakes = {}
        for place, item in enumerate(items):
            try:
                self._tokenize([item], truncate)
            except RefusedError as error:
                said = str(error).replace(f"{_OWN_NAME}, row 1:", f"{_OWN_NAME}, row {place + 1}:")
                mistakes[place] = RefusedError(said, error.kind)
        good = [item for place, item in enumerate(items) if place not in mistakes]
        return ReadTexts(self._tokenize(good, truncate) if good else None, mistakes)

    def _tokenize(self, items: Sequence[Any], truncate: bool) -> Examples:
        """Return the tokens of some texts.

        Raises:
          RefusedError: if one of them cannot be read.
        """
        try:
            examples, cut = self._plain(items) or self._any(items)
        except UserError as error:
            raise RefusedError(str(error), "text") from error
        if len(examples) != len(items) or not len(examples.tokens):
            raise RefusedError(f"{_OWN_NAME}: {len(items)} texts became {len(examples)}", "text")
        if not truncate and cut:
            message = f"{_OWN_NAME}: longer than {self.trained.max_length} tokens, and truncate is false"
            raise RefusedError(message, "too_large")
        return examples

    def _plain(self, items: Sequence[Any]) -> tuple[Examples, int] | None:
        """Return the tokens of texts, or pairs of them, and how many were cut; None if they are anything else.

        The same as `_any`, without a source for each request, which takes longer than the tokenizer.
        """
        feed = self._feed
        pairs = reads_pairs(self.task)
        if feed is None or not all(isinstance(item, list | tuple if pairs else str) for item in items):
            return None
        columns = list(zip(*items, strict=True)) if pairs else [items]
        if any(check_texts(column, "text")[1] for column in columns):
            return None
        texts, second = list(columns[0]), list(columns[1]) if pairs else None
        before = feed.cut
        examples = feed.tokenize([Table(texts, second, None, None, _OWN_NAME, range(1, len(texts) + 1))])
        return examples, feed.cut - before

    @cached_property
    def _feed(self) -> TextInputs | None:
        """What tokenizes plain texts; None for tasks of other inputs."""
        if not isinstance(self.task, TextTask):
            return None
        names = [self._data.text, *([self._data.text_pair] if reads_pairs(self.task) else [])]
        with hold([dict.fromkeys(map(str, names), "a")], _OWN_NAME, _OWN_NAME) as spec:
            return self.task.open_inputs(spec, self._data, self.trained.tokenizer, self.trained.max_length, ())

    def _any(self, items: Sequence[Any]) -> tuple[Examples, int]:
        """Return the tokens of any inputs, read as `predict` reads rows, and how many were cut."""
        rows, data = self._rows(items)
        with hold(rows, _OWN_NAME, _OWN_NAME) as spec:
            feed = self.trained.open_inputs(spec, data)
            examples = feed.tokenize(list(feed.parts()))
        return examples, getattr(feed, "cut", 0)

    def _rows(self, items: Sequence[Any]) -> tuple[list[Any], DataConfig]:
        """Return the rows of some texts, and the columns to read.

        Raises:
          UserError: if they are of different kinds.
        """
        found = [rows_of_texts(self.task, [item], self._data) for item in items]
        rows = [row for (row,), _ in found]
        if any(row.keys() != rows[0].keys() for row in rows):
            raise UserError(
                "the inputs are of different kinds: give only texts, only pairs, or rows with the same columns"
            )
        return rows, found[0][1]

    def submit(self, examples: Examples, done: Callable[[Computed | Exception], None], *, raw: bool = False) -> Waiting:
        """Let the texts of a request wait for the engine; return a handle, whose `left` ends the wait.

        Args:
          examples: the texts, from `read`.
          done: called in a device's thread, with the answers or an error.
          raw: whether log-probabilities are wanted too.

        Raises:
          RefusedError: if too many wait already, or the engine is about to end.
        """
        counts = [Gathered(count_predictions(self.task, examples)) for _ in range(self._members)]
        asked = _Asked(examples, counts, len(examples.tokens), done, raw)
        request = Waiting(examples.tokens.lengths, asked, time.monotonic())
        with self._changed:
            if self._closed or not self.alive:
                raise RefusedError("the model is not ready", "unhealthy", 1.0)
            if len(self._scheduler):
                seconds = self._scheduler.tokens / self.budget * self._full_seconds / len(self.devices)
                if len(self._scheduler) >= self._options.max_queue or seconds > self._options.max_wait:
                    raise RefusedError("the queue is full", "overloaded", seconds)
            self._scheduler.add(request)
            self._changed.notify()
        return request

    def close(self) -> None:
        """Compute all that waits, then end; returns when it has ended."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for device in self.devices:
            device.join()
        self.reading.shutdown(wait=False)

    # The devices' threads.

    def next_batch(self, *, may_wait: bool) -> ReadyBatch | None:
        """Return the next batch; None if nobody waits, or, if it `may_wait`, the engine is closed."""
        while True:
            with self._changed:
                while may_wait and not len(self._scheduler) and not self._closed:
                    self._changed.wait()
                packed = self._scheduler.take()
                if len(self._scheduler):
                    self._changed.notify()  # there is work for another device
                if packed is None and (self._closed or not may_wait):
                    return None
            if packed is not None and (batch := self._fill(packed)) is not None:
                return batch

    def next_if_full(self) -> ReadyBatch | None:
        """Return the next batch if it would not change by waiting."""
        with self._changed:
            packed = self._scheduler.take() if self._scheduler.fills_a_batch else None
        return None if packed is None else self._fill(packed)

    def _fill(self, packed: Packed) -> ReadyBatch | None:
        """Return the arrays of a batch; None, after its requests have failed, if there is an error."""
        now = time.monotonic()
        for piece in packed.pieces:
            piece.request.content.begun = piece.request.content.begun or now
        try:
            examples = Examples(_joined_tokens(packed))
            batch = fill_rows(packed.plan, packed.layout, examples)
        except Exception as error:
            self.fail(packed, error)
            return None
        self._metrics.observe("te_batch_next_size", len(packed.pieces))
        self._metrics.observe("te_batch_next_tokens", int(packed.lengths.sum()))
        self._metrics.count("jaxbert_real_tokens", int(packed.lengths.sum()))
        self._metrics.count("jaxbert_row_tokens", packed.row_tokens)
        return ReadyBatch(packed, examples, batch)

    def give(self, batch: ReadyBatch) -> None:
        """Give each request of a batch its predictions, and the complete ones their answers."""
        if (share := batch.packed.row_tokens / self.budget) >= _FULL:
            self._full_seconds += _NEWEST * (batch.seconds / share - self._full_seconds)
        try:
            with self._gathers:  # other parts of a request may come from another device
                complete = self._gather(batch)
        except Exception as error:
            self.fail(batch.packed, error)
            return
        for request in complete:
            try:
                self._answer(request)
            except Exception as error:
                self._metrics.count("jaxbert_engine_errors")
                logger.error("answers could not be made", exc_info=error)
                self._fail_request(request, error)

    def _gather(self, batch: ReadyBatch) -> list[Waiting]:
        """Keep the predictions of a batch; return the requests that are complete now."""
        parts, low = [_by_segment(values, batch, self.task.per_token) for values in batch.values], 0
        complete = []
        for piece in batch.packed.pieces:
            asked: _Asked = piece.request.content
            tokens, chosen = asked.examples.tokens, slice(piece.first, piece.last)
            places = np.arange(piece.first, piece.last)
            if self.task.per_token:
                places = _ranges(tokens.begins[chosen], tokens.lengths[chosen])
            for gathered, values in zip(asked.gathered, parts, strict=True):
                gathered.add(places, values[low : low + len(places)])
            low += len(places)
            asked.missing -= len(piece)
            if not asked.missing and not piece.request.left:
                complete.append(piece.request)
        return complete

    def _answer(self, request: Waiting) -> None:
        """Make the answers of a complete request."""
        asked: _Asked = request.content
        parts = [gathered.rows for gathered in asked.gathered]
        whole = parts[0] if len(parts) == 1 else self.task.average(parts, asked.examples)
        answers = self.task.answers(whole, asked.examples, 0, len(asked.examples))
        raw = self._raw_scores(whole, asked.examples) if asked.raw else None
        self._metrics.count("te_embed_count", len(answers))
        now = time.monotonic()
        request.left = True  # it waits for nothing more
        asked.done(Computed(answers, raw, asked.begun - request.arrived, now - asked.begun))

    def _raw_scores(self, predictions: np.ndarray, examples: Examples) -> np.ndarray | None:
        probabilities = self.task.probabilities(predictions, examples)
        if probabilities is None:
            return None
        shown = np.clip(probabilities, 1e-300, 1.0)
        exclusive = self.task.name != "multi_label"
        return np.log(shown) if exclusive else np.log(shown) - np.log(np.clip(1 - probabilities, 1e-300, 1.0))

    def fail(self, packed: Packed, error: Exception) -> None:
        """Tell the requests of a batch that it could not be computed."""
        self._metrics.count("jaxbert_engine_errors")
        logger.error("a batch could not be computed", exc_info=error)
        for piece in packed.pieces:
            self._fail_request(piece.request, error)

    def _fail_request(self, request: Waiting, error: Exception) -> None:
        with self._gathers:  # other parts of it may fail on another device
            if request.left:
                return
            request.left = True  # its other segments need not be computed
        request.content.done(error)


def _filler(layout: Layout, rows: int) -> Batch:
    """Return a batch of a shape with one segment."""
    nothing = np.zeros(1, np.int32)
    tokens = Tokens.from_lengths(np.zeros(2, np.int32), nothing + 2, nothing + 2)
    return fill_rows(StepPlan(nothing, nothing, nothing, nothing, rows), layout, Examples(tokens))


def _ranges(begins: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the places begins[i] to begins[i] + lengths[i] - 1 of each i, one after the other."""
    ends = np.cumsum(lengths)
    return np.arange(ends[-1]) + np.repeat(begins - (ends - lengths), lengths)


def _joined_tokens(packed: Packed) -> Tokens:
    """Return the tokens of a batch's segments, without gaps."""
    ids, firsts = [], []
    for piece in packed.pieces:
        tokens: Tokens = piece.request.content.examples.tokens
        chosen = slice(piece.first, piece.last)
        ids.append(tokens.ids[_ranges(tokens.begins[chosen], tokens.lengths[chosen])])
        firsts.append(tokens.first_lengths[chosen])
    return Tokens.from_lengths(np.concatenate(ids), packed.lengths, np.concatenate(firsts))


def _by_segment(values: np.ndarray, batch: ReadyBatch, per_token: bool) -> np.ndarray:
    """Return the predictions of a batch in the order of its segments, or of their tokens."""
    if per_token:
        places, targets = token_places(batch.batch, batch.examples)
        found = values.reshape(-1, *values.shape[2:])[places]
    else:
        real = batch.batch["example_mask"]
        targets, found = batch.batch["example_ids"][real], values[real]
    ordered = np.empty_like(found)
    ordered[targets] = found
    return ordered
