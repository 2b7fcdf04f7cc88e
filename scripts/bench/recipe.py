"""Shared by peer.py, varlen.py and legacy.py: the options of a run, its clock and its result. Needs at most NumPy."""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

VOCABULARY = 30_522
"""Vocabulary size of a new model without a vocabulary file: that of uncased BERT."""


def make_parser(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options that all scripts share."""
    parser = argparse.ArgumentParser(description=description, allow_abbrev=False)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model", help="a model folder, or a Hub name that is cached")
    model.add_argument("--new-model", metavar="LAYERS,WIDTH,HEADS,FF", help="a new model; needs --vocab or --lengths")
    parser.add_argument("--vocab", type=Path, help="vocabulary of a new model, one token a line")
    parser.add_argument("--train", type=Path, help="TSV with raw fields (no quoting)")
    parser.add_argument("--lengths", help="random tokens instead of --train: uniform:LOW:HIGH, fixed:N, sst2")
    parser.add_argument("--validation", type=Path, help="evaluated after training, off the clock")
    parser.add_argument("--test", type=Path)
    parser.add_argument("--text", default="text", help="column of the text")
    parser.add_argument("--label", default="label", help="column of the label: names or integers")
    parser.add_argument("--columns", help="a,b: column names of files that have no header line")
    parser.add_argument("--limit", type=int, help="take the first N training rows only")
    parser.add_argument("--max-length", type=int, default=128)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--eval-batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--max-steps", type=int, help="stop after this many steps, whatever --epochs says")
    parser.add_argument("--seconds", type=float, help="stop once so many seconds are timed, if steps remain")
    parser.add_argument("--learning-rate", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], default="float32")
    parser.add_argument("--skip-steps", type=int, default=5, help="first steps that are not timed, one at least")
    parser.add_argument("--skip-seconds", type=float, default=10.0, help="...or fewer, once they took so long")
    parser.add_argument("--output", type=Path, required=True, help="file for the JSON")
    return parser


def check(parser: argparse.ArgumentParser, values: argparse.Namespace) -> None:
    """Exit with an error for options that contradict each other, and for missing files."""
    if (values.train is None) == (values.lengths is None):
        parser.error("give --train or --lengths")
    if values.lengths and (values.validation or values.test):
        parser.error("--lengths has no examples to evaluate: leave out --validation and --test")
    if values.lengths is None and (values.new_model is None) != (values.vocab is None):
        parser.error("--new-model and --vocab go together")
    for name in ("train", "validation", "test", "vocab"):
        path = getattr(values, name)
        if path is not None and not path.is_file():
            parser.error(f"--{name} {path} does not exist")


def new_model_settings(spec: str) -> dict[str, int]:
    """Return the values of LAYERS,WIDTH,HEADS,FF under the names of a BERT configuration."""
    layers, width, heads, feed_forward = (int(n) for n in spec.split(","))
    return {
        "num_hidden_layers": layers,
        "hidden_size": width,
        "num_attention_heads": heads,
        "intermediate_size": feed_forward,
    }


def zero() -> int:
    """Return 0, the number of programs of a library that compiles nothing."""
    return 0


class Clock:
    """Times the steps after the warmup, waiting for the device at both ends.

    The warmup has `skip_steps`, or fewer if they took `skip_seconds`, but at least one. With `seconds`, at least two steps
    are timed, and a multiple of `cycle`: if the sizes of steps repeat in a cycle, the timing must include all of them.
    A step that compiles counts as warmup too: timing starts again after it.

    Args:
      values: the options of the run.
      wait: a function that waits for the device.
      programs: a function that returns the number of programs compiled so far.
      cycle: the number of steps after which sizes repeat.
    """

    def __init__(
        self,
        values: argparse.Namespace,
        wait: Callable[[], object],
        *,
        programs: Callable[[], int] = zero,
        cycle: int = 1,
    ) -> None:
        self._skip, self._skip_seconds, self._seconds = values.skip_steps, values.skip_seconds, values.seconds
        self._wait, self._programs, self._cycle = wait, programs, cycle
        self._compiled = 0
        self._begin = self._now()
        self._running = False
        self._warmed = 0
        self._tokens: list[Any] = []
        self.steps = self.examples = 0
        self.seconds = 0.0

    def _now(self) -> float:
        self._wait()
        return time.perf_counter()

    def start(self) -> None:
        """Start the warmup."""
        self._begin = self._now()

    def _run(self) -> None:
        """Start the timing."""
        self._compiled = self._programs()
        self._tokens, self.steps, self.examples = [], 0, 0
        self._begin, self._running = self._now(), True

    def step(self, examples: int, tokens: Any) -> bool:
        """Count a step; return whether enough is timed. Tokens may be an array that the device has not computed yet."""
        if not self._running:
            self._warmed += 1
            if self._warmed >= self._skip or time.perf_counter() - self._begin >= self._skip_seconds:
                self._run()
            return False
        if self._programs() != self._compiled:
            self._warmed += self.steps + 1
            self._run()
            return False
        self.steps += 1
        self.examples += examples
        self._tokens.append(tokens)
        whole = self.steps >= 2 and self.steps % self._cycle == 0
        return self._seconds is not None and whole and time.perf_counter() - self._begin >= self._seconds

    def stop(self) -> None:
        """Stop after the last step."""
        self.seconds = self._now() - self._begin

    def result(self) -> dict[str, Any]:
        """Return the rates; None if no step was timed."""
        timed = self.steps and self.seconds
        tokens = sum(int(count) for count in self._tokens)
        return {
            "examples_per_second": round(self.examples / self.seconds, 3) if timed else None,
            "real_tokens_per_second": round(tokens / self.seconds, 3) if timed else None,
            "step_ms": round(1e3 * self.seconds / self.steps, 3) if timed else None,
            "steps_timed": self.steps,
            "seconds_timed": round(self.seconds, 4),
            "steps_skipped": self._warmed,
        }


def settings(values: argparse.Namespace, *more: str) -> dict[str, Any]:
    """Return the settings for a result; of a model's folder only its name, since results are published."""
    names = ("precision", "max_length", "batch_size", "epochs", "learning_rate", "seed", "lengths", *more)
    model = Path(values.model).name if values.model else f"new {values.new_model}"
    return {**{name: getattr(values, name) for name in names}, "model": model}


def versions(*modules: Any) -> dict[str, str]:
    """Return the versions of Python and of some modules."""
    return {**{module.__name__: module.__version__ for module in modules}, "python": platform.python_version()}


def write(values: argparse.Namespace, title: str, result: dict[str, Any]) -> None:
    """Write the JSON, and print one line."""
    values.output.write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    rate = result["examples_per_second"]
    speed = "too few steps to time" if rate is None else f"{rate:.1f} examples/s over {result['steps_timed']} steps"
    accuracy = result["accuracy"]["validation"]
    print(f"{title}: {speed}" + ("" if accuracy is None else f", accuracy {accuracy:.4f}"))
