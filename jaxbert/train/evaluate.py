"""Predictions for any number of examples, in input order, and what is chosen by them on held-out examples after training.

A model's temperature is folded into the last layer, so that every program that loads the weights gives calibrated
probabilities. The task chooses thresholds and keeps conformity scores (`tasks.decision`). An export keeps the settings with
which a run computes its predictions.
"""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import partial
from typing import Any, get_args, get_type_hints
from weakref import WeakKeyDictionary

import jax
import numpy as np
from jax.sharding import Mesh
from scipy.optimize import minimize_scalar
from transformers import BertConfig

from jaxbert.config import COMPUTE_FORMATS, Config, ModelConfig, PrecisionConfig, TrainConfig
from jaxbert.data.batches import Batch, Prefetcher, batches, lengths_of
from jaxbert.data.examples import Examples
from jaxbert.data.packing import WINDOW, Ladder, Layout, choose_layout
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import FunctionalModel, Params
from jaxbert.runs.export import fold_temperature
from jaxbert.tasks import COMPUTATION, SETTINGS, settings_of
from jaxbert.tasks.base import Evaluation, Gathered, Outcome, Task, count_predictions
from jaxbert.tasks.decision import Tuning
from jaxbert.tasks.metrics import value_of
from jaxbert.train.programs import Compiled
from jaxbert.train.sharding import own_rows, platform_of, put_batch, replicated, row_alignment, row_devices, xla_options
from jaxbert.train.step import make_predict_step

logger = logging.getLogger("jaxbert")

_MOST_TOKENS = 16_384
"""Tokens of one step on one device, if all examples had the longest length."""
_MOST_INPUTS = 8192
"""Texts that are tokenized and answered together."""
_MOST_VALUES = 2**25
"""Predicted values that wait at once for the rest of their text, and predicted values of one step."""
_LARGEST_TEMPERATURE = 100.0
"""The largest temperature, and 1 over the smallest one: if the loss is smallest there, it has no minimum."""
_COMPARED_METRICS = ("loss", "calibration_error", "brier")


@dataclass(frozen=True)
class ComputeSettings:
    """The compute settings of a run's evaluations: on a device of the same kind, `evaluate` gives the same digits."""

    platform: str
    batch_size: int = TrainConfig.eval_batch_size
    precision: str = PrecisionConfig.compute
    attention: Any = ModelConfig.attention
    scan_layers: bool | None = None

    @classmethod
    def of(cls, content: Any, mesh: Mesh) -> ComputeSettings:
        """Read the settings in an export; empty if they are damaged or come from devices of another kind."""
        plain = cls(platform_of(mesh))
        if not isinstance(content, dict) or content.keys() != asdict(plain).keys():
            return plain
        kept = cls(**content)
        known = kept.precision in COMPUTE_FORMATS and kept.attention in get_args(
            get_type_hints(ModelConfig)["attention"]
        )
        sound = known and kept.scan_layers in (True, False) and type(kept.batch_size) is int and kept.batch_size > 0
        return kept if sound and kept.platform == plain.platform else plain


def keep_compute_settings(bert_config: BertConfig, config: Config, mesh: Mesh, *, scan_layers: bool) -> BertConfig:
    """Return a model's configuration with the run's compute settings added."""
    batch_size, precision = config.train.eval_batch_size, config.precision.compute
    kept = ComputeSettings(platform_of(mesh), batch_size, precision, config.model.attention, scan_layers)
    changed = copy.deepcopy(bert_config)
    setattr(changed, SETTINGS, settings_of(bert_config) | {COMPUTATION: dict(sorted(asdict(kept).items()))})
    return changed


@dataclass(frozen=True)
class Chunk:
    """Examples that are predicted together, and their layout."""

    examples: Examples
    layout: Layout
    size: int
    """Examples per step."""
    kept: Sequence[Mapping[str, Any]] = ()
    """The columns of each example that are copied from the source into the answers."""


@dataclass(frozen=True)
class _Step:
    """A batch of a chunk."""

    chunk: Chunk
    batch: Batch
    is_last: bool
    """Whether it is the last batch of its chunk."""


