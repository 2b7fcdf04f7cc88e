"""Finds the fastest settings of a training step on the device that is here: `jaxbert bench --tune`.

Candidates run in turn, round after round, and the median of each counts, so that a slow moment of the machine meets all of
them. One that cannot be compiled or run is reported and left out. First come the kernels of attention, alone (on GPUs where
`auto` takes them), then the layers (a compiled loop or unrolled), then the number of steps that are sent at once. A setting
that the configuration has is not varied. `train.tuned` keeps the best settings, and runs obey them.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbert.bench.options import BenchOptions
from jaxbert.data.batches import Batch
from jaxbert.errors import UserError, one_line
from jaxbert.models.attention.pallas import KernelSettings, usual_settings
from jaxbert.models.attention.select import Attention, backend_of
from jaxbert.models.functional import init_params
from jaxbert.train.programs import Program
from jaxbert.train.run import Run
from jaxbert.train.sharding import row_sharding
from jaxbert.train.step import State
from jaxbert.train.tuned import Content, describe_kernel, kernel_place, step_place
from jaxbert.versions import installed

LEAST_GAIN = 0.02
"""The share of the default's time that a candidate must save to replace it: less is the noise of a quiet machine."""
LONG_STEP_MS = 50.0
"""Milliseconds from which steps are sent one by one: to send one costs less than a millisecond, less than `LEAST_GAIN`."""
TOGETHER = (1, 2, 4, 8)
"""The candidates for the steps that are sent at once."""
KERNEL_AXES: dict[str, tuple[int, ...]] = {
    "tile": (32, 64, 128),
    "warps": (4, 8),
    "stages": (1, 2, 3),
    "visited": (16, 32, 64),
}
"""The candidates for each setting of the kernels, varied one after another."""
_CALLS = 10
"""Calls of the kernels, forward and backward, that are sent together, so that the device does not wait for the host."""

Row = dict[str, Any]
"""`part`, `candidate`, `ms`, `ratio` to the default's time, `error`; `default` and `best` mark two of each part."""
Prepare = Callable[[], Callable[[], None]]
"""Compiles a candidate; the function that it returns does a fixed amount of work and waits for its end."""
Clock = Callable[[], float]
Say = Callable[[str], None]

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Race:
    """How candidates are timed."""

    rounds: int
    """Number of times that each candidate is timed."""
    warmup: int = 1
    """Number of rounds before those that count."""
    clock: Clock = time.perf_counter

    def time(self, candidates: Mapping[str, Prepare], units: int = 1) -> dict[str, float | str]:
        """Return the median milliseconds of a unit of work for each candidate, or one line about its failure.

        Args:
          candidates: the candidates by name, the default first.
          units: the units of work (steps, calls) that one call does.
        """
        failed: dict[str, str] = {}
        ready: dict[str, Callable[[], None]] = {}
        times: dict[str, list[float]] = {name: [] for name in candidates}

        def make(name: str) -> None:
            ready[name] = candidates[name]()

        def run(name: str) -> None:
            begin = self.clock()
            ready[name]()
            times[name].append((self.clock() - begin) / units * 1e3)

        for name in candidates:
            self._guard(name, failed, partial(make, name))
        for number in range(self.warmup + self.rounds):
            order = list(ready) if number % 2 else list(ready)[::-1]
            for name in order:
                if name not in failed:
                    self._guard(name, failed, partial(run, name))
        return {name: failed.get(name) or float(np.median(times[name][self.warmup :])) for name in candidates}

    @staticmethod
    def _guard(name: str, failed: dict[str, str], act: Callable[[], None]) -> None:
        """Keep one line about a failure: the compiler and the device raise errors of many kinds."""
        try:
            act()
        except Exception as error:
            failed[name] = one_line(error)


def choose(times: Mapping[str, float | str], default: str) -> str:
    """Return the fastest candidate, or the default if it needs hardly more time.

    Raises:
      UserError: if nothing could be timed.
    """
    timed = {name: ms for name, ms in times.items() if isinstance(ms, float)}
    if not timed:
        raise UserError(f"no candidate could be timed; error of the default: {times[default]}")
    best = min(timed, key=lambda name: timed[name])
    return default if default in timed and timed[best] > (1 - LEAST_GAIN) * timed[default] else best


