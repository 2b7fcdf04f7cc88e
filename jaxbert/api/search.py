"""A search in Python, and for the command line."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import Any, Literal

from jaxbert.api.finetune import in_new_folder, make_changes, prepare_run
from jaxbert.api.model import Model
from jaxbert.api.own import LossFunction, Metric, MetricFunction, make_additions
from jaxbert.api.rows import Data
from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.options import SearchOptions
from jaxbert.settings import make_config, place_keys
from jaxbert.studies.study import run_search
from jaxbert.train.run import NOTHING, Additions

_OTHERS = ("stopping", "storage", "keep")
"""The options of a search that are not arguments of their own."""


def search(
    train: Data | None = None,
    model: str | os.PathLike[str] | Model | None = None,
    validation: Data | Mapping[str, Data] | None = None,
    *,
    space: Mapping[str, str | Sequence[Any]],
    method: Literal["tpe", "random", "grid", "asha"] = "tpe",
    trials: int = 20,
    seconds: float | None = None,
    objectives: str | None = None,
    search_seed: int = 0,
    options: Mapping[str, Any] | None = None,
    task: str | None = None,
    config: Config | str | os.PathLike[str] | None = None,
    metrics: Mapping[str, MetricFunction | Metric] | None = None,
    loss: LossFunction | None = None,
    **keys: Any,
) -> dict[str, Any]:
    """Find good values of some keys by many trials, as `jaxbert search` does.

    Args:
      train: training examples, as for `finetune`.
      model: as for `finetune`.
      validation: as for `finetune`; trials are compared on it.
      space: for each key that varies, its name with its section and `"log:A:B"`, `"lin:A:B"`, `"int:A:B"`, or a list of
        values: `{"optimizer.learning_rate": "log:1e-5:5e-4", "train.batch_size": [16, 32]}`.
      method: how values are chosen.
      trials: the number of trials.
      seconds: the seconds after which no trial begins.
      objectives: a metric, `examples_per_second`, or several with commas between; None: the main metric of the task.
      search_seed: the seed of the values that are tried.
      options: the other options of the search: `stopping`, `storage`, `keep`.
      task: as for `finetune`.
      config: as for `finetune`.
      metrics: as for `finetune`.
      loss: as for `finetune`.
      **keys: any key of the configuration, as for `finetune`. Without `output_dir` each call is a new search.

    Returns:
      The content of `search.json`: `best` and `trials`, with `number`, `value`, `params`, `state` and `folder`.

    Raises:
      UserError: for anything wrong in configuration, space, data or model.
      StoppedError: if Ctrl-C or a signal ended the search; its trials are kept.
    """
    texts = _written(space, options or {})
    given = {"trials": trials, "seconds": seconds, "seed": search_seed, "objectives": objectives, **(options or {})}
    chosen = SearchOptions(space=texts, method=method, **given)
    with ExitStack() as stack:
        changes = make_changes(stack, place_keys(keys), {"train": train, "validation": validation}, model, task)
        whole = make_config(config, changes)
        additions = make_additions((), metrics or {}, loss, whole.train.best_metric)
        prepare_run(whole)
        return run_search(
            whole if "output_dir" in changes.get("train", {}) else in_new_folder(whole), chosen, additions
        )


def _written(space: Any, options: Any) -> list[str]:
    """Return a space as the command line has it, and check what both are.

    Raises:
      UserError: if one is no dictionary, a key has no values, or there is no such option.
    """
    for name, value in (("space", space), ("options", options)):
        if not isinstance(value, Mapping):
            raise UserError(f"{name} is {value!r}, but it must be a dictionary")
    if unknown := [name for name in options if name not in _OTHERS]:
        raise UserError(f"options has {unknown[0]!r}, but it may have {', '.join(_OTHERS)}")
    texts = []
    for key, values in space.items():
        if not isinstance(values, str | list | tuple):
            raise UserError(f'space: {key} is {values!r}, but it must be a list of values, or "log:A:B"')
        texts.append(f"{key}={values if isinstance(values, str) else ','.join(map(_text, values))}")
    return texts


def _text(value: Any) -> str:
    return next(
        (word for word, meant in (("true", True), ("false", False), ("null", None)) if value is meant), str(value)
    )


def start_search(config: Config, options: SearchOptions, additions: Additions = NOTHING) -> dict[str, Any]:
    """Search as the command line asks, and return the content of `search.json`.

    Raises:
      UserError: for anything wrong in configuration, space, data or model.
      StoppedError: if a signal ended the search; its trials are kept.
    """
    prepare_run(config)
    return run_search(config, options, additions)
