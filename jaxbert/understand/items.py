"""Which answers of a model are explained, and from which segments they come.

For a text with labels or a score: one output of the text, the given label or the most probable one. For a question: the best
answer, in the window from which it is given. For tags: the tag of each word that marks something.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from jaxbert.data.offsets import Located, locate_tokens
from jaxbert.data.table import Table
from jaxbert.data.tokens import LongTexts, Tokens
from jaxbert.errors import UserError, nearest, quoted
from jaxbert.tasks.base import Outcome, Task
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.decision import place_of_label
from jaxbert.tasks.items import shared_tokens
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.question_answering.windows import Asked
from jaxbert.tasks.reading import TextTask
from jaxbert.tasks.token_classification.align import find_units, locate_documents, windows_of
from jaxbert.tasks.token_classification.marks import Marks
from jaxbert.tasks.token_classification.scheme import OUTSIDE
from jaxbert.tasks.token_classification.task import TokenClassification
from jaxbert.understand.words import ItemBuilder, Items, Piece, Segment, Text

DIGITS = 6
"""The digits of weights and scores behind the point."""


def find_label(task: Task, label: str) -> int:
    """Return the number of the output that is called so.

    Raises:
      UserError: if the model has no such output, or its outputs have no names.
    """
    if not task.output_names:
        raise UserError(f"label is {label!r}, but the answers of this model have no labels: leave it out")
    place = place_of_label(label, task.output_names)
    if place is None:
        near = nearest(label, task.output_names)
        hint = f"; did you mean {near!r}?" if near else ""
        raise UserError(f"label {label!r} is none of the model's labels: {quoted(task.output_names)}{hint}")
    return place


def items_of(outcome: Outcome, tokenizer: Any, max_length: int, target: int | None) -> Items:
    """Return the answers that are explained of some inputs.

    Args:
      outcome: the predictions for the inputs; for a `TextTask`, `extra` of its examples is the table of the texts.
      tokenizer: the model's tokenizer.
      max_length: the longest segment in tokens.
      target: the number of the label to explain; of tags, the words with other tags are then left out.

    Raises:
      UserError: if the tokenizer cannot say where tokens come from, or the task's answers cannot be explained.
    """
    task = outcome.task
    if isinstance(task, TextTask):
        return _text_items(outcome, tokenizer, max_length, target)
    if isinstance(task, QuestionAnswering):
        return _answer_items(outcome, tokenizer)
    if isinstance(task, TokenClassification):
        return _tag_items(outcome, tokenizer, max_length, target)
    raise UserError(f"this model's task is {task.name}, whose answers cannot be explained")


def _text_items(outcome: Outcome, tokenizer: Any, max_length: int, target: int | None) -> Items:
    task, examples = outcome.task, outcome.examples
    assert isinstance(task, TextTask)
    table: Table = examples.extra
    probabilities, tokens = outcome.probabilities, examples.tokens
    labels = _labels_of(task, probabilities, len(examples), target)
    both = [table.texts] if table.pairs is None else [table.texts, table.pairs]
    located = [list(locate_tokens(tokenizer, texts, table.source)) for texts in both]
    firsts = np.arange(len(tokens) + 1) if examples.windows is None else examples.windows.first
    builder = ItemBuilder()
    for number in range(len(examples)):
        texts = [(own[number], found[number]) for own, found in zip(both, located, strict=True)]
        segments = range(int(firsts[number]), int(firsts[number + 1]))
        pieces = _pieces([found for _, found in texts], tokens, segments, task.reading.long_texts, max_length)
        label = int(labels[number])
        if probabilities is None:
            head = {"label": None, "score": outcome.answers(number, number + 1)[0]["score"]}
        else:
            score = round(float(probabilities[number, label]), DIGITS)
            head = {"label": task.output_names[label], "score": score}
        read = [_segment(tokens, segment, own) for segment, own in zip(segments, pieces, strict=True)]
        builder.begin(texts)
        builder.add(read, label, head)
    return builder.finish()


def _labels_of(task: Task, probabilities: np.ndarray | None, count: int, target: int | None) -> np.ndarray:
    """Return the output that is explained of each text, [count].

    Without a `target` it is the label that `predict` gives; where a text has any number of labels, the most probable one.
    """
    if target is not None or probabilities is None:
        return np.full(count, target or 0)
    return task.decision.choose(probabilities) if isinstance(task, Classification) else probabilities.argmax(1)


def _pieces(
    texts: list[Located], tokens: Tokens, segments: range, long_texts: LongTexts, max_length: int
) -> list[list[Piece]]:
    """Return for each segment of an example the piece of each of its texts."""
    count = len(texts[0].ids)
    if len(texts) == 1 and long_texts.how != "cut" and count + 2 > max_length:
        return [[Piece(1, np.array(piece[1:-1]))] for piece in long_texts.cut([-1, *range(count), -1], max_length)]
    length, first = int(tokens.lengths[segments[0]]), int(tokens.first_lengths[segments[0]])
    kept = [Piece(1, np.arange(first - 2)), Piece(first, np.arange(length - first - 1))]
    return [[Piece(begin, own[: len(text.ids)]) for (begin, own), text in zip(kept, texts, strict=False)]]


def _segment(tokens: Tokens, segment: int, pieces: list[Piece]) -> Segment:
    begin = int(tokens.begins[segment])
    ids = tokens.ids[begin : begin + int(tokens.lengths[segment])]
    return Segment(ids, int(tokens.first_lengths[segment]), pieces)


def _answer_items(outcome: Outcome, tokenizer: Any) -> Items:
    """Return the best answer to each question; no answer is the first token of the window that scores it lowest."""
    asked: Asked = outcome.examples.extra
    questions, windows = asked.questions.items, asked.windows
    contexts = list(dict.fromkeys(item.context for item in questions))
    found = dict(zip(contexts, locate_tokens(tokenizer, contexts, asked.questions.source), strict=True))
    located = locate_tokens(tokenizer, [item.question for item in questions], asked.questions.source)
    builder = ItemBuilder()
    for number, (item, question) in enumerate(zip(questions, located, strict=True)):
        answer, context = outcome.answers(number, number + 1)[0], found[item.context]
        window, label = _place_of(outcome.predictions, asked, number, answer)
        begin, length = int(windows.context_begins[window]), int(windows.tokens.lengths[window])
        at = int(windows.tokens.begins[window]) + begin
        start = windows.offsets[at, 0] if length > begin + 1 else 0
        low = int(np.searchsorted(context.offsets[:, 0], start))
        pieces = [Piece(1, np.arange(begin - 2)), Piece(begin, np.arange(low, low + length - 1 - begin))]
        head = {"label": answer["text"], **{key: answer[key] for key in ("id", "start", "end", "score")}}
        builder.begin([(item.question, question), (item.context, context)])
        builder.add([_segment(windows.tokens, window, pieces)], label, head)
    return builder.finish()


def _place_of(predictions: np.ndarray, asked: Asked, number: int, answer: dict[str, Any]) -> tuple[int, list[int]]:
    """Return the window from which an answer is given, and its first and last token there."""
    best: tuple[float, int, list[int]] | None = None
    for window, (at, context, offsets) in enumerate(asked.windows_of(number), int(asked.windows.first[number])):
        scores = predictions[at]
        if not answer["text"]:
            places, score = [0, 0], -float(scores[0].sum())
        else:
            inside = offsets[context]
            firsts, lasts = (np.flatnonzero(inside[:, side] == answer[key]) for side, key in ((0, "start"), (1, "end")))
            if not len(firsts) or not len(lasts):
                continue
            places = [context.start + int(firsts[0]), context.start + int(lasts[-1])]
            score = float(scores[places[0], 0] + scores[places[1], 1])
        if best is None or score > best[0]:
            best = score, window, places
    assert best is not None, "an answer comes from a window"
    return best[1], best[2]


def _tag_items(outcome: Outcome, tokenizer: Any, max_length: int, target: int | None) -> Items:
    """Return the tags of words that mark something, each in the window that gives it."""
    task, examples = outcome.task, outcome.examples
    assert isinstance(task, TokenClassification)
    assert examples.windows is not None
    marks: Marks = examples.extra
    tokens, units = examples.tokens, marks.units
    tags = outcome.predictions.argmax(-1)
    marking = [name != OUTSIDE for name in task.output_names] if target is None else None
    stride, builder = shared_tokens(task.reading, max_length), ItemBuilder()
    everywhere = locate_documents(marks.documents, tokenizer)
    for number, (document, located) in enumerate(zip(marks.documents.items, everywhere, strict=True)):
        text: Text = document.words if document.words is not None else document.text or ""
        builder.begin([(text, located)])
        windows = windows_of(located, find_units(located, document, task.by), max_length, stride)
        segments = range(int(examples.windows.first[number]), int(examples.windows.first[number + 1]))
        for segment, (low, high) in zip(segments, windows, strict=True):
            begin, length = int(tokens.begins[segment]), int(tokens.lengths[segment])
            for place in np.flatnonzero(units.of_tokens[begin : begin + length] >= 0).tolist():
                tag, unit = int(tags[begin + place]), int(units.of_tokens[begin + place])
                if (not marking[tag]) if marking is not None else tag != target:
                    continue
                start, end = int(units.starts[unit]), int(units.ends[unit])
                score = round(float(np.exp(outcome.predictions[begin + place, tag])), DIGITS)
                head = {"label": task.output_names[tag], "score": score}
                head = {"text": marks.text_of(number, start, end), "start": start, "end": end} | head
                read = _segment(tokens, segment, [Piece(1, np.arange(low, high))])
                builder.add([read], [place, tag], head)
    return builder.finish()
