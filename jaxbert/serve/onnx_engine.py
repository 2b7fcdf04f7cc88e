"""A trained model that onnxruntime computes: the same reading, packing, metrics and answers, with another step.

`open_engine` opens a model with the engine that the options name, `open_served` with the faster one for a server.
`onnx_export` makes the graphs.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from transformers import BertConfig

from jaxbert.bucket import fetched
from jaxbert.config import MeshConfig
from jaxbert.data.batches import HOST_KEYS, Batch
from jaxbert.errors import UserError, foreign_errors
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.families import longest_input
from jaxbert.models.functional import FunctionalModel, make_model
from jaxbert.options import InferenceOptions, Quantize, ServeOptions
from jaxbert.runs.export import GRAPHS, graph_file
from jaxbert.runs.folder import RunFolder
from jaxbert.serve.onnx_export import check_head, graph_metadata, packed_graph, require_onnx
from jaxbert.tasks import COMPUTATION, settings_of
from jaxbert.tasks.base import Task
from jaxbert.tasks.pretraining.task import Pretraining
from jaxbert.tasks.reading import resolve_max_length
from jaxbert.train.evaluate import ComputeSettings, Predictor
from jaxbert.train.inference import TrainedModel, open_task, open_trained
from jaxbert.train.pretrained import model_folder
from jaxbert.train.programs import Compiled
from jaxbert.train.sharding import make_mesh

logger = logging.getLogger("jaxbert")


def open_engine(name: str, options: InferenceOptions | None = None, threads: int | None = None) -> TrainedModel:
    """Open a model with the engine of the options.

    Args:
      name: an exported folder, a run folder or a Hub name.
      options: how it computes its answers.
      threads: threads of onnxruntime; None for one on each processor that this process may use.

    Raises:
      UserError: if there is no such model, its head was not trained, or the engine cannot compute it.
    """
    options = options or InferenceOptions()
    if options.uses_onnx:
        return _open_onnx(name, options, threads)
    return open_trained(name, options)


def open_served(name: str, options: InferenceOptions, serve: ServeOptions) -> TrainedModel:
    """Open a model for a server. `auto` takes onnxruntime on a CPU, where it is faster; if it cannot compute the model, JAX
    does, and a line of the log says why.

    Raises:
      UserError: as `open_engine`.
    """
    free = options.engine == "auto" and options.precision != "bfloat16"
    if not free or serve.explain or serve.devices is not None or jax.default_backend() != "cpu":
        return open_engine(name, options)
    try:
        return _open_onnx(name, options, None)
    except UserError as error:
        trained = open_engine(name, options)  # which raises if the model itself is wrong
        if not isinstance(trained.task, Pretraining):  # a server refuses it
            found = {"source": name, "engine": "jax", "reason": str(error)}
            logger.info("onnxruntime does not compute the model", extra={"fields": found})
        return trained


def is_onnx(model: TrainedModel) -> bool:
    """Return whether onnxruntime computes a model; it then has no parameters and no gradients."""
    return isinstance(model.predictor, OnnxPredictor)


class OnnxStep:
    """Computes the predictions of a packed batch by a packed graph: `(params, batch) -> predictions`, like `Compiled`."""

    def __init__(self, session: Any, task: Task) -> None:
        """Make the step.

        Args:
          session: an `onnxruntime.InferenceSession` of a packed graph.
          task: the task, which makes predictions of the graph's outputs.
        """
        self._session = session
        self._inputs = [each.name for each in session.get_inputs()]
        self._outputs = [each.name for each in session.get_outputs()]
        self._per_token = task.per_token
        self._finish = Compiled(lambda outputs, batch: task.predictions(outputs, batch))

    @property
    def count(self) -> int:
        """The number of shapes so far; for each, a small program makes predictions of the graph's outputs."""
        return self._finish.count

    @property
    def compile_seconds(self) -> float:
        """Seconds of compiling these programs."""
        return self._finish.compile_seconds

    def has(self, batch: Batch) -> bool:
        """Return whether the program for this batch's shapes is compiled."""
        return self._finish.has(batch)

    def __call__(self, params: Any, batch: Batch) -> jax.Array:
        """Return the predictions, [B, S, ...] or [B, T, ...]; `params` are not used, the graph has its own.

        Rows that hold nothing, and the columns after the last token of all rows, are not computed.
        """
        del params
        segments = np.asarray(batch["segment_ids"])
        used: Any = segments.any(axis=1)
        length = int(np.flatnonzero(segments.any(axis=0))[-1]) + 1
        chosen = slice(None) if used.all() else used
        feeds = {name: np.asarray(batch[name])[chosen] for name in self._inputs}
        row_length = segments.shape[1]
        feeds = {name: value if name in _BY_SLOT else value[:, :length] for name, value in feeds.items()}
        values = self._session.run(None, feeds)
        whole = (len(used), row_length) if self._per_token else (len(used),)
        outputs = {name: _spread(value, used, whole) for name, value in zip(self._outputs, values, strict=True)}
        return self._finish(outputs, batch)


