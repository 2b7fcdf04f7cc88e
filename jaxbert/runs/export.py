"""Write a run's parameters as a Hugging Face folder with a model card.

The card is a README.md with the metadata that the Hugging Face Hub reads, from facts of the run alone. Languages are not
named, because no run knows them for certain. Paths of this machine are left out. A README.md that a person wrote, which
lacks our marker line, stays as it is.
"""

from __future__ import annotations

import dataclasses
import itertools
import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple, get_args

import jax
import numpy as np
from etils import epath
from transformers import BertConfig

from jaxbert.bucket import fetched, staged, to_path, write_whole
from jaxbert.config import Config
from jaxbert.errors import UserError, foreign_errors
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.interop.write import save_folder
from jaxbert.models.families import SIZES
from jaxbert.options import Quantize
from jaxbert.plain import read_json, read_yaml
from jaxbert.processes import is_main, on_host, wait_for_all
from jaxbert.runs.checkpoint import Checkpoints, choose_step
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import settings_of, task_of_model
from jaxbert.tasks.base import Task
from jaxbert.tasks.decision import Tuning, temperature_of
from jaxbert.tasks.reading import named_sets, set_name
from jaxbert.versions import installed

GRAPHS = "onnx"
"""The folder of an export that holds its ONNX graphs."""
TRITON = "triton"
"""The folder of an export that holds its model repository for Triton."""
SIZES_OF_LAYERS = ("num_hidden_layers", "num_attention_heads", "intermediate_size")
"""The sizes in a model's configuration that pruning changes."""
_SECTION = "#" * 2
CARD = "README.md"
MARKER = "<!-- Written by jaxbert from facts of the run. Remove this line to keep your own text in later exports. -->"
_CALIBRATED = "This model was calibrated on other rows after training; the results above are those before."
_PIPELINES = {
    "classification": "text-classification",
    "multi_label": "text-classification",
    "regression": "text-classification",
    "token_classification": "token-classification",
    "question_answering": "question-answering",
    "multiple_choice": "multiple-choice",
    "pretraining": "fill-mask",
}
_HUB_METRICS = {
    "accuracy": "accuracy",
    "masked_accuracy": "accuracy",
    "f1": "f1",
    "f1_macro": "f1",
    "f1_micro": "f1",
    "precision": "precision",
    "recall": "recall",
    "mcc": "matthews_correlation",
    "pearson": "pearsonr",
    "spearman": "spearmanr",
    "mse": "mse",
    "mae": "mae",
    "r2": "r_squared",
    "exact_match": "exact_match",
    "perplexity": "perplexity",
}
"""The metrics of the tasks that the Hub has a name for, and that name."""
_READERS = {
    ".csv": "csv",
    ".tsv": "csv",
    ".json": "json",
    ".jsonl": "json",
    ".parquet": "parquet",
    ".txt": "text",
}
"""By the extension of a file, the reader of `datasets` for it: the Hub wants a type for each data set."""
_HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
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
        forget_older(target)
        with staged(target) as local:
            save_folder(local, whole, config, tokenizer, architecture=architecture)
    wait_for_all("export is written")
    return target


def forget_older(target: epath.Path) -> None:
    """Remove the graphs of older parameters from a model's folder, and say so; of a run's export also what it answered."""
    with foreign_errors(f"{target} cannot be written"):
        owner = RunFolder(target.parent)
        if target.name == owner.export.name and owner.summary.exists():
            owner.predictions.unlink(missing_ok=True)
            owner.robustness.unlink(missing_ok=True)
        _remove_graphs(target)


def _remove_graphs(target: epath.Path) -> None:
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
    folder.check_run()
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


