"""Opens a folder with ONNX graphs in optimum, in the environment that optimum_env.sh makes, and compares its answers.

    jaxbert predict --model sst2-onnx --input dev.tsv --text sentence --quoting none --output answers.jsonl
    .venv-optimum/bin/python scripts/bench/optimum_open.py --model sst2-onnx --data dev.tsv --answers answers.jsonl

It prints the share of texts with the same label, and the largest difference of the scores.
"""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline


def main() -> None:
    """Read the options and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a folder that `jaxbert export --format onnx` wrote")
    parser.add_argument("--file", default="model.onnx", help="the graph")
    parser.add_argument("--data", type=Path, required=True, help="a TSV with a header")
    parser.add_argument("--text", default="sentence", help="its column of texts")
    parser.add_argument("--answers", type=Path, required=True, help="what `jaxbert predict` answers for it")
    values = parser.parse_args()
    with values.data.open(encoding="utf-8", newline="") as file:
        texts = [row[values.text] for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]
    answers = [json.loads(line) for line in values.answers.read_text("utf-8").splitlines()]
    model = ORTModelForSequenceClassification.from_pretrained(values.model, subfolder="onnx", file_name=values.file)
    classify = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(values.model))
    found = classify(texts, batch_size=32, truncation=True)
    pairs = list(zip(found, answers, strict=True))
    same = [own["label"] == answer["label"] for own, answer in pairs]
    far = max(abs(own["score"] - answer["score"]) for own, answer in pairs)
    print(json.dumps({"texts": len(pairs), "same_label": sum(same) / len(same), "largest_difference": far}))


if __name__ == "__main__":
    main()
