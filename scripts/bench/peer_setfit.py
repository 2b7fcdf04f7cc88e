"""Train setfit on a few labelled rows of each class, the draws of few_labels.py, and write its accuracy and seconds.

  SETFIT_ENV/bin/python scripts/bench/peer_setfit.py --data sst2 --folder SST-2 --model MODEL --output OUT

One JSON line for each draw in OUT/results.jsonl; draws that stand there are skipped. setfit's own defaults: batches of 16
pairs, one epoch, learning rate 2e-5, logistic regression as the head, and every pair of texts, of which the rarer kind is
repeated. `--iterations 20` is the setting of its paper instead, 20 positive and 20 negative pairs for each text: all pairs
of 640 texts are too many. The seconds are those of opening the model, training and fitting the head, without imports; those
of the predictions stand beside them. Needs setfit; the network is not used.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")

import sentence_transformers
import setfit
import torch
import transformers
from datasets import Dataset
from few_draws import SOURCES, keep, key_of, make_parser, read_draw, results, write_draws
from sentence_transformers import SentenceTransformer
from sentence_transformers import models as parts
from setfit import SetFitModel, Trainer, TrainingArguments
from sklearn.linear_model import LogisticRegression


def open_setfit(values: argparse.Namespace, max_length: int) -> SetFitModel:
    """Return the model as its folder says, or with mean pooling where the folder has an encoder alone; the head is new."""
    if (Path(values.model) / "modules.json").exists():
        body = SentenceTransformer(values.model, device="cpu")
        body.max_seq_length = max_length
    else:
        words = parts.Transformer(values.model, max_seq_length=max_length)
        pooling = parts.Pooling(words.get_word_embedding_dimension(), pooling_mode="mean")
        body = SentenceTransformer(modules=[words, pooling], device="cpu")
    return SetFitModel(model_body=body, model_head=LogisticRegression(), labels=list(SOURCES[values.data].names))


def train(values: argparse.Namespace, rows: list[dict[str, str]], seed: int, scratch: str) -> tuple[SetFitModel, float]:
    """Train on these rows; return the model and the seconds."""
    data = Dataset.from_list(rows)
    begin = time.perf_counter()
    transformers.set_seed(seed)
    model = open_setfit(values, SOURCES[values.data].max_length)
    arguments = TrainingArguments(
        output_dir=scratch,
        batch_size=values.batch_size,
        num_epochs=1,
        num_iterations=values.iterations or None,
        body_learning_rate=values.learning_rate,
        seed=seed,
        save_strategy="no",
        logging_strategy="no",
        eval_strategy="no",
        report_to="none",
        show_progress_bar=False,
    )
    Trainer(model=model, args=arguments, train_dataset=data).train()
    return model, time.perf_counter() - begin


def measure(values: argparse.Namespace, path: Path, evaluation: list[dict[str, str]], draw: int) -> dict[str, Any]:
    """Train on one draw and judge it."""
    rows = read_draw(path)
    with tempfile.TemporaryDirectory() as scratch:
        model, seconds = train(values, rows, draw, scratch)
    begin = time.perf_counter()
    predicted = model.predict([row["text"] for row in evaluation], show_progress_bar=False)
    answered = time.perf_counter() - begin
    right = [str(name) == row["label"] for name, row in zip(predicted, evaluation, strict=True)]
    return {
        "accuracy": sum(right) / len(right),
        "seconds": round(seconds, 2),
        "predict_seconds": round(answered, 2),
        "rows": len(rows),
        "evaluated": len(evaluation),
        "threads": torch.get_num_threads(),
        "versions": {
            "setfit": setfit.__version__,
            "sentence_transformers": sentence_transformers.__version__,
            "transformers": transformers.__version__,
            "torch": torch.__version__,
        },
    }


def main() -> None:
    """Train on every draw that has no result yet."""
    parser = make_parser(__doc__)
    parser.add_argument("--iterations", type=int, default=0, help="pairs of each kind for each text; 0: every pair")
    parser.add_argument("--learning_rate", type=float, default=2e-5, help="of the encoder; the default is setfit's")
    parser.add_argument("--batch_size", type=int, default=16, help="pairs of a step")
    values = parser.parse_args()
    method = "setfit" if not values.iterations else f"setfit-{values.iterations}"
    if values.learning_rate != parser.get_default("learning_rate"):
        method += f"-{values.learning_rate:g}"
    evaluation_path, paths = write_draws(values)
    evaluation, done = read_draw(evaluation_path), set(map(key_of, results(values.output)))
    for (count, draw), path in paths.items():
        line = {"data": values.data, "count": count, "draw": draw, "method": method}
        if key_of(line) not in done:
            keep(values.output, line | measure(values, path, evaluation, draw))


if __name__ == "__main__":
    main()
