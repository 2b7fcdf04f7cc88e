"""The model card of an export: a README.md with the metadata that the Hugging Face Hub reads, from facts of the run alone.

Languages are not named, because no run knows them for certain. Paths of this machine are left out. A README.md that a
person wrote, which lacks our marker line, stays as it is.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from typing import Any, NamedTuple

from etils import epath

from jaxbert.bucket import to_path, write_whole
from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.models.families import SIZES
from jaxbert.tasks.base import Task
from jaxbert.tasks.reading import named_sets, set_name
from jaxbert.versions import installed

_SECTION = "#" * 2
NAME = "README.md"
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
    path = folder / NAME
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
        path = folder / NAME
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
