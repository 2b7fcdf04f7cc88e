"""One benchmark: times training and prediction, and collects the numbers.

Prediction runs as in evaluation, on the examples of the timed training steps.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import numpy as np

from jaxbert.bench.options import BenchOptions
from jaxbert.bench.training import TRAINING_NUMBERS, bench_rates, time_training
from jaxbert.data.examples import Examples
from jaxbert.models.attention.select import backend_of
from jaxbert.models.functional import Params, init_params
from jaxbert.plan.bounds import costs
from jaxbert.train.programs import compute_dtype
from jaxbert.train.run import Run
from jaxbert.train.sharding import param_shardings
from jaxbert.train.speed import Speed
from jaxbert.versions import installed

PREDICTION_NUMBERS = (
    *("predict_examples", "predict_examples_per_second", "predict_real_tokens_per_second"),
    *("predict_row_length", "predict_compile_seconds"),
)
"""The keys of a result that are None without prediction."""
_LEAST_SECONDS = 0.5
_MOST_PASSES = 20

logger = logging.getLogger("jaxbert")


def run_bench(
    run: Run, lengths: str, options: BenchOptions, say: Callable[[str], None] = lambda _: None
) -> dict[str, Any]:
    """Run what `options` ask for; return the numbers, ready for JSON. A number is None if it is not known or was not timed.

    Args:
      run: the computation and its examples.
      lengths: the source of the examples' lengths.
      options: the settings of the benchmark.
      say: a function that receives messages about the progress.
    """
    program = run.program
    result = (
        _describe(run, lengths)
        | {"host_load": _load()}
        | dict.fromkeys((*TRAINING_NUMBERS, *PREDICTION_NUMBERS, "predict_to_train_ratio"))
    )
    if options.mode == "predict":
        result |= bench_rates(Speed(program.model.config), options)
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
    """Return the number of processes that wanted a core in the last minute; warn if it is more than there are cores."""
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
        "attention": backend_of(program.training_call.attention, program.attention_request(layout.row_length)),
        "row_length": layout.row_length,
        "row_counts": list(layout.row_counts),
        "slots": layout.slots,
        "tuned": program.tuned.describe() or None,
        "versions": installed(("jax", "jaxlib", "flax", "optax")),
    }


def time_predictions(run: Run, params: Params, steps: int) -> dict[str, Any]:
    """Predict the examples of `steps` training steps, repeatedly for at least half a second.

    A first pass, which compiles every shape, is not timed.
    """
    examples, predictor = examples_of_steps(run, steps), run.predictor
    tokens = examples.tokens
    predictor(params, examples)
    passes, begin = 0, time.perf_counter()
    while True:
        predictor(params, examples)
        passes += 1
        seconds = time.perf_counter() - begin
        if seconds >= _LEAST_SECONDS or passes == _MOST_PASSES:
            break
    layout = predictor.layout(examples)
    return {
        "predict_examples": len(tokens) * passes,
        "predict_examples_per_second": round(len(tokens) * passes / seconds, 3),
        "predict_real_tokens_per_second": round(int(tokens.lengths.sum()) * passes / seconds, 3),
        "predict_row_length": layout.row_length,
        "predict_compile_seconds": round(predictor.step.compile_seconds, 2),
    }


def examples_of_steps(run: Run, steps: int) -> Examples:
    """Return the examples of the first training steps, each once, in the order of the data."""
    batches = itertools.islice(run.batches_from(0), steps)
    chosen = np.unique(np.concatenate([batch["example_ids"][batch["example_mask"]] for batch in batches]))
    return Examples(run.inputs.train.tokens.take(chosen))
