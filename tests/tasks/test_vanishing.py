"""Texts that the tokenizer drops in part or whole are answered, at the right place, and can be learned from."""

from __future__ import annotations

import random

import numpy as np
import pytest
from transformers import BertTokenizer

from jaxbert.data.examples import Examples, Windows
from jaxbert.data.offsets import locate_tokens
from jaxbert.tasks.question_answering.read import Answer, Question, Questions
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.question_answering.windows import Asked, cut_questions
from jaxbert.tasks.token_classification.align import align
from jaxbert.tasks.token_classification.marks import Marks, fit_tags, marked_spans, say_odd, tag_units
from jaxbert.tasks.token_classification.read import TaggedText, TaggedTexts
from jaxbert.tasks.token_classification.scheme import Span
from jaxbert.tasks.token_classification.task import PlainTags, TokenClassification

DROPPED = ["\u200b", "\u200d", "\ufe0f", "\u00ad", "\ufffd", "\ue000", "\x01", "\u0301", "\u2060", "\U000e0001"]
KEPT = ["a", "b", "c", "é", "高", "。", "İ", "한", "A", "-", "😀", "ab" * 60, "abc" * 9, "ａ"]
TAGS = ("B-X", "I-X", "O")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocab") / "vocab.txt"
    pieces = ["a", "b", "c", "##a", "##b", "##c", "高", "-", "e"]
    path.write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *pieces]) + "\n")
    return BertTokenizer(vocab=str(path))


def random_text(rng, most=12):
    alphabet = rng.choice([DROPPED, [*DROPPED, " "], KEPT + DROPPED + [" "] * 6, KEPT + [" "] * 3])
    return "".join(rng.choices(alphabet, k=rng.randint(1, most)))


