"""How much smaller a model gets without the tokens that some corpora never use, and whether its answers stay the same.

  python scripts/bench/smaller_vocabulary.py --vocab vocab.txt --corpus dev.tsv news.txt --text sentence --output OUT

Makes a new model of BERT-base's shape (or of another size) with this vocabulary and random weights, which is all that sizes
and equality depend on; prunes it; and compares the vectors of both models for the first texts of each corpus, bit by bit.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from pathlib import Path
from typing import Any

import numpy as np
from transformers import BertTokenizer

import jaxbert
from jaxbert.config import DataConfig, PretrainConfig
from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens, encode_texts
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.interop.write import save_folder
from jaxbert.models.families import sized_config
from jaxbert.models.functional import init_params, make_model
from jaxbert.models.heads import SequenceClassificationHead
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.pretraining.documents import open_documents
from jaxbert.train.evaluate import Predictor
from jaxbert.train.programs import layer_call
from jaxbert.train.sharding import make_key, make_mesh


def write_model(folder: Path, vocab: str, size: str, *, lower_case: bool) -> None:
    """Write a new classifier of a size, with random weights."""
    tokenizer = BertTokenizer(vocab=vocab, do_lower_case=lower_case)
    model = make_model(SequenceClassificationHead, sized_config(size, len(tokenizer)))
    save_folder(folder, init_params(model, make_key(0)), model.config, tokenizer)


def logits(folder: Path, texts: list[str]) -> np.ndarray:
    """Return the logits of a model for some texts of up to 128 tokens, packed, by its own tokenizer."""
    config = read_config(folder)
    encoded = encode_texts(load_tokenizer(folder, config), texts, None, 128)
    tokens = Tokens.from_lengths(encoded.ids, encoded.lengths, encoded.first_lengths)
    model = make_model(SequenceClassificationHead, config)
    settings = dataclasses.replace(jaxbert.Config().model)
    mesh: Any = make_mesh(jaxbert.Config().mesh)
    predictor = Predictor(model, Classification(("a", "b")), mesh, layer_call(settings, mesh))
    return predictor(load_params(folder, model)[0], Examples(tokens))


def main() -> None:
    """Make, prune, compare, and print the sizes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocab", required=True)
    parser.add_argument("--corpus", nargs="+", required=True)
    parser.add_argument("--text", default="text")
    parser.add_argument("--size", default="base")
    parser.add_argument("--lower_case", action="store_true")
    parser.add_argument("--texts", type=int, default=100, help="texts of each corpus to compare")
    parser.add_argument("--output", type=Path, required=True)
    values = parser.parse_args()
    large, small = values.output / "large", values.output / "small"
    write_model(large, values.vocab, values.size, lower_case=values.lower_case)
    begin = time.perf_counter()
    found = jaxbert.prune_vocabulary(large, values.corpus, small, text=values.text, quoting="none")
    seconds = time.perf_counter() - begin
    data, texts = DataConfig(text=values.text, quoting="none"), list[str]()
    for corpus in values.corpus:
        lines = filter(None, open_documents(corpus, data, PretrainConfig(documents="line")).lines())
        texts += [line for _, line in zip(range(values.texts), lines, strict=False)]
    same = np.array_equal(logits(large, texts), logits(small, texts))
    bytes_of = [(folder / "model.safetensors").stat().st_size for folder in (large, small)]
    print(f"{found.tokens_before:,} tokens -> {found.tokens:,} ({found.used:,} used), in {seconds:.0f} s")
    print(f"{found.parameters_before:,} parameters -> {found.parameters:,}")
    print("{:,} bytes -> {:,}".format(*bytes_of))
    print(f"logits of {len(texts):,} texts: {'the same bits' if same else 'DIFFERENT'}")


if __name__ == "__main__":
    main()
