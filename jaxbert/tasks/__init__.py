"""Find the class of a task by its name: the tasks of this package, and those of other packages; write its part of an export.

Another package adds a task by an entry point of the group `jaxbert.tasks`, by `register`, or as
`task: their_package.module:TheirTask` in a configuration. A model never names code to import: a model of another package's
task opens only if that package is installed or its task is registered. `base` says what a task must do.

The task's part of an export's `config.json` is the names of labels, and settings under a key of our own.
"""

from __future__ import annotations

import copy
import importlib
import logging
from importlib.metadata import entry_points
from typing import TYPE_CHECKING, Any, TypeVar

from jaxbert.errors import UserError
from jaxbert.models.families import family_of

if TYPE_CHECKING:
    from transformers import BertConfig

    from jaxbert.data.labels import IntegerLabels
    from jaxbert.tasks.base import Task

GROUP = "jaxbert.tasks"
"""The group of entry points."""
_OWN = {
    "classification": "Classification",
    "multi_label": "MultiLabel",
    "regression": "Regression",
    "token_classification": "TokenClassification",
    "question_answering": "QuestionAnswering",
    "multiple_choice": "MultipleChoice",
    "pretraining": "Pretraining",
}
"""The class of each task of this package, in the module `task` of the folder with its name."""
_CLASSIFIERS = {"classification", "multi_label", "regression", "token_classification"}
"""Tasks whose heads have the same parameter names and shapes."""
_registered: dict[str, type[Task]] = {}
_T = TypeVar("_T", bound="type[Task]")

logger = logging.getLogger("jaxbert")


def register(task: _T) -> _T:
    """Register a task under its `name`; also usable as a decorator.

    Raises:
      ValueError: if another task has this name.
    """
    name = task.name
    if name in _OWN or _registered.get(name, task) is not task:
        raise ValueError(f"there is a task {name!r} already: give {task.__qualname__} another name")
    _registered[name] = task
    return task


def task_names() -> list[str]:
    """Return the names of all known tasks."""
    return [*dict.fromkeys([*_OWN, *_registered, *sorted(entry_points(group=GROUP).names)])]


def check_task(name: str) -> None:
    """Check that a name is that of a known task, or has the form of a class, which is not imported here.

    Raises:
      UserError: for any other name.
    """
    if ":" not in name and name not in task_names():
        raise UserError(
            f"task is {name!r}, but it must be one of {', '.join(task_names())}, or a class as package.module:Class"
        )


def task_class(name: str, method: str = "plain") -> type[Task]:
    """Return the task with this name, or the class that `package.module:Class` names, as `train.method` learns it.

    Raises:
      UserError: if there is no such task.
    """
    if method == "prompt":
        return importlib.import_module(f"{__name__}.classification.prompt").Prompted
    if name in _OWN:
        return getattr(importlib.import_module(f"{__name__}.{name}.task"), _OWN[name])
    if name in _registered:
        return _registered[name]
    if ":" in name:
        return _import(name)
    for entry in entry_points(group=GROUP, name=name):
        return _import(entry.value)
    raise UserError(
        f"task {name!r} is unknown: take one of {', '.join(task_names())}, or name a class as package.module:Class"
    )


def _import(path: str) -> type[Task]:
    """Import a task of another package, and register it."""
    from jaxbert.tasks.base import Task

    module, _, name = path.partition(":")
    try:
        found: Any = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise UserError(f"task {path!r}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, Task) and getattr(found, "name", None)):
        raise UserError(f"task {path!r} is not a class that derives from jaxbert.tasks.base.Task and has a name")
    try:
        return register(found)
    except ValueError as error:
        raise UserError(f"task {path!r}: {error}") from error


def task_of_model(bert_config: BertConfig) -> type[Task]:
    """Return the task of an exported model: the one that our export names, else the one for its transformers head.

    Raises:
      UserError: for a head that no task has, or a task that is not installed.
    """
    named, architecture = settings_of(bert_config).get("task"), _architecture(bert_config)
    if isinstance(named, str) and named not in task_names():
        raise UserError(
            f"the model is of task {named!r}, which is not installed: install the package that has it, or name its class "
            "with --task package.module:Class"
        )
    if named is None and architecture == "NextSentencePrediction":
        kind = family_of(bert_config).class_of(f"For{architecture}")
        raise UserError(f"the model is a {kind}, which no task has: there are {', '.join(task_names())}")
    method = "prompt" if "prompt" in settings_of(bert_config) else "plain"
    return task_class(_trained_task(bert_config) or "classification", method)


def _trained_task(bert_config: BertConfig) -> str | None:
    """Return the task that a model's head was trained for; None if the configuration names neither task nor head."""
    named = settings_of(bert_config).get("task")
    if isinstance(named, str) and named in task_names():
        return named
    problem = getattr(bert_config, "problem_type", None)
    if named is None and bert_config.num_labels == 1 and problem is None:
        problem = "regression"  # as in transformers
    by_problem = {
        "single_label_classification": "classification",
        "multi_label_classification": "multi_label",
        "regression": "regression",
    }
    by_head = {
        "TokenClassification": "token_classification",
        "QuestionAnswering": "question_answering",
        "SequenceClassification": "classification",
        "MultipleChoice": "multiple_choice",
    }
    return by_problem.get(problem or "") or by_head.get(_architecture(bert_config))


def _architecture(bert_config: BertConfig) -> str:
    """Return the name of a model's head, such as `SequenceClassification`; empty for none."""
    return family_of(bert_config).head_of(str((bert_config.architectures or [""])[0])).removeprefix("For")


def say_guess(name: str, bert_config: BertConfig) -> None:
    """Warn which task is assumed for the model of another program."""
    if settings_of(bert_config).get("task") is None:
        task = task_class(_trained_task(bert_config) or "classification")
        logger.warning(
            "%s does not name a task: by its config.json it is taken for %s, %s", name, task.name, task.assumes
        )


def say_other_head(name: str, bert_config: BertConfig, task: str, num_labels: int) -> None:
    """Warn if a head with the same number of outputs was trained for another task and is trained further."""
    before = _trained_task(bert_config)
    if before != task and {before, task} <= _CLASSIFIERS and bert_config.num_labels == num_labels:
        logger.warning("%s: the head was trained for %s, and is trained further for %s", name, before, task)


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
