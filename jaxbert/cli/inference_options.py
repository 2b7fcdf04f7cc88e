"""The options that `predict` and `evaluate` share, and the opening of their model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jsonargparse import ArgumentParser, Namespace

from jaxbert.config import COLUMN_KEYS, FILE_KEYS, DataConfig, LaunchConfig
from jaxbert.errors import UserError
from jaxbert.options import InferenceOptions
from jaxbert.settings import add_fields, add_section
from jaxbert.tasks import task_class

if TYPE_CHECKING:
    from jaxbert.train.inference import TrainedModel


LABEL_OPTIONS = ("label", "label_format", "label_map")
"""Keys of the section `data` about labels; only `evaluate` has them."""
READING_OPTIONS = tuple(key for key in (*COLUMN_KEYS, *FILE_KEYS) if key not in LABEL_OPTIONS)
"""Keys about reading a source."""
COMPUTING_OPTIONS = ("max_length", "lower_case", "batch_size", "precision")
"""Keys about the computation of a model."""
ANSWER_OPTIONS = ("top_k", "abstain_below", "coverage")
"""Keys about the form of answers; only `predict` has them."""
ENGINE_OPTIONS = ("engine", "quantize")
"""Keys about what computes a model; the verbs have them that need its answers alone."""


def add_options(parser: ArgumentParser, **other_defaults: Any) -> None:
    """Add the options of the model, the columns and the computation."""
    parser.add_argument(
        "--model", type=str, required=True, help="The model: an exported folder, a run folder or a name on the Hub."
    )
    parser.add_argument(
        "--task",
        type=str | None,
        default=None,
        help="Class of the model's task, as package.module:Class, if the task comes from another package.",
    )
    add_fields(parser, DataConfig, READING_OPTIONS)
    add_fields(parser, InferenceOptions, COMPUTING_OPTIONS, **other_defaults)
    add_section(parser, LaunchConfig, "launch")


def add_texts(parser: ArgumentParser, standard_input: str, written: str) -> None:
    """Add `--input` and `--output`; the help says more of standard input, and in which form results are `written`."""
    parser.add_argument(
        "--input",
        type=str,
        required=True,
        help=f"The texts: a file, hf:NAME, tfds:NAME, or - for {standard_input}.",
    )
    parser.add_argument(
        "--output",
        type=str,
        default="-",
        help=f"File for the answers, also in a bucket, or - for standard output. {written}",
    )


def data_config(values: Namespace) -> DataConfig:
    """Return the options about reading a file.

    Raises:
      UserError: if one is wrong.
    """
    return DataConfig(**{name: values[name] for name in (*READING_OPTIONS, *LABEL_OPTIONS) if name in values})


def open_model(values: Namespace, source: str) -> TrainedModel:
    """Check the sizes, and that `source` can be read; then open the model."""
    options = InferenceOptions(
        **{name: values[name] for name in (*COMPUTING_OPTIONS, *ANSWER_OPTIONS, *ENGINE_OPTIONS) if name in values}
    )
    from jaxbert.data.sources import STDIN, check_source

    check_source(source)
    if values.task is not None:
        task_class(values.task)
    from jaxbert.launch.start import start
    from jaxbert.train.runtime import prepare_process

    prepare_process(options.precision)
    start(LaunchConfig(**values.launch.as_dict()))
    from jaxbert.processes import is_alone
    from jaxbert.serve.onnx_engine import open_engine

    if source == STDIN and not is_alone():
        raise UserError(
            "standard input reaches one process only, but all of them read the texts: name a file instead of -"
        )
    return open_engine(values.model, options)
