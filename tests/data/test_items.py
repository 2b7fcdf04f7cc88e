"""Tags, questions and choices go the way of texts: one cache, shared tokenizing, and the same result by every way."""

from __future__ import annotations

import dataclasses
import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from runs import VOCAB
from test_share import Exchange
from transformers import BertTokenizer

from jaxbert.config import Config, DataConfig
from jaxbert.data import items, tokens
from jaxbert.data.examples import content_of
from jaxbert.data.table import Place
from jaxbert.errors import UserError
from jaxbert.tasks import items as item_sets
from jaxbert.tasks import task_class
from jaxbert.tasks.multiple_choice.read import ChoiceQuestion as Choice
from jaxbert.tasks.question_answering.read import Answer, Question, read_questions
from jaxbert.tasks.token_classification.read import TaggedText, TaggedTexts, open_tagged_texts
from jaxbert.tasks.token_classification.scheme import Span

WORDS = VOCAB[5:]


def tagged(rng):
    words = rng.choices(WORDS, k=rng.randint(1, 30))
    return {"tokens": words, "tags": rng.choices(["B-X", "I-X", "B-Y", "O"], k=len(words))}


def spanned(rng):
    words = rng.choices(WORDS, k=rng.randint(3, 30))
    text, low = " ".join(words), len(words[0]) + 1
    return {"text": text, "entities": [{"start": low, "end": low + len(words[1]), "label": rng.choice("XY")}]}


def asked(rng):
    words = rng.choices(WORDS, k=rng.randint(2, 40))
    at = rng.randrange(len(words))
    answer = {"text": words[at], "answer_start": len(" ".join(words[:at])) + (at > 0)}
    return {
        "question": rng.choice(WORDS),
        "context": " ".join(words),
        "answers": [answer] if rng.random() < 0.8 else [],
    }


def chosen(rng):
    choices = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(rng.randint(2, 5))]
    return {"question": rng.choice(WORDS), "choices": choices, "label": rng.randrange(len(choices))}


MAKERS = {"token_classification": tagged, "question_answering": asked, "multiple_choice": chosen, "spans": spanned}


def write(path, kind, count=60, seed=0):
    rng = random.Random(seed)
    path.write_text("\n".join(json.dumps(MAKERS[kind](rng)) for _ in range(count)) + "\n")
    return str(path)


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    return BertTokenizer(vocab=str(tmp_path / "vocab.txt"))


@pytest.fixture
def notes(caplog):
    caplog.set_level("INFO", logger="jaxbert")
    return lambda: [record.getMessage() for record in caplog.records]


def read(tmp_path, kind, tokenizer, cache_dir, **keys):
    task = task_class("token_classification" if kind == "spans" else kind)
    dev = write(tmp_path / "dev.jsonl", kind, 20, 1)
    data = DataConfig(
        train=write(tmp_path / "train.jsonl", kind),
        validation=None if "validation_fraction" in keys else dev,
        cache_dir=None if cache_dir is None else str(cache_dir),
        **keys,
    )
    return task.read(Config(task.name, data=data), tokenizer, 16)


def assert_same(one, other):
    names = one.task.output_names
    assert content_of([one.train], names) == content_of([other.train], names)
    assert one.overview.to_dict() == other.overview.to_dict()
    assert one.validation.keys() == other.validation.keys()
    for name, found in one.validation.items():
        same = other.validation[name]
        assert content_of([found], names) == content_of([same], names)
        width = max(1, len(names)) if one.task.name == "token_classification" else 2
        shape = (len(found.tokens.ids), width) if one.task.per_token else (len(found.tokens),)
        predictions = np.random.default_rng(0).normal(size=shape).astype(np.float32)
        assert one.task.metrics(predictions, found) == other.task.metrics(predictions, same)
        answers = [
            task.answers(predictions, part, 0, len(part)) for task, part in ((one.task, found), (other.task, same))
        ]
        assert answers[0] == answers[1]