@dataclass
class Predictor:
    """A model that is ready to predict; it compiles one program per shape and keeps it for later calls."""

    model: FunctionalModel
    task: Task
    mesh: Mesh
    call: ForwardOptions
    batch_size: int = 256
    collate: Callable[[Batch, int | None], Batch] | None = None
    """A function that is applied to each batch before it is sent."""
    layouts: MutableMapping[Examples, Layout] = field(default_factory=WeakKeyDictionary)
    sizes: MutableMapping[Examples, int] = field(default_factory=WeakKeyDictionary)
    """The examples of a step, for sets that share a layout."""

    def __post_init__(self) -> None:
        step = make_predict_step(self.model, self.task, self.call)
        out = replicated(self.mesh)  # every process sees all predictions
        self.step: Any = Compiled(step, out_shardings=out, compiler_options=xla_options(self.mesh))

    def __call__(self, params: Params, examples: Examples) -> np.ndarray:
        """Return predictions; every example is computed once.

        They are [N, ...] in the order of the examples. For a task that predicts per token, they are aligned with
        `examples.tokens.ids`.
        """
        gathered = Gathered(count_predictions(self.task, examples))
        for ids, predictions in self.pieces(params, examples):
            gathered.add(ids, predictions)
        return gathered.rows

    def evaluate(self, params: Params, sets: Mapping[str, Examples], task: Task | None = None) -> Evaluation:
        """Evaluate one or several sets, with the metrics of `task` if it has learned more since.

        The predictions of a set are kept up to `most_kept` numbers: with many labels they may not fit in memory.
        """
        task = task or self.task
        found: dict[str, dict[str, Any]] = {}
        kept: dict[str, Gathered] = {}
        for name, examples in sets.items():
            tally, gathered = task.tally(examples), Gathered(count_predictions(task, examples))
            for ids, predictions in self.pieces(params, examples):
                tally.add(ids, predictions)
                if gathered.count * math.prod(predictions.shape[1:]) <= self.most_kept:
                    gathered.add(ids, predictions)
                    kept[name] = gathered
            found[name] = tally.metrics()
        metrics = average_metrics(found)
        learned = task.learned(metrics)
        return Evaluation(metrics, {name: Outcome(learned, sets[name], part.rows) for name, part in kept.items()})

    @property
    def most_kept(self) -> int:
        """The most numbers in the predictions of a set that an evaluation keeps."""
        return _MOST_VALUES

    def keeps(self, examples: Examples) -> bool:
        """Return whether an evaluation keeps the predictions of a set: a number for each output of each example."""
        return count_predictions(self.task, examples) * (self.model.config.num_labels or 1) <= self.most_kept

    def pieces(self, params: Params, examples: Examples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield predictions as they are computed: the indices of examples or of tokens, and a prediction for each."""
        chunk = Chunk(examples, self.layout(examples), self.examples_a_step(examples))
        for step, values in self._run(params, iter([chunk])):
            yield self._placed(step, values)

    def over(
        self, params: Params, chunks: Iterator[Chunk], stop: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Chunk, np.ndarray]]:
        """Yield each chunk with its predictions, in the form of `__call__`, as soon as they are computed.

        A thread requests the next chunk while the last one is computed; `stop` ends that wait.
        """
        gathered: Gathered | None = None
        for step, values in self._run(params, chunks, stop):
            gathered = gathered or Gathered(count_predictions(self.task, step.chunk.examples))
            gathered.add(*self._placed(step, values))
            if step.is_last:
                yield step.chunk, gathered.rows
                gathered = None

    def _placed(self, step: _Step, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the indices of a step's examples or tokens, and a prediction for each."""
        if self.task.per_token:
            places, targets = token_places(step.batch, step.chunk.examples)
            return targets, values.reshape(-1, *values.shape[2:])[places]
        real = step.batch["example_mask"]
        return step.batch["example_ids"][real], values[real]

    def _steps(self, chunks: Iterator[Chunk]) -> Iterator[_Step]:
        for chunk in chunks:
            tokens = chunk.examples.tokens
            single = Examples(tokens, token_labels=chunk.examples.token_labels)  # windows may lie in different steps
            source = batches(single, chunk.layout, chunk.size, seed=None, own_rows=partial(own_rows, self.mesh))
            last = -(-len(tokens) // chunk.size)
            for number, batch in enumerate(source, 1):
                yield _Step(chunk, batch if self.collate is None else self.collate(batch, None), number == last)

    def _run(
        self, params: Params, chunks: Iterator[Chunk], stop: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[_Step, np.ndarray]]:
        """Yield each step with its values one step late, so that the device does not wait for the host."""
        pending: tuple[_Step, jax.Array] | None = None
        with Prefetcher(self._steps(chunks), lambda step: (step, self.put(step.batch)), stop=stop) as loader:
            while True:
                if pending is not None and not loader.has_next:
                    yield pending[0], jax.device_get(pending[1])
                    pending = None
                try:
                    step, on_device = next(loader)
                except StopIteration:
                    break
                except Exception:
                    if pending is not None:  # the step before a mistake in the source
                        yield pending[0], jax.device_get(pending[1])
                    raise
                values = self.step(params, on_device)
                if pending is not None:
                    yield pending[0], jax.device_get(pending[1])
                pending = step, values
        if pending is not None:
            yield pending[0], jax.device_get(pending[1])

    def put(self, batch: Batch) -> Any:
        """Send a batch to where `step` reads it."""
        return put_batch(batch, self.mesh)

    def ladder(self, longest: int) -> Ladder:
        """Return the layouts for chunks whose longest example has `longest` tokens."""
        devices, alignment = row_devices(self.mesh), row_alignment(self.mesh)
        return Ladder(self.batch_size, longest, _MOST_TOKENS * devices, devices, alignment)

    @property
    def max_inputs(self) -> int:
        """The number of inputs that are tokenized, predicted and answered together."""
        values = 1 if self.task.per_token else self.model.config.num_labels or 1
        return max(1, min(_MOST_INPUTS, max(1, WINDOW * self.batch_size), _MOST_VALUES // values))

    def examples_a_step(self, examples: Examples) -> int:
        """Return `batch_size`, or fewer if their attention or their predictions would not fit in memory."""
        if examples in self.sizes:
            return self.sizes[examples]
        longest = int(examples.tokens.lengths.max())
        values = self.model.config.num_labels or 1
        if self.task.per_token:
            values *= longest
        elif examples.windows is not None:
            values *= WINDOW  # the windows of a text may be this many steps apart
        most = min(_MOST_TOKENS * row_devices(self.mesh) // longest, _MOST_VALUES // values)
        return min(self.batch_size, max(1, most))

    def layout(self, examples: Examples) -> Layout:
        """Choose the layout of a data set once, so that evaluations of the same set share their programs."""
        if examples not in self.layouts:
            self.layouts[examples] = self._choose(examples.tokens.lengths, self.examples_a_step(examples))
        return self.layouts[examples]

    def share_layout(self, parts: Sequence[Examples]) -> None:
        """Give several sets one layout, so that they share their programs."""
        lengths = np.concatenate([part.tokens.lengths for part in parts])
        ends = np.cumsum([len(part.tokens) for part in parts])
        size = min(self.examples_a_step(part) for part in parts)
        places = [np.arange(end - len(part.tokens), end) for part, end in zip(parts, ends, strict=True)]
        layout = self._choose(lengths, size, places)
        for part in parts:
            self.layouts[part], self.sizes[part] = layout, size

    def _choose(self, lengths: np.ndarray, size: int, parts: Sequence[np.ndarray] | None = None) -> Layout:
        return choose_layout(
            lengths,
            size,
            row_multiple=row_devices(self.mesh),
            alignment=row_alignment(self.mesh),
            seed=None,
            parts=parts,
        )


class Ensemble(Predictor):
    """Several models as one: it takes the parameters of all, and its probabilities are the mean of theirs.

    Its parameters are a list. The models run one after the other, for all examples that are predicted together.
    """

    @classmethod
    def of(cls, predictor: Predictor) -> Ensemble:
        """Return an ensemble of models like the one of a predictor; it uses the same compiled programs and layouts."""
        found = cls(**{part.name: getattr(predictor, part.name) for part in fields(predictor)})
        found.step = predictor.step
        return found

    def pieces(self, params: Any, examples: Examples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield the predictions of all examples at once."""
        parts = []
        for of_one in params:
            gathered = Gathered(count_predictions(self.task, examples))
            for ids, predictions in super().pieces(of_one, examples):
                gathered.add(ids, predictions)
            parts.append(gathered.rows)
        yield np.arange(len(parts[0])), self.task.average(parts, examples)

    def over(
        self, params: Any, chunks: Iterator[Chunk], stop: Callable[[], None] = lambda: None
    ) -> Iterator[tuple[Chunk, np.ndarray]]:
        """Yield each chunk with its predictions."""
        one_model = super().over
        for chunk in chunks:
            parts = [predictions for of_one in params for _, predictions in one_model(of_one, iter([chunk]))]
            yield chunk, self.task.average(parts, chunk.examples)


def token_places(batch: Batch, examples: Examples) -> tuple[np.ndarray, np.ndarray]:
    """Return the positions of the real tokens in a batch of B rows of T, counted in B * T, and in `examples.tokens.ids`.

    They follow from arrays that every process has completely: rows of other processes have no tokens here, but predictions.
    """
    real = batch["example_mask"]
    row_length, lengths = batch["segment_ids"].shape[1], lengths_of(batch)[real]
    starts = np.nonzero(real)[0] * row_length + batch["cls_positions"][real]
    within = np.arange(lengths.sum()) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    sources = examples.tokens.begins[batch["example_ids"][real]]
    return np.repeat(starts, lengths) + within, np.repeat(sources, lengths) + within


def average_metrics(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Return the metrics of a single set; of several, the mean of each number, with the metrics of each set in `sets`."""
    if len(results) == 1:
        return next(iter(results.values()))
    names = dict.fromkeys(name for part in results.values() for name, value in part.items() if isinstance(value, float))
    means = {name: float(np.mean([value_of(part, name) for part in results.values()])) for name in names}
    return means | {"sets": results}


def numbers_of(metrics: dict[str, Any]) -> dict[str, Any]:
    """Return the scalar metrics, those of each set too, for a line of metrics and for a checkpoint.

    Metrics per label and per pair of labels are left out, because their size grows with the number of labels.
    """
    numbers: dict[str, Any] = {name: value for name, value in metrics.items() if isinstance(value, int | float)}
    if "sets" in metrics:
        numbers["sets"] = {name: numbers_of(part) for name, part in metrics["sets"].items()}
    return numbers


def with_details(numbers: dict[str, Any], metrics: dict[str, Any]) -> dict[str, Any]:
    """Return `numbers` with the other entries of `metrics`, which belong to the same parameters."""
    whole = metrics | numbers
    if "sets" in numbers:
        whole["sets"] = {name: metrics["sets"][name] | part for name, part in numbers["sets"].items()}
    return whole


@dataclass(frozen=True)
class Calibrated:
    """A model as it was tuned."""

    params: Params
    task: Task
    evaluation: Evaluation
    """The evaluation of the examples that it was tuned on."""
    record: dict[str, Any]
    """What was chosen, for `summary.json`: `calibration`, `threshold` or `thresholds`, `abstaining`."""


def calibrate_model(
    predictor: Predictor,
    params: Params,
    task: Task,
    sets: Mapping[str, Examples],
    tuning: Tuning,
    evaluation: Evaluation | None = None,
) -> Calibrated:
    """Tune a model on one or several sets of examples.

    Args:
      predictor: the model's predictor.
      params: its parameters.
      task: its task.
      sets: the examples by the names of the sets, not trained on.
      tuning: what is chosen.
      evaluation: the evaluation of these parameters on these sets, if there is one.
    """
    base, record = task.untuned(), dict[str, Any]()
    evaluation = evaluation or predictor.evaluate(params, sets, base)
    if hindrance := _hindrance(base, evaluation, len(sets)):
        record = {"calibration": {"note": f"{hindrance}: nothing was changed"}} if tuning.anything else {}
        return _said(Calibrated(params, base.learned(evaluation.metrics), evaluation, record), tuning)
    if tuning.temperature:
        params, base, evaluation, record["calibration"] = _calibrate(predictor, params, base, sets, evaluation)
    learned = base.learned(evaluation.metrics)
    decided, chosen = learned.tuned(list(evaluation.outcomes.values()), tuning)
    outcomes = {name: Outcome(decided, o.examples, o.predictions) for name, o in evaluation.outcomes.items()}
    metrics = evaluation.metrics
    if tuning.threshold is not None or tuning.per_label:
        metrics = average_metrics({name: outcome.metrics for name, outcome in outcomes.items()})
    return _said(Calibrated(params, decided, Evaluation(metrics, outcomes), record | chosen), tuning)


def _hindrance(task: Task, evaluation: Evaluation, sets: int) -> str | None:
    """Return the reason why nothing can be chosen by this evaluation of so many sets; None if there is none."""
    if len(evaluation.outcomes) < sets:
        return "too many held-out rows and labels to tune on"
    outputs = [outcome.predictions for outcome in evaluation.outcomes.values()]
    if task.last_layer is not None and not all(np.isfinite(part).all() for part in outputs):
        return "the model has diverged: some of its outputs on these rows are no finite numbers"
    return None


def _said(tuned: Calibrated, tuning: Tuning) -> Calibrated:
    """Warn of what was asked for and could not be done."""
    for part in ("calibration", "threshold") if tuning.anything else ():
        if note := tuned.record.get(part, {}).get("note"):
            logger.warning("%s: %s", part, note)
    return tuned


def _calibrate(
    predictor: Predictor, params: Params, task: Task, sets: Mapping[str, Examples], before: Evaluation
) -> tuple[Params, Task, Evaluation, dict[str, Any]]:
    """Fold the best temperature into the last layer, unless the loss or the calibration error would be larger."""
    assert task.last_layer is not None
    outcomes = list(before.outcomes.values())
    record: dict[str, Any] = {
        "temperature": 1.0,
        "fitted_on": list(sets),
        "examples": sum(map(len, outcomes)),
        "before": _compared(before),
        "after": _compared(before),
    }
    temperature = fit_temperature(task, outcomes)
    if temperature is None:
        record["note"] = "the loss has no smallest value on these rows (all are right, or none is): nothing was changed"
    else:
        folded, scaled = fold_temperature(params, task.last_layer, temperature), task.at_temperature(temperature)
        after = predictor.evaluate(folded, sets, scaled)
        record["after"] = _compared(after)
        if not any(record["after"][name] > record["before"][name] for name in _COMPARED_METRICS[:2]):
            return folded, scaled, after, record | {"temperature": temperature}
        record["note"] = (
            f"temperature {temperature:.4f} has the smallest loss, but not the smaller calibration error and loss "
            "(`after`): nothing was changed"
        )
    return params, task, before, record


def _compared(evaluation: Evaluation) -> dict[str, float]:
    return {name: evaluation.metrics[name] for name in _COMPARED_METRICS}


def fit_temperature(task: Task, outcomes: Sequence[Outcome]) -> float | None:
    """Return the temperature with the smallest mean loss over all examples (Guo et al. 2017); None if none is the smallest.

    The loss is convex in 1 / temperature, so it has one minimum; the search is over the logarithm, in float64.
    """
    weights = np.array([len(outcome) for outcome in outcomes])

    def loss(logarithm: float) -> float:
        temperature = math.exp(logarithm)
        losses = [task.loss_at(temperature, outcome.predictions, outcome.examples) for outcome in outcomes]
        return float(np.average(losses, weights=weights))

    limit = math.log(_LARGEST_TEMPERATURE)
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x) if found.fun < min(loss(-limit), loss(limit)) else None
