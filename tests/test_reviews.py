"""The quickstart's reviews: as their script makes them, split without overlap, and covered by their vocabulary."""

import csv
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
REVIEWS = ROOT / "configs" / "reviews"
SPLITS = {"train": 2000, "validation": 300, "test": 300}


def read_split(split: str) -> list[dict[str, str]]:
    with (REVIEWS / f"{split}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def language(text: str) -> str:
    return "zh" if re.search("[\u4e00-\u9fff]", text) else "en"


def test_remaking_gives_the_same_bytes(tmp_path):
    command = [sys.executable, str(ROOT / "scripts" / "make_reviews.py"), "--output", str(tmp_path)]
    subprocess.run(command, check=True)
    names = [*(f"{split}.csv" for split in SPLITS), "vocab.txt"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for name in names:
        assert (tmp_path / name).read_bytes() == (REVIEWS / name).read_bytes(), name


def test_no_text_occurs_twice():
    texts = [" ".join(re.findall(r"\w+", row["text"].lower())) for split in SPLITS for row in read_split(split)]
    assert len(set(texts)) == len(texts)


@pytest.mark.parametrize("split", SPLITS)
def test_each_split_is_balanced(split):
    rows = read_split(split)
    assert len(rows) == SPLITS[split]
    counts = Counter((language(row["text"]), row["label"]) for row in rows)
    pairs = [(tongue, label) for tongue in ("en", "zh") for label in ("negative", "positive")]
    assert counts == dict.fromkeys(pairs, SPLITS[split] // 4)


@pytest.mark.parametrize("split", SPLITS)
def test_rows_exercise_csv_quoting(split):
    text = (REVIEWS / f"{split}.csv").read_text(encoding="utf-8")
    assert '""' in text
    assert re.search(r'^"[^"]*,[^"]*",', text, re.MULTILINE)
    assert "，" in text


@pytest.mark.parametrize("topics", ["gym|pool|健身房|游泳馆", "museum|gallery|博物馆|展览"])
def test_held_out_topics_are_not_in_train(topics):
    assert not [row for row in read_split("train") if re.search(topics, row["text"])]
    assert [row for split in ("validation", "test") for row in read_split(split) if re.search(topics, row["text"])]


def test_vocabulary_layout():
    entries = (REVIEWS / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert entries[:5] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len(set(entries)) == len(entries)
    assert {"!", "~", "，", "。", "的", "the", "##s", "##ing"} <= set(entries)
    assert {prefix + letter for prefix in ("", "##") for letter in "az09"} <= set(entries)


def test_tokens_are_known():
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.BertTokenizer(vocab=str(REVIEWS / "vocab.txt"))
    for split in SPLITS:
        assert "[UNK]" not in {token for row in read_split(split) for token in tokenizer.tokenize(row["text"])}, split
    pieces = tokenizer.tokenize("Unforgettable! 值得收藏")
    assert "[UNK]" not in pieces
    assert "".join(pieces).replace("##", "") == "unforgettable!值得收藏"


def test_folder_stays_small():
    assert sum(path.stat().st_size for path in REVIEWS.iterdir()) < 400_000


def test_dividing_by_language_keeps_every_row(tmp_path):
    script = ROOT / "scripts" / "reviews_by_language.py"
    subprocess.run([sys.executable, str(script), str(tmp_path / "reviews")], check=True)
    for split, count in SPLITS.items():
        whole = [(row["text"], row["label"]) for row in read_split(split)]
        for tongue in ("en", "zh"):
            with (tmp_path / "reviews" / f"{split}.{tongue}.csv").open(encoding="utf-8", newline="") as file:
                rows = [(row["text"], row["label"]) for row in csv.DictReader(file)]
            assert rows == [row for row in whole if language(row[0]) == tongue]
            assert len(rows) == count // 2
