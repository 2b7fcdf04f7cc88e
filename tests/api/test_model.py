"""A model in Python gives the answers and the metrics of the command line, from texts as they are at hand."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from python_runs import rows_of
from runs import write_csv, write_model

import jaxbert
from jaxbert.api.own import Own, with_own
from jaxbert.cli.main import main
from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens
from jaxbert.tasks.base import metrics_of
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.question_answering.task import QuestionAnswering
from jaxbert.tasks.regression.task import Regression
from jaxbert.train.programs import CompileLog

TEXTS = [row["text"] for row in rows_of(20, seed=3)]


@pytest.fixture(scope="module")
def answers(run, tmp_path_factory):
    """What `jaxbert predict` writes for the texts."""
    folder = tmp_path_factory.mktemp("answers")
    write_csv(folder / "texts.csv", [[text] for text in TEXTS], header=("text",))
    files = [f"--input={folder / 'texts.csv'}", f"--output={folder / 'answers.jsonl'}"]
    assert main(["predict", f"--model={run.result.folder}", *files]) == 0
    return [json.loads(line) for line in (folder / "answers.jsonl").read_text().splitlines()]


def test_answers_are_those_of_the_command_line(run, answers, tmp_path):
    pandas = pytest.importorskip("pandas")
    datasets = pytest.importorskip("datasets")
    model = run.result.model
    rows = [{"text": text} for text in TEXTS]
    assert model.predict(TEXTS) == answers
    assert model.predict(tuple(TEXTS)) == answers
    for taken in (
        rows,
        pandas.DataFrame(rows),
        pandas.Series(TEXTS),
        np.array(TEXTS),
        datasets.Dataset.from_list(rows),
    ):
        assert model.predict(taken) == answers
    assert model.predict(pandas.DataFrame({"body": TEXTS}), text="body") == answers
    assert model.predict(write_csv(tmp_path / "new.csv", [[text] for text in TEXTS], header=("text",))) == answers
    assert model.predict([]) == []


def test_one_text_has_one_answer_and_compiles_nothing_new(run):
    """Whatever its length, after the first; what `predict` gives for all of them at once up to rounding."""
    model = run.result.model
    model.predict("w1")
    with CompileLog() as log:
        found = [model.predict(text) for text in TEXTS]
        assert model.predict({"text": TEXTS[0]}) == found[0]
    assert log.count == 0
    for one, other in zip(found, model.predict(TEXTS), strict=True):
        assert list(one) == list(other) == ["label", "score", "probabilities"]
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-6)


def test_metrics_are_those_of_the_run(run):
    pandas = pytest.importorskip("pandas")
    model = jaxbert.load(run.result.folder)
    own = {"share_of_bad", "cost"}
    expected = {name: value for name, value in run.result.metrics.items() if name not in own}
    rows = rows_of(37, seed=1)
    assert model.evaluate(rows) == expected
    assert model.evaluate(pandas.DataFrame(rows)) == expected
    assert model.evaluate(str(run.problem.folder / "dev.csv")) == expected
    renamed = [{"body": row["text"], "kind": row["label"]} for row in rows]
    assert model.evaluate(renamed, text="body", label="kind") == expected


def test_it_says_what_it_is(run):
    model = run.result.model
    assert (model.task, model.labels) == ("classification", ("bad", "good"))
    assert repr(model) == f"<jaxbert.Model {run.result.folder}: classification, labels: bad, good>"


def test_an_export_is_a_model_again(run, answers, tmp_path):
    folder = run.result.model.export(tmp_path / "out")
    assert isinstance(folder, Path)
    tensors = "model.safetensors"
    assert (folder / tensors).read_bytes() == (run.result.folder / "export" / tensors).read_bytes()
    assert jaxbert.load(folder).predict(TEXTS) == answers
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "notes.txt").write_text("mine")
    with pytest.raises(jaxbert.UserError, match=r"folder .*/taken has other files than those of a model"):
        run.result.model.export(tmp_path / "taken")


def test_a_run_s_columns_are_its_model_s(tmp_path):
    """So that `predict` and `evaluate` take the frames that `finetune` took."""
    model = write_model(tmp_path / "model")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("data: {text: body, label: kind, separator: ';'}\n")
    model.rename(tmp_path / "run" / "export")
    opened = jaxbert.load(tmp_path / "run")
    assert opened.predict([{"body": "good w1"}])[0].keys() == {"label", "score", "probabilities"}
    assert opened.evaluate([{"body": "good w1", "kind": "good"}])["examples"] == 1


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["w1", " "], r"^texts, row 2: column 'text' is empty"),
        (["w1", None], r"^texts, row 2: column 'text' is empty"),
        (["w1", 3], r"^texts, row 2: column 'text' holds a number"),
        (["w1", {"text": "w2"}], "some are texts and others are rows"),
        ([("a", "b", "c")], "row 1: .* is not a pair of texts"),
        ([{"body": "w1"}], r"^texts, row 1: no column 'text' \(data.text\)"),
        (7, "texts: is a number"),
        (Path("nowhere.csv"), "nowhere.csv: no such file"),
    ],
)
def test_what_is_no_text_is_refused(run, texts, message):
    with pytest.raises(jaxbert.UserError, match=message):
        run.result.model.predict(texts)


def test_wrong_names_are_refused(run):
    with pytest.raises(jaxbert.UserError, match=r"unknown key data.texts; did you mean text \(data.text\)"):
        run.result.model.predict(["a"], texts="body")
    with pytest.raises(jaxbert.UserError, match="batch_size is 0, but it must be at least 1"):
        jaxbert.load("anywhere", batch_size=0)
    with pytest.raises(jaxbert.UserError, match="precision is 'half', but it must be one of auto, float32, bfloat16"):
        jaxbert.load("anywhere", precision="half")


def examples_of(labels):
    count = len(labels)
    ones = np.ones(count, np.int32)
    return Examples(Tokens.from_lengths(np.ones(count, np.int32), ones, ones), labels)


def test_a_metric_gets_names_scores_or_a_table():
    """As scikit-learn's metrics take them: labels first."""
    seen = {}
    own = Own(metrics={"mine": lambda labels, predicted: seen.update(labels=labels, predicted=predicted) or 1})
    task = with_own(Classification(("bad", "good")), own)
    metrics = metrics_of(task.tally(examples_of(np.array([1, 0], np.int32))), np.log([[0.1, 0.9], [0.2, 0.8]]))
    assert seen == {"labels": ["good", "bad"], "predicted": ["good", "good"]}
    assert (metrics["mine"], metrics["accuracy"], task.metric_names()[-1]) == (1.0, 0.5, "mine")

    task = with_own(MultiLabel(("a", "b"), threshold=0.5), own)
    metrics_of(task.tally(examples_of(np.array([[1, 0], [1, 1]], bool))), np.array([[2.0, -1], [-2, 3]]))
    assert seen["labels"].tolist() == [[1, 0], [1, 1]]
    assert seen["predicted"].tolist() == [[1, 0], [0, 1]]

    task = with_own(Regression(), own)
    metrics_of(task.tally(examples_of(np.array([1.5, 2], np.float32))), np.array([1.0, 2.5], np.float32))
    assert (seen["labels"].tolist(), seen["predicted"].tolist()) == ([1.5, 2], [1.0, 2.5])


def test_own_things_need_whole_texts():
    with pytest.raises(jaxbert.UserError, match="not for question_answering"):
        with_own(QuestionAnswering(), Own(loss=lambda outputs, batch: 0))