_SLOWER = ["SkipLayerNormFusion"]
"""Fusions of onnxruntime that its CPU kernels compute more slowly than the nodes that they replace, this one three times."""
_BY_SLOT = ("cls_positions",)
"""The inputs of a packed graph that have slots, and not tokens, on their second axis."""


def _spread(values: np.ndarray, used: Any, whole: tuple[int, ...]) -> np.ndarray:
    """Return outputs with the first axes `whole`, with zeros where nothing was computed."""
    if used.all() and values.shape[: len(whole)] == whole:
        return values
    spread = np.zeros((*whole, *values.shape[len(whole) :]), values.dtype)
    if len(whole) == 1:
        spread[used] = values
    else:
        spread[used, : values.shape[1]] = values
    return spread


@dataclass
class OnnxPredictor(Predictor):
    """A predictor whose step onnxruntime computes, on the CPU."""

    session: Any = None
    """An `onnxruntime.InferenceSession` of the packed graph."""

    def __post_init__(self) -> None:
        self.step = OnnxStep(self.session, self.task)

    def put(self, batch: Batch) -> Batch:
        """Return the arrays that a step reads, where they are: onnxruntime computes on the host."""
        return {name: values for name, values in batch.items() if name not in HOST_KEYS}


def open_session(graph: Path | bytes, threads: int | None = None) -> Any:
    """Return an `onnxruntime.InferenceSession` on the CPU.

    Args:
      graph: the file of a graph, or its content.
      threads: the threads of a product; None for one on each processor that this process may use.

    Raises:
      UserError: if onnxruntime is not installed, or cannot read the file.
    """
    require_onnx("onnxruntime")
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads = threads or len(os.sched_getaffinity(0))
    settings.inter_op_num_threads = 1
    settings.log_severity_level = 3  # its warnings are for the authors of graphs
    source = graph if isinstance(graph, bytes) else str(graph)
    with foreign_errors(f"{graph if isinstance(graph, Path) else 'the graph'} cannot be read by onnxruntime"):
        return onnxruntime.InferenceSession(
            source, settings, providers=["CPUExecutionProvider"], disabled_optimizers=_SLOWER
        )


def _open_onnx(name: str, options: InferenceOptions, threads: int | None) -> TrainedModel:
    require_onnx("onnxruntime")
    folder = _folder_of(name)
    config = read_config(folder)
    task = open_task(name, config, options)
    check_head(task.head, task.name)
    mesh = make_mesh(MeshConfig(), jax.local_devices()[:1])
    kept = ComputeSettings.of(settings_of(config).get(COMPUTATION), mesh)
    model = make_model(task.head, config)
    session = _session_of(folder, model, task, options.quantize, threads)
    batch_size = options.batch_size or kept.batch_size
    return TrainedModel(
        task=task,
        tokenizer=load_tokenizer(folder, config, options.lower_case),
        params={},
        predictor=OnnxPredictor(model, task, mesh, ForwardOptions(), batch_size, session=session),
        max_length=resolve_max_length(options.max_length or task.reading_length, longest_input(config)),
    )


def _folder_of(name: str) -> Path:
    """Return the folder of a model; one that holds graphs needs no weights."""
    run = RunFolder(name)
    run.check_one_model()
    if not run.config.exists() and (run.path / GRAPHS).is_dir() and (run.path / "config.json").exists():
        return fetched(run.path)
    return model_folder(name)


def _session_of(
    folder: Path, model: FunctionalModel, task: Task, quantize: Quantize | None, threads: int | None
) -> Any:
    """Open the packed graph that the folder holds, or make it from the folder's weights."""
    path = folder / GRAPHS / graph_file(packed=True, quantize=quantize)
    if path.exists():
        session = open_session(path, threads)
        _check_graph(session.get_modelmeta().custom_metadata_map, task, model.config, path)
        return session
    return open_session(packed_graph(task, model.config, load_params(folder, model)[0], quantize), threads)


def _check_graph(found: dict[str, str], task: Task, config: BertConfig, path: Path) -> None:
    """Check that a graph was made for the configuration beside it."""
    made_for = graph_metadata(task.name, config)
    differing = [key for key in ("task", "id2label", "jaxbert") if found.get(key) != made_for[key]]
    if differing:
        raise UserError(
            f"{path} was made for a config.json with other values of {', '.join(differing)}: "
            "export the model again with --format onnx"
        )
