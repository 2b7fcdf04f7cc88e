"""`jaxbert vocabulary prune`: removes the tokens that a corpus never uses from a model."""

from __future__ import annotations

import functools

from jaxbert.cli.inference_options import READING_OPTIONS, data_config
from jaxbert.cli.output import write_out
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.config import DataConfig
from jaxbert.errors import UserError
from jaxbert.options import InferenceOptions
from jaxbert.settings import add_fields

_ACTIONS = ("prune",)
_USAGE = """\
Example:  jaxbert vocabulary prune --model bert-base-multilingual-cased \\
            --corpus texts.csv news.txt --output smaller
Model:    a run folder, an exported folder or a name on the Hugging Face Hub.
Corpus:   raw text or tables of texts, as for `jaxbert pretrain`.
Results:  in --output a model that gives the same logits for every text of the corpus."""
_MAIN_KEYS = ("model", "corpus", "output", "text", "text_pair")


def run(arguments: list[str]) -> int:
    """Make a smaller model; print its folder and what is left."""
    if arguments and not arguments[0].startswith("-"):
        if arguments[0] not in _ACTIONS:
            raise UserError(f"unknown action {arguments[0]!r}: use jaxbert vocabulary {' or '.join(_ACTIONS)}")
        arguments = arguments[1:]
    elif not arguments or arguments[0] not in ("-h", "--help", "--help_all"):
        raise UserError(f"say what to do with the vocabulary: jaxbert vocabulary {' or '.join(_ACTIONS)}")
    values = parse(_make_parser(), arguments)
    data = data_config(values)
    from jaxbert.compress.vocabulary import shrink_vocabulary
    from jaxbert.terminal import console
    from jaxbert.train.runtime import prepare_process

    prepare_process()
    found = shrink_vocabulary(values.model, values.corpus, values.output, data, values.lower_case)
    console.print(
        f"{found.tokens:,} of {found.tokens_before:,} tokens are left ({found.used:,} are used), "
        f"{found.parameters:,} of {found.parameters_before:,} parameters",
        highlight=False,
        soft_wrap=True,
    )
    write_out(f"{found.folder}\n")
    return 0


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser("vocabulary", "Remove the tokens that a corpus never uses from a model.", _USAGE, _MAIN_KEYS)
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
    add_fields(parser, InferenceOptions, ["lower_case"])
    add_fields(parser, DataConfig, READING_OPTIONS)
    return parser
