"""Evaluate, predict and export a model that was trained here, and open it in transformers."""

from __future__ import annotations

import json

import numpy as np
import pytest
from runs import LABELS, Problem, command, finish, random_rows, weights, write_csv
from safetensors.numpy import load_file
from sklearn import metrics as sk

from jaxbert.cli.main import main

pytestmark = pytest.mark.usefixtures("shared_programs")


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


@pytest.fixture(scope="module")
def run(problem):
    """Train 21 steps with an evaluation and a checkpoint every three."""
    changes = {"train__epochs": 3, "train__eval_every": 3, "train__checkpoint_every": 3, "train__keep_checkpoints": 3}
    assert (
        problem.train(**changes, data__validation=problem.folder / "dev.csv", data__test=problem.folder / "dev.csv")
        == 0
    )
    return problem.folder / "run"


@pytest.fixture(scope="module")
def rows():
    return list(random_rows(53, seed=9))


@pytest.fixture(scope="module")
def answers(run, rows, tmp_path_factory):
    """The answers to `rows`, from a csv file."""
    folder = tmp_path_factory.mktemp("answers")
    source = write_csv(folder / "rows.csv", rows)
    assert main(["predict", "--model", str(run), "--input", str(source), "--output", str(folder / "out.jsonl")]) == 0
    return read_lines((folder / "out.jsonl").read_text())


def read_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def assert_same_answers(found: list[dict], expected: list[dict]) -> None:
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    for one, other in zip(found, expected, strict=True):
        assert one["probabilities"] == pytest.approx(other["probabilities"], abs=2e-6)


def test_answers_are_in_input_order(run, rows, answers):
    """Each is that of the text alone, whichever row it was packed in."""
    torch = pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(run / "export").eval()
    tokenizer = AutoTokenizer.from_pretrained(run / "export")
    assert len(answers) == len(rows)
    for (text, _), answer in zip(rows, answers, strict=True):
        with torch.no_grad():
            probabilities = model(**tokenizer(text, return_tensors="pt")).logits[0].softmax(-1).tolist()
        assert answer["probabilities"] == pytest.approx(dict(zip(LABELS, probabilities, strict=True)), abs=1e-5)
        assert answer["label"] == max(answer["probabilities"], key=answer["probabilities"].get)
        assert answer["score"] == answer["probabilities"][answer["label"]]


def write_source(path, kind: str, rows):
    """Write texts without labels."""
    texts = [text for text, _ in rows]
    if kind == "csv":
        return write_csv(path / "in.csv", [(text,) for text in texts], ("text",))
    if kind == "csv without header":
        return write_csv(path / "in.csv", [(text,) for text in texts], None)
    if kind == "tsv":
        (path / "in.tsv").write_text("number\ttext\n" + "".join(f"{i}\t{t}\n" for i, t in enumerate(texts)))
        return path / "in.tsv"
    if kind == "jsonl":
        (path / "in.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
        return path / "in.jsonl"
    (path / "in.txt").write_text("".join(text + "\n" for text in texts))
    return path / "in.txt"


@pytest.mark.parametrize("kind", ["csv", "csv without header", "tsv", "jsonl", "txt"])
def test_inputs_of_every_kind(run, rows, answers, tmp_path, capsys, kind):
    source = write_source(tmp_path, kind, rows)
    more = ["--columns", '["text"]'] if kind == "csv without header" else []
    assert main(["predict", "--model", str(run / "export"), "--input", str(source), "--output", "-", *more]) == 0
    assert_same_answers(read_lines(capsys.readouterr().out), answers)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["txt", "jsonl"])
def test_standard_input(run, rows, answers, tmp_path, kind):
    source = write_source(tmp_path, kind, rows).read_text()
    from subprocess import PIPE

    code, out, err = finish(command("predict", "--model", str(run), "--input", "-", stdin=PIPE), source)
    assert code == 0, err
    assert err == ""
    assert_same_answers(read_lines(out), answers)


def test_standard_input_is_for_one_process(run, monkeypatch, capsys):
    monkeypatch.setattr("jaxbert.processes.is_alone", lambda: False)
    assert main(["predict", "--model", str(run), "--input", "-"]) == 2
    assert "standard input reaches one process" in capsys.readouterr().err


def test_top_k_cuts_the_probabilities(run, rows, answers, tmp_path, capsys):
    source = write_source(tmp_path, "csv", rows)
    predict = ["predict", "--model", str(run), "--input", str(source), "--top_k"]
    assert main([*predict, "1"]) == 0
    for one, whole in zip(read_lines(capsys.readouterr().out), answers, strict=True):
        assert one["probabilities"] == {one["label"]: one["score"]}
        assert one["label"] == whole["label"]
    assert refused(capsys, *predict, "0") == "top_k is 0, but it must be at least 1"


