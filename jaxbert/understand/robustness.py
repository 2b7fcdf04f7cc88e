"""How a model's answers hold when its texts are disturbed: its metrics, and how many answers change, by kind and strength.

`perturb` disturbs a text. Labels, packing, predictions, metrics and answers are those of `jaxbert evaluate`.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.bucket import write_whole
from jaxbert.config import DataConfig
from jaxbert.data.examples import Examples
from jaxbert.data.memory import hold
from jaxbert.data.sources import open_source, refuse_stdin
from jaxbert.data.table import Row
from jaxbert.errors import UserError
from jaxbert.options import RobustnessOptions
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks.base import Task
from jaxbert.tasks.question_answering.answers import has_chinese
from jaxbert.tasks.reading import TextTask
from jaxbert.train.inference import TrainedModel
from jaxbert.understand.judged import Judged, judge
from jaxbert.understand.perturb import KINDS, STRENGTHS, check_kind, perturb

logger = logging.getLogger("jaxbert")
_DIGITS = 6


@dataclass(frozen=True)
class Disturbed:
    """One kind of disturbance at one strength."""

    kind: str
    strength: float
    touched: float
    """The share of the rows whose text changed."""
    value: float
    """The model's metric on the disturbed texts."""
    changed: float
    """The share of all answers that changed; for scores the mean size of the change."""
    texts: list[tuple[str, str | None]]
    """The texts of all rows, with the second texts of pairs."""
    answers: list[Any]
    """The model's answers to them."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        numbers = {"touched": self.touched, "value": self.value, "changed": self.changed}
        return {"kind": self.kind, "strength": self.strength} | {k: round(v, _DIGITS) for k, v in numbers.items()}


@dataclass(frozen=True)
class Robustness:
    """What disturbances do to a model's answers to some labelled rows."""

    metric: str
    """The name of the metric."""
    value: float
    """The metric on the rows as they are."""
    rows: list[Row]
    """The number of each row in the source, from 1, as messages name it."""
    answers: list[Any]
    """The answers to the rows as they are."""
    expected: list[Any]
    disturbed: list[Disturbed]
    """By kind, then by strength; kinds that no text has a place for are left out."""

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers for JSON."""
        disturbed = [found.to_dict() for found in self.disturbed]
        return {
            "rows": len(self.rows),
            "metric": self.metric,
            "value": round(self.value, _DIGITS),
            "disturbed": disturbed,
        }

    def lines(self) -> Iterator[str]:
        """Yield a line of JSON for each disturbed text: what was done, the text, the right answer, and both answers."""
        for found in self.disturbed:
            for place, (text, pair) in enumerate(found.texts):
                second = {} if pair is None else {"text_pair": pair}
                answers = {
                    "expected": self.expected[place],
                    "before": self.answers[place],
                    "after": found.answers[place],
                }
                line = {"row": self.rows[place], "kind": found.kind, "strength": found.strength, "text": text}
                yield json.dumps(line | second | answers, ensure_ascii=False) + "\n"


def measure_robustness(model: TrainedModel, spec: str, data: DataConfig, options: RobustnessOptions) -> Robustness:
    """Disturb the texts of labelled rows, and compare the model's answers.

    Args:
      model: the model, of a task that answers for a whole text.
      spec: the source of the rows.
      data: its columns.
      options: the kinds and strengths of the disturbances.

    Raises:
      UserError: for another task, an unknown kind or strength, or a mistake in the source.
    """
    task = _check(model.task, options)
    refuse_stdin([spec], "robustness")
    examples = task.read_for(spec, data, model.tokenizer, model.max_length)
    rows, texts = _read_texts(spec, data, task, examples.source_rows(np.arange(len(examples))).tolist())
    name, value, plain = _judged(model, examples)
    found = []
    for kind in options.kinds or _possible_kinds(texts):
        for strength in options.strengths or STRENGTHS:
            seeds = (f"{options.seed}/{row}" for row in rows)
            changed = [_disturb(pair, kind, strength, seed) for pair, seed in zip(texts, seeds, strict=True)]
            if changed == texts:
                logger.warning("%s: no text can be changed by %s, which are left out", spec, kind.replace("_", " "))
                break
            _, disturbed_value, judged = _judged(model, _as_examples(model, changed, examples))
            touched = float(np.mean([one != other for one, other in zip(texts, changed, strict=True)]))
            share = _difference(plain.given, judged.given)
            found.append(Disturbed(kind, strength, touched, disturbed_value, share, changed, judged.given))
    return Robustness(name, value, rows, plain.given, plain.expected, found)


def _check(task: Task, options: RobustnessOptions) -> TextTask:
    """Return the task, if its texts can be disturbed so.

    Raises:
      UserError: if not.
    """
    if not isinstance(task, TextTask):
        raise UserError(
            f"this model's task is {task.name}, but robustness is measured for classification, multi_label and regression"
        )
    for kind in options.kinds or ():
        check_kind(kind)
    return task


def _possible_kinds(texts: list[tuple[str, str | None]]) -> list[str]:
    """Return the kinds for which all is installed; say which one is left out of Chinese texts."""
    found = []
    for kind in KINDS:
        try:
            check_kind(kind)
        except UserError as error:
            if any(has_chinese(text) for text, _ in texts):
                logger.warning("%s", error)
            continue
        found.append(kind)
    return found


def _read_texts(
    spec: str, data: DataConfig, task: TextTask, wanted: Sequence[int]
) -> tuple[list[Row], list[tuple[str, str | None]]]:
    """Return the numbers and texts of some records, with the second texts of pairs; read as `evaluate` reads them."""
    rows, found = list[Row](), list[tuple[str, str | None]]()
    for part in open_source(spec, data, role="test", labelled=True, labels=task.label_kind).parts():
        pairs: Sequence[str | None] = part.pairs or [None] * len(part)
        rows += [part.row(place) for place in range(len(part))]
        found += zip(part.texts, pairs, strict=True)
    return [rows[i] for i in wanted], [found[i] for i in wanted]


def _disturb(texts: tuple[str, str | None], kind: str, strength: float, seed: str) -> tuple[str, str | None]:
    first, second = texts
    return perturb(first, kind, strength, seed), None if second is None else perturb(
        second, kind, strength, f"{seed}/2"
    )


def _as_examples(model: TrainedModel, texts: list[tuple[str, str | None]], labelled: Examples) -> Examples:
    """Return the tokens of texts with the labels of others, row by row."""
    pairs = texts[0][1] is not None
    names = ("text", "text_pair") if pairs else ("text",)
    columns = DataConfig(text="text", text_pair="text_pair" if pairs else None)
    with hold([dict(zip(names, both, strict=False)) for both in texts], "disturbed") as spec:
        feed = model.open_inputs(spec, columns)
        examples = feed.tokenize(list(feed.parts()))
    return dataclasses.replace(examples, labels=labelled.labels)


def _judged(model: TrainedModel, examples: Examples) -> tuple[str, float, Judged]:
    """Return the main metric of the task, its value for some examples, and their answers."""
    evaluation = model.predictor.evaluate(model.params, {"": examples}, model.task)
    if not evaluation.outcomes:
        raise UserError(f"{len(examples):,} rows with this many labels are too many to compare: give fewer rows")
    judged = judge(evaluation.outcomes[""])
    if judged is None:
        raise UserError(f"answers of task {model.task.name} are not compared: it comes from another package")
    name = next(iter(judged.makers))
    return name, float(evaluation.metrics[name]), judged


def _difference(before: Sequence[Any], after: Sequence[Any]) -> float:
    """Return the share of answers that differ; of numbers, the mean size of the difference."""
    if before and isinstance(before[0], float):
        return float(np.mean(np.abs(np.subtract(before, after))))
    return float(np.mean([one != other for one, other in zip(before, after, strict=True)]))


def keep_robustness(name: str, numbers: Mapping[str, Any]) -> bool:
    """Keep the numbers in the folder of a run, where its report finds them; return whether the model `name` is a run."""
    folder = RunFolder(name)
    if not folder.config.exists():
        return False
    with folder.writing():
        write_whole(folder.robustness, json.dumps(numbers, indent=1) + "\n")
    return True


def disturbance_rows(numbers: Mapping[str, Any]) -> list[list[str]]:
    """Return numbers as `Robustness.to_dict` has them as lines of a table, the first one with the names of the columns."""
    metric, plain = numbers["metric"], numbers["value"]
    score = metric == "pearson"
    lines = [
        ["disturbance", "share of a text", "texts changed", metric, "answers changed" if not score else "mean change"]
    ]
    lines.append(["none", "", "", f"{plain:.4f}", ""])
    for found in numbers["disturbed"]:
        changed = f"{found['changed']:.4f}" if score else f"{found['changed']:.1%}"
        value = f"{found['value']:.4f} ({found['value'] - plain:+.4f})"
        name = found["kind"].replace("_", " ").replace("look alikes", "look-alike characters")
        lines.append([name, f"{found['strength']:.0%}", f"{found['touched']:.1%}", value, changed])
    return lines
