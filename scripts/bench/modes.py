"""The modes of a comparison: what each is called, which command runs it, and how its result is read.

  jaxbert-PRECISION[-padded][-BACKEND][-scanned][-nodrop]   jaxbert; packed rows unless `-padded`; BACKEND as in
                                                model.attention; `-scanned`: layers as one compiled loop
  peer-PADDING-PRECISION[-tf32][-compile]       the Hugging Face Trainer; PADDING is max, dynamic, grouped, or flat: none
  varlen-PRECISION[-compile|-static|-graphs][-nodrop]   PyTorch without padding, in a loop of its own; see varlen.py
  legacy-PRECISION                              FlaxBertForSequenceClassification of transformers 4, in its own environment

PRECISION is float32 or bfloat16; `-nodrop`: no dropout of attention weights. `MODE@N` runs in the first N rounds only, for
modes that are slow.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODES = (
    "jaxbert-float32",
    "jaxbert-bfloat16",
    "varlen-float32",
    "varlen-bfloat16",
    "peer-grouped-float32",
    "peer-grouped-bfloat16",
    "peer-dynamic-float32",
    "peer-dynamic-bfloat16",
    "peer-max-float32",
    "peer-max-bfloat16",
    "legacy-float32",
)
_BACKENDS = ("xla", "cudnn", "pallas")
_PRECISION = "(float32|bfloat16)"
_MODE = re.compile(
    rf"jaxbert-{_PRECISION}(-padded)?(-({'|'.join(_BACKENDS)}))?(-scanned)?(-nodrop)?"
    rf"|peer-(max|dynamic|grouped|flat)-{_PRECISION}(-tf32)?(-compile)?"
    rf"|varlen-{_PRECISION}(-(compile|static|graphs))?(-nodrop)?"
    rf"|legacy-{_PRECISION}"
)
_FOLDER = Path(__file__).resolve().parent
_ROOT = _FOLDER.parents[1]
_COMPILE_SKIP = 20
"""Steps of warmup for compiled peers, which compile again when shapes change."""
_NEVER = 1e6
NOT_DONE = "not done"
"""How the error of a run that took too long begins."""
Result = dict[str, Any]


@dataclass(frozen=True)
class Recipe:
    """The settings that all modes of a comparison share."""

    model: str | None = None
    new_model: str | None = None
    """A size that jaxbert knows by name, instead of `model`."""
    vocab: Path | None = None
    train: Path | None = None
    lengths: str | None = None
    """The distribution of the lengths of random examples, instead of `train`."""
    validation: Path | None = None
    text: str = "text"
    label: str = "label"
    columns: str | None = None
    limit: int | None = None
    max_length: int = 128
    row_length: int | None = None
    """Tokens per row of jaxbert; None lets it choose."""
    batch_size: int = 32
    epochs: int = 1
    max_steps: int | None = None
    seconds: float | None = None
    """Seconds to time each run, instead of `max_steps`."""
    learning_rate: float = 2e-5
    skip_steps: int = 5
    skip_seconds: float = 10.0
    workers: int = 0
    timeout: float | None = None
    peer_python: str = sys.executable
    legacy_python: str = ".venv-legacy/bin/python"


def split_mode(text: str) -> tuple[str, int | None]:
    """Return a mode's name, and the most rounds in which it runs.

    Raises:
      ValueError: if the text is not a mode.
    """
    name, _, rounds = text.partition("@")
    if not _MODE.fullmatch(name) or ("@" in text and not (rounds.isdigit() and int(rounds))):
        raise ValueError(f"unknown mode {text!r}: choose from {', '.join(MODES)}, or see --help")
    return name, int(rounds) if rounds else None


def label_of(mode: str) -> str:
    """Return a mode's name in words."""
    tool, *parts = mode.split("-")
    words = {
        "jaxbert": "jaxbert",
        "peer": "Trainer",
        "varlen": "PyTorch, unpadded",
        "legacy": "legacy Flax class, padded",
        "max": "padded",
        "dynamic": "dynamic padding",
        "grouped": "grouped by length",
        "flat": "flattened",
        "scanned": "layers as one compiled loop",
        "nodrop": "no attention dropout",
        "compile": "torch.compile",
        "static": "torch.compile, one shape",
        "graphs": "torch.compile, CUDA graphs",
        "padded": "padded rows",
        "tf32": "TF32",
    }
    return ", ".join(words.get(part, part) for part in (tool, *parts))


