"""The training loop: dispatch some steps, read those before, evaluate and save when it is time.

The loop is thin. What is computed is `step`'s, what is fed is `data`'s, what is shown is `report`'s; the loop decides when.
"""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import jax
import numpy as np
from jax import Array

from jaxbert.config import TrainConfig
from jaxbert.data.batches import Batch, BatchSize, batch_size_of
from jaxbert.errors import UserError
from jaxbert.runs.checkpoint import Checkpoints
from jaxbert.tasks.direction import falls, improves, merit, value_of
from jaxbert.train.callbacks import Callbacks
from jaxbert.train.dispatch import Group, StepPrograms, group_batches
from jaxbert.train.evaluate import numbers_of
from jaxbert.train.interrupt import Interrupt, StoppedError
from jaxbert.train.prefetch import Prefetcher
from jaxbert.train.report import Report, headline
from jaxbert.train.speed import Speed
from jaxbert.train.step import DeviceBatch, State

logger = logging.getLogger("jaxbert")

_NAMED_ROWS = 20


@dataclass
class Progress:
    """What the loop remembers besides the state; saved with every checkpoint."""

    step: int = 0
    loss_sum: float = 0.0
    examples: int = 0
    window_loss_sum: float = 0.0
    """Since the last line of metrics, like `window_examples`; the two above count from the beginning."""
    window_examples: int = 0
    bad_steps: int = 0
    """Steps whose loss or gradient was not finite; they count in `step` alone."""
    bad_in_a_row: int = 0
    best_step: int | None = None
    best_value: float | None = None
    """The best metric there, its negative where it falls: larger is better."""
    evaluations_since_best: int = 0
    evaluation: dict[str, Any] = field(default_factory=dict)
    """The single numbers among the metrics of the last one."""

    @classmethod
    def of(cls, remembered: dict[str, Any], best_metric: str) -> Progress:
        """Take what a checkpoint holds, also one of an older version: it negated `loss` alone, and kept all metrics."""
        progress = cls(**remembered)
        if progress.best_value is not None and falls(best_metric):
            progress.best_value = -abs(progress.best_value)  # no metric that falls is below 0
        progress.evaluation = numbers_of(progress.evaluation)
        return progress

    def add(self, loss: float, examples: int) -> None:
        """Count a good step with its summed loss."""
        self.bad_in_a_row = 0
        self.loss_sum += loss
        self.examples += examples
        self.window_loss_sum += loss
        self.window_examples += examples


@dataclass(frozen=True)
class Work:
    """What the loop drives."""

    config: TrainConfig
    total_steps: int
    steps_per_epoch: int
    programs: StepPrograms
    feed: Callable[[int, int], Iterator[Batch]]
    """`(epoch, first_step) -> batches`."""
    put: Callable[[list[Batch]], DeviceBatch]
    source_rows: Callable[[np.ndarray], np.ndarray]
    """Examples' ids -> their rows in the source, for messages."""
    evaluate: Callable[[Any], dict[str, Any]] | None
    """`params -> metrics`; None without a validation set."""
    base_key: Array
    best_metric: str
    """Of the evaluation: chooses the best checkpoint."""
    count: Callable[[Batch], BatchSize] = batch_size_of
    before_saving: Callable[[], None] = lambda: None
    """Raises where the run folder is not this process's any more."""
    callbacks: Callbacks = field(default_factory=Callbacks)


