"""An audit finds planted wrong labels, says what it rests on, and its table corrects them."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from audits import add_folds, hand_made, write_rows
from runs import Problem, random_rows, write_csv

import jaxbert
from jaxbert.cli.main import main
from jaxbert.errors import UserError
from jaxbert.understand.audit import Audit, audit_finished

OTHER = {"good": "bad", "bad": "good"}


def sure(right: list[int], labels: int, by: float = 4.0) -> np.ndarray:
    """Return log-probabilities of a model that is sure of these labels, a little less from row to row."""
    logits = np.zeros((len(right), labels))
    logits[np.arange(len(right)), right] = by - 0.01 * np.arange(len(right))
    return (logits - np.log(np.exp(logits).sum(1, keepdims=True))).astype(np.float32)


def sentences(count: int) -> list[tuple[str, str]]:
    """Return texts that differ, and their labels."""
    return [(f"{text} w{i % 60} row{i}", label) for i, (text, label) in enumerate(random_rows(count, longest=20))]


@pytest.fixture
def files(tmp_path: Path) -> dict[str, str]:
    """Training and validation rows; in the latter, rows 5 and 9 have the wrong label."""
    train, dev = sentences(30), [(f"{text} dev", label) for text, label in sentences(60)[30:]]
    for place in (5, 9):
        dev[place] = (dev[place][0], OTHER[dev[place][1]])
    return {
        "train": str(write_csv(tmp_path / "train.csv", train)),
        "validation": str(write_csv(tmp_path / "dev.csv", dev)),
    }


RIGHT = [("bad", "good").index(label) for _, label in sentences(60)]


def test_wrong_labels_of_a_validation_set(tmp_path, files):
    found = audit_finished(hand_made(tmp_path, "classification", sure(RIGHT[30:], 2), **files))
    assert [(s["row"], s["record"], s["reasons"]) for s in found.suspects] == [(7, 5, ["label"]), (11, 9, ["label"])]
    first = found.suspects[0]
    assert (first["set"], first["given"], first["suggested"]) == (
        "validation",
        OTHER[first["suggested"]],
        sentences(60)[35][1],
    )
    assert first["text"] == sentences(60)[35][0] + " dev"
    assert 0 < first["score"] < found.suspects[1]["score"] < 0.05
    assert (found.summary["evidence"], found.summary["rows"], found.summary["label"]) == ("held_out", 30, 2)
    assert "only rows of validation were judged" in found.summary["note"]
    assert "--train.folds 5" in found.summary["note"]


def test_folds_judge_the_training_rows(tmp_path, files):
    finished = hand_made(tmp_path, "classification", sure(RIGHT[30:], 2), **files)
    wrong = list(RIGHT[:30])
    wrong[12] = 1 - wrong[12]
    probabilities = np.exp(sure(wrong, 2))
    add_folds(finished, probabilities[:, ::-1], names=("good", "bad"))  # another order of the labels
    found = audit_finished(finished)
    assert [(s["set"], s["row"], s["suggested"]) for s in found.suspects] == [("train", 14, ("bad", "good")[wrong[12]])]
    assert (found.summary["evidence"], found.summary["sets"], found.summary["rows"]) == ("out_of_fold", ["train"], 30)
    add_folds(finished, probabilities, labels=1 - np.asarray(finished.inputs.train.labels))
    with pytest.raises(UserError, match="training data have changed"):
        audit_finished(finished)
    add_folds(finished, probabilities, rows=np.append(np.arange(29), 99))
    with pytest.raises(UserError, match="training data have changed"):
        audit_finished(finished)


def test_a_validation_set_that_was_split_off_names_rows_of_the_training_file(tmp_path, files):
    data = {"train": files["validation"], "validation_fraction": 0.5}
    held_out = hand_made(tmp_path, "classification", None, **data).inputs.validation["validation"]
    finished = hand_made(tmp_path, "classification", sure([RIGHT[30 + i] for i in held_out.rows], 2), **data)
    wrong = sorted({5, 9} & set(held_out.rows.tolist()))
    suspects = audit_finished(finished).suspects
    assert wrong
    assert sorted(s["record"] for s in suspects if s["reasons"] == ["label"]) == wrong
    assert {s["set"] for s in suspects} == {"train"}


def test_similar_texts_with_other_labels_of_any_set(tmp_path):
    texts = ["国务院发布关于促进房地产市场平稳健康发展的通知", "教育部公布今年高考报名人数再创历史新高"]
    train = [{"text": texts[0], "label": "财经"}, {"text": texts[1], "label": "教育"}]
    dev = [
        {"text": texts[0] + "!", "label": "时政"},
        {"text": texts[1], "label": "教育"},
        {"text": "财经", "label": "财经"},
    ]
    train.append({"text": "时政新闻", "label": "时政"})
    data = {"train": write_rows(tmp_path / "train.jsonl", train), "validation": write_rows(tmp_path / "dev.jsonl", dev)}
    names = hand_made(tmp_path, "classification", None, **data).model.task.label_names
    predictions = sure([names.index(row["label"]) for row in dev], 3)
    found = audit_finished(hand_made(tmp_path, "classification", predictions, **data))
    assert [(s["set"], s["row"], s["reasons"], s["like"], s["score"] is None) for s in found.suspects] == [
        ("train", 1, ["near_duplicate"], ["validation, row 1"], True),
        ("validation", 1, ["near_duplicate"], ["train, row 1"], False),
    ]
    assert found.summary["near_duplicate"] == 2


def test_several_labels(tmp_path):
    rows = [{"text": f"w{i} w{i + 7} w{i * 2 % 60}", "label": ["joy", "love"] if i % 3 else ["joy"]} for i in range(24)]
    rows[20]["label"] = []
    rows[4]["label"] = ["love"]  # joy is missing
    path = write_rows(tmp_path / "rows.jsonl", rows)
    logits = np.array([[4.0, 4.0 if i % 3 else -4.0] for i in range(24)], np.float32)
    logits[20] = -4.0
    found = audit_finished(hand_made(tmp_path, "multi_label", logits, train=path, validation=path))
    suspects = [s for s in found.suspects if "label" in s["reasons"]]
    assert [(s["row"], s["given"], s["suggested"]) for s in suspects] == [(5, ["love"], ["joy", "love"])]
    table = list(csv.DictReader(io.StringIO(found.to_table())))
    assert (table[0]["action"], table[0]["given"], table[0]["label"]) == ("keep", "love", "joy,love")


def test_labels_that_hold_the_separator_are_written_as_a_json_list():
    suspect = {
        "given": ["a,b"],
        "suggested": ["a,b", "c"],
        "score": None,
        "reasons": ["label", "outlier"],
        "set": "train",
    }
    suspect |= {"row": 2, "record": 0, "like": [3, "test, row 1"], "text": "w1", "text_hash": "t0"}
    (row,) = csv.DictReader(io.StringIO(Audit([suspect], {}).to_table()))
    assert (row["given"], row["label"], row["suggested"]) == ('["a,b"]', '["a,b", "c"]', '["a,b", "c"]')
    assert (row["score"], row["reasons"], row["like"]) == ("", "label outlier", "3; test, row 1")
    (row,) = csv.DictReader(io.StringIO(Audit([suspect], {}, ";").to_table("\t")), delimiter="\t")
    assert row["label"] == "a,b;c"


def test_scores(tmp_path):
    rows = [{"text": f"w{i} w{i + 7} w{i * 2 % 60}", "label": i / 10} for i in range(40)]
    predictions = np.array([row["label"] for row in rows], np.float32) + np.random.default_rng(0).normal(
        0, 0.05, 40
    ).astype("f")
    rows[17]["label"] = 9.5
    path = write_rows(tmp_path / "rows.jsonl", rows)
    finished = hand_made(tmp_path, "regression", predictions, train=path, validation=path)
    (suspect,) = [s for s in audit_finished(finished).suspects if "label" in s["reasons"]]
    assert (suspect["row"], suspect["given"]) == (18, 9.5)
    assert suspect["suggested"] == pytest.approx(1.7, abs=0.2)
    add_folds(finished, None, scores=predictions)
    suspects = audit_finished(finished).suspects
    assert [(s["set"], s["row"]) for s in suspects if "label" in s["reasons"]] == [("train", 18)]


def test_choices(tmp_path):
    rows = [{"question": f"w{i} ?", "choices": ["w1", "w2", "w3"][: 2 + i % 2], "label": i % 2} for i in range(12)]
    logits = np.concatenate(
        [[4.0 if place == row["label"] else 0.0 for place in range(len(row["choices"]))] for row in rows]
    )
    rows[6]["label"] = 1
    path = write_rows(tmp_path / "rows.jsonl", rows)
    finished = hand_made(tmp_path, "multiple_choice", logits.astype("f"), train=path, validation=path)
    (suspect,) = audit_finished(finished).suspects
    assert [suspect[key] for key in ("row", "record", "given", "suggested", "like")] == [7, 6, 1, 0, []]


def test_the_least_certain_rows_are_outliers(tmp_path, files):
    rows = sentences(200)
    right = [("bad", "good").index(label) for _, label in rows]
    predictions = sure(right, 2, by=6.0)
    predictions[[10, 20, 30]] = np.log([[0.52, 0.48], [0.51, 0.49], [0.5, 0.5]])
    path = str(write_csv(tmp_path / "rows.csv", rows))
    found = audit_finished(hand_made(tmp_path, "classification", predictions, train=files["train"], validation=path))
    outliers = [s["record"] for s in found.suspects if "outlier" in s["reasons"]]
    assert outliers == [30, 20]  # 1% of 200


@pytest.mark.parametrize(
    ("task", "row"),
    [
        ("token_classification", {"tokens": ["w1", "w2"], "tags": ["B-X", "O"]}),
        (
            "question_answering",
            {"question": "w1", "context": "w2 w3", "answers": {"text": ["w3"], "answer_start": [3]}},
        ),
    ],
)
def test_tasks_without_labels_of_texts_are_refused(tmp_path, task, row):
    path = write_rows(tmp_path / "rows.jsonl", [row, row])
    with pytest.raises(UserError, match=f"task {task} has none"):
        audit_finished(hand_made(tmp_path, task, None, train=path))


def test_a_run_without_evidence_is_refused(tmp_path, files):
    with pytest.raises(UserError, match=r"neither folds nor a validation or test set.*--train.folds 5"):
        audit_finished(hand_made(tmp_path, "classification", None, train=files["train"]))


def test_a_model_that_has_diverged_is_refused(tmp_path, files):
    predictions = sure(RIGHT[30:], 2)
    predictions[3] = np.nan
    with pytest.raises(UserError, match="the model has diverged"):
        audit_finished(hand_made(tmp_path, "classification", predictions, **files))


def test_from_a_run_to_its_corrections(tmp_path, capsys):
    """The predictions of the run are replaced by those of a model that knows the right labels."""
    problem, options = Problem.write(tmp_path), {"data__validation": tmp_path / "dev.csv"}
    rows = list(random_rows(37, seed=1))
    known, right = sure([("bad", "good").index(label) for _, label in rows], 2), rows[8][1]
    rows[8] = (rows[8][0], OTHER[right])
    write_csv(tmp_path / "dev.csv", rows)
    assert problem.train(**options, train__epochs=1) == 0
    run, table, lines = tmp_path / "run", tmp_path / "suspects.csv", tmp_path / "suspects.jsonl"
    np.savez(run / "predictions.npz", validation=known)
    capsys.readouterr()
    assert main(["audit", str(run), f"--output={table}"]) == 0
    assert main(["audit", str(run), f"--output={lines}", "--rank_by=normalized_margin"]) == 0
    said = " ".join(capsys.readouterr().err.split())
    assert "37 labels checked: 1 are probably wrong" in said
    assert "only rows of validation were judged" in said
    assert f"row 10 of validation: labelled {OTHER[right]}, suggested {right}, score 0.0" in said
    assert f"(label) {rows[8][0]}" in said, "also on a narrow terminal"
    (first, *_) = suspects = [json.loads(line) for line in lines.read_text("utf-8").splitlines()]
    assert suspects == jaxbert.audit(run, rank_by="normalized_margin").suspects
    assert (first["row"], first["given"], first["suggested"], first["text"]) == (10, OTHER[right], right, rows[8][0])
    with table.open(encoding="utf-8", newline="") as file:
        edited = list(csv.DictReader(file))
    assert {row["action"] for row in edited} == {"keep"}
    edited[0]["action"] = "relabel"
    write_csv(table, [row.values() for row in edited], tuple(edited[0]))
    keys = problem.options(**options, data__corrections=table)
    reading = [f"--{key}={value}" for key, value in keys.items() if key.startswith(("data.", "model.name"))]
    assert main(["inspect", *reading, f"--output={tmp_path / 'data.json'}"]) == 0
    assert "data.corrections, validation: 1 rows have another label, 0 are left out" in capsys.readouterr().err
    counts = json.loads((tmp_path / "data.json").read_text())["sources"]["validation"]["labels"]
    assert counts[right] == sum(label == right for _, label in rows) + 1