def run_mode(recipe: Recipe, mode: str, seed: int, *, max_steps: int | None = None) -> Result:
    """Run a mode once in its own folder; a failure is a result with `error`."""
    load, begin = os.getloadavg()[0], time.perf_counter()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            command = command_of(recipe, mode, seed, folder, max_steps or recipe.max_steps)
            done = subprocess.run(command, capture_output=True, text=True, timeout=recipe.timeout, env=_environment())
        except subprocess.TimeoutExpired:
            return {"error": f"{NOT_DONE} after {recipe.timeout:g} s"}
        except FileNotFoundError as error:
            hint = ": bash scripts/bench/legacy_env.sh makes it" if mode.startswith("legacy") else ""
            return {"error": f"{error.filename} does not exist{hint}"}
        if done.returncode:
            return {"error": _last_words(done.stderr), "exit_code": done.returncode}
        result = _read(folder) | _steady(folder / "run" / "metrics.jsonl", recipe.batch_size)
    wanted, found = _backend(mode.split("-")), result.get("attention")
    if None not in (wanted, found) and wanted != found:
        return {"error": f"attention was computed by {found}, not by {wanted}"}
    facts = {"seed": seed, "load_before": round(load, 2), "wall_seconds": round(time.perf_counter() - begin, 1)}
    return facts | result


def _backend(parts: Sequence[str]) -> str | None:
    """Return the attention backend in a mode's name."""
    return next((part for part in parts if part in _BACKENDS), None)


def _last_words(stderr: str) -> str:
    """Return the most informative line of an error output."""
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    told = [line for line in lines if re.match(r"(\w+\.)*\w*(Error|Exception|error)\b", line)]
    return (told or lines or ["no message"])[-1][:300]


def _environment() -> dict[str, str]:
    """Return an environment in which jaxbert is found without being installed, and no library uses the network."""
    path = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))
    return {**os.environ, "PYTHONPATH": path, "HF_HUB_OFFLINE": "1"}


def command_of(recipe: Recipe, mode: str, seed: int, folder: Path, max_steps: int | None) -> list[str]:
    """Return the command of a run, which writes its numbers to `folder`."""
    tool, *parts = mode.split("-")
    if tool == "jaxbert":
        verb, settings = _jaxbert(recipe, parts, seed, folder, max_steps)
        flags = [f"--{key}={value}" for key, value in settings.items() if value is not None]
        return [sys.executable, "-m", "jaxbert", verb, *flags]
    settings = _shared(recipe) | {"seed": seed, "output": folder / "result.json", "max_steps": max_steps}
    switches: list[str] = []
    if tool == "peer":
        settings |= {"padding": parts.pop(0), "workers": recipe.workers}
        switches = parts[1:]
    elif tool == "varlen":
        kinds = [part for part in parts if part in ("compile", "static", "graphs")]
        settings["compile"] = "dynamic" if kinds == ["compile"] else (kinds or ["none"])[0]
        switches = ["no-attention-dropout"] if "nodrop" in parts else []
    settings["precision"] = parts[0]
    if {"compile", "static", "graphs"} & set(parts):
        settings |= {"skip_steps": max(recipe.skip_steps, _COMPILE_SKIP), "skip_seconds": _NEVER}
    flags = [f"--{key.replace('_', '-')}={value}" for key, value in settings.items() if value is not None]
    python = recipe.legacy_python if tool == "legacy" else recipe.peer_python
    return [python, str(_FOLDER / f"{tool}.py"), *flags, *(f"--{switch}" for switch in switches)]


