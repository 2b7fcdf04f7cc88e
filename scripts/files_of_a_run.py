"""Count the files and functions of jaxbert that one training run passes, and those from a CSV to its examples.

  python scripts/files_of_a_run.py             a summary
  python scripts/files_of_a_run.py --list      and every file with its functions

The run has 100 rows of CSV, a new tiny model, one epoch, one validation set and one process; nothing comes from the token
cache. Everything is imported before it is counted.
"""

from __future__ import annotations

import argparse
import collections
import os
import sys
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

os.environ.setdefault("JAX_PLATFORMS", "cpu")

import jaxbert
from jaxbert.config import Config, DataConfig, ModelConfig, TrainConfig

PACKAGE = Path(jaxbert.__file__).resolve().parent
Passed = dict[str, set[str]]
"""The functions that ran, by file."""


def trace(run: Callable[[], Any]) -> Passed:
    """Call `run`; return the functions of the package that were called, in any thread."""
    passed: Passed = collections.defaultdict(set)

    def note(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        # Lambdas, comprehensions, modules and class bodies do not count as functions.
        if event == "call" and code.co_filename.startswith(str(PACKAGE)) and not code.co_name.startswith("<"):
            passed[str(Path(code.co_filename).relative_to(PACKAGE))].add(code.co_qualname)

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)  # type: ignore[arg-type]
    return dict(passed)


def write_files(folder: Path) -> Config:
    """Write data and vocabulary, and return the configuration of the run."""
    rows = [f"w{i % 40} w{i % 7} {'good' if i % 2 else 'bad'},{'pos' if i % 2 else 'neg'}" for i in range(100)]
    for name, part in (("train", rows), ("dev", rows[:20])):
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *part]) + "\n")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", *(f"w{i}" for i in range(40))]
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    return Config(
        model=ModelConfig(name_or_path="tiny", vocab=str(folder / "vocab.txt")),
        data=DataConfig(train=str(folder / "train.csv"), validation=str(folder / "dev.csv"), cache_dir=None),
        train=TrainConfig(epochs=1, output_dir=str(folder / "run")),
    )


def measure() -> dict[str, Passed]:
    """Return the functions of a whole run, and those from a CSV to its examples."""
    from transformers import BertTokenizer

    from jaxbert.tasks import task_class
    from jaxbert.train.trainer import run_training

    with tempfile.TemporaryDirectory() as folder:
        config = write_files(Path(folder))
        tokenizer = BertTokenizer(vocab=config.model.vocab)
        task = task_class(config.task)
        read = trace(lambda: task.read(config, tokenizer, 32))
        return {"run": trace(lambda: run_training(config)), "read": read}


def main() -> None:
    """Print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--list", action="store_true", help="name every file and function")
    values = parser.parse_args()
    for name, passed in measure().items():
        print(f"{name}: {len(passed)} files, {sum(map(len, passed.values()))} functions")
        for file, functions in sorted(passed.items()) if values.list else ():
            print(f"  {file}: {', '.join(sorted(functions))}")


if __name__ == "__main__":
    main()
