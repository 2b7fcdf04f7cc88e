"""Make the vocabulary of a model smaller, from Python."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import Any

from jaxbert.api.model import Model
from jaxbert.api.rows import Data, name_source
from jaxbert.compress.vocabulary import SmallerVocabulary, shrink_vocabulary
from jaxbert.config import DataConfig
from jaxbert.settings import make_data_config
from jaxbert.train.runtime import prepare_process


def prune_vocabulary(
    model: str | os.PathLike[str] | Model,
    corpus: Data | list[str] | list[os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    lower_case: bool | None = None,
    **keys: Any,
) -> SmallerVocabulary:
    """Write a model without the tokens that a corpus never uses, as `jaxbert vocabulary prune` does.

    The smaller model gives the same logits for every text of the corpus.

    Args:
      model: a model folder, a run folder or a name on the Hub.
      corpus: a source of texts, rows in memory, or a list of sources.
      output: the folder of the smaller model.
      lower_case: whether texts are lower-cased, if the model's folder does not say so.
      **keys: keys of the section `data` about reading, such as `text="sentence"`.

    Returns:
      The folder, and the numbers of tokens and parameters before and after.

    Raises:
      UserError: for a model whose vocabulary is not one of word pieces, or a corpus that cannot be read.
    """
    prepare_process()
    several = isinstance(corpus, list) and all(isinstance(part, str | os.PathLike) for part in corpus)
    with ExitStack() as stack:
        parts: Any = corpus if several else [corpus]
        sources = [name_source(stack, part, "corpus") for part in parts]
        name = model.name if isinstance(model, Model) else os.fspath(model)
        return shrink_vocabulary(
            name, sources, os.fspath(output), make_data_config(DataConfig(), keys), lower_case=lower_case
        )
