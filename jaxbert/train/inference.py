"""A trained model, opened from a folder or the Hub to evaluate and to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.config import DataConfig, MeshConfig, ModelConfig, PrecisionConfig
from jaxbert.data.examples import Examples
from jaxbert.data.sources import Role
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.models.functional import Params, make_model
from jaxbert.tasks.base import Task
from jaxbert.tasks.top_k import with_top_k
from jaxbert.train.evaluate import Predictor
from jaxbert.train.inputs import resolve_max_length
from jaxbert.train.kinds import kind_of_model
from jaxbert.train.kinds.base import Kind
from jaxbert.train.kinds.text import TextKind
from jaxbert.train.sharding import make_mesh, param_shardings, place
from jaxbert.train.start import compute_dtype, layer_call, model_folder


@dataclass(frozen=True)
class TrainedModel:
    """A model with everything that it needs to answer."""

    kind: Kind
    task: Task
    tokenizer: Any
    params: Params
    predictor: Predictor
    max_length: int

    def read(self, spec: str, data: DataConfig, *, role: Role, labelled: bool) -> Examples:
        """Tokenize a source as the model's task reads it.

        Raises:
          UserError: for anything wrong in it, or a label that the model does not know.
        """
        if labelled and not isinstance(self.kind, TextKind) and (data.label_map or data.label_format != "auto"):
            raise UserError(
                "label_map and label_format are for labels of texts, which this model does not give: leave them out"
            )
        return self.kind.read_for(self.task, spec, data, self.tokenizer, self.max_length, role=role, labelled=labelled)

    def predict(self, examples: Examples) -> np.ndarray:
        """Return what `answers` of the task makes answers of."""
        return self.predictor(self.params, examples)

    def evaluate(self, examples: Examples) -> dict[str, Any]:
        """Return all metrics over labelled examples."""
        return self.predictor.metrics(self.params, {"": examples})


def open_trained(
    name: str,
    *,
    batch_size: int = 256,
    max_length: int | None = None,
    lower_case: bool | None = None,
    precision: PrecisionConfig | None = None,
    top_k: int | None = None,
) -> TrainedModel:
    """Open an exported folder, a run folder (its export) or a Hub name; `top_k` is how many probabilities an answer shows.

    Raises:
      UserError: if there is no such model, its head was not trained, or its answers have no probabilities for `top_k`.
    """
    folder = model_folder(name)
    config = read_config(folder)
    kind = kind_of_model(config)
    task = with_top_k(kind.reopen(config), top_k)
    mesh = make_mesh(MeshConfig())
    model = make_model(task.head, config, compute_dtype(precision or PrecisionConfig(), mesh))
    params, _ = load_params(folder, model)
    return TrainedModel(
        kind=kind,
        task=task,
        tokenizer=load_tokenizer(folder, config, lower_case),
        params=place(params, param_shardings(mesh, model.abstract_params)),
        predictor=Predictor(model, task, mesh, layer_call(ModelConfig(), mesh), batch_size),
        max_length=resolve_max_length(max_length or kind.reading_length(task), config.max_position_embeddings),
    )
