"""Train on pairs of texts: those of one label are pulled together, others apart; then fit the classifier (SetFit's recipe).

A step encodes each of its texts once and compares all pairs among them (Tunstall et al., 2022, arXiv 2209.11055, encode each
pair). The vector of a text is the mean over its segment (`models.mean`). Which texts meet follows from the order of the
epoch, and so from the seed. Before each evaluation and each checkpoint the classifier is fitted anew on the vectors of all
training texts, by logistic regression on the host; the steps do not change it.
"""

from __future__ import annotations

import copy
import dataclasses
from functools import cached_property
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax
from transformers import BertConfig

from jaxbert.config import Config
from jaxbert.interop.bert_config import read_config
from jaxbert.models.families import family_of
from jaxbert.models.functional import FunctionalModel, Params, make_model
from jaxbert.models.mean import MEAN_LAYER, one_layer_more, with_mean_layer
from jaxbert.processes import on_host
from jaxbert.tasks import SETTINGS, settings_of
from jaxbert.tasks.base import Batch, Sums, Task
from jaxbert.train.evaluate import Predictor
from jaxbert.train.pretrained import Pretrained
from jaxbert.train.sharding import place

if TYPE_CHECKING:
    from jaxbert.train.run import Run
    from jaxbert.train.step import State

_LOSS_WEIGHT = 10.0
"""The weight of a training text's loss beside the squares of the classifier's weights."""


class _PairTask(Task):
    """Inserted before the class of a task: compares pairs of texts in training."""

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Return in training the loss of the pairs of the step, times the number of texts."""
        if not train:
            return super().sums(outputs, batch, totals, train=False)
        real_BS = batch["example_mask"]
        loss = pair_loss(outputs["pooled"], batch["labels"], real_BS)
        return {"loss": loss * totals["examples"], "examples": real_BS.sum()}

    def configure(self, bert_config: BertConfig) -> BertConfig:
        """Add that the last layer takes the mean."""
        configured = super().configure(bert_config)
        setattr(configured, SETTINGS, settings_of(configured) | {MEAN_LAYER: True})
        return configured


class _VectorTask(Task):
    """Inserted before the class of a task: predicts the vector of each text, [B, S, D], float32."""

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the pooled vectors."""
        return outputs["pooled"].astype(jnp.float32)


def _inserted(before: type[Task], task: Task) -> Task:
    changed, kind = copy.copy(task), type(task)
    names = {"__module__": kind.__module__, "__doc__": kind.__doc__}
    object.__setattr__(changed, "__class__", type(kind.__name__, (before, kind), names))
    return changed


def pair_loss(vectors_BSD: Array, labels_BS: Array, real_BS: Array) -> Array:
    """Return how far the cosines of all pairs of texts of a step are from 1 for equal labels, and from 0 for others.

    It is the mean of the squares over the pairs of equal labels and over the others, each half. With one kind of pairs alone
    it is theirs; with none it is 0.
    """
    vectors_MD = vectors_BSD.reshape(-1, vectors_BSD.shape[-1]).astype(jnp.float32)
    vectors_MD *= jax.lax.rsqrt(jnp.square(vectors_MD).sum(-1, keepdims=True) + 1e-12)
    cosines_MM = jnp.einsum("MD,ND->MN", vectors_MD, vectors_MD, precision=jax.lax.Precision.HIGHEST)
    labels_M, real_M = labels_BS.reshape(-1), real_BS.reshape(-1)
    same_MM = labels_M[:, None] == labels_M[None, :]
    pair_MM = real_M[:, None] & real_M[None, :] & ~jnp.eye(len(labels_M), dtype=bool)
    squares_MM = jnp.square(cosines_MM - same_MM)
    kinds = [pair_MM & same_MM, pair_MM & ~same_MM]
    means = jnp.stack([jnp.where(kind, squares_MM, 0.0).sum() / jnp.maximum(kind.sum(), 1) for kind in kinds])
    return means.sum() / jnp.maximum(sum(kind.any().astype(jnp.float32) for kind in kinds), 1.0)


@dataclasses.dataclass(frozen=True)
class WithMeanLayer(Pretrained):
    """A model before its first step, with the layer of the mean behind its own layers."""

    def params(
        self, model: FunctionalModel, seed: int, shardings: Params, key: Array, *, new_head: bool = False
    ) -> Params:
        """Load or draw the parameters of the model's own layers, and put the layer of the mean behind them."""
        plain = make_model(model.head, one_layer_more(model.config, -1))
        own = super().params(plain, seed, shardings, key, new_head=new_head)
        return with_mean_layer(on_host(own), model.config)


