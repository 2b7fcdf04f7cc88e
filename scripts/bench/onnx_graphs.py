"""Measures the ONNX graphs of a trained classifier: that they agree with JAX, what int8 costs, and how long a text takes.

    jaxbert export --run runs/sst2-minilm --format onnx --quantize int8 --output sst2-onnx
    python scripts/bench/onnx_graphs.py agree --model sst2-onnx --data train.tsv --text sentence --count 10000
    python scripts/bench/onnx_graphs.py accuracy --model sst2-onnx --data dev.tsv --text sentence --label label
    python scripts/bench/onnx_graphs.py speed --model sst2-onnx --data train.tsv --text sentence --rounds 9

`agree` prints the largest difference of the logits, as log-probabilities, from JAX, the share of texts with the same label,
and the sizes of the files. `accuracy` evaluates JAX and both number formats. `speed` keeps to one processor and thread; all
modes take the same tokenized texts, 32 at a time, and each round runs all modes, each round in another order. It prints
milliseconds of processor time a text, the median over the rounds, and refuses to measure beside other work.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import json
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BATCH = 32
BUSY = 2.5
RATIOS = (
    ("padded-float32", "packed-int8"),
    ("padded-int8", "packed-int8"),
    ("padded-float32", "packed-float32"),
    ("single-int8", "packed-int8"),
    ("packed-float32", "jax"),
)
Rows = dict[str, np.ndarray]


def read_rows(values: argparse.Namespace, count: int, columns: list[str]) -> list[dict[str, str]]:
    """Read rows of a TSV without quoting, all or a sample."""
    with values.data.open(encoding="utf-8", newline="") as file:
        names = values.columns.split(",") if values.columns else None
        found = list(csv.DictReader(file, names, delimiter="\t", quoting=csv.QUOTE_NONE))
    if len(found) > count:
        found = random.Random(values.seed).sample(found, count)
    return [{name: row[name] for name in columns} for row in found]


def open_modes(values: argparse.Namespace, threads: int | None) -> dict[str, Any]:
    """Open the model with each engine."""
    from jaxbert.options import InferenceOptions
    from jaxbert.serve.onnx_engine import open_engine

    kinds = {
        "jax": InferenceOptions(batch_size=values.batch_size),
        "float32": InferenceOptions(batch_size=values.batch_size, engine="onnx"),
        "int8": InferenceOptions(batch_size=values.batch_size, engine="onnx", quantize="int8"),
    }
    return {name: open_engine(values.model, options, threads) for name, options in kinds.items()}


def examples_of(model: Any, texts: list[str]) -> Any:
    """Tokenize texts as `predict` does."""
    from jaxbert.config import DataConfig
    from jaxbert.data.memory import hold

    with hold([{"text": text} for text in texts], "texts", "texts") as spec:
        feed = model.open_inputs(spec, DataConfig())
        return feed.tokenize(list(feed.parts()))


def padded(tokens: Any, chosen: np.ndarray) -> Rows:
    """Return examples as the inputs of the padded graph, each padded to the longest of them."""
    lengths = tokens.lengths[chosen]
    place = np.arange(lengths.max())[None]
    mask = place < lengths[:, None]
    ids = np.zeros(mask.shape, np.int64)
    for row, example in enumerate(chosen):
        ids[row, : lengths[row]] = tokens.ids[tokens.begins[example] :][: lengths[row]]
    types = (place >= tokens.first_lengths[chosen][:, None]) & mask
    return {"input_ids": ids, "attention_mask": mask.astype(np.int64), "token_type_ids": types.astype(np.int64)}


def measure_agreement(values: argparse.Namespace) -> None:
    """Print how far each graph is from JAX."""
    from jaxbert.serve.onnx_engine import open_session

    texts = [row[values.text] for row in read_rows(values, values.count, [values.text])]
    models = open_modes(values, None)
    examples = examples_of(models["jax"], texts)
    expected = models["jax"].predictor(models["jax"].params, examples)
    by_length = np.argsort(examples.tokens.lengths, kind="stable")
    found: dict[str, np.ndarray] = {}
    for number in ("float32", "int8"):
        found[f"packed-{number}"] = models[number].predictor({}, examples)
        name = "model.onnx" if number == "float32" else f"model_{number}.onnx"
        session, logits = open_session(Path(values.model) / "onnx" / name), np.zeros_like(expected)
        for begin in range(0, len(by_length), BATCH):
            chosen = by_length[begin : begin + BATCH]
            logits[chosen] = session.run(None, padded(examples.tokens, chosen))[0]
        top = logits.max(-1, keepdims=True)
        found[f"padded-{number}"] = logits - top - np.log(np.exp(logits - top).sum(-1, keepdims=True))
    for name, values_of in found.items():
        line = {
            "graph": name,
            "texts": len(texts),
            "largest_difference": float(np.abs(values_of - expected).max()),
            "same_label": float((values_of.argmax(-1) == expected.argmax(-1)).mean()),
        }
        print(json.dumps(line), flush=True)
    print(json.dumps({path.name: path.stat().st_size for path in sorted(Path(values.model, "onnx").glob("*.onnx"))}))


def measure_accuracy(values: argparse.Namespace) -> None:
    """Print the accuracy of each engine."""
    from jaxbert.config import DataConfig

    columns = values.columns.split(",") if values.columns else None
    data = DataConfig(text=values.text, label=values.label, quoting="none", columns=columns)
    for name, model in open_modes(values, None).items():
        metrics = model.evaluate(str(values.data), data).metrics
        print(json.dumps({"engine": name, "accuracy": metrics["accuracy"], "loss": metrics["loss"]}), flush=True)


def make_modes(values: argparse.Namespace, texts: list[str]) -> dict[str, Callable[[], None]]:
    """Return a function for each mode that computes all texts once, `BATCH` at a time."""
    import jax

    from jaxbert.data.batches import batches
    from jaxbert.data.packing import choose_layout
    from jaxbert.serve.onnx_engine import open_session

    models = open_modes(values, 1)
    tokens = examples_of(models["jax"], texts).tokens
    layout = choose_layout(tokens.lengths, BATCH, row_length=values.row_length, seed=None)
    from jaxbert.data.examples import Examples

    packed = list(batches(Examples(tokens), layout, BATCH, seed=None))
    real = int(tokens.lengths.sum())
    rows = sum(batch["input_ids"].size for batch in packed)
    groups = [np.arange(begin, min(begin + BATCH, len(tokens))) for begin in range(0, len(tokens), BATCH)]
    together = [padded(tokens, chosen) for chosen in groups]
    alone = [padded(tokens, np.array([example])) for example in range(len(tokens))]
    facts = {
        "texts": len(tokens),
        "mean_tokens": real / len(tokens),
        "row_length": layout.row_length,
        "packed_efficiency": real / rows,
        "padded_efficiency": real / sum(batch["input_ids"].size for batch in together),
    }
    print(json.dumps(facts), flush=True)

    def by_graph(number: str, feeds: list[Rows]) -> Callable[[], None]:
        name = "model.onnx" if number == "float32" else f"model_{number}.onnx"
        session = open_session(Path(values.model) / "onnx" / name, 1)
        return lambda: [session.run(None, feed) for feed in feeds] and None

    def by_engine(name: str) -> Callable[[], None]:
        model = models[name]
        sent = [model.predictor.put(batch) for batch in packed]
        return lambda: [jax.device_get(model.predictor.step(model.params, batch)) for batch in sent] and None

    made = {f"padded-{number}": by_graph(number, together) for number in ("float32", "int8")}
    made |= {f"single-{number}": by_graph(number, alone) for number in ("float32", "int8")}
    made |= {f"packed-{number}": by_engine(number) for number in ("float32", "int8")}
    return made | {"jax": by_engine("jax")}


def measure_speed(values: argparse.Namespace) -> None:
    """Print the milliseconds of each mode, and the ratios that count."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    texts = [row[values.text] for row in read_rows(values, values.count, [values.text])]
    modes = make_modes(values, texts)
    for compute in modes.values():
        compute()  # compiles, and warms up
    times: dict[str, list[float]] = {name: [] for name in modes}
    for number in range(values.rounds):
        if (load := os.getloadavg()[0]) >= BUSY:
            raise SystemExit(f"error: the load is {load:.1f}, but must be below {BUSY}: end other work first")
        order = [*itertools.islice(itertools.cycle(modes), number, number + len(modes))]
        for name in order:
            begin = time.process_time()
            modes[name]()
            times[name].append((time.process_time() - begin) * 1000 / len(texts))
    for name, found in times.items():
        print(json.dumps({"mode": name, "ms_a_text": round(float(np.median(found)), 3), "rounds": _rounded(found)}))
    for slow, fast in RATIOS:
        each = [a / b for a, b in zip(times[slow], times[fast], strict=True)]
        middle = float(np.median(times[slow]) / np.median(times[fast]))
        print(json.dumps({"ratio": f"{slow} / {fast}", "of_medians": round(middle, 3), "rounds": _rounded(each)}))


def _rounded(values: list[float]) -> list[float]:
    return [round(value, 3) for value in values]


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=("agree", "accuracy", "speed"))
    parser.add_argument(
        "--model", required=True, help="a folder that `jaxbert export --format onnx --quantize int8` wrote"
    )
    parser.add_argument("--data", type=Path, required=True, help="a TSV")
    parser.add_argument("--columns", help="its columns, a,b, if it has no header")
    parser.add_argument("--text", default="sentence", help="its column of texts")
    parser.add_argument("--label", default="label", help="its column of labels")
    parser.add_argument("--count", type=int, default=512, help="texts, drawn from the seed")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--row-length", type=int, help="tokens of a packed row; by default the trainer's choice")
    parser.add_argument("--batch-size", type=int, default=256, help="texts a step of `agree` and `accuracy`")
    parser.add_argument("--seed", type=int, default=0)
    values = parser.parse_args()
    {"agree": measure_agreement, "accuracy": measure_accuracy, "speed": measure_speed}[values.measure](values)


if __name__ == "__main__":
    main()
