"""Time prediction as evaluation runs it, on the examples that the timed steps train on."""

from __future__ import annotations

import itertools
import time
from typing import Any

import numpy as np

from jaxbert.bench.setup import endless_batches
from jaxbert.data.examples import Examples
from jaxbert.models.functional import Params
from jaxbert.train.run import Run

NUMBERS = (
    *("predict_examples", "predict_examples_per_second", "predict_real_tokens_per_second"),
    *("predict_row_length", "predict_compile_seconds"),
)
"""What is None in a result without prediction."""
_LEAST_SECONDS = 0.5
_MOST_PASSES = 20


def time_predictions(run: Run, params: Params, steps: int) -> dict[str, Any]:
    """Predict the examples of so many training steps, over and over for half a second at least.

    A first pass, which compiles every shape, is not on the clock.
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
    """Gather the examples of the first training steps, each once, in the order of the data."""
    batches = itertools.islice(endless_batches(run), steps)
    chosen = np.unique(np.concatenate([batch["example_ids"][batch["example_mask"]] for batch in batches]))
    return Examples(run.inputs.train.tokens.take(chosen))
