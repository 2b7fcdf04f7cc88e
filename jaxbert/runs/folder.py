"""The run folder: its files, and the check whether a run may begin or resume there."""

from __future__ import annotations

import json
import os
import time
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from etils import epath

from jaxbert.bucket import copy, fetched, in_bucket, scratch_folder, staged, to_path, write_whole
from jaxbert.config import COLUMN_KEYS, FILE_KEYS, OPTIMIZERS, Config
from jaxbert.errors import UserError, foreign_errors
from jaxbert.plain import flat, read_yaml, shown, to_json

_FREE = {
    *("train.output_dir", "train.log_every", "train.checkpoint_every", "train.keep_checkpoints", "train.max_bad_steps"),
    *("train.accept_changed_data", "train.eval_batch_size", "train.accumulation_steps", "train.steps_per_dispatch"),
    *("train.calibration", "train.threshold", "train.positive_label", "train.thresholds"),
    *("model.scan_layers", "model.attention", "model.remat", "data.cache_dir"),
    *("mesh", "report", "launch"),
}
"""Keys and whole sections that may change when a run resumes: they do not affect what it learns, except by rounding and by
the numbers that dropout draws."""
_COMPARED = {
    *("model.name_or_path", "model.vocab", "model.lower_case", "data.train", "data.validation", "data.test"),
    *("data.corrections", "data.unlabelled", "train.teacher"),
    *(f"data.{key}" for key in (*COLUMN_KEYS, *FILE_KEYS)),
}
"""Keys that say where data and model are and how to read them: their content is compared instead (see `identity`)."""


