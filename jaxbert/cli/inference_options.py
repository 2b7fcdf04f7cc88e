"""The options that `predict` and `evaluate` share, and what they open."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, get_type_hints

from jsonargparse import ArgumentParser, Namespace

from jaxbert.checks import check_reading
from jaxbert.config import COLUMN_KEYS, FILE_KEYS, DataConfig, LaunchConfig, PrecisionConfig, TrainConfig
from jaxbert.errors import UserError
from jaxbert.settings import help_texts
from jaxbert.tasks import task_class

if TYPE_CHECKING:
    from jaxbert.train.inference import TrainedModel


LABEL_OPTIONS = ("label", "label_format", "label_map")
"""Keys of the section `data` that say what labels are: of `evaluate` alone."""
READING_OPTIONS = tuple(key for key in (*COLUMN_KEYS, *FILE_KEYS) if key not in LABEL_OPTIONS)
"""Keys that say how a source is read."""


def add_data_options(parser: ArgumentParser, names: Sequence[str]) -> None:
    """Add keys of the section `data` by their own names, with their types, defaults and help."""
    defaults, hints, helps = DataConfig(), get_type_hints(DataConfig), help_texts(DataConfig)
    for name in names:
        parser.add_argument(f"--{name}", type=hints[name], default=getattr(defaults, name), help=helps[name])


def add_options(parser: ArgumentParser, batch_size: int | None = TrainConfig.eval_batch_size) -> None:
    """Add the model, the columns and how it is computed; with a batch size of None it is as in the model's run."""
    parser.add_argument("--model", type=str, required=True, help="an exported folder, a run folder or a Hub name")
    parser.add_argument(
        "--task",
        type=str | None,
        default=None,
        help="the class of a task of another package that the model was trained for, as package.module:Class",
    )
    add_data_options(parser, READING_OPTIONS)
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
    names = [name for name in (*READING_OPTIONS, *LABEL_OPTIONS) if name in values]
    data = DataConfig(**{name: values[name] for name in names})
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
    if values.task is not None:
        task_class(values.task)
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
