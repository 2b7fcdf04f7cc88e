"""`jaxbert vocabulary`: removes the tokens that a corpus never uses from a model, or makes tokens of its frequent words."""

from __future__ import annotations

import functools
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from jsonargparse import Namespace

from jaxbert.cli.inference_options import READING_OPTIONS, data_config
from jaxbert.cli.output import write_out
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.config import DataConfig
from jaxbert.errors import UserError
from jaxbert.options import InferenceOptions, NewWordsOptions
from jaxbert.settings import add_fields

if TYPE_CHECKING:
    from jaxbert.compress.new_words import LargerVocabulary

_ACTIONS = {
    "prune": "Remove the tokens that a corpus never uses from a model.",
    "extend": "Add the frequent words and unknown characters of a corpus to a model as tokens.",
}
_USAGE = """\
Example:  jaxbert vocabulary prune --model bert-base-multilingual-cased \\
            --corpus texts.csv news.txt --output smaller
          jaxbert vocabulary extend --model bert-base-chinese --corpus texts.csv \\
            --size 1000 --output larger
Model:    a run folder, an exported folder or a name on the Hugging Face Hub.
Corpus:   raw text or tables of texts, as for `jaxbert pretrain`.
Results:  in --output a model. prune: it gives the same logits for every text of the corpus.
          extend: it gives the same logits for every text without a new token; train it further."""
_MAIN_KEYS = ("model", "corpus", "output", "text", "text_pair")
_NEW_KEYS = tuple(field.name for field in fields(NewWordsOptions))
_SHOWN = 10
"""New tokens that are printed; all are in the new folder."""


def run(arguments: list[str]) -> int:
    """Make a model with another vocabulary; print its folder and what changed."""
    action = ""
    if arguments and not arguments[0].startswith("-"):
        action, *arguments = arguments
        if action not in _ACTIONS:
            raise UserError(f"unknown action {action!r}: use jaxbert vocabulary {' or '.join(_ACTIONS)}")
    elif not arguments or arguments[0] not in ("-h", "--help", "--help_all"):
        raise UserError(f"say what to do with the vocabulary: jaxbert vocabulary {' or '.join(_ACTIONS)}")
    values = parse(_make_parser(action), arguments)
    data = data_config(values)
    return (_extend if action == "extend" else _prune)(values, data)


def _prune(values: Namespace, data: DataConfig) -> int:
    from jaxbert.compress.vocabulary import shrink_vocabulary
    from jaxbert.train.runtime import prepare_process

    prepare_process()
    found = shrink_vocabulary(values.model, values.corpus, values.output, data, values.lower_case)
    _say(
        f"{found.tokens:,} of {found.tokens_before:,} tokens are left ({found.used:,} are used), "
        f"{found.parameters:,} of {found.parameters_before:,} parameters"
    )
    write_out(f"{found.folder}\n")
    return 0


def _extend(values: Namespace, data: DataConfig) -> int:
    options = NewWordsOptions(**{key: values[key] for key in _NEW_KEYS})
    from jaxbert.compress.new_words import NEW_WORDS, grow_vocabulary
    from jaxbert.terminal import console
    from jaxbert.train.runtime import prepare_process

    prepare_process()
    found = grow_vocabulary(values.model, values.corpus, values.output, data, options, values.lower_case)
    console.print(_table(found), highlight=False)
    names = ", ".join(new.token for new in found.added[:_SHOWN])
    rest = f", ... (all in {NEW_WORDS})" if len(found.added) > _SHOWN else ""
    _say(f"{len(found.added):,} new tokens: {names}{rest}")
    _say(
        f"{found.tokens_before:,} rows of words became {found.tokens:,}, {found.parameters_before:,} parameters "
        f"{found.parameters:,}"
    )
    write_out(f"{found.folder}\n")
    return 0


def _say(line: str) -> None:
    from jaxbert.terminal import console

    console.print(line, highlight=False, soft_wrap=True, markup=False)


def _table(found: LargerVocabulary) -> Any:
    """Return the counts by script as a table of the terminal."""
    from rich.table import Table

    table = Table("script", "words", "pieces per word", "now", "unknown", "now", "tokens")
    for name, counts in found.scripts.items():
        numbers = counts.to_dict()
        table.add_row(
            name,
            f"{counts.words:,}",
            *(f"{numbers[key]:.3f}" for key in ("pieces_a_word_before", "pieces_a_word")),
            *(f"{numbers[key]:.2%}" for key in ("unknown_share_before", "unknown_share")),
            f"{counts.tokens / counts.tokens_before - 1:+.1%}",
        )
    return table


@functools.cache
def _make_parser(action: str) -> Parser:
    verb = f"vocabulary {action or '|'.join(_ACTIONS)}"
    keys = (*_MAIN_KEYS[:3], *_NEW_KEYS[:3], *_MAIN_KEYS[3:]) if action == "extend" else _MAIN_KEYS
    parser = make_parser(
        verb, _ACTIONS.get(action, "\n".join(f"{name}: {what}" for name, what in _ACTIONS.items())), _USAGE, keys
    )
    parser.add_argument(
        "--model", type=str, required=True, help="The model: an exported folder, a run folder or a name on the Hub."
    )
    parser.add_argument(
        "--corpus",
        type=str,
        nargs="+",
        required=True,
        help="The texts, one or several sources: raw text (.txt), tables, hf:NAME or tfds:NAME.",
    )
    parser.add_argument("--output", type=str, required=True, help="The folder to write.")
    if action == "extend":
        add_fields(parser, NewWordsOptions, _NEW_KEYS)
    add_fields(parser, InferenceOptions, ["lower_case"])
    add_fields(parser, DataConfig, READING_OPTIONS)
    return parser
