"""Compare two checkouts of jaxbert in turns: the rate of training, the rate of reading, and memory, for three tasks.

  python scripts/bench/checkouts.py --old FOLDER --new FOLDER --data DATA --model MODEL --vocab FILE

DATA has the folders `glue_SST-2`, `resume_ner` and `xquad`; MODEL (MiniLM, for SST-2 and XQuAD) is a folder or a name on the
Hub; FILE is the vocabulary of bert-base-chinese, for a new tagger. In each round both checkouts run one after the other,
and every second round begins with the new one; so a change of the machine's load meets both. Both use this Python and its
libraries.

- *Training* is `examples_per_second` of `summary.json`, which leaves out what compiles.
- *Memory* is the highest resident memory of that run, in MB.
- *Reading* is the rows a second, from the file to the tokens, without a cache. It is the difference between a file that is
  repeated and the file as it is, so the time to start is not in it.
- *Cached* is the seconds until a second start on the repeated file has its examples.

The last thing printed is a JSON object: for each task and figure the medians, and the median of new / old of each round.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDERS = ("old", "new")
TASKS = ("sst2", "ner", "xquad")
FILES = {"sst2": "glue_SST-2/train.tsv", "ner": "resume_ner/train.char.bmes", "xquad": "xquad/xquad.en.json"}
STEPS = {"sst2": 80, "ner": 160, "xquad": 24}
REPEATED = {"sst2": 4, "ner": 12, "xquad": 12}
"""How often the large file has the rows of the small one."""
READ = re.compile(r"^([\d,]+) training and .* examples")
"""The line of both checkouts when the examples are there."""


def repeat(name: str, text: str, times: int) -> str:
    """Return a file with the same rows several times; the contexts and identifiers of its questions differ."""
    if name == "sst2":
        header, rows = text.split("\n", 1)
        return f"{header}\n" + rows * times
    if name == "ner":
        return (text.rstrip("\n") + "\n\n") * times
    content = json.loads(text)
    articles = []
    for number in range(times):
        for article in json.loads(text)["data"]:
            for paragraph in article["paragraphs"]:
                paragraph["context"] += f" {number}"
                for question in paragraph["qas"]:
                    question["id"] += f"-{number}"
            articles.append(article)
    return json.dumps({**content, "data": articles})


def arguments(name: str, values: argparse.Namespace, file: Path) -> list[str]:
    """Return the settings of a task's runs."""
    config, own = {
        "sst2": ("sst2-minilm", {"model.name_or_path": values.model, "data.limit": "null"}),
        "ner": ("resume-ner", {"model.vocab": values.vocab, "data.test": "null"}),
        "xquad": ("xquad-en", {"model.name_or_path": values.model}),
    }[name]
    keys = {"data.train": file, "data.validation": "null", **own}
    return [
        "--config",
        f"configs/{config}.yaml",
        *(word for key, value in keys.items() for word in (f"--{key}", str(value))),
    ]


def start(folder: Path, words: list[str]) -> subprocess.Popen[str]:
    """Start `jaxbert train` of a checkout."""
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONUNBUFFERED": "1"}
    command = [sys.executable, "-m", "jaxbert", "train", *words]
    return subprocess.Popen(
        command, cwd=folder, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )


def train(folder: Path, words: list[str], steps: int, output: Path) -> dict[str, float]:
    """Train for some steps; return the rate and the highest memory."""
    process = start(folder, [*words, "--train.max_steps", str(steps), "--train.output_dir", str(output)])
    assert process.stdout
    told = process.stdout.read()
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{folder}: the run failed:\n{told}")
    summary = json.loads((output / "summary.json").read_text("utf-8"))
    return {"training": summary["examples_per_second"], "memory": usage.ru_maxrss / 1024}


def read(folder: Path, words: list[str], output: Path) -> tuple[int, float]:
    """Start a run and end it when it has its examples; return their number, and the seconds since the start."""
    begin = time.perf_counter()
    process = start(folder, [*words, "--train.max_steps", "1", "--train.output_dir", str(output)])
    assert process.stdout
    told = ""
    for line in process.stdout:
        told += line
        if found := READ.match(line):
            seconds = time.perf_counter() - begin
            process.send_signal(signal.SIGKILL)
            process.wait()
            return int(found[1].replace(",", "")), seconds
    sys.exit(f"{folder}: the run read no examples:\n{told}")


def measure(name: str, folder: Path, values: argparse.Namespace, files: tuple[Path, Path]) -> dict[str, float]:
    """Return all figures of a task for one checkout."""
    with tempfile.TemporaryDirectory() as place:
        small, large = ([*arguments(name, values, file), "--data.cache_dir", f"{place}/tokens"] for file in files)
        found = train(folder, small, STEPS[name], Path(place, "run"))
        few, short = read(folder, [*small, "--data.cache_dir", "null"], Path(place, "small"))
        many, long = read(folder, large, Path(place, "large"))
        _, cached = read(folder, large, Path(place, "again"))
    return found | {"reading": (many - few) / (long - short), "cached": cached}


def summarize(rounds: list[dict[str, dict[str, dict[str, float]]]]) -> dict[str, Any]:
    """Return the medians of all figures and of their ratios, by task."""
    return {
        name: {
            figure: {
                which: round(statistics.median(each[which][name][figure] for each in rounds), 2) for which in FOLDERS
            }
            | {"new/old": round(statistics.median(e["new"][name][figure] / e["old"][name][figure] for e in rounds), 3)}
            for figure in rounds[0]["old"][name]
        }
        for name in rounds[0]["old"]
    }


def main() -> None:
    """Measure in turns and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--old", type=Path, required=True)
    parser.add_argument("--new", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--vocab", type=Path, required=True)
    parser.add_argument("--tasks", default=",".join(TASKS), help="comma-separated")
    parser.add_argument("--rounds", type=int, default=5)
    values = parser.parse_args()
    rounds = []
    with tempfile.TemporaryDirectory() as place:
        files = {}
        for name in values.tasks.split(","):
            source = values.data / FILES[name]
            large = Path(place, f"{name}{source.suffix}")
            large.write_text(repeat(name, source.read_text("utf-8"), REPEATED[name]), "utf-8")
            files[name] = (source.resolve(), large)
        for number in range(values.rounds):
            found: dict[str, dict[str, dict[str, float]]] = {which: {} for which in FOLDERS}
            for name in files:
                for which in FOLDERS[:: -1 if number % 2 else 1]:
                    found[which][name] = measure(name, getattr(values, which).resolve(), values, files[name])
                    print(number, which, name, json.dumps(found[which][name]), flush=True)
            rounds.append(found)
    print(json.dumps(summarize(rounds), indent=1))


if __name__ == "__main__":
    main()
