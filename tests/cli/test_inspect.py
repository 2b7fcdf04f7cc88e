"""`jaxbert inspect` tells what a run would read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runs import Problem, write_csv

from jaxbert.cli.main import main


@pytest.fixture(scope="module")
def problem(tmp_path_factory: pytest.TempPathFactory) -> Problem:
    """Training rows of which one occurs twice, one is in the validation set, and one has no token."""
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    rows = [
        ("w1 good", "good"),
        ("w2 bad", "bad"),
        ("w1 good", "bad"),
        ("\u200b", "bad"),
        ("w3 w4 fine unheard", "good"),
    ]
    write_csv(problem.folder / "train.csv", [(str(i), *row) for i, row in enumerate(rows)], ("id", "text", "label"))
    write_csv(problem.folder / "dev.csv", [("w5 great", "good"), ("w2 bad", "bad")])
    return problem


def options(problem: Problem) -> list[str]:
    """Return the flags that say what is read."""
    sources = {"train": "train.csv", "validation": "dev.csv"}
    return [
        f"--model.name_or_path={problem.folder / 'model'}",
        *(f"--data.{role}={problem.folder / name}" for role, name in sources.items()),
    ]


def check(content: dict) -> None:
    train, validation = content["sources"]["train"], content["sources"]["validation"]
    assert (train["rows"], validation["rows"]) == (5, 2)
    assert train["labels"] == {"bad": 3, "good": 2}
    assert train["label_meaning"] == "name"
    assert (train["empty_texts"], train["lossy_texts"], train["unknown_tokens"]) == (1, 1, 1)
    assert (train["duplicates"]["rows"], train["duplicates"]["conflicting_texts"]) == (1, 1)
    assert train["duplicates"]["places"] == [{"rows": [2, 4], "labels": ["good", "bad"]}]
    assert train["lengths"]["quantiles"]["1"] == 6
    (leak,) = content["leaks"]
    assert leak["places"] == [{"train": 3, "validation": 3}]


def test_inspect_tells_everything(problem: Problem, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", *options(problem), f"--output={tmp_path / 'data.json'}"]) == 0
    content = json.loads((tmp_path / "data.json").read_text())
    check(content)
    assert content["now"]["max_length"] == 48
    assert content["proposal"]["max_length"] == 8
    assert content["proposal"]["packing_efficiency"] > 0.5
    few = content["few_labels"]
    assert (few["least"], few["median"], few["most"], few["method"]) == (2, 2, 3, "contrastive")
    said = " ".join(capsys.readouterr().err.split())
    for words in (
        "bad 3, good 2",
        "rows of each label: 2 to 3, the median is 2; up to 64, try train.method contrastive",
        "row 3 of validation is row 3 of train",
        "rows 2, 4, labels good, bad",
    ):
        assert words in said
    assert not list(problem.folder.glob("runs*"))


def test_inspect_on_standard_output(problem: Problem, capsys: pytest.CaptureFixture[str]):
    assert main(["inspect", *options(problem), "--output=-"]) == 0
    check(json.loads(capsys.readouterr().out))


def test_a_split_is_looked_at_as_two_sets(problem: Problem, tmp_path: Path):
    rows = [(f"w{i % 10} {'good' if i % 2 else 'bad'}", "good" if i % 2 else "bad") for i in range(40)]
    path = write_csv(tmp_path / "all.csv", rows)
    model = f"--model.name_or_path={problem.folder / 'model'}"
    flags = [model, f"--data.train={path}", "--data.validation_fraction=0.25", f"--output={tmp_path / 'data.json'}"]
    assert main(["inspect", *flags]) == 0
    content = json.loads((tmp_path / "data.json").read_text())
    assert {name: source["rows"] for name, source in content["sources"].items()} == {"train": 30, "validation": 10}
    assert content["leaks"][0]["rows"] == 10  # every text is there four times
    for place in content["leaks"][0]["places"]:
        assert rows[place["train"] - 2][0] == rows[place["validation"] - 2][0]


def inspected(problem: Problem, folder: Path, *flags: str) -> dict:
    model = f"--model.name_or_path={problem.folder / 'model'}"
    assert main(["inspect", model, *flags, f"--output={folder / 'data.json'}"]) == 0
    return json.loads((folder / "data.json").read_text())


def test_questions(problem: Problem, tmp_path: Path):
    answer = {"text": ["w2"], "answer_start": [3]}
    none = {"text": [], "answer_start": []}
    rows = [
        {"question": "w5", "context": "w1 w2 w3", "answers": answer},
        {"question": "w6", "context": "w1 w2 w3", "answers": none},
        {"question": "w5 ", "context": "w1 w2 w3", "answers": answer},
    ]
    for name, chosen in (("train", rows), ("test", rows[1:2])):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    files = [f"--data.{role}={tmp_path / f'{role}.jsonl'}" for role in ("train", "test")]
    content = inspected(problem, tmp_path, "--task=question_answering", *files)
    train = content["sources"]["train"]
    assert (train["rows"], train["unit"], train["labels"]) == (3, "questions", {"answered": 2, "unanswered": 1})
    assert (train["lengths"]["quantiles"]["1"], train["duplicates"]["places"]) == (7, [{"rows": [1, 3]}])
    assert content["leaks"][0]["places"] == [{"train": 2, "test": 1}]


def test_documents(problem: Problem, tmp_path: Path):
    """Documents of a corpus, with the third the first again."""
    (tmp_path / "train.txt").write_text("w1 w2.\nw3.\n\nw4 w5.\nw6 w7.\n\nw1 w2.\nw3.\n")
    (tmp_path / "dev.txt").write_text("w8.\nw9.\n\nw4 w5.\nw6 w7.\n")
    files = [f"--data.{role}={tmp_path / name}" for role, name in (("train", "train.txt"), ("validation", "dev.txt"))]
    content = inspected(problem, tmp_path, "--task=pretraining", *files)
    train = content["sources"]["train"]
    assert (train["rows"], train["unit"]) == (3, "documents")
    assert train["duplicates"]["places"] == [{"rows": [1, 3]}]
    assert content["leaks"][0]["places"] == [{"train": 2, "validation": 2}]
    assert "proposal" not in content


def test_tags(problem: Problem, tmp_path: Path):
    """Sentences of a token a line; the third has the words of the first and other tags."""
    sentences = [["w1 B-PER", "w2 I-PER", "w3 O"], ["w4 B-ORG"], ["w1 O", "w2 O", "w3 B-ORG"]]
    for name, chosen in (("train", sentences), ("test", sentences[1:2])):
        (tmp_path / f"{name}.conll").write_text("\n\n".join("\n".join(lines) for lines in chosen) + "\n")
    files = [f"--data.{role}={tmp_path / f'{role}.conll'}" for role in ("train", "test")]
    content = inspected(problem, tmp_path, "--task=token_classification", *files)
    train = content["sources"]["train"]
    assert (train["rows"], train["labels"], train["label_meaning"]) == (3, {"ORG": 2, "PER": 1}, "span")
    assert (train["duplicates"]["conflicting_texts"], train["duplicates"]["places"]) == (1, [{"rows": [1, 7]}])
    assert train["lengths"]["quantiles"]["1"] == 5
    assert content["leaks"][0]["places"] == [{"train": 5, "test": 1}]


def test_plain_tags(problem: Problem, tmp_path: Path):
    (tmp_path / "train.conll").write_text("w1 NOUN\nw2 VERB\n\nw3 NOUN\n")
    content = inspected(problem, tmp_path, "--task=token_classification", f"--data.train={tmp_path / 'train.conll'}")
    train = content["sources"]["train"]
    assert (train["labels"], train["label_meaning"]) == ({"NOUN": 2, "VERB": 1}, "tag")
