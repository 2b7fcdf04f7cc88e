"""A trained model, opened from a folder or the Hub to evaluate and to predict."""

from __future__ import annotations

import copy
from dataclasses import asdict, dataclass
from typing import Any, get_args, get_type_hints

import numpy as np
from jax.sharding import Mesh
from transformers import BertConfig

from jaxbert.checks import COMPUTE_FORMATS
from jaxbert.config import Config, DataConfig, MeshConfig, ModelConfig, PrecisionConfig, TrainConfig
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
from jaxbert.train.kinds import kind_of_model, say_guess
from jaxbert.train.kinds.base import COMPUTATION, SETTINGS, Kind, settings_of
from jaxbert.train.kinds.text import TextKind
from jaxbert.train.runtime import multiply_in
from jaxbert.train.sharding import make_mesh, param_shardings, place, platform_of
from jaxbert.train.start import compute_dtype, layer_call, model_folder


@dataclass(frozen=True)
class Computation:
    """How a run computed its evaluations: on a device of the same kind, `evaluate` gives the same digits."""

    platform: str
    batch_size: int = TrainConfig.eval_batch_size
    precision: str = PrecisionConfig.compute
    attention: Any = ModelConfig.attention
    scan_layers: bool | None = None

    @classmethod
    def of_run(cls, config: Config, mesh: Mesh) -> Computation:
        """Return how a run computes."""
        model, scan = config.model, layer_call(config.model, mesh).scan_layers
        return cls(platform_of(mesh), config.train.eval_batch_size, config.precision.compute, model.attention, scan)

    @classmethod
    def of(cls, content: Any, mesh: Mesh) -> Computation:
        """Take what an export has kept; nothing where it is damaged, or comes from devices of another kind."""
        plain = cls(platform_of(mesh))
        if not isinstance(content, dict) or content.keys() != asdict(plain).keys():
            return plain
        kept = cls(**content)
        known = kept.precision in COMPUTE_FORMATS and kept.attention in get_args(
            get_type_hints(ModelConfig)["attention"]
        )
        sound = known and kept.scan_layers in (True, False) and type(kept.batch_size) is int and kept.batch_size > 0
        return kept if sound and kept.platform == plain.platform else plain

    def keep_in(self, bert_config: BertConfig) -> BertConfig:
        """Return a configuration that says so."""
        changed = copy.deepcopy(bert_config)
        setattr(changed, SETTINGS, settings_of(bert_config) | {COMPUTATION: asdict(self)})
        return changed


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
    batch_size: int | None = None,
    max_length: int | None = None,
    lower_case: bool | None = None,
    precision: PrecisionConfig | None = None,
    top_k: int | None = None,
) -> TrainedModel:
    """Open an exported folder, a run folder (its export) or a Hub name; `top_k` is how many probabilities an answer shows.

    It computes and reads as in its training, where that is known and nothing else is asked for.

    Raises:
      UserError: if there is no such model, its head was not trained, or its answers have no probabilities for `top_k`.
    """
    folder = model_folder(name)
    config = read_config(folder)
    kind = kind_of_model(config)
    say_guess(name, config)
    task = with_top_k(kind.reopen(config), top_k)
    mesh = make_mesh(MeshConfig())
    kept = Computation.of(settings_of(config).get(COMPUTATION), mesh)
    if precision is None or precision.compute == "auto":
        precision = PrecisionConfig(kept.precision)
        if kept.platform != "cpu":
            multiply_in(kept.precision)
    model = make_model(task.head, config, compute_dtype(precision, mesh))
    params, _ = load_params(folder, model)
    call = layer_call(ModelConfig(attention=kept.attention, scan_layers=kept.scan_layers), mesh)
    return TrainedModel(
        kind=kind,
        task=task,
        tokenizer=load_tokenizer(folder, config, lower_case),
        params=place(params, param_shardings(mesh, model.abstract_params)),
        predictor=Predictor(model, task, mesh, call, batch_size or kept.batch_size),
        max_length=resolve_max_length(max_length or kind.reading_length(task), config.max_position_embeddings),
    )
