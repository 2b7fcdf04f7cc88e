"""`jaxbert curve`: trains at growing shares of the rows, and says whether more labels would help."""

from __future__ import annotations

import functools

from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.cli.train import train
from jaxbert.options import CURVE_FOLDS, FRACTIONS
from jaxbert.settings import add_config, to_config

_USAGE = """\
Example:  jaxbert curve --data.train reviews.csv --fractions 1/8,1/4,1/2,1 --train.output_dir runs/curve
Data:     as for `jaxbert train`. Models are trained on growing shares of the training rows, each in
          folds (--train.folds, by default 5), and measured on the rows that were held out.
Results:  a table and a sentence; in the folder --train.output_dir: curve.json with all numbers, and
          curve.png, a chart.
Resume:   run the same command again; other --fractions are added."""
_MAIN_KEYS = (
    *("fractions", "task", "model.name_or_path", "data.train", "data.text", "data.label"),
    *("train.output_dir", "train.folds", "train.epochs", "optimizer.learning_rate"),
)


def run(arguments: list[str]) -> int:
    """Train at growing shares; exit with 75 if a signal stopped it after saving."""
    values = parse(_make_parser(), arguments)
    return train(to_config(values), values.fractions)


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser(
        "curve", "Train on growing shares of the rows, and tell whether more labels would help.", _USAGE, _MAIN_KEYS
    )
    parser.add_argument(
        "--fractions", type=str, default=FRACTIONS, help="Shares of the training rows, at least two: 1/4,1/2,1."
    )
    add_config(parser)
    parser.set_defaults({"train.folds": CURVE_FOLDS})
    return parser