def test_batches_of_another_size_change_no_answer(run, rows, answers, tmp_path, capsys):
    source = write_source(tmp_path, "csv", rows)
    arguments = ["predict", "--model", str(run), "--input", str(source), "--batch_size", "5"]
    assert main(arguments) == 0
    assert_same_answers(read_lines(capsys.readouterr().out), answers)


def test_long_texts_are_cut_and_said_once(run, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("w1 good\n" + "w2 " * 100 + "\n" + "w3 " * 60 + "\n")
    assert main(["predict", "--model", str(run), "--input", str(tmp_path / "in.txt")]) == 0
    captured = capsys.readouterr()
    assert len(read_lines(captured.out)) == 3
    assert captured.err == f"note: {tmp_path}/in.txt: 2 of 3 texts are longer than 48 tokens and were cut\n"


def test_evaluate_is_scikit_learn_on_the_answers(run, rows, answers, tmp_path, capsys):
    source = write_csv(tmp_path / "rows.csv", [(label, text) for text, label in rows], ("class", "words"))
    output = tmp_path / "metrics.json"
    columns = ["--text", "words", "--label", "class"]
    assert main(["evaluate", "--model", str(run), "--data", str(source), *columns, "--output", str(output)]) == 0
    found = json.loads(output.read_text())
    truth, predicted = [label for _, label in rows], [answer["label"] for answer in answers]
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(truth, predicted))
    assert found["f1_macro"] == pytest.approx(sk.f1_score(truth, predicted, average="macro", zero_division=0))
    assert found["mcc"] == pytest.approx(sk.matthews_corrcoef(truth, predicted))
    probabilities = np.array([[answer["probabilities"][name] for name in LABELS] for answer in answers])
    probabilities /= probabilities.sum(1, keepdims=True)
    assert found["loss"] == pytest.approx(sk.log_loss(truth, probabilities, labels=list(LABELS)), rel=1e-4)
    assert found["confusion_matrix"] == sk.confusion_matrix(truth, predicted, labels=list(LABELS)).tolist()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert main(["evaluate", "--model", str(run), "--data", str(source), *columns]) == 0
    assert json.loads(capsys.readouterr().out) == found


