"""Reading examples of one label each: `task: classification`."""

from __future__ import annotations

from typing import Any

import numpy as np
from transformers import BertConfig

from jaxbert.config import Config, DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.labels import LabelSet, encode, fit_labels
from jaxbert.data.sources import Role
from jaxbert.data.store import Stored
from jaxbert.tasks.base import Task
from jaxbert.tasks.classification import Classification, resolve_class_weights
from jaxbert.train.inputs import read_source, read_stored, split_off
from jaxbert.train.kinds.base import Inputs, settings_of, with_settings
from jaxbert.train.start import with_labels


class ClassificationKind:
    """One label a text, or a pair of texts."""

    def read(self, config: Config, tokenizer: Any, max_length: int) -> Inputs:
        """Read all data sets; the training rows decide which labels there are."""
        stored = read_stored(config, tokenizer, max_length)
        assert stored.train.labels is not None
        labels = fit_labels(stored.train.labels, config.data, config.model.num_labels)
        train, validation = split_off(_labelled(stored.train, labels), config)
        assert train.labels is not None
        task = Classification(
            labels.names,
            resolve_class_weights(config.train, train.labels, labels.names),
            config.train.label_smoothing,
            integers=labels.integers,
        )
        return Inputs(
            train=train,
            validation=validation | {name: _labelled(s, labels) for name, s in stored.validation.items()},
            test={name: _labelled(s, labels) for name, s in stored.test.items()},
            task=task,
        )

    def configure(self, bert_config: BertConfig, task: Task) -> BertConfig:
        """Add the label names."""
        assert isinstance(task, Classification)
        named = with_labels(bert_config, task.label_names, "single_label_classification")
        return with_settings(named, "classification", integers=task.integers)

    def reopen(self, bert_config: BertConfig) -> Classification:
        """Take the label names."""
        names = {int(index): str(name) for index, name in (bert_config.id2label or {}).items()}
        integers = settings_of(bert_config).get("integers")
        return Classification(
            tuple(names[index] for index in sorted(names)),
            integers=integers if integers in ("index", "name") else "either",
        )

    def read_for(
        self, task: Task, spec: str, data: DataConfig, tokenizer: Any, max_length: int, *, role: Role, labelled: bool
    ) -> Examples:
        """Read one source."""
        assert isinstance(task, Classification)
        stored = read_source(spec, data, tokenizer, max_length, role=role, labelled=labelled)
        return _labelled(stored, LabelSet(task.label_names, task.integers))


def _labelled(stored: Stored, labels: LabelSet) -> Examples:
    """Turn the labels of tokenized examples into indices."""
    indices: np.ndarray | None = None if stored.labels is None else encode(stored.labels, labels)
    return Examples(stored.tokens, indices)
