"""Write the ONNX graphs of an exported model: which files there are, what they hold besides weights, and for which models.

A folder with graphs is an exported folder (`config.json`, tokenizer, weights) with the folder `onnx`, as optimum and
transformers.js expect it. `onnx_graph` makes a graph, `onnx_engine` answers with it. Nothing here imports onnx before a
graph is made: it is an extra.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from etils import epath
from flax import nnx
from transformers import BertConfig

from jaxbert.bucket import fetched, staged
from jaxbert.errors import UserError, foreign_errors
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.names import to_torch
from jaxbert.models.functional import Params, make_model
from jaxbert.models.heads import (
    MultipleChoiceHead,
    PromptHead,
    QuestionAnsweringHead,
    SequenceClassificationHead,
    TokenClassificationHead,
)
from jaxbert.options import Quantize
from jaxbert.processes import is_main, wait_for_all
from jaxbert.runs.export import GRAPHS, graph_file
from jaxbert.tasks import label_names, settings_of, task_of_model
from jaxbert.tasks.base import Task
from jaxbert.versions import installed

if TYPE_CHECKING:
    from jaxbert.serve.onnx_graph import Form

_HEADS = (SequenceClassificationHead, MultipleChoiceHead, TokenClassificationHead, QuestionAnsweringHead)
"""The heads that have a graph."""


def require_onnx(library: str) -> None:
    """Check that a library of the extra is installed.

    Raises:
      UserError: if it is not.
    """
    if find_spec(library) is None:
        raise UserError(f"ONNX needs the package {library}: pip install 'jaxbert[onnx]'")


def check_head(head: type[nnx.Module], task: str) -> None:
    """Check that a head has a graph; the message names its task.

    Raises:
      UserError: if it has none.
    """
    if head is PromptHead:
        raise UserError(
            "a model with a prompt has no ONNX graph: fine-tune with train.method plain or contrastive for one"
        )
    if head not in _HEADS:
        raise UserError(
            f"a model of task {task} has no ONNX graph, only models that classify texts or tokens, score, choose or answer "
            "have one: fine-tune it for such a task"
        )


def write_graphs(folder: epath.Path, quantize: Quantize | None = None, *, packed: bool = True) -> list[epath.Path]:
    """Write the graphs of an exported folder: in float32, and also in another number format if `quantize` names one.

    Args:
      folder: the folder, on this machine or in a bucket.
      quantize: the other number format.
      packed: whether to write the packed graphs too.

    Returns:
      The files.

    Raises:
      UserError: if onnx is not installed, the model has no graph, or a file cannot be written.
    """
    require_onnx("onnx")
    forms = itertools.product((False, True) if packed else (False,), dict.fromkeys((None, quantize)))
    files = {graph_file(packed=form, quantize=number): (form, number) for form, number in forms}
    if is_main():
        local = fetched(folder)
        config = read_config(local)
        task = task_of_model(config).reopen(config)
        check_head(task.head, task.name)
        tensors = to_torch(load_params(local, make_model(task.head, config))[0])
        with staged(folder / GRAPHS) as scratch:
            for name, (form, number) in files.items():
                write_bytes_whole(
                    scratch / name, serialized_graph(task, config, tensors, "packed" if form else "padded", number)
                )
    wait_for_all("graphs are written")
    return [folder / GRAPHS / name for name in files]


def packed_graph(task: Task, config: BertConfig, params: Params, quantize: Quantize | None) -> bytes:
    """Return the packed graph of a model in memory.

    Raises:
      UserError: if onnx is not installed, or the model has no graph.
    """
    require_onnx("onnx")
    check_head(task.head, task.name)
    return serialized_graph(task, config, to_torch(params), "packed", quantize)


def graph_metadata(task: str, config: BertConfig) -> dict[str, str]:
    """Return the texts that a graph holds besides its weights: what a program needs to read the outputs.

    `id2label` and `jaxbert` are those of `config.json` as JSON: windows, thresholds and temperature are in the second.
    """
    return {
        "task": task,
        "id2label": json.dumps(dict(enumerate(label_names(config))), ensure_ascii=False),
        "jaxbert": json.dumps(settings_of(config), sort_keys=True, ensure_ascii=False),
        "jaxbert_version": str(installed("jaxbert")),
    }


def serialized_graph(
    task: Task, config: BertConfig, tensors: Mapping[str, Any], form: Form, quantize: Quantize | None
) -> bytes:
    """Return a graph as the content of a file; `form` and the rest are those of `make_graph`."""
    from jaxbert.serve.onnx_graph import make_graph

    metadata = graph_metadata(task.name, config)
    return make_graph(task.head, config, tensors, form=form, quantize=quantize, metadata=metadata).SerializeToString()


def write_bytes_whole(path: Path, content: bytes) -> None:
    """Write a file completely or not at all."""
    with foreign_errors(f"{path} cannot be written"):
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(path.name + ".tmp")
        part.write_bytes(content)
        part.replace(path)
