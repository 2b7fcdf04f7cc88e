"""Marked texts are read in each of their layouts, and mistakes are named with their row."""

from __future__ import annotations

import json
import random

import pytest

from jaxbert.config import DataConfig
from jaxbert.data.hub import Split
from jaxbert.errors import UserError
from jaxbert.tasks.token_classification.read import read_tagged_texts
from jaxbert.tasks.token_classification.scheme import Span


def read(path, role="train", labelled=True, limit=None, **keys):
    return list(read_tagged_texts(str(path), DataConfig(**keys), role=role, labelled=labelled, limit=limit).items)


@pytest.fixture
def write(tmp_path):
    def file(name, content):
        path = tmp_path / name
        if not isinstance(content, str):
            content = "\n".join(json.dumps(record, ensure_ascii=False) for record in content) + "\n"
        path.write_text(content, "utf-8")
        return path

    return file


@pytest.mark.parametrize("separator", [" ", "\t"])
@pytest.mark.parametrize("end", ["", "\n", "\n\n\n"])
def test_a_token_and_its_tag_on_each_line(write, separator, end):
    lines = ["-DOCSTART- -X- O", "", "EU NNP B-ORG", "rejects VB O", "", "", "Peter NNP B-PER"]
    path = write("train.conll", "\n".join(lines).replace(" ", separator) + end)
    first, second = read(path)
    assert (first.row, first.words, first.tags) == (3, ["EU", "rejects"], ["B-ORG", "O"])
    assert (second.row, second.words, second.tags) == (7, ["Peter"], ["B-PER"])
    assert read(path, tag_column="2")[0].tags == ["NNP", "VB"]
    assert len(read(path, limit=1)) == 1
    assert read(path, role="predict", labelled=False)[0].tags is None


def test_tokens_with_blanks(write):
    assert read(write("a.txt", "New York\tB-LOC\n\u3000\tO\n"))[0].words == ["New York", "\u3000"]
    assert read(write("b.txt", "\u3000 O\n高 B-X\n"))[0].words == ["\u3000", "高"]


def test_lists_of_words_and_tags(write):
    path = write("train.jsonl", [{"tokens": ["EU", "won"], "tags": ["B-ORG", "O"]}, {"tokens": [], "tags": []}])
    assert read(path)[0].words == ["EU", "won"]
    assert read(path)[0].tags == ["B-ORG", "O"]
    assert read(path)[1].words == []
    numbered = write("n.jsonl", [{"words": ["EU", "won"], "ner_tags": [1, 0]}])
    (found,) = read(numbered, tokens="words", label_names=["O", "B-ORG"])
    assert (found.tags, found.numbered) == (["B-ORG", "O"], True)
    spaced = write("s.jsonl", [{"tokens": ["EU", "won", "it"], "tags": ["B-ORG\u00a0", " O", -100]}])
    (found,) = read(spaced)
    assert (found.tags, found.numbered) == (["B-ORG", "O", None], False)


def test_marked_spans(write):
    text = "高勇 works at  EU ."
    spans = [{"start": 12, "end": 16, "label": "ORG"}, [0, 2, "PER"]]
    assert read(write("train.jsonl", [{"text": text, "entities": spans}]))[0].spans == [
        Span(0, 2, "PER"),
        Span(13, 15, "ORG"),
    ]
    unseen = {"text": "\u200bEU\u2060 \u200b", "entities": [[0, 4, "ORG"], [4, 6, "ORG"]]}
    assert read(write("unseen.jsonl", [unseen]))[0].spans == [Span(1, 3, "ORG"), Span(4, 6, "ORG")]


def test_plain_texts_for_prediction(write, monkeypatch):
    assert [d.text for d in read(write("a.txt", "one text\nanother\n"), "predict", False)] == ["one text", "another"]
    assert [d.text for d in read(write("a.csv", "text,label\none,x\n"), "predict", False)] == ["one"]
    for content, expected in (('{"text": "a b"}\n', "a b"), ("a b\n", "a b")):
        with write("stdin", content).open() as stream:
            monkeypatch.setattr("sys.stdin", stream)
            assert [d.text for d in read("-", "predict", False)] == [expected]


@pytest.mark.parametrize(("content", "row"), [("one\n\ntwo\n", 2), ("\none\n", 1), ("one\n\n", 2)])
def test_a_blank_line_of_a_file_as_standard_input_is_an_error(write, monkeypatch, content, row):
    """The texts after it would have no answer."""
    with write("stdin", content).open() as stream:
        monkeypatch.setattr("sys.stdin", stream)
        with pytest.raises(UserError, match=rf"standard input, row {row}: the line is blank"):
            read("-", "predict", False)


def test_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table({"tokens": [["EU"], ["a", "b"]], "tags": [["B-ORG"], ["O", "O"]]}), tmp_path / "t.parquet")
    assert [d.tags for d in read(tmp_path / "t.parquet")] == [["B-ORG"], ["O", "O"]]


def test_a_hub_dataset_names_its_tags(monkeypatch):
    from datasets import ClassLabel, Dataset, Features, List, Value

    features = Features({"tokens": List(Value("string")), "ner_tags": List(ClassLabel(names=["O", "B-ORG"]))})
    dataset = Dataset.from_dict({"tokens": [["EU", "won"], ["a"]], "ner_tags": [[1, 0], [0]]}, features)
    monkeypatch.setattr("jaxbert.data.hub.open_hub", lambda spec, split: Split(spec, dataset, list))
    assert [d.tags for d in read("hf:org/conll")] == [["B-ORG", "O"], ["O"]]
    assert len(read("hf:org/conll", limit=1)) == 1


