"""Measures explanations of a trained classifier: how faithful they are, and how many texts a second they take.

    python scripts/bench/explanations.py faithful --model RUN --data dev.tsv --text sentence --count 200
    python scripts/bench/explanations.py speed --model RUN --data dev.tsv --text sentence --count 100 --side jaxbert
    python scripts/bench/explanations.py speed --model RUN --data dev.tsv --text sentence --count 100 --side captum

`faithful` prints comprehensiveness and sufficiency as ERASER defines them (DeYoung et al., 2020): what the probability of
the predicted label loses without the words of the largest weights (more is better), and with these words alone (less is
better); the mean over the largest 5%, 10%, 20% and 50% of the words, at least one. Beside the methods of jaxbert it has a
random order and the attention of the first token in the last layer. `speed` needs PyTorch and captum for the side captum,
and prints the texts a second of each repeat after one that compiles.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import jaxbert

SHARES = (0.05, 0.1, 0.2, 0.5)
METHODS = ("integrated_gradients", "gradient_x_input", "occlusion")


def read_texts(values: argparse.Namespace) -> list[str]:
    """Read the first texts of a TSV without quoting."""
    with values.data.open(encoding="utf-8", newline="") as file:
        rows = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [row[values.text] for row, _ in zip(rows, range(values.count), strict=False)]


def attention_weights(folder: Path, texts: list[str]) -> list[np.ndarray]:
    """Return the attention of the first token in the last layer for the words of each text, the mean over heads."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = jaxbert.FlaxBertForSequenceClassification.from_pretrained(str(folder))
    found = []
    for begin in range(0, len(texts), 50):
        part = texts[begin : begin + 50]
        encoded = tokenizer(part, padding="max_length", max_length=80, truncation=True, return_tensors="np")
        attention = np.asarray(model(**encoded, output_attentions=True).attentions[-1])[:, :, 0].mean(1)
        for number in range(len(part)):
            words = encoded.word_ids(number)
            known = [place for place, word in enumerate(words) if word is not None]
            found.append(np.bincount([words[place] for place in known], attention[number, known]))
    return found


def faithfulness(
    model: jaxbert.Model, explained: list[dict[str, Any]], orders: Iterable[np.ndarray]
) -> dict[str, float]:
    """Return both measures for orders of the words, the most important first."""
    texts, sides = [], {True: [], False: []}
    for answer, order in zip(explained, orders, strict=True):
        words = [word["text"] for word in answer["words"]]
        for share in SHARES:
            chosen = set(order[: max(1, round(share * len(words)))].tolist())
            for kept in (False, True):
                texts.append(" ".join(word for place, word in enumerate(words) if (place in chosen) is kept) or ".")
                sides[kept].append((len(texts) - 1, answer))
    found = model.predict(texts)

    def lost(kept: bool) -> float:
        return float(np.mean([a["score"] - found[i]["probabilities"][a["label"]] for i, a in sides[kept]]))

    return {"comprehensiveness": lost(False), "sufficiency": lost(True)}


def measure_faithfulness(values: argparse.Namespace) -> None:
    """Print a line for each method."""
    model, texts = jaxbert.load(values.model), read_texts(values)
    rng = np.random.default_rng(0)
    for method in METHODS:
        for baseline in ("zero",) if method == "gradient_x_input" else values.baselines.split(","):
            explained = model.explain(texts, method=method, baseline=baseline, steps=values.steps)
            orders = [np.argsort([-word["weight"] for word in answer["words"]], kind="stable") for answer in explained]
            errors = [answer["completeness_error"] for answer in explained]
            result = faithfulness(model, explained, orders)
            worst = {"completeness_median": float(np.median(errors)), "completeness_worst": max(errors)}
            print(json.dumps({"method": method, "baseline": baseline, **result, **worst}), flush=True)
    print(
        json.dumps({"method": "random", **faithfulness(model, explained, map(rng.permutation, map(_words, explained)))})
    )
    weights = attention_weights(Path(values.model) / "export", texts)
    orders = [np.argsort(-own, kind="stable") for own in weights]
    print(json.dumps({"method": "attention", **faithfulness(model, explained, orders)}))


def _words(answer: dict[str, Any]) -> int:
    return len(answer["words"])


def captum_explainer(folder: Path, steps: int) -> Callable[[list[str]], None]:
    """Return a function that explains texts, one after the other, with all steps of a text in one batch."""
    import torch
    from captum.attr import LayerIntegratedGradients
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    torch.set_num_threads(len(os.sched_getaffinity(0)))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    gradients = LayerIntegratedGradients(lambda ids: model(input_ids=ids).logits, model.bert.embeddings.word_embeddings)

    def explain(texts: list[str]) -> None:
        for text in texts:
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            reference = torch.full_like(ids, tokenizer.pad_token_id)
            reference[:, [0, -1]] = ids[:, [0, -1]]
            with torch.no_grad():
                label = int(model(input_ids=ids).logits.argmax())
            gradients.attribute(ids, reference, target=label, n_steps=steps, return_convergence_delta=True)

    return explain


def measure_speed(values: argparse.Namespace) -> None:
    """Print the texts a second of each repeat."""
    texts = read_texts(values)
    if values.side == "captum":
        explain = captum_explainer(Path(values.model) / "export", values.steps)
    else:
        model = jaxbert.load(values.model)

        def explain(texts: list[str]) -> None:
            model.explain(texts, steps=values.steps)

    explain(texts)  # compiles, and warms up
    for _ in range(values.repeats):
        begin = time.perf_counter()
        explain(texts)
        print(
            json.dumps({"side": values.side, "texts_per_second": len(texts) / (time.perf_counter() - begin)}),
            flush=True,
        )


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("measure", choices=("faithful", "speed"))
    parser.add_argument("--model", required=True, help="a run folder")
    parser.add_argument("--data", type=Path, required=True, help="a TSV with a header")
    parser.add_argument("--text", default="sentence", help="its column of texts")
    parser.add_argument("--count", type=int, default=200, help="texts")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--baselines", default="pad,mask,zero", help="baselines of `faithful`")
    parser.add_argument("--side", choices=("jaxbert", "captum"), default="jaxbert")
    parser.add_argument("--repeats", type=int, default=3)
    values = parser.parse_args()
    (measure_faithfulness if values.measure == "faithful" else measure_speed)(values)


if __name__ == "__main__":
    main()
