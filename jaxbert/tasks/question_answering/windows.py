"""Cut questions with contexts into windows of tokens, and map tokens back to the characters of the context.

A window is `[CLS] question [SEP] context [SEP]` with as much of the context as fits; the rest follows in further windows.
`read` reads the questions, and `answers` chooses answers.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.data.items import Encoder
from jaxbert.data.offsets import Located, cut_windows, locate_tokens
from jaxbert.data.store import Stored, StoredColumn
from jaxbert.data.tokens import Encoded, Tokens, hash_texts
from jaxbert.errors import UserError
from jaxbert.tasks.question_answering.read import Question, Questions

_SHORTEST = 5
"""The least tokens of a window: three special ones, one of the question and one of the context."""


logger = logging.getLogger("jaxbert")


@dataclass(frozen=True, eq=False)
class QuestionWindows:
    """The W windows of D questions, concatenated."""

    tokens: Tokens
    first: np.ndarray
    """int64 [D + 1]: windows of question d are first[d] to first[d + 1] - 1."""
    context_begins: np.ndarray
    """int32 [W]: the first token of the context in the window; the context ends before the window's last token."""
    offsets: np.ndarray
    """int32 [T, 2]: the characters of the context that a token comes from; 0 for other tokens."""
    answers: np.ndarray
    """int32 [W, 2]: first and last token of the question's first answer; 0 (CLS) if the window does not have all of it."""
    lengths: np.ndarray
    """int32 [D]: tokens of each question with its context, special tokens included, before it was cut."""
    noticed: np.ndarray
    """int32 [D, 2]: 1 if the question was cut, and 1 if its answer has no token."""

    def say(self, source: str, max_length: int) -> None:
        """Tell the user how many questions were cut, and how many answers have no token."""
        cut, dropped = self.noticed.sum(0, dtype=np.int64).tolist()
        if cut:
            longest = _longest_question(max_length)
            logger.warning("%s: %d questions are longer than %d tokens and were cut", source, cut, longest)
        if dropped:
            message = "%s: the tokenizer drops the whole text of %d answers; their questions are taught as without one"
            logger.warning(message, source, dropped)


@dataclass(frozen=True, eq=False)
class Asked:
    """Questions with their windows, for metrics and answers."""

    questions: Questions
    windows: QuestionWindows
    hashes: np.ndarray | None = None
    """uint64 [D]: equal if the answers to two questions are equal."""

    def windows_of(self, question: int) -> Iterator[tuple[slice, slice, np.ndarray]]:
        """Yield for each window of a question the slice of its tokens, the slice of the context, and the offsets."""
        windows = self.windows
        for window in range(windows.first[question], windows.first[question + 1]):
            begin, length = int(windows.tokens.begins[window]), int(windows.tokens.lengths[window])
            at = slice(begin, begin + length)
            yield at, slice(int(windows.context_begins[window]), length - 1), windows.offsets[at]

    def content(self) -> Iterator[np.ndarray]:
        """Yield the arrays that a checksum of the content adds to that of tokens and labels."""
        if self.hashes is not None:
            yield self.hashes

    def text_of(self, question: int, start: int, end: int) -> str:
        """Return the characters `start` to `end - 1` of a question's context."""
        return self.questions.items[question].context[start:end]


