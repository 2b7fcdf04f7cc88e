"""The worst answers of a set with their texts (confident errors, wrong entities, wrong answers to questions), and the labels
of a run that are probably wrong."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxbert.errors import UserError
from jaxbert.tasks.base import Task
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.multiple_choice.task import MultipleChoice
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.reading import TextTask
from jaxbert.tasks.regression.task import Regression
from jaxbert.tasks.token_classification.marks import join_words
from jaxbert.tasks.token_classification.task import PlainTags, TokenClassification
from jaxbert.train.inference import Finished
from jaxbert.understand.audit import has_labels_to_judge, worst_labels
from jaxbert.understand.coloured import coloured_texts, coloured_word
from jaxbert.understand.judged import Judged, entities_of
from jaxbert.understand.records import Record, read_records
from jaxbert.understand.report.held_out import HeldOut, labels_of
from jaxbert.understand.report.page import (
    Html,
    element,
    joined_html,
    marked_text,
    paragraphs,
    shortened,
    shown_number,
    subsection,
)
from jaxbert.understand.report.words import weights_of_words

_MOST = 20
_WEAK = 0.25
"""The share of the labels above which their contradiction says more of the model than of them."""
_BEFORE, _SHOWN = 150, 600
"""Characters of a long text before the first error, and of the piece that begins there."""
_AROUND, _MOST_SHOWN = 60, 1200
"""Characters around an error behind that piece, and of all pieces."""
_WORD = 20
"""Characters within which a piece begins or ends between two words."""
_LEGEND = (
    *("Words ", coloured_word("for", 1), " the answer given and ", coloured_word("against", -1), " it; "),
    "a stronger colour means that the answer changes more without the word (jaxbert explain, occlusion).",
)
Mark = tuple[int, int, str, str]


def mistake_section(held_out: HeldOut) -> Html | None:
    """Return the worst answers of a set; None for a task without answers."""
    for kind, (title, explain) in _SHOWN_BY.items():
        if isinstance(held_out.task, kind):
            items = explain(held_out)
            return subsection(title, joined_html(items) if items else element("p", "There are none."))
    return None


def suspect_section(finished: Finished) -> Html | None:
    """Return the labels that the predictions of models that did not train on them contradict; None if none can be judged."""
    task = finished.model.task
    if not finished.outcomes and "folds" not in finished.summary:
        return None
    if not has_labels_to_judge(task, finished.inputs.train):
        return None
    try:
        suspects, count, judged = worst_labels(finished, _MOST)
    except UserError as error:
        return element("p", f"Not shown: {error}", kind="note")
    if not suspects:
        return element("p", "None is found.")
    said = (
        f"Of {judged:,} labels, {count:,} are probably wrong (confident learning); these are the worst {len(suspects)}. "
        "This command writes all of them, and similar texts with different labels, to correct them:"
    )
    weak = f"These are {count / judged:.0%} of the labels: the model is more often wrong than they are."
    command = element("pre", f"jaxbert audit {shlex.quote(str(finished.folder.path))} --output labels.csv")
    return joined_html(
        [element("p", said), command, paragraphs(weak if count > _WEAK * judged else None), *map(_suspect, suspects)]
    )


def _suspect(suspect: Mapping[str, Any]) -> Html:
    parts: list[object] = []
    for said, key in (("labelled ", "given"), (", suggested ", "suggested")):
        label = suspect[key]
        written = ", ".join(label) or "nothing" if isinstance(label, list) else label
        parts += [] if written is None else [said, _label(written)]
    parts.append(f", score {suspect['score']:.4f}")
    texts = (shortened(suspect[key]) for key in ("text", "text_pair") if key in suspect)
    return _item(f"{suspect['row']} of {suspect['set']}", parts, *texts)


def _item(row: object, said: Sequence[object], *texts: object) -> Html:
    first = element("p", *([f"row {row}: "] if row is not None else []), *said, kind="note")
    return element("div", first, *(element("p", text, kind="text", dir="auto") for text in texts if text), kind="item")


def _label(name: object) -> Html:
    return element("b", name, dir="auto")


def _with_texts(held_out: HeldOut, chosen: Sequence[int], said: Sequence[Sequence[object]]) -> list[Html]:
    """Return an item for each chosen example: what is said of it, and its text with coloured words."""
    assert isinstance(held_out.task, TextTask)
    records: list[Record] = []
    note = []
    if len(chosen):
        try:
            records = read_records(
                held_out.finished.config, held_out.task, held_out.name, held_out.outcome.examples, np.array(chosen)
            )
        except UserError as error:
            note = [element("p", f"Without texts: {error}", kind="note")]
    if not records:
        return [*note, *(_item(None, parts) for parts in said)]
    weights: list[list[dict[str, Any]]] = []
    try:
        weights = weights_of_words(held_out, chosen, records)
    except UserError as error:
        note = [element("p", f"Without colours: {error}", kind="note")]
    if weights:
        note = [element("p", *_LEGEND, kind="note")]
    words = [*weights, *([] for _ in records[len(weights) :])]
    items = [
        _item(record.row, parts, *_coloured(record, of_record))
        for record, parts, of_record in zip(records, said, words, strict=True)
    ]
    return [*note, *items]


def _coloured(record: Record, words: Sequence[Mapping[str, Any]]) -> list[Html]:
    """Return the texts of a record, cut if they are long, with the words that are coloured."""
    texts = [shortened(text) for text in (record.text, record.pair) if text is not None]
    shown = [word for word in words if texts[word.get("pair", 0)][word["start"] : word["end"]] == word["text"]]
    return coloured_texts(texts, shown)


def _answer(held_out: HeldOut, index: int) -> dict[str, Any]:
    """Return the answer of `jaxbert predict` to an example."""
    return held_out.outcome.answers(index, index + 1)[0]


def _confidence(judged: Judged) -> np.ndarray:
    """Return the probability of each answer; NaN for a diverged model."""
    return np.full(len(judged.distance), np.nan) if judged.confidence is None else judged.confidence


def _worst(badness: np.ndarray, wrong: np.ndarray) -> list[int]:
    """Return the indices of the worst of the wrong answers, the worst first."""
    places = np.flatnonzero(wrong)
    return places[np.argsort(-badness[places], kind="stable")][:_MOST].tolist()


def _confident_errors(held_out: HeldOut) -> list[Html]:
    judged = held_out.judged
    assert judged is not None
    assert judged.right is not None
    sure = _confidence(judged)
    chosen = _worst(sure, ~judged.right)
    said = [
        [_label(judged.given[i]), f" with probability {sure[i]:.4f}, labelled ", _label(judged.expected[i])]
        for i in chosen
    ]
    return _with_texts(held_out, chosen, said)


def _label_errors(held_out: HeldOut) -> list[Html]:
    task, probabilities = held_out.task, held_out.outcome.probabilities
    assert isinstance(task, MultiLabel)
    assert probabilities is not None
    labels, given = (
        part > 0 for part in task.labels_and_answers(held_out.outcome.predictions, held_out.outcome.examples)
    )
    distance = np.where(labels != given, np.abs(probabilities - labels), 0.0)
    chosen = _worst(distance.max(-1), (labels != given).any(-1))
    said = []
    for i in chosen:
        worst = int(distance[i].argmax())
        parts: list[object] = [
            _label(task.label_names[worst]),
            f" has probability {probabilities[i, worst]:.4f}; labelled ",
        ]
        for names in (labels[i], given[i]):
            parts += [_label(", ".join(task.label_names[j] for j in np.flatnonzero(names)) or "nothing"), "; given "]
        said.append(parts[:-1])
    return _with_texts(held_out, chosen, said)


def _score_errors(held_out: HeldOut) -> list[Html]:
    judged = held_out.judged
    assert judged is not None
    chosen = _worst(judged.distance, judged.distance != 0)
    said = [[f"predicted {shown_number(judged.given[i])}, labelled {shown_number(judged.expected[i])}"] for i in chosen]
    return _with_texts(held_out, chosen, said)


def _choice_errors(held_out: HeldOut) -> list[Html]:
    judged, probabilities, labels = held_out.judged, held_out.outcome.probabilities, labels_of(held_out)
    assert judged is not None
    assert judged.right is not None
    assert probabilities is not None
    items = []
    for i in _worst(probabilities.max(-1), ~judged.right):
        question, chosen = held_out.outcome.examples.extra.items[i], int(probabilities[i].argmax())
        kinds = {int(labels[i]): ("true", "right"), chosen: ("wrong", f"chosen, {probabilities[i, chosen]:.4f}")}
        lines = [
            marked_text(shortened(choice), [(0, len(shortened(choice)), *kinds[place])] if place in kinds else [])
            for place, choice in enumerate(question.choices)
        ]
        context = question.context and shortened(question.context)
        items.append(_item(question.row, [], context, element("b", shortened(question.question)), *lines))
    return items


def _answer_errors(held_out: HeldOut) -> list[Html]:
    judged = held_out.judged
    assert judged is not None
    sure = _confidence(judged)
    order = np.lexsort((-sure, -judged.distance))
    items = []
    for i in [i for i in order[:_MOST].tolist() if judged.distance[i] > 0]:
        question, answer = held_out.outcome.examples.extra.questions.items[i], _answer(held_out, i)
        gold = question.answers[0] if question.answers else None
        marks: list[Mark] = []
        if answer["text"]:
            marks.append((answer["start"], answer["end"], "wrong", "answered"))
        if gold is not None:
            marks.append((gold.start, gold.start + len(gold.text), "missed", "expected"))
        said = [f"F1 {1 - judged.distance[i]:.4f}, probability {sure[i]:.4f}: answered "]
        said += [_label(answer["text"] or "no answer"), ", expected ", _label(gold.text if gold else "no answer")]
        items.append(_item(question.row, said, element("b", question.question), excerpt(question.context, marks)))
    return items


def _entity_errors(held_out: HeldOut) -> list[Html]:
    score, examples = held_out.score, held_out.outcome.examples
    assert score is not None
    hits, given, expected = score.measure.parts.T
    legend = element(
        *("p", element("mark", "right", kind="true"), " ", element("mark", "wrong", kind="wrong"), " "),
        element("mark", "missed", kind="missed"),
        kind="note",
    )
    items = [legend]
    for i in _worst(given + expected - 2 * hits, given + expected > 2 * hits):
        document = examples.extra.documents.items[i]
        found = entities_of(_answer(held_out, i))
        gold = {tuple(span) for span in examples.extra.spans[i]}
        kinds = {**dict.fromkeys(gold - found, "missed"), **dict.fromkeys(found - gold, "wrong")}
        kinds |= dict.fromkeys(found & gold, "true")
        text, places = _characters(document)
        marks = [(places(start)[0], places(end - 1)[1], kind, label) for (start, end, label), kind in kinds.items()]
        said = [f"{len(found & gold)} right, {len(found - gold)} wrong, {len(gold - found)} missed"]
        items.append(_item(document.row, said, excerpt(text, marks)))
    return items if len(items) > 1 else []


def _tag_errors(held_out: HeldOut) -> list[Html]:
    judged, examples, task = held_out.judged, held_out.outcome.examples, held_out.task
    assert judged is not None
    assert isinstance(task, PlainTags)
    marks_of_set = examples.extra
    gold = list(marks_of_set.units.by_text(marks_of_set.tags, 0, len(examples)))
    items = []
    for i in _worst(judged.distance, judged.distance > 0):
        document = marks_of_set.documents.items[i]
        text, places = _characters(document)
        marks = []
        for number, tag in zip(gold[i], _answer(held_out, i)["tags"], strict=True):
            if number >= 0 and task.tag_names[number] != tag["label"]:
                name = f"{tag['label']}, not {task.tag_names[number]}"
                marks.append((places(tag["start"])[0], places(tag["end"] - 1)[1], "wrong", name))
        items.append(_item(document.row, [f"{len(marks)} of {len(gold[i])} words wrong"], excerpt(text, marks)))
    return items


def _characters(document: Any) -> tuple[str, Callable[[int], tuple[int, int]]]:
    """Return a tagged text, and the function from a place, in characters or words, to its first and last character."""
    if document.text is not None:
        return document.text, lambda place: (place, place + 1)
    words = document.words or []

    def of_word(place: int) -> tuple[int, int]:
        end = len(join_words(words[: place + 1]))
        return end - len(words[place]), end

    return join_words(words), of_word


def excerpt(text: str, marks: Sequence[Mark]) -> Html:
    """Return a text with its marks; of a long text, the piece that begins shortly before the first error, and the errors
    behind it with the words around them."""
    if len(text) <= _SHOWN:
        return marked_text(text, marks)
    parts: list[object] = []
    last = 0
    for begin, end in _pieces(text, sorted((start, end) for start, end, kind, _ in marks if kind != "true")):
        kept = [(s - begin, min(e, end) - begin, kind, name) for s, e, kind, name in marks if begin <= s < end]
        parts += ["… " if begin > last else None, marked_text(text[begin:end], kept), " " if end < len(text) else None]
        last = end
    return joined_html([*parts, "…" if last < len(text) else None])


def _pieces(text: str, errors: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the first and last places of the pieces of a long text that are shown, in order; errors are sorted."""
    begin = max(0, errors[0][0] - _BEFORE) if errors else 0
    pieces = [(begin, min(begin + _SHOWN, len(text)))]
    for start, end in errors:
        first, last = max(0, start - _AROUND), min(end + _AROUND, len(text))
        if end <= pieces[-1][1] or sum(e - b for b, e in pieces) + last - first > _MOST_SHOWN:
            continue
        if first <= pieces[-1][1]:
            pieces[-1] = pieces[-1][0], last
        else:
            pieces.append((first, last))
    return [_between_words(text, *piece) for piece in pieces]


def _between_words(text: str, begin: int, end: int) -> tuple[int, int]:
    """Return a piece that begins after a blank and ends before one, if there is one near."""
    first, last = text.find(" ", begin, begin + _WORD), text.rfind(" ", end - _WORD, end)
    return begin if begin == 0 or first < 0 else first + 1, end if end == len(text) or last < 0 else last


_SHOWN_BY: dict[type[Task], tuple[str, Callable[[HeldOut], list[Html]]]] = {
    Classification: ("The most confident errors", _confident_errors),
    MultiLabel: ("The most confident errors", _label_errors),
    Regression: ("The largest errors", _score_errors),
    MultipleChoice: ("The most confident errors", _choice_errors),
    PlainTags: ("The texts with the most errors", _tag_errors),
    TokenClassification: ("The texts with the most errors", _entity_errors),
    QuestionAnswering: ("The worst answers", _answer_errors),
}
"""By the class of a task, a more special one first."""
