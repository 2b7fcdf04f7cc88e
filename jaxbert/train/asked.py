"""Texts of a Python program or of a client of the server as the rows that a model reads."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from jaxbert.config import DataConfig
from jaxbert.errors import UserError
from jaxbert.tasks.base import Task


def reads_pairs(task: Task) -> bool:
    """Return whether each input is two texts."""
    return task.name == "question_answering" or bool(getattr(getattr(task, "reading", None), "pairs", False))


def rows_of_texts(task: Task, items: Sequence[Any], data: DataConfig) -> tuple[Sequence[Any], DataConfig]:
    """Return the rows of some texts, with the names of columns added to plain texts, and the columns to read.

    Args:
      task: the task of the model.
      items: texts, pairs of texts (of question and context), for token classification lists of words; or rows with names.
      data: the columns that are read.

    Raises:
      UserError: if texts and rows are mixed, or a text is no pair where the model reads pairs, or the other way round.
    """
    if all(isinstance(item, Mapping) for item in items):
        return items, data
    if any(isinstance(item, Mapping) for item in items):
        raise UserError("texts: some are texts and others are rows: give only texts or only rows")
    if not any(isinstance(item, list | tuple) for item in items):
        if reads_pairs(task):
            raise UserError("this model reads pairs of texts: give each as (FIRST, SECOND)")
        return [{data.text: item} for item in items], data
    if task.name == "token_classification":
        return [{data.tokens: item} for item in items], data
    for number, item in enumerate(items, 1):
        if not isinstance(item, list | tuple) or len(item) != 2:
            raise UserError(f"texts, row {number}: {item!r:.60} is not a pair of texts: give each as (FIRST, SECOND)")
    if task.name == "question_answering":
        return [{data.question: first, data.context: second} for first, second in items], data
    paired = dataclasses.replace(data, text_pair=data.text_pair or "text_pair")
    return [{paired.text: first, paired.text_pair: second} for first, second in items], paired
