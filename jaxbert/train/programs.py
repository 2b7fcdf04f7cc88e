"""The programs of a run on its devices: the model, the jitted step, and the count of programs that JAX compiles.

A `Program` brings model, task and optimizer to a mesh and defines the sharding of each array. The caller chooses the
examples and decides when to evaluate and to save.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from transformers import BertConfig

from jaxbert.config import Config, ModelConfig, PrecisionConfig, TrainConfig
from jaxbert.data.batches import HOST_KEYS, Batch, BatchSize, batch_size_of
from jaxbert.data.examples import Windows
from jaxbert.data.packing import Layout, choose_layout, padded_layout
from jaxbert.errors import UserError
from jaxbert.models.attention.base import Hardware, Request
from jaxbert.models.attention.select import Attention, visited_tile
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import FunctionalModel, Params, make_model
from jaxbert.models.layers import DropRates
from jaxbert.models.residual import ResidualNorm
from jaxbert.tasks.base import Sums, Task
from jaxbert.train.optimizer import (
    Optimizer,
    Rates,
    Trainable,
    choose_trainable,
    layer_lr_scales,
    make_optimizer,
    make_schedule,
)
from jaxbert.train.sharding import (
    batch_spread,
    make_key,
    place,
    platform_of,
    put_batch,
    replicated,
    row_alignment,
    row_devices,
    row_sharding,
    state_shardings,
    word_sharding,
    xla_options,
)
from jaxbert.train.step import DeviceBatch, Harder, State, init_state, make_group_step, make_train_step, with_average
from jaxbert.train.tuned import NOTHING_TUNED, Tuned

_TRACED_OR_COMPILED = "/jax/core/compile/"
_COMPILED = "/jax/core/compile/backend_compile_duration"
_CACHE_HIT = "/jax/compilation_cache/cache_hits"
_LONG_RUN = 20_000
"""The steps after which unrolled layers have repaid their longer compilation on a TPU. For BERT-base that takes 276 to
297 processor seconds more, and each step then 6 to 14 ms less (COMPILED and PREDICTED, docs/performance.md): 21,000 to
45,000 steps on two cores; on a TPU's host with more cores UNMEASURED."""

Shapes = tuple[tuple[str, tuple[int, ...]], ...]


class StepNumbers(NamedTuple):
    """The settings of a run that are arguments of its step: runs that differ in them alone share one program.

    Whether one is off (no dropout, no clipping, ...) is a part of the program, which then does no work for it.
    """

    rates: Rates
    drop_rates: DropRates
    smoothing: float | Array | None
    """`train.label_smoothing`; None for 0."""
    ema: float | Array | None
    """`train.ema`; None for 0."""


class StepArguments(NamedTuple):
    """The last argument of a step."""

    key: Array
    """The key of the run; each step derives its own by `fold_in`."""
    numbers: StepNumbers


@dataclass
class CompileLog:
    """While entered, counts the programs that this process compiles, small ones too, by JAX's own events."""

    count: int = 0
    from_cache: int = 0
    """The number of them that came from the persistent cache."""
    seconds: float = 0.0
    """Seconds of compilation, including tracing and lowering."""

    def _on_duration(self, event: str, duration_secs: float, **_: Any) -> None:
        if event.startswith(_TRACED_OR_COMPILED):
            self.seconds += duration_secs
            self.count += event == _COMPILED

    def _on_event(self, event: str, **_: Any) -> None:
        self.from_cache += event == _CACHE_HIT

    def __enter__(self) -> CompileLog:
        jax.monitoring.register_event_duration_secs_listener(self._on_duration)
        jax.monitoring.register_event_listener(self._on_event)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._on_duration)
        jax.monitoring.unregister_event_listener(self._on_event)


class Compiled:
    """Call `fn(first, batch, *rest)`; the shapes in the dictionary `batch` choose the compiled program."""

    def __init__(self, fn: Callable[..., Any], **jit_options: Any) -> None:
        self._jitted = jax.jit(fn, **jit_options)
        self._programs: dict[Shapes, Any] = {}
        self.compile_seconds = 0.0

    @property
    def count(self) -> int:
        """The number of programs compiled so far."""
        return len(self._programs)

    def has(self, batch: dict[str, Any]) -> bool:
        """Return whether the program for this batch's shapes is compiled."""
        return _shapes(batch) in self._programs

    def program(self, batch: dict[str, Any]) -> Any:
        """Return the program that was compiled for this batch's shapes."""
        return self._programs[_shapes(batch)]

    def compile(self, first: Any, batch: dict[str, Any], *rest: Any, options: dict[str, Any] | None = None) -> Any:
        """Compile the program for these shapes, with XLA's `options`, and return it."""
        begin = time.perf_counter()
        program = self._programs[_shapes(batch)] = self._jitted.lower(first, batch, *rest).compile(options)
        self.compile_seconds += time.perf_counter() - begin
        return program

    def __call__(self, first: Any, batch: dict[str, Any], *rest: Any) -> Any:
        if not self.has(batch):
            self.compile(first, batch, *rest)
        return self._programs[_shapes(batch)](first, batch, *rest)


