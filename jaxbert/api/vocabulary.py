"""Change the vocabulary of a model, from Python: make it smaller, or teach it new words."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Literal

from jaxbert.api.model import Model
from jaxbert.api.rows import Data, name_source
from jaxbert.bucket import path_text
from jaxbert.compress.new_words import LargerVocabulary, grow_vocabulary
from jaxbert.compress.vocabulary import SmallerVocabulary, shrink_vocabulary
from jaxbert.config import DataConfig
from jaxbert.errors import UserError
from jaxbert.options import NewWordsOptions
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
    data = make_data_config(DataConfig(), keys)
    with _sources(corpus) as sources:
        return shrink_vocabulary(_name(model), sources, path_text(output, "output"), data, lower_case=lower_case)


def extend_vocabulary(
    model: str | os.PathLike[str] | Model,
    corpus: Data | list[str] | list[os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    size: int = NewWordsOptions.size,
    min_count: int = NewWordsOptions.min_count,
    min_pieces: int = NewWordsOptions.min_pieces,
    bias: Literal["counted", "mean"] = NewWordsOptions.bias,
    reuse_unused: bool = NewWordsOptions.reuse_unused,
    lower_case: bool | None = None,
    **keys: Any,
) -> LargerVocabulary:
    """Write a model in which frequent words and unknown characters are tokens, as `jaxbert vocabulary extend` does.

    The new model gives the same logits for every text without a new token. Train it further before you use it.

    Args:
      model: a model folder, a run folder or a name on the Hub.
      corpus: a source of texts, rows in memory, or a list of sources.
      output: the folder of the new model.
      size: most new tokens: unknown characters first, then the words that save most tokens.
      min_count: how often the corpus must have a word or a character.
      min_pieces: into how many pieces a word must have been cut.
      bias: what the scores of new words start with, in a head over words: "counted" (by how rare they are) or "mean".
      reuse_unused: whether the rows of the tokens [unused1], [unused2], ... are taken first.
      lower_case: whether texts are lower-cased, if the model's folder does not say so.
      **keys: keys of the section `data` about reading, such as `text="sentence"`.

    Returns:
      The folder, the new tokens, and pieces a word and unknown tokens before and after, by script.

    Raises:
      UserError: for a model whose vocabulary is not one of word pieces, a corpus that cannot be read or has no such word.
    """
    data = make_data_config(DataConfig(), keys)
    options = NewWordsOptions(size, min_count, min_pieces, bias, reuse_unused)
    with _sources(corpus) as sources:
        return grow_vocabulary(_name(model), sources, path_text(output, "output"), data, options, lower_case=lower_case)


def _name(model: str | os.PathLike[str] | Model) -> str:
    prepare_process()
    return model.name if isinstance(model, Model) else path_text(model, "model")


@contextmanager
def _sources(corpus: Any) -> Iterator[list[str]]:
    """Return the names of the sources of a corpus, which may be rows in memory."""
    if isinstance(corpus, list) and not corpus:
        raise UserError("corpus is an empty list: give rows with texts, or sources")
    several = isinstance(corpus, list) and all(isinstance(part, str | os.PathLike) for part in corpus)
    with ExitStack() as stack:
        parts: Any = corpus if several else [corpus]
        yield [name_source(stack, part, "corpus") for part in parts]
