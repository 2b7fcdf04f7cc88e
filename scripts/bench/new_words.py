"""What `jaxbert vocabulary extend` gives on the texts of a field, beside the way of transformers.

  python scripts/bench/new_words.py --model MODEL --train train.tsv --held dev.tsv --text sentence --label label --output OUT

The new tokens are chosen from the texts of --train. Printed are the tokens of both files before and after; for a model with
a head over words, the loss of masked words of --held before any training; and with --seeds, the accuracy after fine-tuning
on --train. The variants:

  before        the model as it is
  extended      `jaxbert vocabulary extend`: rows start as the mean of their pieces, biases by how rare the words are
  mean bias     the same with `--bias mean`
  their rows    the same tokens in the same tokenizer, with rows as `resize_token_embeddings` of transformers draws them by
                default: from a normal distribution with the mean and the covariance of all rows
  random rows   the same, drawn with `mean_resizing=False`: from the distribution of a new model
  their tokens  `add_tokens` and `resize_token_embeddings`: the new tokens are found anywhere, also inside of longer words
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from safetensors.numpy import load_file, save_file

import jaxbert
from jaxbert.config import DataConfig
from jaxbert.data.sources import open_source

HEADS = {True: "AutoModelForMaskedLM", False: "AutoModel"}


def resized(folder: Path, count: int, seed: int, **options: Any) -> Any:
    """Return PyTorch's model of a folder with `count` rows more, and whether it has a head over words."""
    torch.manual_seed(seed)
    config = transformers.AutoConfig.from_pretrained(folder)
    masked = any(name.endswith(("ForMaskedLM", "ForPreTraining")) for name in config.architectures or ())
    model = getattr(transformers, HEADS[masked]).from_pretrained(folder)
    model.resize_token_embeddings(config.vocab_size + count, **options)
    return model


def write_their_rows(model: Path, extended: Path, target: Path, seed: int, **options: Any) -> None:
    """Write the extended model with the rows that transformers draw, in place of the means."""
    added = json.loads((extended / "new_words.json").read_text("utf-8"))
    drawn = {name: tensor.numpy() for name, tensor in resized(model, len(added), seed, **options).state_dict().items()}
    tensors = load_file(extended / "model.safetensors")
    for name, tensor in tensors.items():
        if name.endswith(("word_embeddings.weight", "predictions.bias", "decoder.weight", "decoder.bias")):
            new = drawn[next(key for key in drawn if key.endswith(name.removeprefix("bert.")))]
            tensor[[entry["id"] for entry in added]] = new[-len(added) :]
    target.mkdir(parents=True)
    for path in extended.iterdir():
        if path.is_file() and path.suffix != ".safetensors":
            (target / path.name).write_bytes(path.read_bytes())
    save_file(tensors, target / "model.safetensors", metadata={"format": "pt"})


def write_their_tokens(model: Path, words: list[str], target: Path, seed: int) -> None:
    """Write the model as a user of transformers would: tokens added to the tokenizer, rows to the table."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(model)
    added = tokenizer.add_tokens(words)
    changed = resized(
        model, added - (transformers.AutoConfig.from_pretrained(model).vocab_size - len(tokenizer) + added), seed
    )
    changed.save_pretrained(target)
    tokenizer.save_pretrained(target)


def count_tokens(folder: Path, texts: list[str]) -> int:
    """Count the tokens of some texts, without special ones."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    return sum(map(len, tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]))


def masked_loss(folder: Path, texts: list[str]) -> tuple[float, float]:
    """Return the loss and the accuracy of a model on masked words: the evaluation of a run that learns nothing."""
    with tempfile.TemporaryDirectory() as work:
        file = Path(work, "texts.txt")
        file.write_text("\n".join(texts), "utf-8")
        settings: dict[str, Any] = {"max_steps": 1, "learning_rate": 1e-30, "mask": "word", "documents": "line"}
        found = jaxbert.pretrain(
            file, folder, file, output_dir=Path(work, "run"), next_sentence=False, max_length=128, **settings
        ).metrics
    return found["loss"], found["masked_accuracy"]


