"""What an export remembers of its task, in `config.json`: the names of the labels, and settings under a key of our own."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import BertConfig

    from jaxbert.data.labels import IntegerLabels

SETTINGS = "jaxbert"
"""The key of `config.json` under which an export keeps what our own inference needs."""

COMPUTATION = "computation"
"""Of these settings the one that says how evaluations were computed; the others are a task's."""


def label_names(bert_config: BertConfig) -> tuple[str, ...]:
    """Return the names of a model's labels, in order."""
    names = {int(index): str(name) for index, name in (bert_config.id2label or {}).items()}
    return tuple(names[index] for index in sorted(names))


def with_labels(bert_config: BertConfig, names: tuple[str, ...], problem_type: Any = None) -> BertConfig:
    """Return a copy that carries label names, and what transformers take the problem for."""
    labelled = copy.deepcopy(bert_config)
    labelled.id2label = dict(enumerate(names))
    labelled.label2id = {name: index for index, name in enumerate(names)}
    labelled.problem_type = problem_type
    return labelled


def with_settings(bert_config: BertConfig, task: str, **settings: Any) -> BertConfig:
    """Return a copy that names its task, and what is to be known of it, under `SETTINGS`; `COMPUTATION` stays."""
    changed = copy.deepcopy(bert_config)
    kept = {key: value for key, value in settings_of(bert_config).items() if key == COMPUTATION}
    setattr(changed, SETTINGS, dict(sorted({"task": task, **settings, **kept}.items())))
    return changed


def settings_of(bert_config: BertConfig) -> dict[str, Any]:
    """Return what `with_settings` left in a configuration; nothing where it is another program's."""
    settings = getattr(bert_config, SETTINGS, None)
    return dict(settings) if isinstance(settings, dict) else {}


def integers_of(settings: dict[str, Any]) -> IntegerLabels:
    """Return what numbers in label columns were in the training of an exported model."""
    found = settings.get("integers")
    known: dict[Any, IntegerLabels] = {"index": "index", "name": "name", "position": "position"}
    return known.get(found, "either") if isinstance(found, str) else "either"
