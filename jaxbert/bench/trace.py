"""A trace of the timed steps for TensorBoard and Perfetto, written only if a folder is given."""

from __future__ import annotations

import os
from pathlib import Path

import jax

from jaxbert.errors import UserError


class Trace:
    """Starts and stops JAX's profiler; without a folder it does nothing."""

    def __init__(self, folder: str | None) -> None:
        self._folder = folder
        self._running = False

    def start(self) -> None:
        """Start the trace, unless it runs already; it leaves Python calls out, which would slow the host down."""
        if self._folder is None or self._running:
            return
        options = jax.profiler.ProfileOptions()
        options.python_tracer_level = 0
        jax.profiler.start_trace(Path(self._folder).expanduser(), profiler_options=options)
        self._running = True

    def stop(self) -> None:
        """Stop the trace and write the files."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False

    def step(self, number: int) -> jax.profiler.StepTraceAnnotation:
        """Mark a step, as a context manager; it costs about a microsecond without a trace."""
        return jax.profiler.StepTraceAnnotation("train", step_num=number)


def prepare_folder(folder: str) -> None:
    """Make the folder of a trace.

    Raises:
      UserError: if it cannot be made or written.
    """
    path = Path(folder).expanduser()
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--profile {folder} cannot be written: {error.strerror}") from error
    if not os.access(path, os.W_OK):
        raise UserError(f"--profile {folder} cannot be written: no permission")


def trace_file(folder: str) -> Path | None:
    """Return the path of the newest trace for Perfetto, or None if the profiler wrote none."""
    files = Path(folder).expanduser().rglob("*.trace.json.gz")
    return max(files, key=lambda path: path.stat().st_mtime, default=None)