class RunFolder:
    """The paths and small files of one run, on this machine or in a bucket; `checkpoint` handles its checkpoints."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = to_path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.summary = self.path / "summary.json"
        self.confusion = self.path / "confusion.json"
        """With many labels: how often one label was predicted instead of another."""
        self.predictions = self.path / "predictions.npz"
        """The predictions of the exported parameters for each validation and test set, by the name of the set."""
        self.report = self.path / "report.html"
        """The page about the run; see `understand.report`."""
        self.robustness = self.path / "robustness.json"
        """What disturbed texts did to the answers, once measured; see `understand.robustness`."""
        self.checkpoints = self.path / "checkpoints"
        self.export = self.path / "export"
        self.start = self.path / "start"
        """The model configuration, tokenizer and label names, which every later export needs."""
        self.data = self.path / "data.json"
        """The identity of the run's data and model; see `identity`."""
        self.lock = self.path / "lock"
        """The folder of the lock, which names the process that writes here; see `lock`."""
        self.vocabulary = self.path / "vocab.txt"
        """The trained vocabulary of a new model; written before any other file."""
        self.folds = self.path / "folds"
        """The folders of the folds, by their numbers from 0."""
        self.shares = self.path / "shares"
        """The folders of the folds of a learning curve, by the share of the rows and then by their numbers."""
        self.rounds = self.path / "rounds"
        """The folders of the rounds of self-training before the last training, by their numbers from 0."""
        self.chosen = self.path / "chosen.json"
        """In the folder of a round: the rows without labels that it chose, and the labels that it gave them."""
        self.added = self.path / "added.jsonl"
        """The texts that all rounds chose, to be read."""
        self._kept: list[str] | None = None
        """The lines of metrics if the folder is in a bucket, whose files can only be written whole."""

    def check(self, config: Config) -> None:
        """Check that a run with this configuration may begin or resume here; write nothing.

        Raises:
          UserError: if the folder holds other files or a run with another configuration, or cannot be reached.
        """
        names = []
        with foreign_errors(f"train.output_dir {self.path} cannot be read"):
            if self.path.exists():
                if not self.path.is_dir():
                    raise UserError(f"train.output_dir {self.path} is a file: choose a folder")
                names = sorted(path.name for path in self.path.iterdir())
        begun = {path.name for path in (self.vocabulary, self.lock, self.start, self.data)}
        if not set(names) - begun:
            return
        if self.config.name not in names:
            shown_names = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            raise UserError(
                f"train.output_dir {self.path} has other files than those of a run ({shown_names}): choose a new folder"
            )
        free = _FREE | (_COMPARED if self.data.name in names else set())
        differing = _differences(_read_config(self.config), config.to_dict(), free)
        if differing:
            raise UserError(
                f"train.output_dir {self.path} holds a run with another configuration ({'; '.join(differing)}): "
                f"use the same configuration to resume{self.way_out()}"
            )
        if self.summary.name in names:
            raise UserError(f"the run in {self.path} is complete: see {self.summary}{self.way_out()}")

    def fold(self, number: int) -> RunFolder:
        """Return the folder of a fold; it has no configuration of its own."""
        return RunFolder(self.folds / str(number))

    def share(self, name: str, number: int) -> RunFolder:
        """Return the folder of a fold of a learning curve, for the share of the rows with this name."""
        return RunFolder(self.shares / name / str(number))

    def round(self, number: int) -> RunFolder:
        """Return the folder of a round of self-training; it has no configuration of its own."""
        return RunFolder(self.rounds / str(number))

    def parts(self) -> list[RunFolder]:
        """Return the folders of folds and rounds that have begun, in their order, then those of shares of the rows."""
        shares = sorted(self.shares.iterdir()) if self.shares.exists() else []
        return [RunFolder(path) for folder in (self.folds, self.rounds, *shares) for path in _numbered(folder)]

    def members(self) -> list[epath.Path]:
        """Return the exports of the folds if the run is an ensemble of them, else an empty list."""
        if self.export.exists() or not self.summary.exists():
            return []
        return [path / self.export.name for path in _numbered(self.folds)]

    def check_run(self) -> None:
        """Check that the folder is one of a run, finished or not.

        Raises:
          UserError: if it has no configuration.
        """
        if self.config.exists():
            return
        way = ""
        if RunFolder(self.path.parent).config.exists():
            way = f", but {self.path.parent} is one: name that"
        elif (self.path / "config.json").exists():
            way = f", but a model: `jaxbert.load({str(self.path)!r}).export(FOLDER)` in Python exports it"
        raise UserError(f"{self.path} is not a run folder: it has no config.yaml{way}")

    def check_one_model(self) -> None:
        """Check that the run is not an ensemble.

        Raises:
          UserError: if it is one.
        """
        if members := self.members():
            raise UserError(
                f"{self.path} is an ensemble of {len(members)} models, and this command needs one model: name one of "
                f"them, such as {members[0]}, or train with train.folds_final"
            )

    def way_out(self) -> str:
        """Return the advice that ends an error message: how another run starts from the weights of this one."""
        if (self.export / "config.json").exists():
            first, model = "", self.path
        elif self.checkpoints.exists() and any(path.name.isdigit() for path in self.checkpoints.iterdir()):
            first, model = f"`jaxbert export --run {self.path} --step last --output DIR`, then ", "DIR"
        else:
            return ", or choose a new train.output_dir"
        return f"; to train its weights further, begin a new run: {first}--model.name_or_path {model} --train.output_dir NEW"

    def make(self) -> None:
        """Make the folder, unless it exists."""
        with self.writing():
            self.path.mkdir(parents=True, exist_ok=True)

    def create(self, config: Config) -> None:
        """Make the folder and write the resolved configuration, which marks the folder as a run."""
        self.make()
        with self.writing():
            write_whole(self.config, yaml.safe_dump(config.to_dict(), sort_keys=False, allow_unicode=True))

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn errors of the disk or the bucket into a one-line UserError."""
        said = f"train.output_dir {self.path} cannot be written"
        with foreign_errors(said):
            try:
                yield
            except OSError as error:
                raise UserError(f"{said}: {error.strerror or error}") from error

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Append one line to `metrics.jsonl`; in a bucket it is written by `flush`."""
        line = json.dumps({"step": step, "time": round(time.time(), 3), **values}, ensure_ascii=False) + "\n"
        if self._kept is not None:
            self._kept.append(line)
            return
        with self.metrics.open("a", encoding="utf-8") as file:
            file.write(line)

    def read_metrics(self) -> list[dict[str, Any]]:
        """Return the lines of `metrics.jsonl`, without a last one that was cut off."""
        if not self.metrics.exists():
            return []
        with self.metrics.open("rb") as file:
            return [json.loads(line) for line in file if _logged_step(line) is not None]

    def flush(self) -> None:
        """Write the metrics and the files of `board` that exist only on this machine."""
        if self._kept is not None:
            write_whole(self.metrics, "".join(self._kept))
            copy(epath.Path(self.board), self.path)

    @cached_property
    def board(self) -> Path:
        """The local folder for TensorBoard's files."""
        return scratch_folder() if in_bucket(self.path) else Path(self.path)

    def rewind(self, step: int) -> None:
        """Drop the metrics of steps after `step`, which will be repeated, and a line that a crash cut off."""
        kept = []
        if self.metrics.exists():
            with self.metrics.open("rb") as file:
                for line in file:
                    logged = _logged_step(line)
                    if logged is not None and logged <= step:
                        kept.append(line.decode("utf-8"))
            write_whole(self.metrics, "".join(kept))
        if in_bucket(self.metrics):
            self._kept = kept

    def write_predictions(self, predictions: Mapping[str, np.ndarray]) -> None:
        """Write the predictions of the exported parameters, [N, ...] for each set by its name."""
        with self.writing(), staged(self.path) as folder:
            np.savez(folder / self.predictions.name, **predictions)  # type: ignore[arg-type]

    def read_predictions(self) -> dict[str, np.ndarray]:
        """Return the predictions by the name of the set; empty for a run that is not complete or of an older version.

        Raises:
          UserError: if the file is damaged.
        """
        if not self.predictions.exists():
            return {}
        path, damaged = fetched(self.predictions), f"{self.predictions} is damaged, remove it to predict again"
        if not zipfile.is_zipfile(path):  # NumPy would advise to load it unsafely
            raise UserError(f"{damaged}: it is no archive of arrays")
        with foreign_errors(damaged), np.load(path, allow_pickle=False) as content:
            return dict(content)

    def write_summary(self, summary: dict[str, Any]) -> None:
        """Write `summary.json` and the pairs of confused labels: the run is complete."""
        kept: dict[str, Any] = dict(summary)
        confused: dict[str, Any] = {}
        for part in ("eval", "test"):
            if summary.get(part):
                kept[part], pairs = _set_confusion_aside(summary[part], self.confusion.name)
                confused |= {part: pairs} if pairs else {}
        if confused:
            write_whole(self.confusion, to_json(confused) + "\n")
        write_whole(self.summary, to_json(kept) + "\n")


