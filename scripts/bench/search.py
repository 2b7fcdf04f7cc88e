"""Measure `jaxbert search`: what it adds to its trials, kills, methods beside each other.

  python scripts/bench/search.py study   --model FOLDER --train train.tsv --validation dev.tsv --output study.json
  python scripts/bench/search.py kills   ...    kill the study several times at random: are the trials the same?
  python scripts/bench/search.py methods ...    the best of tpe, random and asha over several studies

All have the space of `SPACE` over the first `--rows` rows, without early stopping but in asha. `peer_search.py` does the
same study with the Hugging Face Trainer. A study that was interrupted goes on: `--folder` keeps it.
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_TICK, _LONGEST_TICK = 0.02, 0.5
SPACE = {
    "optimizer.learning_rate": "log:1e-5:1e-3",
    "optimizer.weight_decay": "lin:0:0.1",
    "optimizer.warmup_ratio": "lin:0:0.3",
    "model.dropout": "lin:0.01:0.3",
}


class RunningClock:
    """Seconds for which this process ran; those for which it was stopped (SIGSTOP, a machine that slept) are left out."""

    def __init__(self) -> None:
        self.seconds = 0.0
        threading.Thread(target=self._tick, daemon=True).start()

    def _tick(self) -> None:
        last = time.perf_counter()
        while True:
            time.sleep(_TICK)
            now = time.perf_counter()
            self.seconds += min(now - last, _LONGEST_TICK)
            last = now


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the options that all modes share."""
    parser = argparse.ArgumentParser(description="Measure a search.", allow_abbrev=False)
    parser.add_argument("mode", choices=["study", "kills", "methods"])
    parser.add_argument("--model", required=True)
    parser.add_argument("--train", type=Path, required=True)
    parser.add_argument("--validation", type=Path, required=True)
    parser.add_argument("--text", default="sentence")
    parser.add_argument("--rows", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--studies", type=int, default=5)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--folder", type=Path, required=True, help="where the studies are kept")
    parser.add_argument("--output", type=Path, required=True)
    return parser


def arguments(values: argparse.Namespace, folder: Path, *flags: str) -> list[str]:
    """Return the command line of a study, without `jaxbert`."""
    keys = {
        "model.name_or_path": values.model,
        "data.train": values.train,
        "data.validation": values.validation,
        "data.text": values.text,
        "data.quoting": "none",
        "data.max_length": 128,
        "data.limit": values.rows,
        "train.epochs": values.epochs,
        "train.output_dir": folder,
        "precision.compute": "float32",
        "search.trials": values.trials,
        "search.stopping": "none",
    }
    spaces = [word for key, text in SPACE.items() for word in ("--search.space", f"{key}={text}")]
    return ["search", *(f"--{key}={value}" for key, value in keys.items()), *spaces, *flags]


def summaries(folder: Path) -> list[dict[str, Any]]:
    """Return the summaries of all trials, in their order."""
    return [json.loads(path.read_text()) for path in sorted(folder.glob("trials/*/summary.json"))]


def study(values: argparse.Namespace) -> dict[str, Any]:
    """Run a study in this process, or go on with it, and time each trial's own training, evaluation and export.

    The overhead is all other time from the beginning of the second trial to the end of the search: values, storage, opening
    a run, results and the page. The first trial is left out, because it compiles. SIGTERM ends it; the next start goes on.
    """
    from jaxbert.cli.main import main
    from jaxbert.studies import study as studies
    from jaxbert.train import trainer

    own, cpu, begins, clock = list[float](), list[float](), list[float](), RunningClock()
    train_run, run_one = trainer.train_run, studies._Search._run

    def timed(*given: Any, **named: Any) -> Any:
        begin, used = clock.seconds, time.process_time()
        finished = train_run(*given, **named)
        own.append(clock.seconds - begin)
        cpu.append(time.process_time() - used)
        return finished

    def begun(*given: Any) -> None:
        begins.append(clock.seconds)
        run_one(*given)

    trainer.train_run, studies._Search._run = timed, begun  # type: ignore[method-assign]
    folder = values.folder / "study"
    code = main(arguments(values, folder))
    assert code in (0, 75)
    whole = clock.seconds - begins[1]
    told = summaries(folder)
    counted = own[1:]
    if code:  # the trial that was interrupted has no end
        whole -= clock.seconds - begins[-1]
    return {
        "trials": len(told),
        "trials_of_this_start": len(own),
        "seconds_of_trials": round(sum(counted), 2),
        "processor_seconds_of_trials": round(sum(cpu[1:]), 2),
        "overhead": (whole - sum(counted)) / sum(counted),
        "compilations": [summary["compilations"] for summary in told],
        "compile_seconds": told[0]["compile_seconds"],
        "examples_per_second": statistics.median(summary["examples_per_second"] for summary in told[1:]),
        "best": json.loads((folder / "search.json").read_text())["best"],
        "complete": code == 0,
    }


def trials_of(folder: Path) -> list[dict[str, Any]]:
    """Return the trials of a study without their times."""
    found = json.loads((folder / "search.json").read_text())["trials"]
    return [{key: value for key, value in trial.items() if key != "seconds"} for trial in found]


def run(values: argparse.Namespace, folder: Path, *flags: str) -> subprocess.Popen[bytes]:
    """Start a search as a process."""
    words = [sys.executable, "-m", "jaxbert", *arguments(values, folder, *flags)]
    return subprocess.Popen(words, stderr=subprocess.DEVNULL)


def kills(values: argparse.Namespace) -> dict[str, Any]:
    """Kill a study at random moments, and compare its trials with those of one that was left alone."""
    alone, killed = values.folder / "alone", values.folder / "killed"
    begin = time.monotonic()
    assert run(values, alone).wait() == 0
    seconds, rng, ends = time.monotonic() - begin, random.Random(0), []
    for _ in range(values.kills):
        process = run(values, killed)
        try:
            process.wait(timeout=rng.uniform(0.3, 1) * seconds / max(values.kills - 1, 1))
            ends.append("complete")
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            ends.append(f"killed, {len(summaries(killed))} trials complete")
    assert run(values, killed).wait() == 0
    return {"seconds": round(seconds, 1), "ends": ends, "same": trials_of(alone) == trials_of(killed)}


def methods(values: argparse.Namespace) -> dict[str, Any]:
    """Compare methods over several studies, each with its own seed of the values that are tried."""
    found: dict[str, list[float]] = {}
    steps: dict[str, list[int]] = {}
    for seed in range(values.studies):
        for method in ("tpe", "random", "asha"):
            folder = values.folder / f"{method}-{seed}"
            flags = (f"--search.method={method}", f"--search.seed={seed}")
            assert run(values, folder, *flags).wait() == 0
            found.setdefault(method, []).append(json.loads((folder / "search.json").read_text())["best"]["value"])
            steps.setdefault(method, []).append(sum(summary["steps"] for summary in summaries(folder)))
    means = {method: statistics.mean(values) for method, values in found.items()}
    return {"best": found, "mean": means, "steps": steps}


def main(given: Sequence[str] | None = None) -> None:
    """Run a mode, and add its result to the file, a line of JSON."""
    values = make_parser().parse_args(given)
    values.folder.mkdir(parents=True, exist_ok=True)
    result = {"study": study, "kills": kills, "methods": methods}[values.mode](values)
    with values.output.open("a", encoding="utf-8") as file:
        file.write(json.dumps(result) + "\n")
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