def _shapes(batch: dict[str, Any]) -> Shapes:
    return tuple((name, array.shape) for name, array in sorted(batch.items()))


def group_batches(
    batches: Iterator[Batch], most: int, first_step: int, is_last: Callable[[int], bool]
) -> Iterator[list[Batch]]:
    """Yield `most` consecutive batches of one shape together; batches of shorter series come one by one.

    If a step is short, the host's work for it matters, so the steps of a group run as one program. Each shape has two
    programs, for one step and for `most` steps, whatever the lengths of the series.

    Args:
      batches: the batches in order.
      most: the number of batches in a group.
      first_step: the number of steps taken before.
      is_last: whether a group must end with the step of this number, counted from 1.
    """
    stretch: list[Batch] = []
    for step, batch in enumerate(batches, first_step + 1):
        if stretch and _shapes(stretch[-1]) != _shapes(batch):
            yield from ([single] for single in stretch)
            stretch = []
        stretch.append(batch)
        if len(stretch) == most:
            yield stretch
            stretch = []
        elif is_last(step):
            yield from ([single] for single in stretch)
            stretch = []
    yield from ([single] for single in stretch)


@dataclass(frozen=True)
class Program:
    """The model, task and optimizer of a run on one mesh, with the compiled functions."""

    config: Config
    mesh: Mesh
    model: FunctionalModel
    task: Task
    total_steps: int
    """The optimizer steps of the whole learning-rate schedule."""
    tuned: Tuned = NOTHING_TUNED
    """The settings that were measured for this kind of run, where the configuration has none of its own."""

    @classmethod
    def of(cls, config: Config, mesh: Mesh, bert_config: BertConfig, task: Task, total_steps: int) -> Program:
        """Build the task's model with this run's dropout rates and the number format of the mesh's devices.

        Raises:
          UserError: if the devices do not support the format.
        """
        device = mesh.devices.flat[0]
        check_fp8(config.precision, Hardware.of(device), device.device_kind)
        dtype = compute_dtype(config.precision, mesh)
        model = make_model(task.head, with_dropout(bert_config, config.model), dtype)
        return cls(config, mesh, model, task, total_steps)

    @property
    def parameters(self) -> int:
        """The number of parameters, frozen ones included."""
        return sum(leaf.size for leaf in jax.tree.leaves(self.model.abstract_params))

    @cached_property
    def trainable(self) -> Trainable:
        """The part of the parameters that is not frozen."""
        return choose_trainable(self.config.optimizer, self.model.abstract_params)

    @cached_property
    def numbers(self) -> StepNumbers:
        """The settings that are arguments of the step, as NumPy arrays."""
        config, bert, types = self.config, self.model.config, {int: np.int32, float: np.float32}
        rates = Rates.of(config.optimizer, self.total_steps, bert.num_hidden_layers)
        train = config.train
        numbers = StepNumbers(rates, DropRates.of(bert), train.label_smoothing or None, train.ema or None)
        return jax.tree.map(lambda x: np.asarray(x, types.get(type(x))), numbers)

    @cached_property
    def optimizer(self) -> Optimizer:
        """The optimizer of the trainable part."""
        return self._optimizer_of(self.numbers.rates)

    def _optimizer_of(self, rates: Rates) -> Optimizer:
        config = self.config.optimizer
        scales = None if rates.layers is None else layer_lr_scales(rates.layers, self.trainable)
        return Optimizer(make_optimizer(config, rates, scales), make_schedule(config, rates), self.trainable)

    @cached_property
    def state_shardings(self) -> State:
        """The sharding of each part of the state."""
        return state_shardings(self.mesh, self._abstract_state)

    @cached_property
    def call(self) -> ForwardOptions:
        """The forward options of evaluation; one object, so that a fallback is reported only once."""
        words, model = word_sharding(self.mesh, self.model.config.hidden_size), self.config.model
        if self.tuned.scan_layers is not None:
            model = replace(model, scan_layers=self.tuned.scan_layers)
        return replace(layer_call(model, self.mesh), words=words)

    @cached_property
    def training_call(self) -> ForwardOptions:
        """The forward options of a training step. Its kernels alone are tuned: all evaluations have the same digits.

        Unrolled layers take a TPU's compiler five times as long as a loop, so only long runs get them if nothing is said.
        """
        call, kernel, model = self.call, self.tuned.kernel, self.config.model
        said = model.scan_layers is not None or self.tuned.scan_layers is not None or model.remat != "none"
        attention = replace(call.attention, kernel=kernel) if isinstance(call.attention, Attention) else call.attention
        fp8, frozen = self.config.precision.fp8, self.trainable.frozen_layers
        states = self.task.reads_states
        loop = call.scan_layers and (said or self.total_steps < _LONG_RUN)
        return replace(
            call, scan_layers=loop, attention=attention, fp8=fp8, frozen_layers=frozen, output_hidden_states=states
        )

    @property
    def steps_per_dispatch(self) -> int:
        """The number of steps of one batch shape that are sent to the device at once."""
        return self.config.train.steps_per_dispatch or self.tuned.steps_per_dispatch or 1

    @property
    def state_target(self) -> State:
        """The shapes, dtypes and shardings of the state."""
        return jax.tree.map(
            lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), self._abstract_state, self.state_shardings
        )

    @property
    def _abstract_state(self) -> State:
        return jax.eval_shape(self._make_state, self.model.abstract_params)

    @cached_property
    def _init_state(self) -> Callable[[Params], State]:
        return jax.jit(self._make_state, out_shardings=self.state_shardings)

    @property
    def _make_state(self) -> Callable[[Params], State]:
        return partial(init_state, optimizer=self.optimizer, average=self.config.train.ema > 0)

    def first_state(self, params: Params) -> State:
        """Send the first parameters to the devices and make the state from them."""
        return self._init_state(place(params, self.state_shardings["params"]))

    def train_step(self) -> Compiled:
        """Return the step, `(state, batch, arguments) -> (state, sums)`; it is not compiled yet."""
        return self.step_programs()[0]

    def step_programs(self) -> tuple[Compiled, Compiled]:
        """Return the step, and a function of several steps in a loop; nothing is compiled yet."""
        train = self.config.train
        slices, harder = train.accumulation_steps, Harder(train.r_drop)
        if train.adversarial == "fgm":
            harder = replace(harder, fgm=train.adversarial_epsilon)

        def train_step(state: State, batch: DeviceBatch, arguments: StepArguments) -> tuple[State, Sums]:
            key, (rates, drop_rates, smoothing, ema) = arguments
            task, call = self.task.smoothed(smoothing), replace(self.training_call, drop_rates=drop_rates)
            step = make_train_step(self.model, task, self._optimizer_of(rates), call, slices, harder)
            return (step if ema is None else with_average(step, self.trainable, ema))(state, batch, key)

        shardings, sums = self.state_shardings, replicated(self.mesh)
        one, several = (
            Compiled(
                fn,
                donate_argnums=0,
                in_shardings=(shardings, row_sharding(self.mesh, stacked=stacked), None),
                out_shardings=(shardings, sums),
                compiler_options=xla_options(self.mesh),
            )
            for fn, stacked in ((train_step, False), (make_group_step(train_step), True))
        )
        return one, several

    @property
    def base_key(self) -> Array:
        """The key from which every step derives its own by `fold_in`, replicated over the mesh."""
        return make_key(self.config.train.seed, self.state_shardings["step"])

    @property
    def arguments(self) -> StepArguments:
        """The last argument of the step, replicated over the mesh."""
        sharding, numbers = self.state_shardings["step"], self.numbers
        return StepArguments(self.base_key, place(numbers, jax.tree.map(lambda _: sharding, numbers)))

    @property
    def arguments_target(self) -> StepArguments:
        """The shapes, dtypes and shardings of the last argument of the step."""
        found = StepArguments(jax.eval_shape(lambda: jax.random.key(0)), self.numbers)
        sharding = self.state_shardings["step"]
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), found)

    def batch_target(self, like: Batch, num_rows: int) -> dict[str, jax.ShapeDtypeStruct]:
        """Return the shapes, dtypes and shardings of a batch like `like`, with `num_rows` rows."""
        rows = row_sharding(self.mesh)
        return {
            name: jax.ShapeDtypeStruct((num_rows, *array.shape[1:]), array.dtype, sharding=rows)
            for name, array in like.items()
            if name not in HOST_KEYS
        }

    def put(self, *group: Batch) -> DeviceBatch:
        """Send packed batches to the devices: a single one as it is, several stacked along a leading axis."""
        if len(group) == 1:
            return put_batch(group[0], self.mesh)
        stacked = {name: np.stack([batch[name] for batch in group]) for name in group[0]}
        return put_batch(stacked, self.mesh, stacked=True)

    def count(self, batch: Batch) -> BatchSize:
        """Count the tokens of a packed batch, and the pairs of tokens for which this program computes attention."""
        request = self.attention_request(batch["segment_ids"].shape[1])
        return batch_size_of(batch, visited_tile(self.training_call.attention, request))

    def attention_request(self, row_length: int) -> Request:
        """Return the request of a training step to the attention backends, for rows of this many tokens."""
        bert = self.model.config
        return Request(
            dtype=jnp.dtype(compute_dtype(self.config.precision, self.mesh)).name,
            row_length=row_length,
            head_width=bert.hidden_size // bert.num_attention_heads,
            drops=bert.attention_probs_dropout_prob > 0,
        )


