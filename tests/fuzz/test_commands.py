"""The same from the outside: a damaged file given to a command is one `error:` line and exit code 2."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from runs import Problem

from jaxbert.cli.main import main


@pytest.fixture
def problem(tmp_path):
    return Problem.write(tmp_path)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def flood(path: Path) -> None:
    path.write_bytes(b"\0\xff\xfe" * 5000)


def deepen(path: Path) -> None:
    path.write_bytes(b"[" * 100_000)


def setting(**changes: object) -> Callable[[Path], None]:
    def change(path: Path) -> None:
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def writing(content: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(content) and None


def boast(path: Path) -> None:
    path.write_bytes((2**60).to_bytes(8, "little") + path.read_bytes()[8:])


TRAIN = {
    "rows cut off": ("train.csv", writing(b'text,label\nw1,good\n"w2,bad\nw3,good\n')),
    "rows of another format": ("train.csv", flood),
    "rows with a NUL": ("train.csv", writing(b"text,label\nw1,good\n\0,bad,\0\n")),
    "labels too long for a number": (
        "dev.jsonl",
        writing(b'{"text": "a", "label": 1%s}\n{"text": "b", "label": 1.0}\n' % (b"0" * 30)),
    ),
    "rows nested": ("dev.jsonl", writing(b'{"text": "a", "label": ' + b"[" * 50_000)),
    "parquet cut off": ("dev.parquet", writing(b"PAR1" + b"\x15\x04" * 100 + b"\xff\xff\xff\x7fPAR1")),
    "weights cut off": ("model/model.safetensors", cut),
    "a header of 2^60 bytes": ("model/model.safetensors", boast),
    "a configuration nested": ("model/config.json", deepen),
    "a vocabulary of 10^12": ("model/config.json", setting(vocab_size=10**12)),
    "labels that are none": ("model/config.json", setting(id2label={"0": ["a"], "x": None})),
    "a tokenizer cut off": ("model/tokenizer.json", cut),
    "a tokenizer that is a model": ("model/tokenizer_config.json", setting(tokenizer_class="BertModel")),
    "a tokenizer nested": ("model/tokenizer_config.json", deepen),
    "settings that grow": ("run.yaml", writing(b"data:\n  columns: &a [*a]\n")),
    "settings that run": ("run.yaml", writing(b"data: !!python/object/apply:os.mkdir [trace]\n")),
    "settings that are bytes": ("run.yaml", flood),
    "settings nested": ("run.yaml", deepen),
    "a run's settings": ("run/config.yaml", writing(b"train: 3\n")),
}


def say_error_once(capfd: pytest.CaptureFixture[str]) -> str:
    out, err = capfd.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("error: ")]
    others = [line for line in err.splitlines() if not line.startswith(("error: ", "note: "))]
    assert (out, others) == ("", [])
    assert len(lines) == 1, err
    return lines[0]


@pytest.mark.parametrize("name", TRAIN)
def test_training(problem, capfd, name):
    file, damage = TRAIN[name]
    path = problem.folder / file
    path.parent.mkdir(exist_ok=True)
    damage(path)
    changes = {f"data__{path.stem.replace('dev', 'validation')}": path} if path.parent == problem.folder else {}
    more = ["--config", str(path)] if path.name == "run.yaml" else []
    arguments = problem.arguments(**(changes if not more else {}))
    assert main([arguments[0], *more, *arguments[1:]]) == 2
    assert str(path.parent) in say_error_once(capfd)
    assert not (problem.folder / "trace").exists()


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_with_a_model(problem, capfd, verb):
    (problem.folder / "rows.jsonl").write_bytes(b'{"text": "a", "label": "good"}\n{"text": "\xff"}\n')
    flag = "--input" if verb == "predict" else "--data"
    assert main([verb, "--model", str(problem.folder / "model"), flag, str(problem.folder / "rows.jsonl")]) == 2
    assert "row 2: not UTF-8" in say_error_once(capfd)
    cut(problem.folder / "model" / "tokenizer.json")
    assert main([verb, "--model", str(problem.folder / "model"), flag, str(problem.folder / "dev.csv")]) == 2
    assert "tokenizer.json is not valid JSON" in say_error_once(capfd)
