"""A small classification problem and runs of it, in this process and in others, for tests of trainer and commands."""

from __future__ import annotations

import csv
import dataclasses
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import forked
import jax
import numpy as np
import pytest
import quick
from flax import traverse_util
from jax.sharding import Mesh
from tiny import random_params
from transformers import BertConfig, BertTokenizer

from jaxbert.cli.main import main
from jaxbert.config import Config
from jaxbert.data.batches import Batch, batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import Layout
from jaxbert.data.tokens import Tokens
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.tasks.base import Task
from jaxbert.tasks.classification.task import Classification
from jaxbert.train.programs import Program, training_layout
from jaxbert.train.sharding import make_mesh
from jaxbert.train.trainer import Trainer

ROOT = Path(__file__).resolve().parents[1]
LABELS = ("bad", "good")
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
FILLERS = tuple(f"w{i}" for i in range(60))
TELLING = {"bad": ("bad", "poor", "awful"), "good": ("good", "fine", "great")}
VOCAB = (*SPECIAL, *FILLERS, *TELLING["bad"], *TELLING["good"])


def random_rows(count: int, seed: int = 0, longest: int = 12) -> Iterator[tuple[str, str]]:
    """Yield texts with one telling word among fillers, and their labels."""
    rng = random.Random(seed)
    for _ in range(count):
        label = rng.choice(LABELS)
        words = rng.choices(FILLERS, k=rng.randint(1, longest))
        words.insert(rng.randrange(len(words) + 1), rng.choice(TELLING[label]))
        yield " ".join(words), label


def write_csv(path: Path, rows: Any, header: tuple[str, ...] | None = ("text", "label")) -> Path:
    """Write rows as csv."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        if header:
            writer.writerow(header)
        writer.writerows(rows)
    return path


def small_config(**changes: Any) -> BertConfig:
    """Two thin layers over `VOCAB`, with two labels."""
    settings = {
        "vocab_size": len(VOCAB),
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "max_position_embeddings": 48,
        "id2label": dict(enumerate(LABELS)),
        "label2id": {label: i for i, label in enumerate(LABELS)},
    }
    return BertConfig(**(settings | changes))


_MODELS: dict[str, dict[str, bytes]] = {}
"""The files of the models that were written."""


def write_model(folder: Path, **changes: Any) -> Path:
    """Write a whole small classifier with its tokenizer; each is made once and then copied."""
    folder.mkdir(parents=True, exist_ok=True)
    identity = repr(sorted(changes.items()))
    if identity not in _MODELS:
        with tempfile.TemporaryDirectory() as made:
            vocab = Path(made, "vocab.txt")
            vocab.write_text("\n".join(VOCAB) + "\n")
            model = make_model(SequenceClassificationHead, small_config(**changes))
            save_folder(Path(made), random_params(model), model.config, BertTokenizer(vocab=str(vocab)))
            _MODELS[identity] = {path.name: path.read_bytes() for path in Path(made).iterdir()}
    for name, content in _MODELS[identity].items():
        (folder / name).write_bytes(content)
    return folder


@dataclasses.dataclass(frozen=True)
class Problem:
    """A folder with `model`, `train.csv` (100 rows), `dev.csv` (37 rows) and `vocab.txt`."""

    folder: Path

    @classmethod
    def write(cls, folder: Path) -> Problem:
        """Make the files."""
        write_model(folder / "model")
        (folder / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
        write_csv(folder / "train.csv", random_rows(100))
        write_csv(folder / "dev.csv", random_rows(37, seed=1))
        return cls(folder)

    def options(self, **changes: Any) -> dict[str, Any]:
        """Return keys of a run of 7 steps an epoch with dropout on; `section__key` replaces one, None removes it."""
        keys = {
            "model.name_or_path": self.folder / "model",
            "model.scan_layers": True,
            "data.train": self.folder / "train.csv",
            "train.output_dir": self.folder / "run",
            "train.batch_size": 16,
            "train.epochs": 2,
            "train.log_every": 1,
            "optimizer.learning_rate": 1e-3,
            "report.at_end": False,  # a third of a second for each run; tests/understand/test_report.py looks at it
        } | {name.replace("__", "."): value for name, value in changes.items()}
        return {name: value for name, value in keys.items() if value is not None}

    def arguments(self, **changes: Any) -> list[str]:
        """Return the command line of `options`."""
        flags = (f"--{name}={_flag(value)}" for name, value in self.options(**changes).items())
        return ["train", *flags]

    def train(self, **changes: Any) -> int:
        """Train in this process, on all its devices; return the exit code."""
        return main(self.arguments(**changes))


def _flag(value: Any) -> str:
    return json.dumps(value) if isinstance(value, bool | list) else str(value)


def python(
    *words: str, variables: dict[str, str] | None = None, anew: bool = False, **options: Any
) -> subprocess.Popen[str]:
    """Start `python WORDS` as its own process, with one device unless the variables of its environment say more.

    It is forked where that is possible (tests/forked.py), unless it is to be a new interpreter.
    """
    environment = {**os.environ, **quick.variables(), "COLUMNS": "200", **(variables or {})}
    usual = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "cwd": ROOT}
    start = subprocess.Popen if anew or not forked.possible(environment, options) else forked.Forked
    return start([sys.executable, *words], env=environment, text=True, **(usual | options))


def command(*arguments: str, **options: Any) -> subprocess.Popen[str]:
    """Start `jaxbert ARGUMENTS` as its own process with one device."""
    return python("-m", "jaxbert", *arguments, **options)


def finish(process: subprocess.Popen[str], stdin: str | None = None, seconds: int = 300) -> tuple[int, str, str]:
    """Wait for a command, so long at most; return its exit code, standard output and standard error."""
    try:
        out, err = process.communicate(stdin, timeout=seconds)
    finally:
        process.kill()
    return process.returncode, out, err


def read_metrics(run: Path) -> list[dict[str, Any]]:
    """Read `metrics.jsonl`."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def whole_losses(run: Path) -> dict[int, float]:
    """Return the loss of every step, after checking that none is there twice."""
    lines = [line for line in read_metrics(run) if "train_loss" in line]
    losses = {line["step"]: line["train_loss"] for line in lines}
    assert len(losses) == len(lines), "a step is there twice"
    return losses


