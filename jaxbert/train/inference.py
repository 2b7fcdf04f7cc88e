"""A trained classifier, opened from a folder or the Hub to evaluate and to predict."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.config import MeshConfig, ModelConfig, PrecisionConfig
from jaxbert.data.labels import LabelSet
from jaxbert.data.sources import Source
from jaxbert.errors import UserError
from jaxbert.interop.folder import read_config, resolve
from jaxbert.interop.load import load_params
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.models.functional import Params, make_model
from jaxbert.tasks.classification import Classification
from jaxbert.train.evaluate import Predictor
from jaxbert.train.inputs import label, prepare_shown, resolve_max_length
from jaxbert.train.run_folder import RunFolder
from jaxbert.train.sharding import make_mesh, param_shardings, place
from jaxbert.train.start import compute_dtype, layer_call


@dataclass(frozen=True)
class Classifier:
    """A model with everything that it needs to label texts."""

    task: Classification
    tokenizer: Any
    params: Params
    predictor: Predictor
    max_length: int

    def predict(self, source: Source) -> np.ndarray:
        """Return log-probabilities [N, C] in the order of the source."""
        stored = prepare_shown(source, self.tokenizer, self.max_length)
        return self.predictor(self.params, stored.tokens)

    def evaluate(self, source: Source) -> dict[str, Any]:
        """Return all metrics over a labelled source.

        Raises:
          UserError: for a label that the model does not know.
        """
        stored = prepare_shown(source, self.tokenizer, self.max_length)
        examples = label(stored, LabelSet(self.task.label_names))
        assert examples.labels is not None
        return self.task.metrics(self.predictor(self.params, examples.tokens), examples.labels)


def open_classifier(
    name: str, *, batch_size: int = 256, max_length: int | None = None, precision: PrecisionConfig | None = None
) -> Classifier:
    """Open an exported folder, a run folder (its export) or a Hub name.

    Raises:
      UserError: if there is no such model, or it has no trained classifier.
    """
    folder = _model_folder(name)
    config = read_config(folder)
    names = {int(index): str(name) for index, name in (config.id2label or {}).items()}
    task = Classification(tuple(names[index] for index in sorted(names)))
    mesh = make_mesh(MeshConfig())
    model = make_model(task.head, config, compute_dtype(precision or PrecisionConfig(), mesh))
    params, _ = load_params(folder, model)
    return Classifier(
        task=task,
        tokenizer=load_tokenizer(folder, config),
        params=place(params, param_shardings(mesh, model.abstract_params)),
        predictor=Predictor(model, task, mesh, layer_call(ModelConfig(), mesh), batch_size),
        max_length=resolve_max_length(max_length, config.max_position_embeddings),
    )


def _model_folder(name: str) -> Path:
    run = RunFolder(name)
    if not run.config.exists():
        return resolve(name)
    if not run.export.is_dir():
        raise UserError(
            f"{name} is a run that has not finished: run `jaxbert train` again, or export a checkpoint with "
            f"`jaxbert export --run {name} --step last --output DIR`"
        )
    return resolve(run.export)
