"""The formats of an exported folder besides Hugging Face's own: which models have them, and what they add to the folder."""

from __future__ import annotations

import os
from typing import Literal, get_args

from etils import epath

from jaxbert.bucket import fetched
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.options import Quantize
from jaxbert.runs.folder import RunFolder
from jaxbert.serve.onnx_export import check_head, require_onnx, write_graphs
from jaxbert.serve.triton import check_triton, write_repository
from jaxbert.tasks import task_of_model
from jaxbert.tasks.base import Task

Format = Literal["huggingface", "onnx", "triton"]
"""What an exported folder holds: weights alone, also ONNX graphs, or also a model repository for Triton."""


def check_format(format: str, quantize: str | None, *, packed: bool) -> None:
    """Check that these choices of an export go together; messages name them as keys.

    Raises:
      UserError: if they do not, or one of them is unknown.
    """
    for name, value, known in (
        ("format", format, get_args(Format)),
        ("quantize", quantize, (None, *get_args(Quantize))),
    ):
        if value not in known:
            raise UserError(f"{name} is {value!r}, but it must be one of {', '.join(map(repr, known))}")
    if format == "huggingface" and quantize is not None:
        raise UserError("quantize is the number format of graphs: set format to onnx or triton, or leave quantize out")
    if format != "onnx" and not packed:
        raise UserError("packed chooses among the graphs of ONNX: set format to onnx, or leave packed out")


def check_graphs(task: Task, format: Format) -> None:
    """Check, before anything is written, that a model of this task can have the format.

    Raises:
      UserError: if onnx is not installed, or the task has no such graph.
    """
    if format == "huggingface":
        return
    require_onnx("onnx")
    check_head(task.head, task.name)
    if format == "triton":
        check_triton(task)


def check_run(run: str | os.PathLike[str], format: Format) -> None:
    """Check that a run can be exported in the format; `export_run` checks all other things.

    Raises:
      UserError: as `check_graphs`.
    """
    start = RunFolder(run).start
    if format != "huggingface" and (start / "config.json").exists():
        config = read_config(fetched(start))
        check_graphs(task_of_model(config).reopen(config), format)


def write_format(folder: epath.Path, format: Format, quantize: Quantize | None, *, packed: bool) -> None:
    """Add to an exported folder what its format holds besides the weights.

    Args:
      folder: the folder, on this machine or in a bucket.
      format: the format; nothing is added for `huggingface`.
      quantize: the number format of further ONNX graphs, or of Triton's graph.
      packed: whether to write packed ONNX graphs too.

    Raises:
      UserError: if a file cannot be written, or the model is too large for a graph.
    """
    if format == "onnx":
        write_graphs(folder, quantize, packed=packed)
    elif format == "triton":
        write_repository(folder, quantize)
