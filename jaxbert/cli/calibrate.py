"""`jaxbert calibrate`: calibrates a finished model and chooses its thresholds, on rows that it was not trained on."""

from __future__ import annotations

import functools

from jaxbert.cli.inference_options import LABEL_OPTIONS, add_options, data_config, open_model
from jaxbert.cli.output import write_out
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.config import TUNING_KEYS, DataConfig, TrainConfig
from jaxbert.settings import add_fields

_USAGE = """\
Example:  jaxbert calibrate --model runs/reviews --data held_out.csv
          jaxbert calibrate --model runs/spam --data held_out.csv --threshold recall=0.9
Model:    a run folder, an exported folder or a name on the Hugging Face Hub.
Data:     rows that the model was not trained on, as for `jaxbert evaluate`.
Results:  the model with calibrated probabilities in the folder --output, or in its own folder."""
_MAIN_KEYS = ("model", "data", "output", *TUNING_KEYS, "text", "text_pair", "label")


def run(arguments: list[str]) -> int:
    """Calibrate a model; print what changed, and the folder that has it."""
    values = parse(_make_parser(), arguments)
    data = data_config(values)
    from jaxbert.tasks.decision import Tuning

    tuning = Tuning.make(**{key: values[key] for key in TUNING_KEYS}, spell="--{}".format)
    from jaxbert.processes import is_main
    from jaxbert.terminal import console
    from jaxbert.train.report import tuning_lines
    from jaxbert.understand.calibrate import target_of, write_calibrated

    target = target_of(values.model, values.output)
    model, record = open_model(values, values.data).calibrated(values.data, data, tuning)
    write_calibrated(model, values.model, target)
    if is_main():
        for name, line in tuning_lines(record).items():
            if "note" not in record[name]:  # it was a warning
                console.print(f"{name}: {line}", highlight=False, soft_wrap=True, markup=False)
        write_out(f"{target}\n")
    return 0


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser(
        "calibrate", "Calibrate a model's probabilities, and choose its thresholds.", _USAGE, _MAIN_KEYS
    )
    add_options(parser)
    parser.add_argument(
        "--data",
        type=str,
        required=True,
        help="Labelled examples that the model was not trained on: a file, hf:NAME or tfds:NAME.",
    )
    add_fields(parser, DataConfig, LABEL_OPTIONS)
    add_fields(parser, TrainConfig, TUNING_KEYS, calibration="temperature")
    parser.add_argument(
        "--output",
        type=str | None,
        default=None,
        help="Folder for the calibrated model. If not set, the model's own folder is written again (the export of a run).",
    )
    return parser