def model_card(config: Config, task: Task, summary: Mapping[str, Any], name: str) -> str:
    """Return the card of an exported model.

    Args:
      config: the configuration of the run.
      task: its task, with the labels.
      summary: the content of `summary.json` that belongs to the exported parameters; `eval` and `test` may be missing.
      name: the name of the model.
    """
    from huggingface_hub import EvalResult, ModelCardData

    results = [
        EvalResult(
            task_type=_PIPELINES.get(task.name, task.name),
            dataset_type=found.kind,
            dataset_name=found.name,
            dataset_config=found.config,
            dataset_split=found.split or role,
            metric_type=_HUB_METRICS[metric],
            metric_name=metric,
            metric_value=round(value, 6),
        )
        for role, own, metrics in _measured(summary)
        for found in [_data_set(_spec(config, role, own))]
        for metric, value in _shown(task, metrics).items()
        if metric in _HUB_METRICS
    ]
    base = _base_model(config.model.name_or_path)
    data = ModelCardData(
        base_model=base,
        library_name="transformers",
        pipeline_tag=_PIPELINES.get(task.name),
        metrics=sorted({result.metric_type for result in results}) or None,
        tags=["jaxbert"],
        model_name=name if results else None,
        eval_results=results or None,
    )
    body = "\n\n".join([f"# {name}", *_paragraphs(config, task, summary)])
    return f"---\n{data.to_yaml()}\n---\n{MARKER}\n\n{body}\n"


def write_card(folder: epath.Path, card: str) -> bool:
    """Write the card of an exported folder, unless a person wrote one there; return whether it was written."""
    path = folder / CARD
    if path.exists() and not _is_ours(path):
        logger.warning("%s was not written by jaxbert, and stays as it is", path)
        return False
    try:
        write_whole(path, card)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}") from error
    return True


def _is_ours(path: epath.Path) -> bool:
    """Return whether a card has our marker line; a person's text may have any encoding."""
    return MARKER.encode() in path.read_bytes()


def copy_card(model: str | os.PathLike[str], target: epath.Path, *, calibrated: bool = False) -> None:
    """Copy the card of a run's export, or of an exported folder, to another export of the same model.

    With `calibrated`, the card says that the results are those before a calibration.
    """
    if not to_path(model).exists():
        return
    for folder in (to_path(model) / "export", to_path(model)):
        path = folder / CARD
        if path.exists() and _is_ours(path):
            text = path.read_text("utf-8")
            write_card(target, text if not calibrated or _CALIBRATED in text else f"{text.rstrip()}\n\n{_CALIBRATED}\n")
            return


def _paragraphs(config: Config, task: Task, summary: Mapping[str, Any]) -> Iterator[str]:
    new = config.model.name_or_path in SIZES
    verb = "Pretrained" if task.name == "pretraining" else "Trained" if new else "Fine-tuned"
    yield (
        f"{verb} from {_start(config.model.name_or_path)} with jaxbert for the task `{task.name}` "
        f"({_in_cell(task.describe())})."
    )
    yield _settings(config, summary)
    rows = [
        f"| {set_name(role, own)} | {metric} | {value:.4f} |"
        for role, own, metrics in _measured(summary)
        for metric, value in _shown(task, metrics).items()
    ]
    if rows:
        yield f"{_SECTION} Results"
        yield "\n".join(["| set | metric | value |", "|---|---|---|", *rows])


def _settings(config: Config, summary: Mapping[str, Any]) -> str:
    """Return a table of the facts of training."""
    train, optimizer = config.train, config.optimizer
    sources = (summary.get("data") or {}).get("sources", {})
    used = sources.get("train", {}).get("rows")
    facts = {
        "training data": _data_set(config.data.train).name + (f", {used:,} records" if isinstance(used, int) else ""),
        "steps": summary.get("exported_step", summary.get("steps")),
        "teacher": None if train.teacher is None else _start(train.teacher),
        "labelled by the model": _labelled(summary["self_training"]) if "self_training" in summary else None,
        "parameters": f"moving averages, decay {train.ema:g}" if train.ema else None,
        "pruned to": _pruned(summary["pruned"]) if "pruned" in summary else None,
        "examples a step": train.batch_size,
        "optimizer": f"{optimizer.name}, learning rate {optimizer.learning_rate:g}, {optimizer.schedule} schedule",
        "longest example": f"{config.data.max_length} tokens" if config.data.max_length else "as the model reads",
        "seed": train.seed,
        "versions": ", ".join(f"{name} {text}" for name, text in installed(("jax", "flax", "transformers")).items()),
    }
    lines = [f"| {name} | {_in_cell(value)} |" for name, value in facts.items() if value is not None]
    return "\n".join([f"{_SECTION} Training", "", "| | |", "|---|---|", *lines])