def cut_questions(questions: Questions, tokenizer: Any, max_length: int, stride: int) -> QuestionWindows:
    """Tokenize questions with their contexts and cut the long ones into windows.

    Args:
      questions: the questions with their contexts.
      tokenizer: a transformers tokenizer that gives the offsets of tokens.
      max_length: the longest window in tokens, special tokens included; a question takes at most half of it.
      stride: the tokens of the context that two windows share; at most half of the context in a window.

    Raises:
      UserError: if windows are too short for question and context.
    """
    if max_length < _SHORTEST:
        raise UserError(
            f"data.max_length is {max_length}, but a question with its context takes {_SHORTEST} tokens at least"
        )
    items = questions.items
    contexts = list(dict.fromkeys(item.context for item in items))
    found = dict(zip(contexts, locate_tokens(tokenizer, contexts, questions.source), strict=True))
    asked = locate_tokens(tokenizer, [item.question for item in items], questions.source)
    most = _longest_question(max_length)
    ids: list[np.ndarray] = []
    offsets: list[np.ndarray] = []
    lengths, begins, answers, whole, first, noticed = [], [], [], [], [0], []
    special = np.array([tokenizer.cls_token_id, tokenizer.sep_token_id], np.int32)
    nowhere = np.zeros((1, 2), np.int32)
    for item, question in zip(items, asked, strict=True):
        head = np.concatenate([special[:1], question.ids[:most], special[1:]])
        context, room = found[item.context], max_length - len(head) - 1
        whole.append(len(question.ids) + len(context.ids) + 3)
        answer = answer_tokens(item, context)
        noticed.append((len(question.ids) > most, bool(item.answers) and answer is None))
        for low, high in cut_windows(len(context.ids), room, min(stride, room // 2)):
            ids += [head, context.ids[low:high], special[1:]]
            offsets += [np.repeat(nowhere, len(head), 0), context.offsets[low:high], nowhere]
            lengths.append(len(head) + high - low + 1)
            begins.append(len(head))
            inside = answer is not None and low <= answer[0] and answer[1] < high
            answers.append([place - low + len(head) for place in answer] if answer is not None and inside else [0, 0])
        first.append(len(lengths))
    sizes = np.array(lengths, np.int32)
    context_begins = np.array(begins, np.int32)
    return QuestionWindows(
        tokens=Tokens.from_lengths(np.concatenate(ids), sizes, context_begins),
        first=np.array(first, np.int64),
        context_begins=context_begins,
        offsets=np.concatenate(offsets),
        answers=np.array(answers, np.int32),
        lengths=np.array(whole, np.int32),
        noticed=np.array(noticed, np.int32),
    )


def _longest_question(max_length: int) -> int:
    """Return the most tokens that a question may have in a window."""
    return max(1, (max_length - 3) // 2)


COLUMNS = {
    "context_begins": StoredColumn("<i4"),
    "offsets": StoredColumn("<i4", (2,)),
    "answers": StoredColumn("<i4", (2,)),
    "noticed": StoredColumn("<i4", (2,)),
    "answer_hashes": StoredColumn("<u8"),
}
"""The columns of `QuestionWindows` besides tokens, and a hash of the answers to each question."""


def make_question_encoder(tokenizer: Any, max_length: int, stride: int) -> Encoder[Questions]:
    """Return the encoder that cuts questions into windows."""

    def encode(questions: Questions) -> Encoded:
        found = cut_questions(questions, tokenizer, max_length, stride)
        written = [repr([(answer.text, answer.start) for answer in item.answers]) for item in questions.items]
        columns = {
            "context_begins": found.context_begins,
            "offsets": found.offsets,
            "answers": found.answers,
            "noticed": found.noticed,
            "answer_hashes": hash_texts(written),
        }
        tokens, counts = found.tokens, np.diff(found.first).astype(np.int32)
        return Encoded(tokens.ids, tokens.lengths, tokens.first_lengths, 0, counts, found.lengths, columns)

    def say(questions: Questions, stored: Stored) -> None:
        question_windows(stored).say(questions.source, max_length)

    return Encoder(COLUMNS, ["questions", stride], encode, say)


def question_windows(stored: Stored) -> QuestionWindows:
    """Return the windows that the encoder of `make_question_encoder` stored."""
    columns = stored.columns
    assert stored.windows is not None
    return QuestionWindows(
        tokens=stored.tokens,
        first=stored.windows.first,
        context_begins=columns["context_begins"],
        offsets=columns["offsets"],
        answers=columns["answers"],
        lengths=np.zeros(0, np.int32) if stored.seen is None else stored.seen.lengths,
        noticed=columns["noticed"],
    )


def answer_tokens(question: Question, context: Located) -> tuple[int, int] | None:
    """Return the first and the last token of a question's first answer; None if it has no answer or no token."""
    if not question.answers:
        return None
    start = question.answers[0].start
    end = start + len(question.answers[0].text)
    first = int(np.searchsorted(context.offsets[:, 1], start, "right"))
    last = int(np.searchsorted(context.offsets[:, 0], end, "left")) - 1
    return (first, last) if first <= last else None
