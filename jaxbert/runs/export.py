"""Writes a run's parameters as a Hugging Face folder."""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
from pathlib import Path
from typing import Any, get_args

import jax
import numpy as np
from etils import epath
from transformers import BertConfig

from jaxbert.bucket import fetched, staged, to_path
from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.interop.write import save_folder
from jaxbert.options import Quantize
from jaxbert.plain import read_json, read_yaml
from jaxbert.processes import is_main, on_host, wait_for_all
from jaxbert.runs.card import model_card, write_card
from jaxbert.runs.checkpoint import Checkpoints, choose_step
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import task_of_model
from jaxbert.tasks.decision import Tuning, temperature_of
from jaxbert.tasks.exported import settings_of

GRAPHS = "onnx"
"""The folder of an export that holds its ONNX graphs."""
TRITON = "triton"
"""The folder of an export that holds its model repository for Triton."""
SIZES_OF_LAYERS = ("num_hidden_layers", "num_attention_heads", "intermediate_size")
"""The sizes in a model's configuration that pruning changes."""
logger = logging.getLogger("jaxbert")


def graph_file(*, packed: bool, quantize: Quantize | None) -> str:
    """Return the name of the file of a graph, as optimum names them."""
    return f"model{'_packed' * packed}{'' if quantize is None else f'_{quantize}'}.onnx"


def save_start(folder: RunFolder, config: BertConfig, tokenizer: Any) -> None:
    """Write the files that all exports of a run share: configuration, label names and tokenizer."""
    with staged(folder.start) as start:
        config.save_pretrained(start)
        tokenizer.save_pretrained(start)


def export_params(
    folder: RunFolder,
    config: BertConfig,
    tokenizer: Any,
    params: Any,
    architecture: str,
    output: epath.Path | None = None,
) -> epath.Path:
    """Write parameters of a run as a Hugging Face folder, to `output` or else the run's `export`.

    If that is the export of a run again, the predictions that the run keeps go. ONNX graphs of older parameters go too. All
    processes call it, the main one writes.
    """
    target, whole = output or folder.export, on_host(params)
    if is_main():
        owner = RunFolder(target.parent)
        if target.name == owner.export.name and owner.summary.exists():
            owner.predictions.unlink(missing_ok=True)
        _remove_graphs(target)
        with staged(target) as local:
            save_folder(local, whole, config, tokenizer, architecture=architecture)
    wait_for_all("export is written")
    return target


def _remove_graphs(target: epath.Path) -> None:
    """Remove the graphs of older parameters from an exported folder, and say so."""
    names = itertools.product((False, True), (None, *get_args(Quantize)))
    paths = [target / GRAPHS / graph_file(packed=packed, quantize=quantize) for packed, quantize in names]
    stale = [path for path in paths if path.exists()] if (target / GRAPHS).exists() else []
    for path in stale:
        path.unlink()
    if stale:
        logger.warning("%s ONNX graphs of older weights are removed from %s", len(stale), target / GRAPHS)
    if (target / TRITON).exists():
        (target / TRITON).rmtree()
        logger.warning("the model repository of older weights is removed: %s", target / TRITON)


def fold_temperature(params: Any, layer: str, temperature: float) -> Any:
    """Return parameters with kernel and bias of a layer divided by a temperature."""
    divide = jax.jit(lambda tensors, by: jax.tree.map(lambda tensor: tensor / by, tensors))
    return {**params, layer: divide(params[layer], np.float32(temperature))}


def check_target(output: str | os.PathLike[str], key: str) -> epath.Path:
    """Return the path of a folder to which a model may be written; error messages call it `key`.

    Raises:
      UserError: if the folder holds other files.
    """
    target = to_path(output)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / "config.json").exists())):
        raise UserError(f"{key} {target} has other files than those of a model: choose a new folder")
    return target


def export_run(run: str | Path, step: str, output: str | Path) -> epath.Path:
    """Export a checkpoint of a run: `last`, `best` or a step number.

    The checkpoint that the run exported itself gets the calibration and thresholds of that export.

    Raises:
      UserError: if the folder is not a run, the run has no such checkpoint, or the output folder holds other files.
    """
    folder = RunFolder(run)
    if not folder.config.exists():
        raise UserError(f"{folder.path} is not a run folder: it has no config.yaml")
    folder.check_one_model()
    if not folder.checkpoints.is_dir():
        raise UserError(f"{folder.path} has no checkpoints yet: train first")
    target = check_target(output, "--output")
    start = fetched(folder.start)
    config = read_config(start)
    with Checkpoints(folder.checkpoints, read_only=True) as checkpoints:
        chosen = choose_step(checkpoints, step)
        params, progress = checkpoints.restore_params(chosen), checkpoints.progress(chosen)
    evaluation = progress["evaluation"]
    for name, size in progress.get("sizes", {}).items():  # of a model that was pruned
        if name in SIZES_OF_LAYERS:
            setattr(config, name, size)
    task = task_of_model(config).reopen(config).learned(evaluation)
    if task.last_layer is not None and (kept := _own_export(folder, chosen)) is not None:
        params = fold_temperature(params, task.last_layer, temperature_of(settings_of(kept)))
        task = type(task).reopen(kept)
    elif Tuning.of(_config_of(folder).train).anything:
        logger.warning(
            "step %s has neither calibration nor chosen thresholds: only the step that the run itself exported has them",
            chosen,
        )
    config = task.configure(config)
    export_params(folder, config, load_tokenizer(start, config), params, task.architecture, target)
    if is_main():
        write_card(target, model_card(_config_of(folder), task, _facts(folder, chosen, evaluation), folder.path.name))
    return target


def _own_export(folder: RunFolder, step: int) -> BertConfig | None:
    """Return the configuration of the run's own export, if it is of this step."""
    if not folder.summary.exists() or read_json(folder.summary).get("exported_step") != step:
        return None
    return read_config(fetched(folder.export)) if (folder.export / "config.json").exists() else None


def _facts(folder: RunFolder, step: int, evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a run's summary that is true of the parameters of a step."""
    summary = read_json(folder.summary) if folder.summary.exists() else {}
    if summary.get("exported_step") == step:
        return summary
    return {"exported_step": step, "eval": evaluation, "data": summary.get("data")}


def _config_of(folder: RunFolder) -> Config:
    """Return the configuration of a run; keys of other versions are left out."""
    content = read_yaml(folder.config, str(folder.config))
    if not isinstance(content, dict):
        raise UserError(f"{folder.config} is not the configuration of a run")
    sections = {field.name: field.default_factory for field in dataclasses.fields(Config) if field.name != "task"}
    values = {}
    for name, section in sections.items():
        known = {field.name for field in dataclasses.fields(section)}  # type: ignore[arg-type]
        values[name] = section(**{key: value for key, value in content.get(name, {}).items() if key in known})  # type: ignore[operator]
    return Config(task=content.get("task", Config.task), **values)