def with_dropout(bert_config: BertConfig, config: ModelConfig) -> BertConfig:
    """Return a copy with the dropout rates that `config` sets."""
    changed = copy.deepcopy(bert_config)
    if config.dropout is not None:
        changed.hidden_dropout_prob = changed.attention_probs_dropout_prob = config.dropout
        changed.classifier_dropout = config.dropout
    if config.attention_dropout is not None:
        changed.attention_probs_dropout_prob = config.attention_dropout
    return changed


def compute_dtype(config: PrecisionConfig, mesh: Mesh) -> Any:
    """Return the dtype of the matrix products on the mesh's devices."""
    if config.compute == "auto":
        return jnp.float32 if platform_of(mesh) == "cpu" else jnp.bfloat16
    return jnp.dtype(config.compute)


def check_fp8(config: PrecisionConfig, hardware: Hardware, kind: str) -> None:
    """Check that a kind of device supports float8 products, if the configuration asks for them.

    Raises:
      UserError: for any device but an NVIDIA GPU of compute capability 9.0 (H100, H200).
    """
    if config.fp8 and hardware.capability != (9, 0):
        raise UserError(f"precision.fp8 needs an H100 or H200, but this is {kind}: leave it out")


def layer_call(config: ModelConfig, mesh: Mesh) -> ForwardOptions:
    """Return the forward options of a mesh's devices.

    By default layers are unrolled on CPU, where a loop copies its carried arrays, and on GPU, where it copies every saved
    array: a step of BERT-base moves 1.6 times the bytes on an NVIDIA GPU (COMPILED, docs/performance.md). With remat they
    are a loop: if they are unrolled, XLA for CPU (jax 0.10) recomputes early and saves no memory. On TPU they are a loop
    too, except in long runs (`Program.training_call`).
    """
    hardware, spread = Hardware.of(mesh.devices.flat[0]), batch_spread(mesh)
    loop = config.remat != "none" or hardware.platform not in ("cpu", "gpu")
    return ForwardOptions(
        scan_layers=loop if config.scan_layers is None else config.scan_layers,
        remat=config.remat,
        fuse_lookup=hardware.platform == "cpu" and mesh.size == 1,
        attention=Attention(config.attention, hardware, spread),
        recompute_activation=hardware.platform == "gpu" and config.remat == "none",
        residual_norm=ResidualNorm(hardware, spread),
        rows=row_sharding(mesh),
    )