def rows_of(part: str, times: Mapping[str, float | str], default: str) -> list[Row]:
    """Return the rows of the table for the candidates of one part."""
    base, best = times[default], choose(times, default)
    return [
        {
            "part": part,
            "candidate": name,
            "ms": round(ms, 4) if isinstance(ms, float) else None,
            "ratio": round(ms / base, 4) if isinstance(ms, float) and isinstance(base, float) else None,
            "error": ms if isinstance(ms, str) else None,
            "default": name == default,
            "best": name == best,
        }
        for name, ms in times.items()
    ]


@dataclass
class _Steps:
    """Real training steps on one batch; all candidates share the state, which each step replaces."""

    program: Program
    batch: Batch
    _state: State | None = field(default=None, init=False)

    def prepare(self, program: Program, together: int, steps: int) -> Callable[[], None]:
        """Compile the step, or `together` steps as one program; return a function that takes `steps` steps."""
        compiled = program.step_programs()[together > 1]
        batch, key = program.put(*[self.batch] * together), program.arguments
        compiled.compile(program.state_target, batch, key)

        def take() -> None:
            state, self._state = self._state or self._first(), None  # donated: a failure leaves none
            pending: dict[str, Array] | None = None
            for _ in range(steps // together):
                state, sums = compiled(state, batch, key)
                if pending is not None:
                    jax.device_get(pending)  # one dispatch late, as the trainer reads them
                pending = sums
            jax.device_get(pending)
            self._state = jax.block_until_ready(state)

        return take

    def _first(self) -> State:
        program = self.program
        return program.first_state(init_params(program.model, program.base_key, program.state_shardings["params"]))


def tune(run: Run, options: BenchOptions, say: Say = lambda _: None, clock: Clock = time.perf_counter) -> Row:
    """Time the candidates for a run that was opened without tuned settings.

    Returns:
      `rows`: all candidates; `tuned`: the best settings, as text; `kept`: the entries for `train.tuned.keep_tuned`.
    """
    race = Race(options.steps, options.warmup, clock)
    batch = next(run.batches_from(0))
    rows: list[Row] = []
    kept: Content = {"kernels": [], "steps": []}
    program = _tune_kernels(run.program, batch, race, rows, kept, say)
    steps = _Steps(program, batch)
    settings: dict[str, Any] = {}
    place = step_place(run.program, run.layout)
    program = _tune_layers(program, steps, race, rows, settings, say)
    program = _tune_dispatch(program, steps, race, rows, settings, say)
    if settings:
        own = [row for row in rows if row["part"] != _KERNELS]
        kept["steps"].append({"place": place, "settings": settings, "candidates": own})
    versions = installed(("jax", "jaxlib", "flax", "optax"))
    return {"place": place, "tuned": program.tuned.describe(), "rows": rows, "kept": kept, "versions": versions}


_KERNELS, _LAYERS, _DISPATCH = "attention kernels, a layer", "layers, a step", "steps sent at once, a step"


def _with(program: Program, **settings: Any) -> Program:
    """Return the program with other tuned settings."""
    return dataclasses.replace(program, tuned=dataclasses.replace(program.tuned, **settings))


def _tune_layers(
    program: Program, steps: _Steps, race: Race, rows: list[Row], settings: dict[str, Any], say: Say
) -> Program:
    model = program.config.model
    if model.scan_layers is not None or model.remat != "none":
        logger.warning("layers are not tuned: model.scan_layers or model.remat is set")
        return program
    names = {True: "as one compiled loop", False: "unrolled"}
    usual = program.call.scan_layers
    say(f"compiling and timing layers {names[usual]} and {names[not usual]}")
    times = race.time(
        {names[scan]: partial(steps.prepare, _with(program, scan_layers=scan), 1, 1) for scan in (usual, not usual)}
    )
    rows += rows_of(_LAYERS, times, names[usual])
    scan = choose(times, names[usual]) == names[True]
    settings["scan_layers"] = scan
    return _with(program, scan_layers=scan)


def _tune_dispatch(
    program: Program, steps: _Steps, race: Race, rows: list[Row], settings: dict[str, Any], say: Say
) -> Program:
    if program.config.train.steps_per_dispatch is not None:
        logger.warning("the steps sent at once are not tuned: train.steps_per_dispatch is set")
        return program
    most = TOGETHER[-1]
    short = dataclasses.replace(race, rounds=max(3, race.rounds // most), warmup=1)
    layers = [row["ms"] for row in rows if row["part"] == _LAYERS and row["best"]]
    alone = layers[0] if layers else short.time({"1": partial(steps.prepare, program, 1, most)}, most)["1"]
    if isinstance(alone, float) and alone >= LONG_STEP_MS:
        logger.warning(
            "the steps sent at once are not tuned: a step takes %.0f ms, and sending it less than %.0f%% of that",
            alone,
            100 * LEAST_GAIN,
        )
        return program
    say(f"compiling and timing {', '.join(map(str, TOGETHER))} steps sent at once")
    times = short.time({str(n): partial(steps.prepare, program, n, most) for n in TOGETHER}, most)
    rows += rows_of(_DISPATCH, times, "1")
    settings["steps_per_dispatch"] = int(choose(times, "1"))
    return _with(program, steps_per_dispatch=settings["steps_per_dispatch"])


def _tune_kernels(program: Program, batch: Batch, race: Race, rows: list[Row], kept: Content, say: Say) -> Program:
    row_length = batch["segment_ids"].shape[1]
    request, attention = program.attention_request(row_length), program.call.attention
    if backend_of(attention, request) != "pallas":
        return program
    assert isinstance(attention, Attention)
    if not attention.fuses(request):
        logger.warning("the kernels of attention are not tuned where heads are divided among devices")
        return program
    say("compiling and timing the kernels of attention")
    best, own = tune_kernels(make_kernel_pass(program, attention, batch), request.dtype, request.head_width, race)
    rows += own
    entry = {"place": kernel_place(program, row_length), "settings": dataclasses.asdict(best), "candidates": own}
    kept["kernels"].append(entry)
    return _with(program, kernel=best)


def tune_kernels(
    prepare: Callable[[KernelSettings], Callable[[], None]], dtype: str, width: int, race: Race
) -> tuple[KernelSettings, list[Row]]:
    """Vary one setting of the kernels after another, each time from the best so far; return the best and all rows.

    Each group of candidates has the default with it, so that the ratios of all groups compare.
    """
    usual = best = usual_settings(dtype, width)
    compiled: dict[KernelSettings, Callable[[], None]] = {}
    found: dict[str, Row] = {}

    def make(settings: KernelSettings) -> Callable[[], None]:
        if settings not in compiled:
            compiled[settings] = prepare(settings)
        return compiled[settings]

    for axis, values in KERNEL_AXES.items():
        group = [usual, best, *(dataclasses.replace(best, **{axis: value}) for value in values)]
        named = {describe_kernel(settings): settings for settings in group if settings.visited <= settings.tile}
        named = {describe_kernel(usual): usual} | named
        times = race.time({name: partial(make, settings) for name, settings in named.items()}, _CALLS)
        best = named[choose(times, describe_kernel(usual))]
        for row in rows_of(_KERNELS, times, describe_kernel(usual)):
            found.setdefault(row["candidate"], row)
    rows = [row | {"best": row["candidate"] == describe_kernel(best)} for row in found.values()]
    return best, rows


def make_kernel_pass(
    program: Program, attention: Attention, batch: Batch
) -> Callable[[KernelSettings], Callable[[], None]]:
    """Return a function that compiles forward and backward pass of one layer's attention for a batch, with some settings.

    Its result runs them `_CALLS` times.
    """
    bert, row_length = program.model.config, batch["segment_ids"].shape[1]
    request = program.attention_request(row_length)
    shape = (*batch["segment_ids"].shape, 3, bert.num_attention_heads, request.head_width)
    drawn = np.random.default_rng(0).normal(size=shape).astype(jnp.dtype(request.dtype))
    kvq, ids = (jax.device_put(array, row_sharding(program.mesh)) for array in (drawn, batch["segment_ids"]))
    rate = program.numbers.drop_rates.attention
    arguments = kvq, jnp.zeros(shape[2:], jnp.float32), ids, program.base_key

    def prepare(settings: KernelSettings) -> Callable[[], None]:
        tuned = dataclasses.replace(attention, kernel=settings)

        def loss(kvq: Array, bias: Array, ids: Array, key: Array) -> Array:
            out = tuned.attend_fused(kvq, bias, ids, dropout_rate=rate, key=key)
            return (out.astype(jnp.float32) ** 2).sum()

        compiled = jax.jit(jax.grad(loss, (0, 1))).lower(*arguments).compile()

        def call() -> None:
            for _ in range(_CALLS):
                grads = compiled(*arguments)
            jax.block_until_ready(grads)

        return call

    return prepare
