"""Small inputs that once went wrong: they lie beside the repository, and each must give what its reporter expected."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

from jaxbert.cli.main import main

_CASES = Path(__file__).resolve().parents[3] / "shared" / "cases"


class Outcome(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Path:
    """The folder of the case that a test file is named after: test_03.py reads the folder that begins with 03-."""
    number = request.path.stem.removeprefix("test_")
    found = sorted(_CASES.glob(f"{number}-*"))
    if not found:
        pytest.skip("the cases are not here")
    return found[0]


@pytest.fixture
def vocabularies(shared_data: Path) -> Path:
    """The folder of real vocabularies."""
    return shared_data / "vocab"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Run a verb in this process."""

    def run_verb(*arguments: object) -> Outcome:
        capfd.readouterr()
        code = main([str(argument) for argument in arguments])
        return Outcome(code, *capfd.readouterr())

    return run_verb


@pytest.fixture
def train(run: Callable[..., Outcome], vocabularies: Path, tmp_path: Path) -> Callable[..., Outcome]:
    """Train a new tiny model for one step, into `tmp_path / "run"`; arguments that come later win."""

    def train_tiny(*arguments: object) -> Outcome:
        return run(
            *("train", "--model.name_or_path", "tiny", "--model.scan_layers", "true"),
            *("--model.vocab", vocabularies / "bert-base-uncased-vocab.txt", "--data.cache_dir", "null"),
            *("--train.max_steps", 1, "--train.batch_size", 8, "--data.row_length", 32),
            *("--train.output_dir", tmp_path / "run", *arguments),
        )

    return train_tiny