@pytest.mark.parametrize("fraction", [None, 0.25])
@pytest.mark.parametrize("kind", MAKERS)
def test_a_second_start_reads_and_tokenizes_nothing(tmp_path, tokenizer, kind, fraction, notes, monkeypatch):
    keys = {"validation_fraction": fraction} if fraction else {}

    def make(folder):
        return read(tmp_path, kind, tokenizer, folder, **keys)

    without, first = make(None), make(tmp_path / "cache")
    said = [note for note in notes() if "from the cache" not in note]

    def none(*_: object, **__: object) -> None:
        raise AssertionError("read or tokenized again")

    with monkeypatch.context() as patch:
        patch.setattr(items.ItemSource, "stream", none)
        patch.setattr(items, "_encode", none)
        again = make(tmp_path / "cache")
    assert_same(first, without)
    assert_same(first, again)
    taken = [note for note in notes() if "taken from the cache" in note]
    sets = ("train", "train") if fraction else ("train", "dev")
    assert taken == [f"tokens of {tmp_path / name}.jsonl taken from the cache" for name in sets]
    assert len([note for note in notes() if "from the cache" not in note]) == len(said) // 2 * 3


@pytest.mark.parametrize("kind", MAKERS)
def test_parts_make_no_difference(tmp_path, tokenizer, kind, monkeypatch):
    whole = read(tmp_path, kind, tokenizer, None)
    for module in (items, tokens):
        monkeypatch.setattr(module, "PART_CHARACTERS", 200)
    assert_same(whole, read(tmp_path, kind, tokenizer, None))


@pytest.mark.parametrize("kind", MAKERS)
def test_processes_share_the_tokenizing(tmp_path, tokenizer, kind, monkeypatch):
    """Each gets the tokens of one; threads stand for processes."""
    expected = read(tmp_path, kind, tokenizer, None)
    for module in (items, tokens):
        monkeypatch.setattr(module, "PART_CHARACTERS", 300)
    exchange, mine = Exchange(3), {}
    monkeypatch.setattr(item_sets, "tokenizing_shard", lambda: mine[threading.get_ident()])

    def start(index):
        mine[threading.get_ident()] = exchange.shard(index)
        own = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
        return read(tmp_path, kind, own, None)

    with ThreadPoolExecutor(3) as threads:
        for found in threads.map(start, range(3)):
            assert_same(expected, found)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_column_or_a_setting_that_changes_the_tokens_has_an_entry_of_its_own(tmp_path, tokenizer, kind):
    folder = tmp_path / "cache"
    read(tmp_path, kind, tokenizer, folder)
    before = len(list(folder.iterdir()))
    assert before == 4  # items and tokens of two sets
    read(tmp_path, kind, tokenizer, folder, limit=10)
    assert len(list(folder.iterdir())) == before + 2
    task = task_class("token_classification" if kind == "spans" else kind)
    data = DataConfig(
        train=str(tmp_path / "train.jsonl"), validation=str(tmp_path / "dev.jsonl"), cache_dir=str(folder)
    )
    task.read(Config(task.name, data=data), tokenizer, 20)
    assert len(list(folder.iterdir())) == before + 4  # the items are the same


def test_a_file_that_changes_while_it_is_read_is_not_kept(tmp_path, tokenizer, monkeypatch):
    path = tmp_path / "train.jsonl"

    def changed(self, items, notes):
        path.write_text(path.read_text() + json.dumps(tagged(random.Random(9))) + "\n")

    write(path, "token_classification")
    source = open_tagged_texts(str(path), DataConfig(), role="train", labelled=True)
    monkeypatch.setattr(TaggedTexts, "survey", classmethod(changed))
    found = items.hold_items(TaggedTexts, source, folder=tmp_path / "cache")
    assert found.entry is None
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_item_comes_back_as_it_was():
    for item in (
        TaggedText(1, "a \ud800 b", spans=[Span(0, 1, "X")]),
        TaggedText(Place("a.conll", 7), words=["a", "b"], tags=["O", None], rows=range(7, 9)),
        TaggedText(3, words=["a", "b"], tags=["O", "B-X"], rows=[3, 5], numbered=True),
        TaggedText(4, words=[], tags=[], rows=[]),
        Question("q", "who?", "a b", (Answer("b", 2),), Place("f.json", 2)),
        Choice(None, "q", ("x", "y"), 1, 5),
        Choice("c", "q", ("x", "y", "z"), "B", Place("f.csv", 2)),
    ):
        again = type(item).unpack(json.loads(json.dumps(item.pack())))
        assert dataclasses.asdict(again) == dataclasses.asdict(item)


def test_a_source_without_items_is_refused(tmp_path):
    path = tmp_path / "train.json"
    path.write_text('{"data": []}')
    with pytest.raises(UserError, match="no questions: at least one is needed"):
        read_questions(str(path), DataConfig(), role="train", labelled=True)
