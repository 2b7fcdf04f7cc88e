"""Reading examples with a score each: `task: regression`."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import BertConfig

from jaxbert.config import Config
from jaxbert.data.label_column import Labels
from jaxbert.data.label_fit import Head
from jaxbert.data.label_kinds import scores_of
from jaxbert.data.label_names import LabelRules
from jaxbert.data.long_texts import Reading
from jaxbert.data.overview import Labelling
from jaxbert.errors import UserError
from jaxbert.tasks.base import Task
from jaxbert.tasks.regression import LABEL, Regression
from jaxbert.train.kinds.base import settings_of, with_settings
from jaxbert.train.kinds.text import TextKind
from jaxbert.train.start import with_labels


class RegressionKind(TextKind[None]):
    """A score for each text, or pair of texts."""

    labels = "number"

    def fit(self, labels: Labels, config: Config, rules: LabelRules, head: Head | None) -> None:
        """Check that nothing is asked for that scores do not have."""
        if config.data.label_names is not None or config.model.num_labels not in (None, 1):
            raise UserError("task regression learns one score: remove data.label_names and model.num_labels")
        if config.train.class_weights != "none" or config.train.label_smoothing:
            raise UserError("task regression has no labels: remove train.class_weights and train.label_smoothing")
        if (labels.codes == labels.codes[0]).all():
            raise UserError(f"{labels.source}: every score is {scores_of(labels)[0]:g}: at least two are needed")

    def encode(self, labels: Labels, space: None, rules: LabelRules) -> np.ndarray:
        """Return the scores, float32 [N]."""
        return scores_of(labels)

    def describe(self, labels: Labels, encoded: np.ndarray, space: None) -> Labelling:
        """Give smallest, mean and largest score."""
        numbers = {
            "min": float(encoded.min()),
            "mean": float(encoded.mean(dtype=np.float64)),
            "max": float(encoded.max()),
        }
        return Labelling("score", numbers=numbers, keys=encoded, named=lambda i: f"{encoded[i]:g}")

    def make_task(self, space: None, labels: np.ndarray, config: Config, reading: Reading) -> Regression:
        """Return the only regression there is."""
        return Regression(reading=reading)

    def space_of(self, task: Any) -> None:
        """Return nothing: a score is a score."""

    def configure(self, bert_config: BertConfig, task: Task) -> BertConfig:
        """Name the output."""
        assert isinstance(task, Regression)
        named = with_labels(bert_config, (LABEL,), "regression")
        return with_settings(named, "regression", reading=task.reading.to_dict())

    def reopen(self, bert_config: BertConfig) -> Regression:
        """Check that there is one output."""
        if bert_config.num_labels != 1:
            raise UserError(f"the model says that it is for regression, but has {bert_config.num_labels} outputs")
        return Regression(Reading.of(settings_of(bert_config).get("reading")))