WRONG = {
    "tokens and tags of different lengths": (
        "t.jsonl",
        [{"tokens": ["a", "b"], "tags": ["O"]}],
        r"t\.jsonl, row 1: 2 words in 'tokens', but 1 tags in 'tags': give each word one tag",
    ),
    "another number of columns": ("t.conll", "a B-X\nb\n", r"t\.conll, row 2: 1 columns, but other rows have 2.*"),
    "no tag": ("t.conll", "a\nb\n", r".*t\.conll: one column, but a token and its tag are needed.*"),
    "empty": ("t.conll", "", r".*t\.conll: empty: at least one text is needed"),
    "empty records": ("t.jsonl", "", r".*t\.jsonl: empty.*"),
    "overlap": (
        "t.jsonl",
        [{"text": "New York", "entities": [[4, 8, "B"], [0, 5, "A"]]}],
        r"t\.jsonl, row 1: two spans overlap \(A 'New Y' at 0 and B 'York' at 4\).*",
    ),
    "outside": ("t.jsonl", [{"text": "abc", "entities": [[1, 4, "A"]]}], r".*span 1 to 4 is outside its text of 3.*"),
    "blank": ("t.jsonl", [{"text": "a  b", "entities": [[1, 3, "A"]]}], r".*span 1 to 3 marks blanks only.*"),
    "no span": ("t.jsonl", [{"text": "abc", "entities": [{"start": "1", "end": 2, "label": "A"}]}], r".*not a span:.*"),
    "no column": ("t.jsonl", [{"txt": "abc"}], r".*row 1: neither a column 'tokens' .* nor 'text' .*'txt'"),
    "no spans": ("t.jsonl", [{"text": "abc", "entitys": []}], r".*no column 'entities' \(data\.spans\);.*'entitys'\?"),
    "no tags": ("t.jsonl", [{"tokens": ["a"], "tag": ["O"]}], r".*no column 'tags' \(data\.tag_column\);.*'tag'\?"),
    "two columns of tags": (
        "t.jsonl",
        [{"tokens": ["a"], "tags": ["O"], "ner_tags": ["O"]}],
        r".*row 1: the tags can be in 'tags', 'ner_tags': name one by data\.tag_column",
    ),
    "words": ("t.jsonl", [{"tokens": "a b", "tags": []}], r".*holds text \('a b'\), but it must hold a list of words"),
    "numbers": ("t.jsonl", [{"tokens": ["a"], "tags": [1]}], r".*are numbers: name them by data\.label_names"),
    "not json": ("t.jsonl", "{tokens\n", r".*row 1: not a complete JSON object.*"),
}


@pytest.mark.parametrize("case", WRONG)
def test_mistakes_are_named(write, case):
    name, content, message = WRONG[case]
    with pytest.raises(UserError, match=message) as caught:
        read(write(name, content))
    assert "\n" not in str(caught.value)


def test_missing_files_and_columns(write, tmp_path):
    path = write("train.bmes", "a B-X\n")
    with pytest.raises(UserError, match=r"train\.bmse: no such file; did you mean .*train\.bmes'\?"):
        read(path.with_name("train.bmse"))
    with pytest.raises(UserError, match="is a folder"):
        read(tmp_path)
    with pytest.raises(
        UserError, match=r"data\.tag_column is 'ner', but in .* it must be the number of a column, from 2 to 2"
    ):
        read(path, tag_column="ner")


def test_a_missing_data_set_of_tfds():
    pytest.importorskip("tensorflow_datasets")
    with pytest.raises(UserError, match="tfds:conll: not found in "):
        read("tfds:conll")


def test_damaged_files_never_give_another_error(write):
    """Bytes lost, doubled and changed: each file reads as texts or as one mistake."""
    rng = random.Random(0)
    whole = {
        "t.jsonl": json.dumps({"text": "New York", "entities": [{"start": 0, "end": 8, "label": "LOC"}]}) + "\n",
        "w.jsonl": json.dumps({"tokens": ["a", "b"], "tags": ["O", "B-X"]}) + "\n",
        "t.conll": "EU B-ORG\nwon O\n\n",
    }
    wrong = 0
    for _ in range(600):
        name = rng.choice(list(whole))
        content = bytearray(whole[name].encode())
        for _change in range(rng.randint(1, 3)):
            at = rng.randrange(len(content))
            content[at : at + rng.randint(0, 4)] = rng.choice([b"", b"\xff", b'"', b"[]", b"\n", b"null", b"-1", b"{"])
        path = write(name, "")
        path.write_bytes(content)
        try:
            read(path)
        except UserError:
            wrong += 1
    assert wrong > 100


@pytest.mark.real
def test_resume_ner(shared_data):
    """The counts are those that `grep -c` and `awk` give."""
    train = read(shared_data / "resume_ner" / "train.char.bmes")
    assert (len(train), sum(len(d.words) for d in train)) == (3821, 124099)
    assert len({tag for d in train for tag in d.tags}) == 28
