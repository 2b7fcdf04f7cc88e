"""Choose a model's temperature and thresholds on held-out examples, after training.

The temperature is folded into the last layer, so that every program that loads the weights gives calibrated probabilities.
The task chooses thresholds and keeps conformity scores (`tasks.decision`).
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize_scalar

from jaxbert.data.examples import Examples
from jaxbert.models.functional import Params
from jaxbert.runs.export import fold_temperature
from jaxbert.tasks.base import Evaluation, Outcome, Task
from jaxbert.tasks.decision import Tuning
from jaxbert.train.evaluate import Predictor, average_metrics

logger = logging.getLogger("jaxbert")

_MOST = 100.0
"""The largest temperature, and 1 over the smallest one: if the loss is smallest there, it has no minimum."""
_COMPARED = ("loss", "calibration_error", "brier")


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
        if not any(record["after"][name] > record["before"][name] for name in _COMPARED[:2]):
            return folded, scaled, after, record | {"temperature": temperature}
        record["note"] = (
            f"temperature {temperature:.4f} has the smallest loss, but not the smaller calibration error and loss "
            "(`after`): nothing was changed"
        )
    return params, task, before, record


def _compared(evaluation: Evaluation) -> dict[str, float]:
    return {name: evaluation.metrics[name] for name in _COMPARED}


def fit_temperature(task: Task, outcomes: Sequence[Outcome]) -> float | None:
    """Return the temperature with the smallest mean loss over all examples (Guo et al. 2017); None if none is the smallest.

    The loss is convex in 1 / temperature, so it has one minimum; the search is over the logarithm, in float64.
    """
    weights = np.array([len(outcome) for outcome in outcomes])

    def loss(logarithm: float) -> float:
        temperature = math.exp(logarithm)
        losses = [task.loss_at(temperature, outcome.predictions, outcome.examples) for outcome in outcomes]
        return float(np.average(losses, weights=weights))

    limit = math.log(_MOST)
    found = minimize_scalar(loss, bounds=(-limit, limit), method="bounded", options={"xatol": 1e-6})
    return math.exp(found.x) if found.fun < min(loss(-limit), loss(limit)) else None