def _shared(recipe: Recipe) -> dict[str, Any]:
    names = ("model", "vocab", "train", "lengths", "validation", "text", "label", "columns", "limit", "max_length")
    names += ("batch_size", "epochs", "seconds", "learning_rate", "skip_steps", "skip_seconds")
    settings = {name: getattr(recipe, name) for name in names}
    if recipe.new_model is not None:
        settings["new_model"] = _dimensions(recipe.new_model)
    return settings


def _dimensions(size: str) -> str:
    """Return LAYERS,WIDTH,HEADS,FF of a size that jaxbert knows by name."""
    sys.path.append(str(_ROOT))  # jaxbert may not be installed
    from jaxbert.models.families import sized_config

    config = sized_config(size, 100)
    sizes = (config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.intermediate_size)
    return ",".join(map(str, sizes))


def _jaxbert(
    recipe: Recipe, parts: list[str], seed: int, folder: Path, max_steps: int | None
) -> tuple[str, dict[str, Any]]:
    """Return jaxbert's verb and settings, which equal the peers' recipe."""
    precision, *switches = parts
    settings = {
        "model.name_or_path": recipe.model or recipe.new_model,
        "model.vocab": recipe.vocab,
        "model.attention": _backend(switches),
        "model.attention_dropout": 0 if "nodrop" in switches else None,
        "model.scan_layers": "true" if "scanned" in switches else None,
        "data.max_length": recipe.max_length,
        "data.row_length": recipe.row_length,
        "data.packing": "false" if "padded" in switches else "true",
        "train.output_dir": folder / "run",
        "train.batch_size": recipe.batch_size,
        "train.epochs": recipe.epochs,
        "train.seed": seed,
        "optimizer.learning_rate": recipe.learning_rate,
        "optimizer.schedule": "linear",
        "optimizer.warmup_ratio": 0,
        "optimizer.weight_decay": 0,
        "optimizer.clip_norm": 1.0,
        "precision.compute": precision,
    }
    if recipe.lengths:
        bench = {
            "bench.steps": max_steps,
            "bench.warmup": recipe.skip_steps,
            "bench.measure_compile": "false",  # to compile twice takes longer than all timed steps
            "mode": "train",
            "output": folder / "result.json",
        }
        return "bench", {**settings, "lengths": recipe.lengths, **bench}
    data = {
        "data.train": recipe.train,
        "data.validation": recipe.validation,
        "data.text": recipe.text,
        "data.label": recipe.label,
        "data.columns": f"[{recipe.columns}]" if recipe.columns else None,
        "data.quoting": "none",
        "data.limit": recipe.limit,
        "train.max_steps": max_steps,
        "train.log_every": max(recipe.skip_steps, 1),
        "train.keep_best": "false",
    }
    return "train", settings | data


def _steady(path: Path, batch_size: int) -> Result:
    """Return the rates of a run of jaxbert without its warmup, which the peers do not count either.

    Each line of its metrics has the rates since the beginning, so the difference of two lines gives those between.
    """
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    timed = [line for line in lines if line.get("examples_per_second")]
    if len(timed) < 2:
        return {}
    first, last = timed[0], timed[-1]
    seconds = [line["step"] * batch_size / line["examples_per_second"] for line in (first, last)]
    tokens = [line["real_tokens_per_second"] * s for line, s in zip((first, last), seconds, strict=True)]
    steps, elapsed = last["step"] - first["step"], seconds[1] - seconds[0]
    return {
        "steps_timed": steps,
        "examples_per_second": round(steps * batch_size / elapsed, 2),
        "real_tokens_per_second": round((tokens[1] - tokens[0]) / elapsed, 1),
    }


def _read(folder: Path) -> Result:
    """Read a result; jaxbert's own names become those of the peers."""
    path = folder / "result.json"
    result = json.loads((path if path.is_file() else folder / "run" / "summary.json").read_text())
    if "jax_version" in result:
        result["accuracy"] = {"validation": (result.pop("eval", None) or {}).get("accuracy"), "test": None}
        result["versions"] = {"jax": result["jax_version"]}
        result["steps_timed"] = result.get("steps_timed", result.get("timed_steps"))
        result["step_ms"] = result.get("step_ms_p50")
    return result
