"""Reading examples of any number of labels each: `task: multi_label`."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import BertConfig

from jaxbert.config import Config
from jaxbert.data.label_column import Labels
from jaxbert.data.label_fit import Head
from jaxbert.data.label_lists import encode_lists, fit_label_lists
from jaxbert.data.label_names import LabelRules
from jaxbert.data.labels import LabelSet, count_labels, meaning_of
from jaxbert.data.long_texts import Reading
from jaxbert.data.overview import Labelling
from jaxbert.data.seen import hash_rows
from jaxbert.tasks.base import Task
from jaxbert.tasks.multi_label import MultiLabel, resolve_positive_weights
from jaxbert.train.kinds.base import settings_of, with_settings
from jaxbert.train.kinds.text import TextKind, integers_of
from jaxbert.train.start import label_names, with_labels


class MultiLabelKind(TextKind[LabelSet]):
    """Any number of labels a text, or a pair of texts."""

    labels = "list"

    def fit(self, labels: Labels, config: Config, rules: LabelRules, head: Head | None) -> LabelSet:
        """Decide names and indices."""
        return fit_label_lists(labels, rules, config.model.num_labels, head)

    def encode(self, labels: Labels, space: LabelSet, rules: LabelRules) -> np.ndarray:
        """Return which labels each example has, bool [N, C]."""
        return encode_lists(labels, space, rules)

    def describe(self, labels: Labels, encoded: np.ndarray, space: LabelSet) -> Labelling:
        """Count the examples of each label."""

        def named(example: int) -> str:
            return ", ".join(space.names[i] for i in np.flatnonzero(encoded[example])) or "none"

        keys = hash_rows(np.packbits(encoded, axis=1))
        return Labelling(meaning_of(labels, space), count_labels(encoded, space.names), keys=keys, named=named)

    def make_task(self, space: LabelSet, labels: np.ndarray, config: Config, reading: Reading) -> MultiLabel:
        """Weigh the labels as the configuration says; the threshold is found by the evaluations."""
        weights = resolve_positive_weights(config.train, labels, space.names)
        return MultiLabel(space.names, weights, config.train.label_smoothing, integers=space.integers, reading=reading)

    def space_of(self, task: Any) -> LabelSet:
        """Return the label names."""
        return LabelSet(task.label_names, task.integers)

    def configure(self, bert_config: BertConfig, task: Task) -> BertConfig:
        """Add the label names and the threshold."""
        assert isinstance(task, MultiLabel)
        named = with_labels(bert_config, task.label_names, "multi_label_classification")
        return with_settings(
            named, "multi_label", integers=task.integers, threshold=task.threshold, reading=task.reading.to_dict()
        )

    def reopen(self, bert_config: BertConfig) -> MultiLabel:
        """Take the label names and the threshold; half, where another program has trained the model."""
        settings = settings_of(bert_config)
        threshold = settings.get("threshold")
        return MultiLabel(
            label_names(bert_config),
            integers=integers_of(settings),
            reading=Reading.of(settings.get("reading")),
            threshold=float(threshold) if isinstance(threshold, int | float) else 0.5,
        )