def with_mean(pretrained: Pretrained) -> Pretrained:
    """Return the model with a layer more that takes the mean, unless its last layer does so."""
    if settings_of(pretrained.bert_config).get(MEAN_LAYER) is True and _has_last_layer(pretrained):
        return pretrained
    fields = {field.name: getattr(pretrained, field.name) for field in dataclasses.fields(pretrained)}
    return WithMeanLayer(**fields | {"bert_config": one_layer_more(pretrained.bert_config)})


def _has_last_layer(pretrained: Pretrained) -> bool:
    """Return whether `model.layers` has left the last layer of the model's folder where it was."""
    if pretrained.layers is None or pretrained.folder is None:
        return True
    return pretrained.layers[-1] == read_config(pretrained.folder).num_hidden_layers - 1


def frozen_parts(config: Config, bert_config: BertConfig) -> Config:
    """Return the configuration with the layer of the mean and the classifier frozen, which the steps do not train."""
    family = family_of(bert_config)
    layer = "/".join((family.prefix, *family.layers, str(bert_config.num_hidden_layers - 1), ""))
    patterns = [*(config.optimizer.freeze or ()), f"^{layer}", f"^{'/'.join(family.classifier)}/"]
    return dataclasses.replace(config, optimizer=dataclasses.replace(config.optimizer, freeze=patterns))


def with_pairs(task: Task) -> Task:
    """Return the task with the loss of pairs in training."""
    return _inserted(_PairTask, task)


class HeadFitter:
    """Fits the classifier of a run, before it is evaluated or saved."""

    def __init__(self, run: Run) -> None:
        self._run = run

    @cached_property
    def _predictor(self) -> Predictor:
        program, batch_size = self._run.program, self._run.config.train.eval_batch_size
        task = _inserted(_VectorTask, program.task)
        return Predictor(program.model, task, program.mesh, program.call, batch_size, self._run.inputs.collate)

    def __call__(self, run: Run, state: State) -> State:
        """Return the state with a classifier that is fitted on the training texts of `run`."""
        train, task, params = run.inputs.train, run.inputs.task, state["params"]
        vectors_ND = self._predictor(params, train)
        labels = np.asarray(train.labels)
        weights = getattr(task, "class_weights", None)
        weights_N = np.ones(len(labels)) if weights is None else np.asarray(weights)[labels]
        name = str(task.last_layer)
        kernel, bias = fit_logistic(vectors_ND.astype(np.float64), labels, weights_N, len(task.output_names))
        fitted = {"kernel": kernel.astype(np.float32), "bias": bias.astype(np.float32)}
        fitted = place(fitted, run.program.state_shardings["params"][name])
        return {**state, "params": {**params, name: fitted}}


def fit_logistic(
    vectors_ND: np.ndarray, labels_N: np.ndarray, weights_N: np.ndarray, labels: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return kernel [D, C] and bias [C] of a logistic regression, float64; the squares of both are kept small.

    The problem is strictly convex, so its answer does not depend on where the search begins.
    """
    width = vectors_ND.shape[1]
    rows_NE = np.concatenate([vectors_ND, np.ones((len(vectors_ND), 1))], axis=1)
    targets_NC = np.eye(labels)[labels_N]

    def cost(flat: np.ndarray) -> tuple[float, np.ndarray]:
        weights_EC = flat.reshape(width + 1, labels)
        scores_NC = rows_NE @ weights_EC
        losses_N = logsumexp(scores_NC, axis=1) - (scores_NC * targets_NC).sum(1)
        towards_NC = weights_N[:, None] * (softmax(scores_NC, axis=1) - targets_NC)
        gradient = _LOSS_WEIGHT * rows_NE.T @ towards_NC + weights_EC
        return _LOSS_WEIGHT * float(weights_N @ losses_N) + 0.5 * float(flat @ flat), gradient.ravel()

    options = {"maxiter": 2000, "maxfun": 4000, "ftol": 1e-14, "gtol": 1e-7}
    found = minimize(cost, np.zeros((width + 1) * labels), jac=True, method="L-BFGS-B", options=options)
    weights_EC = found.x.reshape(width + 1, labels)
    return weights_EC[:-1], weights_EC[-1]