def count_steps(config: TrainConfig, examples: int) -> int:
    """Return the number of optimizer steps of a run with this many training examples."""
    return config.max_steps or config.epochs * -(-examples // config.batch_size)


def training_layout(
    config: Config,
    lengths: np.ndarray,
    mesh: Mesh,
    alignment: int | None = None,
    windows: Windows | None = None,
    parts: Sequence[np.ndarray] | None = None,
    longest: int = 0,
) -> Layout:
    """Choose row length, row counts and slots for training examples of these lengths, or up to `longest` tokens.

    The seed does not matter, so that runs that differ in it alone share their programs. Row lengths are a multiple of
    `alignment`; by default the mesh's devices decide it. With `parts`, the examples of several
    runs, one row count holds the steps of all of them.
    """
    batch_size = config.train.batch_size
    row_multiple = row_devices(mesh) * config.train.accumulation_steps
    if not config.data.packing:
        return padded_layout(lengths, batch_size, config.data.row_length, row_multiple, windows, longest)
    return choose_layout(
        lengths,
        batch_size,
        row_length=config.data.row_length,
        row_multiple=row_multiple,
        alignment=alignment or row_alignment(mesh),
        windows=windows,
        parts=parts,
        epochs=1 if parts is None else config.train.epochs,
        most_counts=2 if parts is None else 1,
        longest=longest,
    )