def _labelled(record: Mapping[str, Any]) -> str:
    """Return how many texts a model has learned with labels that it gave them itself, as text."""
    return f"{record['rounds'][-1]['added']:,} further texts, of {record['unlabelled']:,} without labels"


def _pruned(record: Mapping[str, Any]) -> str:
    """Return the sizes of a pruned model as text."""
    after = record["after"]
    layers, heads, columns = after["num_hidden_layers"], after["num_attention_heads"], after["intermediate_size"]
    return f"{layers} layers with {heads} attention heads and {columns:,} feed-forward columns"


def _in_cell(value: Any) -> str:
    """Return a value as text that does not end a cell of a table."""
    return " ".join(str(value).split()).replace("|", "\\|")


def _measured(summary: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the role, the name and the metrics of each evaluated set."""
    for role, key in (("validation", "eval"), ("test", "test")):
        metrics = summary.get(key) or {}
        parts = metrics.get("sets", {role: metrics} if metrics else {})
        for own, part in parts.items():
            yield role, own, part


def _shown(task: Task, metrics: Mapping[str, Any]) -> dict[str, float]:
    """Return the single numbers that the task measures, in its order."""
    return {name: float(metrics[name]) for name in task.metric_names() if isinstance(metrics.get(name), int | float)}


def _spec(config: Config, role: str, own: str) -> str | None:
    """Return the source of a set; one that was split off comes from the training data."""
    sets = named_sets(config.data.validation if role == "validation" else config.data.test, role)
    if own == role and len(sets) == 1:  # metrics of a single set do not name it
        return next(iter(sets.values()))
    return sets.get(own, config.data.train)


class _DataSet(NamedTuple):
    """A data set as the Hub describes it."""

    kind: str
    """Its name on the Hub, or how its files are read."""
    name: str
    config: str | None = None
    split: str | None = None


def _data_set(spec: str | None) -> _DataSet:
    """Describe the data set of a source, without the folders of this machine."""
    kind, _, rest = (spec or "").partition(":")
    if kind in ("hf", "tfds"):
        whole, _, split = rest.partition(":")
        if kind == "hf" and (whole.startswith(("/", ".", "~")) or os.path.isdir(whole)):  # a folder of this machine
            return _DataSet("files", PurePath(whole).name, None, split or None)
        parts = whole.split("/")
        name = "/".join(parts[:2]) if kind == "hf" else whole
        return _DataSet(name, whole, parts[2] if kind == "hf" and len(parts) > 2 else None, split or None)
    if kind == "memory":
        return _DataSet("memory", "rows in memory")
    path = PurePath(spec.rstrip("/")) if spec else PurePath("unknown")
    named = [suffix for suffix in path.suffixes if suffix in _READERS]
    return _DataSet(_READERS[named[0]] if named else "files", path.name)


def _base_model(name: str) -> str | None:
    """Return the model's name on the Hub; None for a new model, a local folder or anything else."""
    if name in SIZES or to_path(name).exists() or not _HUB_NAME.fullmatch(name):
        return None
    return name


def _start(name: str) -> str:
    if name in SIZES:
        return f"random weights (a new model of the size {name})"
    return f"`{name}`" if _base_model(name) else f"a model in a local folder, `{PurePath(name.rstrip('/')).name}`"