def random_document(rng, number):
    if rng.random() < 0.4:
        words = [random_text(rng, 3) if rng.random() < 0.9 else "" for _ in range(rng.randint(0, 8))]
        return TaggedText(number, words=words, tags=rng.choices(TAGS, k=len(words)))
    text = random_text(rng)
    edges = sorted(rng.sample(range(len(text) + 1), min(len(text) + 1, 2 * rng.randint(0, 3)) // 2 * 2))
    spans = [Span(a, b, "X") for a, b in zip(edges[::2], edges[1::2], strict=True)]
    return TaggedText(number, text=text, spans=spans)


def log_probabilities(rng, count, width):
    logits = np.random.default_rng(rng.randrange(2**32)).normal(size=(count, width)).astype(np.float32)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


def check_units(aligned, documents):
    """Each unit of a text covers something that is seen, begins no earlier than the last, and speaks once."""
    units, spoken = aligned.units, np.sort(aligned.units.of_tokens[aligned.units.of_tokens >= 0])
    assert len(set(spoken.tolist())) == len(spoken)
    for number, item in enumerate(documents.items):
        stretch = slice(*units.first[number : number + 2])
        starts, ends = units.starts[stretch].tolist(), units.ends[stretch].tolist()
        if item.words is not None:
            assert starts == list(range(len(item.words)))
            continue
        assert starts == sorted(starts)
        for start, end in zip(starts, ends, strict=True):
            assert 0 <= start < end <= len(item.text)
            assert item.text[start] not in [*DROPPED, " "]
        missing = set(range(*stretch.indices(len(units.starts)))) - set(spoken.tolist())
        assert not missing
        assert bool(starts) == any(character not in [*DROPPED, " "] for character in item.text)


@pytest.mark.parametrize("by", ["word", "token"])
def test_tagging_answers_every_text(tokenizer, by):
    rng = random.Random(by)
    documents = TaggedTexts("a", [random_document(rng, number) for number in range(200)])
    aligned = align(documents, tokenizer, 12, stride=3, by=by)
    check_units(aligned, documents)
    documents, tag_set = fit_tags(documents, None)
    numbers, _ = tag_units(documents, aligned.units, tag_set)
    marks = Marks(None, documents, aligned.units, numbers, marked_spans(documents))
    labels = aligned.units.scatter(numbers, -100)
    examples = Examples(aligned.tokens, token_labels=labels, windows=Windows(aligned.first_windows), extra=marks)
    predictions = log_probabilities(rng, len(aligned.tokens.ids), 3)
    answers = TokenClassification(TAGS).answers(predictions, examples, 0, 200)
    tagged = PlainTags(TAGS).answers(predictions, examples, 0, 200)
    assert len(answers) == len(tagged) == 200
    for item, answer, tags in zip(documents.items, answers, tagged, strict=True):
        for entity in [*answer["entities"], *tags["tags"]]:
            assert entity["start"] < entity["end"]
            if item.text is not None:
                assert entity["text"] == item.text[entity["start"] : entity["end"]] != ""
        assert len(tags["tags"]) == aligned.units.first[item.row + 1] - aligned.units.first[item.row]
    for task in (TokenClassification(TAGS), PlainTags(TAGS)):
        metrics = task.metrics(predictions, examples)
        assert set(task.metric_names()) == {name for name, value in metrics.items() if isinstance(value, float)}
        assert all(np.isfinite(metrics[name]) for name in task.metric_names())


def test_answering_answers_every_question(tokenizer, caplog):
    rng = random.Random(3)
    items = []
    for number in range(200):
        context = random_text(rng)
        start = rng.randrange(len(context))
        answer = Answer(context[start : start + rng.randint(1, 4)], start)
        items.append(Question(str(number), random_text(rng, 4), context, (answer,) if rng.random() < 0.8 else ()))
    questions = Questions("a", items)
    windows = cut_questions(questions, tokenizer, 12, 3)
    windows.say("a", 12)
    examples = Examples(windows.tokens, windows=Windows(windows.first), extra=Asked(questions, windows))
    predictions = log_probabilities(rng, 2 * len(windows.tokens.ids), 2).reshape(-1, 2)
    for task in (QuestionAnswering(), QuestionAnswering(unanswered=True)):
        answers = task.answers(predictions, examples, 0, 200)
        assert [answer["id"] for answer in answers] == [item.id for item in items]
        for item, answer in zip(items, answers, strict=True):
            for one in answer["n_best"]:
                assert one["text"] == item.context[one["start"] : one["end"]]
            if all(character in [*DROPPED, " "] for character in item.context):
                assert (answer["text"], answer["start"], answer["end"]) == ("", 0, 0)
        assert np.isfinite(task.metrics(predictions, examples)["loss"])
    gone = sum(
        bool(item.answers) and all(character in [*DROPPED, " "] for character in item.answers[0].text) for item in items
    )
    assert f"drops the whole text of {gone} answers" in caplog.text


def test_spans_count_the_characters_of_the_user(tokenizer, caplog):
    text = "\u200ba\u0301b\u00adc 高\ufe0f \u200b\u2060 b\u0301\u0302."
    spans = [Span(1, 6, "X"), Span(7, 9, "X"), Span(10, 12, "X"), Span(13, 16, "X")]
    documents, tag_set = fit_tags(TaggedTexts("a", [TaggedText(1, text=text, spans=spans)]), None)
    units = align(documents, tokenizer, 16, stride=2, by="token").units
    found = list(zip(units.starts.tolist(), units.ends.tolist(), strict=True))
    assert found == [(1, 3), (3, 4), (5, 6), (7, 9), (13, 16), (16, 17)]
    numbers, odd = tag_units(documents, units, tag_set)
    say_odd("a", odd)
    assert [tag_set.names[i] for i in numbers] == ["B-X", "I-X", "I-X", "B-X", "B-X", "O"]
    assert caplog.messages == ["a: the tokenizer drops the whole text of 1 spans; nothing is taught of them"]


def test_a_word_without_tokens_does_not_break_an_entity(tokenizer):
    words = ["\u200b", "a", "\u200b", "b", "\u200b"]
    documents = TaggedTexts("a", [TaggedText(1, words=words, tags=["O", "B-X", "I-X", "I-X", "O"])])
    aligned = align(documents, tokenizer, 16, stride=2, by="word")
    predictions = np.log(np.full((4, 3), 0.1, np.float32))
    predictions[1, 0] = predictions[2, 1] = np.log(0.8)  # CLS, a, b, SEP
    examples = Examples(aligned.tokens, extra=Marks(None, documents, aligned.units, None, None))
    (answer,) = TokenClassification(TAGS).answers(predictions, examples, 0, 1)
    assert answer == {"entities": [{"text": "a \u200b b", "label": "X", "start": 1, "end": 4, "score": 0.8}]}
    (answer,) = PlainTags(("X", "Y", "Z")).answers(predictions, examples, 0, 1)
    assert [(tag["text"], tag["label"], tag["score"]) for tag in answer["tags"]] == [
        ("\u200b", None, 0.0),
        ("a", "X", 0.8),
        ("\u200b", None, 0.0),
        ("b", "Y", 0.8),
        ("\u200b", None, 0.0),
    ]
    (answer,) = PlainTags(TAGS).answers(predictions, examples, 0, 1)
    assert [tag["label"] for tag in answer["tags"]] == ["O", "B-X", "O", "I-X", "O"]


def test_tokens_of_no_word_are_no_units(tokenizer):
    class Encoding:
        ids = (2, 5, 6, 3)
        offsets = ((0, 0), (0, 1), (2, 3), (0, 0))
        word_ids = (None, 0, 1, None)

    class Backend:
        encode_special_tokens = False
        no_truncation = no_padding = staticmethod(lambda: None)
        encode_batch = staticmethod(lambda part, **_: [Encoding] * len(part))

    class Tokenizer:
        backend_tokenizer = Backend()
        split_special_tokens = False
        cls_token_id, sep_token_id = 2, 3

    assert next(iter(locate_tokens(Tokenizer(), ["a b"], "a"))).words.tolist() == [-1, 0, 1, -1]
    units = align(TaggedTexts("a", [TaggedText(1, text="a b")]), Tokenizer(), 16, stride=2, by="word").units
    assert (units.starts.tolist(), units.of_tokens.tolist()) == ([0, 2], [-1, -1, 0, 1, -1, -1])
