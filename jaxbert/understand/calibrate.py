"""Write a calibrated model: to a folder of its own, or in place of the model that it was made of."""

from __future__ import annotations

import os

from etils import epath

from jaxbert.bucket import to_path
from jaxbert.errors import UserError
from jaxbert.processes import is_main
from jaxbert.runs.export import check_target, copy_card, export_params
from jaxbert.runs.folder import RunFolder
from jaxbert.train.inference import TrainedModel


def target_of(name: str, output: str | os.PathLike[str] | None) -> epath.Path:
    """Return the folder for the calibrated model: `output`, else the folder of the model `name`, for a run its export.

    Raises:
      UserError: if `output` holds other files, the model is on the Hub and there is no `output`, or it is an ensemble.
    """
    run = RunFolder(name)
    run.check_one_model()
    if output is not None:
        return check_target(output, "--output")
    if run.config.exists():
        return run.export
    if to_path(name).exists():
        return to_path(name)
    raise UserError(
        f"--model {name} is not a folder on this machine: name the folder for the calibrated model with --output"
    )


def write_calibrated(model: TrainedModel, name: str, target: epath.Path) -> None:
    """Write a calibrated model to a folder, with the card of the model `name`, which says that it is calibrated.

    All processes call it, and the main one writes.
    """
    export_params(RunFolder(name), model.config, model.tokenizer, model.params, model.task.architecture, target)
    if is_main():
        copy_card(name, target, calibrated=True)
