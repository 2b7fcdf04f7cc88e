"""The first lines of a report: the metrics, and what they mean beside a model that has learned nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from jaxbert.tasks.base import Task
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.multiple_choice.task import MultipleChoice
from jaxbert.tasks.pretraining.task import Pretraining
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.regression.task import Regression
from jaxbert.tasks.token_classification.task import TokenClassification
from jaxbert.understand.judged import Judged
from jaxbert.understand.report.held_out import HeldOut, labels_of
from jaxbert.understand.report.page import Html, element, joined_html, paragraphs, table

_SHOWN = 8
"""The most metrics of a set in the first table."""
_SURE = 0.95


def headline_section(sets: list[HeldOut], summary: Mapping[str, Any]) -> Html:
    """Return what each set shows in a sentence, and a table of its metrics."""
    folds = _folds(summary)
    if not sets:
        return joined_html([paragraphs(_nothing(summary)), folds])
    lines = [element("p", f"{one.name}: ", *sentence, kind="lead") for one in sets if (sentence := _meaning(one))]
    names = [*dict.fromkeys(name for one in sets for name, value in one.metrics.items() if isinstance(value, float))]
    rows: list[list[object]] = [["examples", *(len(one.outcome) for one in sets)]]
    rows += [[name, *(one.metrics.get(name) for one in sets)] for name in names[:_SHOWN]]
    step = summary["exported_step"]
    model = "the models of all folds together" if step is None else f"the exported model, of step {step}"
    if "ema" in summary:
        model += f" (parameters: moving averages with decay {summary['ema']:g})"
    whence = "all of them are in summary.json"
    if "exported_again" in summary:
        whence = "it has changed since the run (calibrated or exported again): summary.json has those of before"
    exported = f"Metrics of {model}; {whence}."
    over = next((one.metrics["macro_over"] for one in sets if "f1_macro_present" in one.metrics), None)
    note = None if over is None else element("p", f"f1_macro is the mean over {over}.", kind="note")
    return joined_html([*lines, table(["set", *(one.name for one in sets)], rows, caption=exported), note, folds])


def _nothing(summary: Mapping[str, Any]) -> str:
    """Return why no set is shown."""
    if summary["eval"] or summary["test"]:
        return "The predictions for the sets did not fit in memory: their metrics are in summary.json."
    if "folds" in summary:
        return "There is no validation or test set: the metrics of the folds show how good such a model is."
    return "There is no validation or test set, so it is not known how good the model is."


def _folds(summary: Mapping[str, Any]) -> Html | None:
    """Return the metrics of the folds of a run; None if it has none."""
    folds = summary.get("folds")
    if folds is None:
        return None
    rows = [[name, mean, folds["std"][name], folds["out_of_fold"].get(name)] for name, mean in folds["mean"].items()]
    caption = (
        f"The models of {folds['count']} folds, each measured on the training rows that it did not see. In the last column, "
        "the metrics of all these predictions together."
    )
    return table(["metric", "mean", "standard deviation", "all rows"], rows, caption=caption)


def _meaning(held_out: HeldOut) -> list[object]:
    """Return a sentence on a set; empty for a task of another package."""
    return next((tell(held_out) for kind, tell in _MEANINGS.items() if isinstance(held_out.task, kind)), [])


def _against(model: float, baseline: float, what: list[object]) -> list[object]:
    """Compare shares of right answers."""
    if model <= baseline:
        return [
            *what,
            f" is as good ({baseline:.1%}) or better: the model has learned nothing useful (it reaches {model:.1%}).",
        ]
    fewer = f", {1 - (1 - model) / (1 - baseline):.0%} fewer errors" if baseline < 1 else ""
    return [f"{model:.1%} are right{fewer} than ", *what, f" ({baseline:.1%})."]


def _with_interval(judged: Judged, baseline: float, what: list[object]) -> list[object]:
    """Compare the share of right answers, and add its interval (Wilson 1927): what other examples of the kind would give."""
    from scipy.stats import binomtest

    assert judged.right is not None
    right, count = int(judged.right.sum()), len(judged.right)
    found = binomtest(right, count).proportion_ci(_SURE, method="wilson")
    known = f" With {count:,} examples the share is known from {found.low:.1%} to {found.high:.1%} ({_SURE:.0%})."
    return [*_against(right / count, baseline, what), known]


def _classes(held_out: HeldOut) -> list[object]:
    task, judged = held_out.task, held_out.judged
    assert isinstance(task, Classification)
    assert judged is not None
    counts = _training_labels(held_out)
    most = max(task.label_names, key=lambda name: counts.get(name, 0))
    baseline = float((labels_of(held_out) == task.label_names.index(most)).mean())
    return _with_interval(judged, baseline, ["always answering ", element("b", most, dir="auto")])


def _training_labels(held_out: HeldOut) -> dict[str, Any]:
    return held_out.finished.summary["data"]["sources"].get("train", {}).get("labels") or {}


def _label_sets(held_out: HeldOut) -> list[object]:
    task, score, labels = held_out.task, held_out.score, labels_of(held_out)
    assert isinstance(task, MultiLabel)
    assert score is not None
    counts = _training_labels(held_out)
    most = max(task.label_names, key=lambda name: counts.get(name, 0))
    right = int(labels[:, task.label_names.index(most)].sum())
    baseline, model = 2 * right / (len(labels) + int(labels.sum())), score.of()
    if model is None:
        return ["no example has a label, and none is given."]
    better = "more than" if model > baseline else "no more than"
    said = [f"micro F1 is {model:.4f}, {better} always giving ", element("b", most, dir="auto"), f" ({baseline:.4f})."]
    return [*said, f" {held_out.metrics['exact_match']:.1%} of the examples get exactly their labels."]


def _scores(held_out: HeldOut) -> list[object]:
    judged, mean = held_out.judged, _training_labels(held_out)["mean"]
    assert judged is not None
    model, baseline = float(judged.distance.mean()), float(np.abs(labels_of(held_out) - mean).mean())
    better = "less than" if model < baseline else "no less than"
    return [
        f"an answer is wrong by {model:.4f} on average, {better} always answering the mean, {mean:.4f} ({baseline:.4f})."
    ]


def _choices(held_out: HeldOut) -> list[object]:
    judged, windows = held_out.judged, held_out.outcome.examples.windows
    assert judged is not None
    assert windows is not None
    return _with_interval(judged, float((1 / windows.counts).mean()), ["choosing by chance"])


def _tagging(held_out: HeldOut) -> list[object]:
    task, labels = held_out.task, np.asarray(held_out.outcome.examples.token_labels)
    assert isinstance(task, TokenClassification)
    train = np.asarray(held_out.finished.inputs.train.token_labels)
    most = int(np.bincount(train[train >= 0], minlength=len(task.tag_names)).argmax())
    baseline = float((labels[labels >= 0] == most).mean())
    score = "" if task.scheme is None else f" F1 of entities is {held_out.metrics['f1']:.4f}; finding none has 0."
    said = _against(
        float(held_out.metrics["accuracy"]), baseline, ["always the tag ", element("b", task.tag_names[most])]
    )
    return ["of the tags, ", *said, score]


def _questions(held_out: HeldOut) -> list[object]:
    metrics = held_out.metrics
    said = f"{metrics['exact_match']:.1%} of the answers are exactly as expected; their mean F1 is {metrics['f1']:.4f}."
    nothing = np.mean([not question.answers for question in held_out.outcome.examples.extra.questions.items])
    return [said, f" {nothing:.1%} of the questions have no answer." if nothing else ""]


def _words(held_out: HeldOut) -> list[object]:
    metrics, vocabulary = held_out.metrics, held_out.finished.model.predictor.model.config.vocab_size
    said = f"{metrics['masked_accuracy']:.1%} of the masked tokens are predicted; perplexity is "
    perplexity = metrics["perplexity"]
    if perplexity is None or not math.isfinite(perplexity):  # null in summary.json
        return [f"{said}not finite: the model has diverged."]
    return [f"{said}{perplexity:,.1f}: as uncertain as a choice among so many tokens, of {vocabulary:,}."]


_MEANINGS: dict[type[Task], Callable[[HeldOut], list[object]]] = {
    Classification: _classes,
    MultiLabel: _label_sets,
    Regression: _scores,
    MultipleChoice: _choices,
    TokenClassification: _tagging,
    QuestionAnswering: _questions,
    Pretraining: _words,
}
