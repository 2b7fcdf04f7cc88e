"""Times every combination of some settings, each in its own process.

With one process per combination, memory and process-wide settings start afresh, and a process that the system kills costs
only one row. Settings come here validated, as text. Nothing here imports JAX, because the combinations need its devices.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jaxbert
from jaxbert.errors import UserError

Axes = dict[str, list[str]]
"""Key -> its values, as on the command line."""
Row = dict[str, Any]
"""`settings`, with either `result` or `error`."""
_HOME = Path(jaxbert.__file__).resolve().parents[1]
_LONGEST_ERROR = 200
_INTERRUPTED = 130


def parse_axes(specs: Sequence[str]) -> Axes:
    """Parse `KEY=VALUE,VALUE,...`, one spec per key; commas within brackets belong to a value.

    Raises:
      UserError: for a spec without key or values, and for a key or a value that occurs twice.
    """
    axes: Axes = {}
    for spec in specs:
        key, separator, text = spec.partition("=")
        values = _split(text)
        if not separator or not key or not all(values):
            raise UserError(f"--sweep {spec} is not understood: give KEY=VALUE,VALUE, such as train.batch_size=32,256")
        if key in axes:
            raise UserError(f"--sweep {key} is given twice: name all its values in one")
        if len(set(values)) < len(values):
            raise UserError(f"--sweep {spec} names a value twice")
        axes[key] = values
    return axes


def _split(text: str) -> list[str]:
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts]


def combinations(axes: Axes) -> list[dict[str, str]]:
    """Return every combination; the last key changes fastest."""
    return [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]


def run_row(settings: dict[str, str], config: dict[str, Any], flags: Sequence[str]) -> Row:
    """Time one combination in a new process; a failure becomes the row's error.

    Args:
      settings: the settings that the row shows.
      config: the whole configuration, by section and key.
      flags: flags of `jaxbert bench` besides the configuration.

    Raises:
      KeyboardInterrupt: if the process was interrupted.
    """
    with tempfile.TemporaryDirectory(prefix="jaxbert-sweep-") as folder:
        source, output = Path(folder, "config.yaml"), Path(folder, "result.json")
        source.write_text(json.dumps(config), "utf-8")
        command = [sys.executable, "-m", "jaxbert", "bench", "--config", str(source), *flags, "--output", str(output)]
        code, said = _run(command)
        if code == _INTERRUPTED or code == -signal.SIGINT:
            raise KeyboardInterrupt
        if code:
            return {"settings": settings, "error": _error(code, said)}
        return {"settings": settings, "result": json.loads(output.read_text("utf-8"))}


def _run(command: Sequence[str]) -> tuple[int, str]:
    paths = [str(_HOME), *filter(None, [os.environ.get("PYTHONPATH")])]  # the same jaxbert as this one, in any folder
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as process:
        try:
            _, said = process.communicate()
        except BaseException:
            process.kill()
            raise
    return process.returncode, said


def _error(code: int, said: str) -> str:
    """Return one line: the command's own error message, or else the last line of its output."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or [""]
    own = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}" + (": most likely out of memory" if name == "SIGKILL" else "")
    return (own or lines)[-1][:_LONGEST_ERROR] or f"ended with exit code {code}"


def best_row(rows: Sequence[Row], metric: str) -> int | None:
    """Return the index of the row with the highest value of the metric, or None if no row has one."""
    values = [(row["result"][metric], -i) for i, row in enumerate(rows) if "result" in row and row["result"][metric]]
    return -max(values)[1] if values else None


def sweep_result(axes: Axes, rows: Sequence[Row], metric: str) -> dict[str, Any]:
    """Return the complete result of a sweep, ready for JSON."""
    best = best_row(rows, metric)
    return {
        "sweep": axes,
        "metric": metric,
        "combinations": len(combinations(axes)),
        "best": None if best is None else rows[best]["settings"],
        "rows": list(rows),
    }


def describe(settings: dict[str, str]) -> str:
    """Return a combination as one line of text."""
    return ", ".join(f"{key}={value}" for key, value in settings.items())
