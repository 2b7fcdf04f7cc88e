"""One benchmark: time training and prediction, and bring the numbers together."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp

from jaxbert.bench.options import BenchOptions
from jaxbert.bench.predicting import NUMBERS as PREDICTION
from jaxbert.bench.predicting import time_predictions
from jaxbert.bench.training import NUMBERS as TRAINING
from jaxbert.bench.training import rates, time_training
from jaxbert.models.attention.select import backend_of
from jaxbert.models.functional import init_params
from jaxbert.plan.bounds import costs
from jaxbert.train.programs import compute_dtype
from jaxbert.train.run import Run
from jaxbert.train.sharding import param_shardings
from jaxbert.train.speed import Speed
from jaxbert.versions import installed

logger = logging.getLogger("jaxbert")


def run_bench(
    run: Run, lengths: str, options: BenchOptions, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Time what `options` ask for and return the numbers, ready for JSON; None where one is not known or was not timed.

    Args:
      run: the computation and its examples.
      lengths: where the lengths of the examples come from.
      options: what is timed.
      say: is told what goes on.
    """
    program = run.program
    result = (
        _describe(run, lengths)
        | {"host_load": _load()}
        | dict.fromkeys((*TRAINING, *PREDICTION, "predict_to_train_ratio"))
    )
    if options.mode == "predict":
        result |= rates(Speed(program.model.config), options)
        shardings = param_shardings(program.mesh, program.model.abstract_params)
        params = init_params(program.model, program.base_key, shardings)
    else:
        numbers, params = time_training(run, options, say)
        result |= numbers
    if options.mode != "train":
        say("timing prediction")
        result |= time_predictions(run, params, options.steps)
    trained, predicted = result["examples_per_second"], result["predict_examples_per_second"]
    if trained and predicted:
        result["predict_to_train_ratio"] = round(predicted / trained, 3)
    return result | costs(options.cost_per_hour, trained, result["real_tokens_per_second"], predicted)


def _load() -> float | None:
    """Return how many processes wanted a core in the last minute, and say so if they were more than there are."""
    if not hasattr(os, "getloadavg"):
        return None
    load, cores = os.getloadavg()[0], os.cpu_count() or 1
    if load > cores:
        logger.warning("other processes keep this machine busy (load %.1f on %d cores): expect noise", load, cores)
    return round(load, 2)


def _describe(run: Run, lengths: str) -> dict[str, Any]:
    program, layout = run.program, run.layout
    config = program.config
    return {
        "model": config.model.name_or_path,
        "parameters": program.parameters,
        "lengths": lengths,
        "batch_size": config.train.batch_size,
        "packing": config.data.packing,
        "precision": jnp.dtype(compute_dtype(config.precision, program.mesh)).name,
        "attention": backend_of(program.call.attention, program.attention_request(layout.row_length)),
        "row_length": layout.row_length,
        "row_counts": list(layout.row_counts),
        "slots": layout.slots,
        "versions": installed(("jax", "jaxlib", "flax", "optax")),
    }