def _numbered(folder: epath.Path) -> list[epath.Path]:
    """Return the folders in a folder whose names are numbers, in the order of the numbers."""
    found = [path for path in folder.iterdir() if path.name.isdigit()] if folder.exists() else []
    return sorted(found, key=lambda path: int(path.name))


def _set_confusion_aside(metrics: dict[str, Any], name: str) -> tuple[dict[str, Any], Any]:
    """Return metrics with the file's name in place of the pairs of confused labels, and the pairs of each set."""
    if "sets" in metrics:
        parts = {key: _set_confusion_aside(part, name) for key, part in metrics["sets"].items()}
        pairs = {key: pairs for key, (_, pairs) in parts.items() if pairs}
        return metrics | {"sets": {key: part for key, (part, _) in parts.items()}}, pairs
    if "confusion" in metrics:
        return metrics | {"confusion": name}, metrics["confusion"]
    return metrics, None


def _logged_step(line: bytes) -> int | None:
    """Return the step of a line of metrics, or None if the line is incomplete."""
    try:
        logged = json.loads(line.decode("utf-8")) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    step = logged.get("step") if isinstance(logged, dict) else None
    return step if isinstance(step, int) else None


def _read_config(path: epath.Path) -> dict[str, Any]:
    content = read_yaml(path, str(path))
    if not isinstance(content, dict) or not all(
        section == "task"
        or (isinstance(section, str) and isinstance(values, dict) and all(isinstance(key, str) for key in values))
        for section, values in content.items()
    ):
        raise UserError(f"{path} is not the configuration of a run")
    return content


def _with_defaults(values: dict[str, Any]) -> dict[str, Any]:
    """Fill in missing settings of the optimizer: older versions wrote the values of AdamW."""
    own = OPTIMIZERS.get(str(values["optimizer.name"]), {})
    left_out = {f"optimizer.{key}": value for key, value in own.items() if values.get(f"optimizer.{key}") is None}
    return values | left_out


def _differences(old: dict[str, Any], new: dict[str, Any], free: set[str]) -> list[str]:
    """List each key whose value differs, with both values; a key that an older version did not know had its default."""
    before, after = _with_defaults(flat(Config().to_dict()) | flat(old)), _with_defaults(flat(new))

    def is_free(key: str) -> bool:
        section, _, name = key.partition(".")
        return not {section, f"{section}.{name.partition('.')[0]}"}.isdisjoint(free)

    return [
        f"{key}: {shown(before.get(key))} there, {shown(after.get(key))} now"
        for key in sorted(before.keys() | after.keys())
        if before.get(key) != after.get(key) and not is_free(key)
    ]
