"""The vocabulary's output weights, which files hold once, twice or under either name.

They score words by the table of the word embeddings, and PyTorch's modules have each tensor of the pair under two names.
"""

from __future__ import annotations

from collections.abc import Container

import numpy as np
from transformers import BertConfig

from jaxbert.errors import UserError
from jaxbert.interop.formats import Tensors

_WORDS = "bert.embeddings.word_embeddings.weight"
_DECODER = "cls.predictions.decoder.weight"
_BIAS = "cls.predictions.bias"
_DECODER_BIAS = "cls.predictions.decoder.bias"


def join_tied(tensors: Tensors, expected: Container[str], config: BertConfig, source: str) -> Tensors:
    """Return the tensors with one copy of what is tied, under the name that a model with these tensors has.

    Raises:
      UserError: if the configuration ties two tables that differ.
    """
    tensors = dict(tensors)
    tied = getattr(config, "tie_word_embeddings", True)
    if tied and _DECODER in tensors:
        tensors.setdefault(_WORDS, tensors[_DECODER])
    if _BIAS not in expected:
        return tensors
    if _DECODER_BIAS in tensors:  # where both are there and differ, this is the one that PyTorch adds
        tensors[_BIAS] = tensors.pop(_DECODER_BIAS)
    if tied and _DECODER in tensors and not np.array_equal(tensors.pop(_DECODER), tensors[_WORDS]):
        raise UserError(
            f"{source} holds {_DECODER} and other word embeddings, but its configuration ties the two: "
            "set tie_word_embeddings to false in config.json"
        )
    return tensors


def add_untied_copies(tensors: Tensors) -> Tensors:
    """Give an untied decoder the bias under the name that PyTorch adds it by, besides the one that all models have."""
    return tensors | {_DECODER_BIAS: tensors[_BIAS]} if _DECODER in tensors else tensors