class CrashError(RuntimeError):
    """Stands for anything that ends a process between two steps."""


def crash_before(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Let the loop fail when it is about to dispatch `step`."""
    dispatch = Trainer._dispatch

    def failing(self: Trainer, *args: Any) -> None:
        if self._dispatched == step:
            raise CrashError
        dispatch(self, *args)

    monkeypatch.setattr(Trainer, "_dispatch", failing)


def weights(run: Path) -> bytes:
    """Return the exported weights, bit by bit."""
    return (run / "export" / "model.safetensors").read_bytes()


def random_tokens(count: int, seed: int = 0, longest: int = 14, vocab: int = len(VOCAB)) -> Tokens:
    """Draw token ids of random lengths; some examples have a second text."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, count)
    first = np.where(rng.random(count) < 0.3, lengths // 2, lengths).astype(np.int32)
    return Tokens.from_lengths(rng.integers(1, vocab, lengths.sum()).astype(np.int32), lengths, first)


def ids_of(tokens: Tokens, example: int) -> np.ndarray:
    """Return the token ids of one example."""
    begin = tokens.begins[example]
    return tokens.ids[begin : begin + tokens.lengths[example]]


@dataclasses.dataclass
class Trajectory:
    """What some steps of training gave."""

    losses: list[float]
    params: Any
    example_ids: list[list[int]]


def make_config(task: str = "classification", **changes: Any) -> Config:
    """Return a configuration without dropout; `section__key` sets one key."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in {"model__dropout": 0.0, "model__scan_layers": True, **changes}.items():
        section, key = name.split("__")
        sections.setdefault(section, {})[key] = value
    default = Config()
    parts = {name: dataclasses.replace(getattr(default, name), **keys) for name, keys in sections.items()}
    return dataclasses.replace(default, task=task, **parts)


def make_program(
    config: Config, bert_config: BertConfig, steps: int, devices: int = 8, task: Task | None = None
) -> Program:
    """Build the computation of `config` on the first devices of this process; a classifier's unless told otherwise."""
    task = task or Classification(tuple(bert_config.id2label.values()))
    mesh: Mesh = make_mesh(config.mesh, jax.devices()[:devices])
    return Program.of(config, mesh, bert_config, task, steps)


def run_steps(program: Program, params: Any, examples: Examples, most: int | None = None) -> Trajectory:
    """Take all of the program's steps from `params`, or the first ones."""
    layout = training_layout(program.config, examples.tokens.lengths, program.mesh, windows=examples.windows)
    state, step = program.first_state(params), program.train_step()
    losses, example_ids = [], []
    for batch in itertools.islice(feed(program, layout, examples), most):
        state, sums = step(state, program.put(batch), program.arguments)
        losses.append(float(sums["loss"] / sums["examples"]))
        example_ids.append(sorted(batch["example_ids"][batch["example_mask"]].tolist()))
    return Trajectory(losses, jax.device_get(state["params"]), example_ids)


def feed(program: Program, layout: Layout, examples: Examples) -> Iterator[Batch]:
    """Yield the batches of all steps, epoch after epoch."""
    config, left, epoch = program.config.train, program.total_steps, 0
    while left:
        for batch in batches(examples, layout, config.batch_size, seed=config.seed, epoch=epoch):
            yield batch
            left -= 1
            if not left:
                return
        epoch += 1


def assert_close_params(found: Any, expected: Any, atol: float) -> None:
    """Compare trees of parameters, naming the tensor that differs."""
    flat = traverse_util.flatten_dict(found, sep="/")
    for name, tensor in traverse_util.flatten_dict(expected, sep="/").items():
        np.testing.assert_allclose(flat[name], tensor, rtol=0, atol=atol, err_msg=name)
