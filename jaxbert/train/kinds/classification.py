"""Reading examples of one label each: `task: classification`."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import BertConfig

from jaxbert.config import Config
from jaxbert.data.label_column import Labels
from jaxbert.data.label_fit import Head, fit_labels
from jaxbert.data.label_names import LabelRules
from jaxbert.data.labels import LabelSet, count_labels, encode, meaning_of
from jaxbert.data.long_texts import Reading
from jaxbert.data.overview import Labelling
from jaxbert.tasks.base import Task
from jaxbert.tasks.classification import Classification, resolve_class_weights
from jaxbert.train.kinds.base import settings_of, with_settings
from jaxbert.train.kinds.text import TextKind, integers_of
from jaxbert.train.start import label_names, with_labels


class ClassificationKind(TextKind[LabelSet]):
    """One label a text, or a pair of texts."""

    def fit(self, labels: Labels, config: Config, rules: LabelRules, head: Head | None) -> LabelSet:
        """Decide names and indices."""
        return fit_labels(labels, rules, config.model.num_labels, head)

    def encode(self, labels: Labels, space: LabelSet, rules: LabelRules) -> np.ndarray:
        """Return indices, int32 [N]."""
        return encode(labels, space, rules)

    def describe(self, labels: Labels, encoded: np.ndarray, space: LabelSet) -> Labelling:
        """Count the examples of each label."""
        counts = count_labels(encoded, space.names)
        return Labelling(meaning_of(labels, space), counts, keys=encoded, named=lambda i: space.names[encoded[i]])

    def make_task(self, space: LabelSet, labels: np.ndarray, config: Config, reading: Reading) -> Classification:
        """Weigh the labels as the configuration says."""
        weights = resolve_class_weights(config.train, labels, space.names)
        return Classification(
            space.names, weights, config.train.label_smoothing, integers=space.integers, reading=reading
        )

    def space_of(self, task: Any) -> LabelSet:
        """Return the label names."""
        return LabelSet(task.label_names, task.integers)

    def configure(self, bert_config: BertConfig, task: Task) -> BertConfig:
        """Add the label names."""
        assert isinstance(task, Classification)
        named = with_labels(bert_config, task.label_names, "single_label_classification")
        return with_settings(named, "classification", integers=task.integers, reading=task.reading.to_dict())

    def reopen(self, bert_config: BertConfig) -> Classification:
        """Take the label names."""
        settings = settings_of(bert_config)
        return Classification(
            label_names(bert_config),
            integers=integers_of(settings),
            reading=Reading.of(settings.get("reading")),
        )
