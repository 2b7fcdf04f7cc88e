"""The words of the texts that a report shows, with the weights that the model gives them.

The weights are those of `jaxbert explain --method occlusion`, which needs no gradient. One program is compiled for them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from jaxbert.data.table import Table
from jaxbert.options import ExplainOptions
from jaxbert.tasks.base import Outcome
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.understand.explain import Explainer
from jaxbert.understand.records import Record
from jaxbert.understand.report.held_out import HeldOut

_MOST_TOKENS = 8192
"""Tokens of all copies of the texts with a word left out, about; further texts stay without colours."""


def weights_of_words(held_out: HeldOut, chosen: Sequence[int], records: Sequence[Record]) -> list[list[dict[str, Any]]]:
    """Return the words of the first records with their weights, as `jaxbert explain` has them, for the answer given.

    Empty for a task whose answers are not explained, without parameters, and in a run of several processes.

    Args:
      held_out: the set.
      chosen: the examples.
      records: their texts.

    Raises:
      UserError: for an ensemble, or a tokenizer that does not tell where its tokens come from.
    """
    model, task = held_out.finished.model, held_out.task
    several_labels = isinstance(task, MultiLabel)  # another label than the explained one may be meant
    if task.explains is None or several_labels or not model.params or jax.process_count() > 1:
        return []
    lengths = held_out.lengths[np.array(chosen, np.int64)]
    count = int((np.cumsum(lengths * (lengths + 1)) <= _MOST_TOKENS).sum())
    if not count:
        return []
    outcome = _part(held_out.outcome, np.array(chosen[:count], np.int64), records[:count])
    explainer = Explainer(dataclasses.replace(model, task=task))
    found = explainer.of_outcome(outcome, ExplainOptions(method="occlusion"))
    return [explanation.answer["words"] for explanation in found]


def _part(outcome: Outcome, chosen: np.ndarray, records: Sequence[Record]) -> Outcome:
    """Return the outcome for some examples, with their texts."""
    pairs = [record.pair or "" for record in records] if any(record.pair is not None for record in records) else None
    table = Table([record.text for record in records], pairs, None, None, "report", range(1, len(records) + 1))
    examples = outcome.examples.take(chosen)
    places = chosen if outcome.examples.windows is None else outcome.examples.windows.members(chosen)[0]
    return Outcome(outcome.task, dataclasses.replace(examples, extra=table), outcome.predictions[places])