class Loop:
    """One run from its current state to its end."""

    def __init__(self, work: Work, state: State, progress: Progress, checkpoints: Checkpoints, speed: Speed) -> None:
        self.work = work
        self.state = state
        self.progress = progress
        self.speed = speed
        self.details: dict[int, dict[str, Any]] = {}
        """All metrics of the best and of the last evaluation, by step, where they were made by this start."""
        self._checkpoints = checkpoints
        self._dispatched = progress.step
        self._said_unusable = False
        self._pending: tuple[Group, dict[str, Array]] | None = None

    def run(self, report: Report) -> None:
        """Train until the last step, early stopping or a callback's word, and leave everything saved.

        Raises:
          StoppedError: if a signal came; the state of the last step is saved.
        """
        with Interrupt() as interrupt:
            while not self._done():
                epoch, first_step = divmod(self._dispatched, self.work.steps_per_epoch)
                self._run_epoch(epoch, first_step, report, interrupt)
            if self.work.callbacks.stop and self.work.evaluate is not None and self.progress.step not in self.details:
                self._evaluate(report)
        self._save()
        self._checkpoints.wait()

    def _done(self) -> bool:
        patience = self.work.config.early_stopping_patience
        stale = patience is not None and self.progress.evaluations_since_best >= patience
        return stale or self.work.callbacks.stop or self._dispatched >= self.work.total_steps

    def _run_epoch(self, epoch: int, first_step: int, report: Report, interrupt: Interrupt) -> None:
        def prepare(batches: list[Batch]) -> Group:
            example_ids = tuple(batch["example_ids"][batch["example_mask"]] for batch in batches)
            return Group(tuple(map(self.work.count, batches)), example_ids, self.work.put(batches))

        most = self.work.config.steps_per_dispatch
        groups = group_batches(self.work.feed(epoch, first_step), most, self._dispatched, self._is_milestone)
        with Prefetcher(groups, prepare) as loader, self._clock(report):
            for group, waited in loader.timed():
                self._dispatch(group, waited, report)
                stop = interrupt.agreed()
                if self._is_milestone(self._dispatched) or stop:
                    self._flush(report)
                    self.speed.pause()
                    self._at_milestone(report)
                    if stop:
                        self._stop()
                    if self._done():
                        return
                    self.speed.resume()
                elif self.work.callbacks.stop:
                    return

    @contextlib.contextmanager
    def _clock(self, report: Report) -> Iterator[None]:
        self.speed.resume()
        try:
            yield
        finally:
            self._flush(report)
            self.speed.pause()

    def _dispatch(self, group: Group, waited: float, report: Report) -> None:
        """Start the steps of a group, then read the sums of the one before while they run."""
        program = self.work.programs.for_group(group)
        if not program.has(group.batch):
            self._flush(report)
            self.speed.pause()
            report.compiling(group.batch["input_ids"].shape[-2])
            program.compile(self.state, group.batch, self.work.base_key)
            self.speed.resume()
        self.speed.add(group.sizes, waited)
        with jax.transfer_guard("disallow"):
            self.state, sums = program(self.state, group.batch, self.work.base_key)
        previous, self._pending = self._pending, (group.without_batch(), sums)
        self._dispatched += len(group.sizes)
        if previous is not None:
            self._read(*previous, report)

    def _flush(self, report: Report) -> None:
        """Read the last dispatched group, and so wait for it."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            self._read(*pending, report)

    def _read(self, group: Group, sums: dict[str, Array], report: Report) -> None:
        values = {name: np.ravel(value) for name, value in jax.device_get(sums).items()}
        for step, example_ids in enumerate(group.example_ids):
            self._count({name: value[step] for name, value in values.items()}, example_ids, report)

    def _count(self, values: dict[str, Any], example_ids: np.ndarray, report: Report) -> None:
        """Add the sums of a step to the progress, and report it."""
        progress = self.progress
        progress.step += 1
        loss, examples = float(values["loss"]), int(values["examples"])
        if values["bad"]:
            self._count_bad(loss, float(values["grad_norm"]), example_ids, report)
        else:
            progress.add(loss, examples)
        seconds = max(self.speed.elapsed, 1e-9)
        rates = self.speed.examples / seconds, self.speed.real_tokens / seconds
        report.progress(progress.step, loss / examples, *rates, progress.bad_steps)
        if progress.step % self.work.config.log_every == 0:
            report.log(progress.step, self._window(values, *rates))
        self.work.callbacks.tell("step", progress.step, self._step_values(values, loss / examples, rates))

    def _count_bad(self, loss: float, grad_norm: float, example_ids: np.ndarray, report: Report) -> None:
        """Note a step that changed nothing because its loss or gradient was not finite.

        Raises:
          UserError: if there were too many in a row.
        """
        progress, most = self.progress, self.work.config.max_bad_steps
        progress.bad_steps += 1
        progress.bad_in_a_row += 1
        rows = np.sort(self.work.source_rows(example_ids)).tolist()
        report.log(progress.step, {"bad_step": True, "bad_rows": rows})
        if progress.bad_in_a_row >= most:
            named = ", ".join(map(str, rows[:_NAMED_ROWS])) + (", ..." if len(rows) > _NAMED_ROWS else "")
            raise UserError(
                f"loss or gradient was not finite at {most} steps in a row, up to step {progress.step} (loss {loss}, "
                f"norm of the gradient {grad_norm}), whose batch is rows {named} of data.train, counted from 0 (all in "
                "metrics.jsonl): lower optimizer.learning_rate, or look at these rows"
            )

    def _step_values(self, values: dict[str, Any], loss: float, rates: tuple[float, float]) -> dict[str, Any]:
        """Return what callbacks learn of a step."""
        numbers = {name: float(values[name]) for name in ("learning_rate", "grad_norm")}
        epoch = self.progress.step / self.work.steps_per_epoch
        speed = dict(zip(("examples_per_second", "real_tokens_per_second"), rates, strict=True))
        return {"loss": loss, **numbers, "bad": bool(values["bad"]), "epoch": epoch, **speed}

    def _window(self, values: dict[str, Any], examples_per_second: float, tokens_per_second: float) -> dict[str, Any]:
        """Return the line of metrics since the last one, and begin a new one."""
        progress = self.progress
        loss = progress.window_loss_sum / progress.window_examples if progress.window_examples else None
        progress.window_loss_sum, progress.window_examples = 0.0, 0
        return {
            "train_loss": loss,
            "epoch": round(progress.step / self.work.steps_per_epoch, 4),
            "learning_rate": float(values["learning_rate"]),
            "grad_norm": float(values["grad_norm"]),
            "bad_steps": progress.bad_steps,
            "examples_per_second": round(examples_per_second, 1),
            "real_tokens_per_second": round(tokens_per_second, 1),
        }

    def _is_time(self, step: int, every: int | None) -> bool:
        return step % (every or self.work.steps_per_epoch) == 0 or step >= self.work.total_steps

    def _is_milestone(self, step: int) -> bool:
        config = self.work.config
        return self._is_time(step, config.checkpoint_every) or self._is_time(step, config.eval_every)

    def _at_milestone(self, report: Report) -> None:
        """Evaluate, then save, so that a checkpoint knows its own evaluation."""
        improved, step = False, self._dispatched
        if self.work.evaluate is not None and self._is_time(step, self.work.config.eval_every):
            improved = self._evaluate(report)
        if improved or self._is_time(step, self.work.config.checkpoint_every):
            self.work.before_saving()
            report.flush()
            self._save()

    def _evaluate(self, report: Report) -> bool:
        """Evaluate, and say whether this is the best so far."""
        assert self.work.evaluate is not None
        progress, name = self.progress, self.work.best_metric
        metrics = self.work.evaluate(self.state["params"])
        progress.evaluation = numbers_of(metrics)
        report.log(progress.step, {f"eval_{k}": v for k, v in progress.evaluation.items()})
        value, best = value_of(metrics, name), progress.best_value
        usable = math.isfinite(metrics.get("loss", 0.0))
        if not usable or not math.isfinite(value):
            self._say_unusable(name, value, metrics)
        improved = usable and improves(name, value, None if best is None else merit(name, best))
        if improved:
            progress.best_step, progress.best_value = progress.step, merit(name, value)
        progress.evaluations_since_best = 0 if improved else progress.evaluations_since_best + 1
        self.details = {step: kept for step, kept in self.details.items() if step == progress.best_step}
        self.details[progress.step] = metrics
        report.say(f"step {progress.step}: {headline(metrics, name)}{'  (best so far)' if improved else ''}")
        self.work.callbacks.tell("evaluate", progress.step, metrics)
        return improved

    def _say_unusable(self, name: str, value: float, metrics: dict[str, Any]) -> None:
        """Say once that an evaluation cannot be the best."""
        if not self._said_unusable:
            self._said_unusable = True
            found = f"{name} is {value}" if not math.isfinite(value) else f"the loss is {metrics['loss']}"
            logger.warning("step %d: %s: such an evaluation counts as worse than all others", self.progress.step, found)

    def _save(self) -> None:
        step = self.progress.step
        if self._checkpoints.save(step, self.state, asdict(self.progress), self.progress.best_step):
            self.work.callbacks.tell("save", step, self._checkpoints.folder / str(step))

    def _stop(self) -> None:
        self.work.before_saving()
        self._save()
        self._checkpoints.wait()
        raise StoppedError(self.progress.step)