def test_the_summary_agrees_with_evaluate(problem, run, capsys):
    summary = json.loads((run / "summary.json").read_text())
    assert main(["evaluate", "--model", str(run), "--data", str(problem.folder / "dev.csv")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert summary["eval"] == summary["test"] == found


def test_the_summary_holds_what_programs_rely_on(run):
    summary = json.loads((run / "summary.json").read_text())
    keys = (
        "steps epochs train_loss eval examples_per_second real_tokens_per_second packing_efficiency compile_seconds "
        "data_wait_fraction mfu device devices jax_version timed_steps data"
    )
    assert set(keys.split()) <= summary.keys()
    assert (summary["steps"], summary["epochs"], summary["devices"]) == (21, 3.0, 8)
    assert summary["mfu"] is None
    assert 0 < summary["packing_efficiency"] <= 1
    assert {"config.yaml", "metrics.jsonl", "summary.json", "checkpoints", "export"} <= {p.name for p in run.iterdir()}
    assert any(path.name.startswith("events.out.tfevents") for path in run.iterdir())
    assert {name: source["rows"] for name, source in summary["data"]["sources"].items()} == {
        "train": 100,
        "validation": 37,
        "test": 37,
    }


def scores(run) -> dict[int, float]:
    lines = read_lines((run / "metrics.jsonl").read_text())
    return {line["step"]: line["eval_accuracy"] for line in lines if "eval_accuracy" in line}


def test_the_export_is_the_best_checkpoint(run, tmp_path):
    by_step = scores(run)
    assert list(by_step) == [3, 6, 9, 12, 15, 18, 21]
    best = max(by_step, key=by_step.get)
    assert json.loads((run / "summary.json").read_text())["exported_step"] == best
    for name, step in (("best", "best"), ("number", str(best))):
        assert main(["export", "--run", str(run), "--step", step, "--output", str(tmp_path / name)]) == 0
        assert (tmp_path / name / "model.safetensors").read_bytes() == weights(run)
        assert (tmp_path / name / "config.json").read_text() == (run / "export" / "config.json").read_text()


def test_export_of_the_last_checkpoint(run, tmp_path, capsys):
    for name, step in (("last", "last"), ("number", "21")):
        assert main(["export", "--run", str(run), "--step", step, "--output", str(tmp_path / name)]) == 0
        assert capsys.readouterr().out == f"{tmp_path / name}\n"
    last, number = (load_file(tmp_path / name / "model.safetensors") for name in ("last", "number"))
    for tensor, value in last.items():
        np.testing.assert_array_equal(number[tensor], value)
    assert main(["export", "--run", str(run), "--step", "18", "--output", str(tmp_path / "earlier")]) == 0
    earlier = load_file(tmp_path / "earlier" / "model.safetensors")
    assert any(not np.array_equal(earlier[tensor], value) for tensor, value in last.items())


@pytest.mark.parametrize("folder", ["export", "exported"])
def test_transformers_loads_it_with_label_names(run, rows, answers, tmp_path, folder):
    pytest.importorskip("torch")
    from transformers import AutoModelForSequenceClassification, pipeline

    path = run / "export"
    if folder == "exported":
        path = tmp_path / "exported"
        assert main(["export", "--run", str(run), "--output", str(path)]) == 0
    model, info = AutoModelForSequenceClassification.from_pretrained(path, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.id2label == dict(enumerate(LABELS))
    classify = pipeline("text-classification", model=str(path))
    for answer, found in zip(answers, classify([text for text, _ in rows]), strict=True):
        assert found["label"] == answer["label"]
        assert found["score"] == pytest.approx(answer["score"], abs=1e-5)


def test_pairs_go_through_all_verbs(problem, tmp_path, capsys):
    pairs = [
        (a, b, "good" if label == other else "bad")
        for (a, label), (b, other) in zip(random_rows(60, 1), random_rows(60, 2), strict=True)
    ]
    source = write_csv(tmp_path / "pairs.csv", pairs, ("#1 String", "#2 String", "label"))
    changes = {"data__text": "#1 String", "data__text_pair": "#2 String", "train__epochs": 1, "data__train": source}
    assert problem.train(**changes, train__output_dir=tmp_path / "run") == 0
    assert "60 training and 0 validation pairs of texts" in capsys.readouterr().err
    columns = ["--model", str(tmp_path / "run"), "--text", "#1 String", "--text_pair", "#2 String"]
    for verb, source_flag in (("predict", "--input"), ("evaluate", "--data")):
        line = refused(capsys, verb, *columns[:4], source_flag, source)
        assert line == "this model reads pairs of texts: name the column of the second text with --text_pair"
    assert main(["predict", *columns, "--input", str(source)]) == 0
    answers = read_lines(capsys.readouterr().out)
    assert main(["evaluate", *columns, "--data", str(source)]) == 0
    accuracy = np.mean([answer["label"] == row[2] for answer, row in zip(answers, pairs, strict=True)])
    assert json.loads(capsys.readouterr().out)["accuracy"] == pytest.approx(accuracy)


def refused(capsys, *arguments: object) -> str:
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    return captured.err[len("error: ") : -1]


def test_what_export_refuses(problem, run, tmp_path, capsys):
    line = refused(capsys, "export", "--run", run, "--step", "4", "--output", tmp_path / "x")
    assert line.startswith("--step '4' is not there: use last, best or one of ")
    assert line.endswith("21")
    assert "'newest' is not there" in refused(
        capsys, "export", "--run", run, "--step", "newest", "--output", tmp_path / "x"
    )
    assert "is not a run folder" in refused(capsys, "export", "--run", tmp_path, "--output", tmp_path / "x")
    assert not (tmp_path / "x").exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("x")
    assert "has other files" in refused(capsys, "export", "--run", run, "--output", tmp_path / "full")
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["thesis.tex"]


def test_what_predict_and_evaluate_refuse(problem, run, rows, tmp_path, capsys):
    source = write_csv(tmp_path / "rows.csv", rows)
    predict = ("predict", "--model", run, "--input")
    assert "no such file" in refused(capsys, *predict, tmp_path / "nowhere.csv")
    assert "no column 'words'" in refused(capsys, *predict, source, "--text", "words")
    assert "unknown option --txt; did you mean --text?" in refused(capsys, *predict, source, "--txt", "text")
    line = refused(capsys, *predict, source, "--batch_size", "0")
    assert line == "batch_size is 0, but it must be at least 1"
    assert "the model has 48 positions" in refused(capsys, *predict, source, "--max_length", "49")
    assert "is not a folder" in refused(capsys, "predict", "--model", tmp_path / "a" / "b", "--input", source)
    assert "config.json" in refused(capsys, "predict", "--model", tmp_path, "--input", source)
    unknown = write_csv(tmp_path / "unknown.csv", [("w1", "good"), ("w2", "so-so")])
    line = refused(capsys, "evaluate", "--model", run, "--data", unknown)
    known = "the labels known from training are 'bad', 'good'; if it is another name of one of them, say so by"
    assert line == f"{unknown}, row 3: label 'so-so' is unknown; {known} data.label_map"


@pytest.mark.parametrize("verb", ["predict", "evaluate"])
def test_an_output_that_cannot_be_written_is_refused_before_the_work(run, rows, tmp_path, capsys, monkeypatch, verb):
    source = write_csv(tmp_path / "rows.csv", rows)
    monkeypatch.setattr("jaxbert.train.inference.open_trained", lambda *a, **k: pytest.fail("it opened the model"))
    option = "--input" if verb == "predict" else "--data"
    for output in (tmp_path / "nowhere" / "out.json", tmp_path):
        line = refused(capsys, verb, "--model", run, option, source, "--output", output)
        assert line.startswith(f"--output {output} cannot be written")
