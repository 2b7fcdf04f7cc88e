"""Read and write the task's part of an export's `config.json`: label names, and settings under a key of our own."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import BertConfig

    from jaxbert.data.labels import IntegerLabels

SETTINGS = "jaxbert"
"""The key of `config.json` with the settings that our own inference needs."""

COMPUTATION = "computation"
"""The setting that says how evaluations were computed; all other settings are a task's."""


def label_names(bert_config: BertConfig) -> tuple[str, ...]:
    """Return the names of a model's labels, in order."""
    names = {int(index): str(name) for index, name in (bert_config.id2label or {}).items()}
    return tuple(names[index] for index in sorted(names))


def with_labels(bert_config: BertConfig, names: tuple[str, ...], problem_type: Any = None) -> BertConfig:
    """Return a copy with label names and the `problem_type` of transformers."""
    labelled = copy.deepcopy(bert_config)
    labelled.id2label = dict(enumerate(names))
    labelled.label2id = {name: index for index, name in enumerate(names)}
    labelled.problem_type = problem_type
    return labelled


def with_settings(bert_config: BertConfig, task: str, **settings: Any) -> BertConfig:
    """Return a copy with the name and the settings of a task under `SETTINGS`; `COMPUTATION` is kept."""
    changed = copy.deepcopy(bert_config)
    kept = {key: value for key, value in settings_of(bert_config).items() if key == COMPUTATION}
    setattr(changed, SETTINGS, dict(sorted({"task": task, **settings, **kept}.items())))
    return changed


def settings_of(bert_config: BertConfig) -> dict[str, Any]:
    """Return the settings that `with_settings` wrote; empty for a configuration of another program."""
    settings = getattr(bert_config, SETTINGS, None)
    return dict(settings) if isinstance(settings, dict) else {}


def integers_of(settings: dict[str, Any]) -> IntegerLabels:
    """Return the meaning of integers in the label column of training; "either" if it was not recorded."""
    found = settings.get("integers")
    known: dict[Any, IntegerLabels] = {"index": "index", "name": "name", "position": "position"}
    return known.get(found, "either") if isinstance(found, str) else "either"