def accuracy(folder: Path, values: argparse.Namespace, data: dict[str, Any], seed: int) -> float:
    """Fine-tune on the training rows; return the accuracy on the held-out ones."""
    with tempfile.TemporaryDirectory() as run:
        done = jaxbert.finetune(
            values.train,
            folder,
            values.held,
            output_dir=run,
            seed=seed,
            label=values.label,
            limit=values.limit,
            epochs=values.epochs,
            batch_size=32,
            learning_rate=values.learning_rate,
            max_length=128,
            report__at_end=False,
            **data,
        )
    return float(done.metrics["accuracy"])


def parsed() -> argparse.Namespace:
    """Return the arguments."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--train", required=True)
    parser.add_argument("--held", required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--label", default="label")
    parser.add_argument("--quoting")
    parser.add_argument("--columns", nargs="*", help="the names of the columns of files that have no header")
    parser.add_argument("--size", type=int, default=3000)
    parser.add_argument("--min_count", type=int, default=5)
    parser.add_argument("--limit", type=int, help="training rows for fine-tuning; the vocabulary reads all")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning_rate", type=float, default=5e-5)
    parser.add_argument("--seeds", type=int, nargs="*", default=[], help="of fine-tuning; none: no fine-tuning")
    parser.add_argument("--output", required=True, type=Path)
    return parser.parse_args()


def main() -> None:
    """Make the variants, and print a row for each."""
    values = parsed()
    data = {"text": values.text, "quoting": values.quoting, "columns": values.columns}
    data = {key: value for key, value in data.items() if value is not None}
    extended = values.output / "extended"
    wanted: Any = {"size": values.size, "min_count": values.min_count}
    found = jaxbert.extend_vocabulary(values.model, values.train, extended, **wanted, **data)
    masked = "ForMaskedLM" in (found.folder / "config.json").read_text("utf-8")
    folders = {"before": values.model, "extended": extended}
    if masked:
        folders["mean bias"] = values.output / "mean_bias"
        jaxbert.extend_vocabulary(values.model, values.train, folders["mean bias"], **wanted, bias="mean", **data)
    for name, options in {"their rows": {}, "random rows": {"mean_resizing": False}}.items():
        folders[name] = values.output / name.replace(" ", "_")
        write_their_rows(values.model, extended, folders[name], seed=0, **options)
    folders["their tokens"] = values.output / "their_tokens"
    write_their_tokens(values.model, [new.token for new in found.added], folders["their tokens"], seed=0)
    files = {"train": values.train, "held": values.held}
    texts = {
        name: [
            text
            for part in open_source(file, DataConfig(**data), role="train", labelled=False).parts()
            for text in part.texts
        ]
        for name, file in files.items()
    }
    print(f"{len(found.added):,} new tokens; {json.dumps(found.to_dict()['scripts'])}")
    before = {name: count_tokens(values.model, part) for name, part in texts.items()}
    for name, folder in folders.items():
        counts = {part: count_tokens(folder, texts[part]) for part in texts}
        line = "; ".join(f"{part} {count:,} tokens ({count / before[part] - 1:+.1%})" for part, count in counts.items())
        if masked:
            line += "; masked words of held: loss {:.4f}, accuracy {:.4f}".format(*masked_loss(folder, texts["held"]))
        print(f"{name:>12}: {line}", flush=True)
    for name, folder in folders.items():
        if name == "mean bias":  # it differs in the head over words alone
            continue
        found_accuracies = [accuracy(folder, values, data, seed) for seed in values.seeds]
        if found_accuracies:
            mean = f"mean {np.mean(found_accuracies):.4f}"
            print(f"{name:>12}: accuracy {mean}, {', '.join(f'{a:.4f}' for a in found_accuracies)}", flush=True)


if __name__ == "__main__":
    main()
