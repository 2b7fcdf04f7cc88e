"""The options that `predict` and `evaluate` share, and what they open."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from jsonargparse import ArgumentParser, Namespace

from jaxbert.checks import check_reading
from jaxbert.config import DataConfig, LaunchConfig, PrecisionConfig, TrainConfig
from jaxbert.errors import UserError

if TYPE_CHECKING:
    from jaxbert.train.inference import TrainedModel


_TASK_COLUMNS = {
    "tokens": "token classification: column of a text's words, a list",
    "tag_column": "token classification, evaluate: column of the words' tags",
    "spans": "token classification, evaluate: column of the spans marked in the text",
    "question": "question answering: column of the question",
    "context": "question answering: column of the text that answers it",
    "answers": "question answering, evaluate: column of the answers",
}
"""Keys of the section `data` that some tasks read, with their help."""


_READING = {
    "separator": "what stands between the fields of a csv, tsv or txt file; left out, as its header shows",
    "quote": "the quote of such a file; left out, the double quote",
    "encoding": "encoding of text files, such as gbk or cp1252; left out, UTF-8 or what the byte-order mark says",
}
LABEL_OPTIONS: dict[str, tuple[Any, str]] = {
    "label": (str | list[str], "column of the label, or several columns of 0 and 1: [NAME, ...]"),
    "label_format": (Literal["auto", "names", "indices", "multi_hot"], "what numbers in the label column are"),
    "label_map": (
        str | dict[str, str | int] | None,
        "other names for labels, {pos: positive}, or a file of such pairs",
    ),
}
"""Keys of the section `data` that say what labels are, with their types and help."""


def add_options(parser: ArgumentParser, batch_size: int | None = TrainConfig.eval_batch_size) -> None:
    """Add the model, the columns and how it is computed; with a batch size of None it is as in the model's run."""
    data = DataConfig()
    parser.add_argument("--model", type=str, required=True, help="an exported folder, a run folder or a Hub name")
    parser.add_argument("--text", type=str, default=data.text, help="column of the text")
    parser.add_argument("--text_pair", type=str | None, default=None, help="column of the second text of a pair")
    parser.add_argument("--columns", type=list[str] | None, default=None, help="column names of a file without header")
    parser.add_argument("--quoting", type=Literal["csv", "none"], default=data.quoting, help="none for raw fields")
    for name, meaning in _READING.items():
        parser.add_argument(f"--{name}", type=str | None, default=None, help=meaning)
    parser.add_argument(
        "--bad_rows",
        type=Literal["error", "skip"],
        default=data.bad_rows,
        help="evaluate: skip leaves malformed and empty rows out",
    )
    parser.add_argument(
        "--label_separator", type=str, default=data.label_separator, help="what stands between the labels of a text"
    )
    for name, meaning in _TASK_COLUMNS.items():
        default = getattr(data, name)
        parser.add_argument(f"--{name}", type=str if default else str | None, default=default, help=meaning)
    parser.add_argument(
        "--comment_lines",
        type=Literal["auto", "skip", "tokens"],
        default=data.comment_lines,
        help="token classification: what lines are that begin with #, in files with a token a line",
    )
    parser.add_argument(
        "--max_length", type=int | None, default=None, help="longest example in tokens; left out, as in training"
    )
    parser.add_argument(
        "--lower_case",
        type=bool | None,
        default=None,
        help="whether texts are lower-cased, where the model's folder leaves it open",
    )
    as_in_run = "" if batch_size else "; left out, as in the model's run, 256 where that is not known"
    parser.add_argument(
        "--batch_size",
        type=int if batch_size else int | None,
        default=batch_size,
        help=f"examples of one step; fewer are taken where they are long{as_in_run}",
    )
    parser.add_argument(
        "--precision",
        type=Literal["auto", "float32", "bfloat16"],
        default="auto",
        help="format of the computation; auto: what the model's run was told on a device of the same kind, else by device",
    )
    parser.add_class_arguments(LaunchConfig, "launch")


def data_config(values: Namespace) -> DataConfig:
    """Return the options that say how a file is read.

    Raises:
      UserError: for one that is out of range.
    """
    data = DataConfig(
        text=values.text,
        text_pair=values.text_pair,
        columns=values.columns,
        quoting=values.quoting,
        label_separator=values.label_separator,
        comment_lines=values.comment_lines,
        bad_rows=values.bad_rows,
        **{name: values[name] for name in (*_READING, *_TASK_COLUMNS, *LABEL_OPTIONS) if name in values},
    )
    check_reading(data)
    return data


def open_model(values: Namespace, source: str) -> TrainedModel:
    """Check the sizes, and that `source` can be read, and open the model."""
    for name, least in (("batch_size", 1), ("max_length", 3), ("top_k", 1)):
        value = values.get(name)
        if value is not None and value < least:
            raise UserError(f"--{name} is {value}, but it must be at least {least}")
    from jaxbert.data.sources import STDIN, check_there

    check_there(source)
    from jaxbert.launch.start import start
    from jaxbert.train.runtime import prepare_process

    prepare_process(values.precision)
    start(LaunchConfig(**values.launch.as_dict()))
    from jaxbert.processes import is_alone
    from jaxbert.train.inference import open_trained

    if source == STDIN and not is_alone():
        raise UserError("standard input reaches one process, but all of them read the texts: name a file instead of -")
    return open_trained(
        values.model,
        batch_size=values.batch_size,
        max_length=values.max_length,
        lower_case=values.lower_case,
        precision=PrecisionConfig(values.precision),
        top_k=values.get("top_k"),
    )
