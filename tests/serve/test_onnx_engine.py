"""A model as ONNX files: what `export` writes, and that `predict`, `evaluate` and Python answer with it as before."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from runs import LABELS, VOCAB, Problem, small_config
from tiny import random_params
from transformers import AutoTokenizer, BertTokenizer

import jaxbert
from jaxbert.cli.main import main
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model
from jaxbert.serve.onnx_engine import open_session
from jaxbert.tasks import task_class

pytestmark = pytest.mark.usefixtures("shared_programs")

TEXTS = ["good w1", "w3 poor w4 w5 w6", "w2", " ".join(f"w{i}" for i in range(40)), "awful w9 w10"]
INPUTS = {
    "classification": [{"text": text} for text in TEXTS],
    "multi_label": [{"text": text} for text in TEXTS],
    "regression": [{"text": text} for text in TEXTS],
    "token_classification": [{"tokens": text.split()} for text in TEXTS],
    "question_answering": [{"question": "w1 w2", "context": text} for text in TEXTS],
    "multiple_choice": [{"question": "w1", "context": text, "choices": ["good", "poor w7", "w5"]} for text in TEXTS],
}
FILES = ["model.onnx", "model_int8.onnx", "model_packed.onnx", "model_packed_int8.onnx"]


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


@pytest.fixture(scope="module")
def run(problem):
    """A run of texts in windows, with a calibrated export."""
    windows = {
        "data__long_texts": "windows",
        "data__max_length": 10,
        "data__window_stride": 3,
        "model__pooling": "mean",
    }
    files = {"data__validation": problem.folder / "dev.csv", "train__output_dir": problem.folder / "run"}
    more = {"train__calibration": "temperature", "train__epochs": None, "train__max_steps": 30}
    assert problem.train(**files, **windows, **more, optimizer__learning_rate=3e-3) == 0
    return problem.folder / "run"


@pytest.fixture(scope="module")
def exported(run):
    folder = run.parent / "exported"
    words = ["export", "--run", str(run), "--format", "onnx", "--quantize", "int8", "--output", str(folder)]
    assert main(words) == 0
    return folder


def output_of(capsys, *arguments):
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 0
    return capsys.readouterr().out


def refused(capsys, *arguments):
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def assert_close(found, expected, tolerance=1e-4):
    """Compare answers: texts are equal, numbers close."""
    assert type(found) is type(expected)
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            assert_close(found[key], value, tolerance)
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other, tolerance)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=tolerance)
    else:
        assert found == expected


@pytest.mark.parametrize("task", INPUTS)
def test_the_answers_of_every_task_are_ours(task, tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    kind = task_class(task)
    names = ["O", "B-x", "I-x"] if task == "token_classification" else ["score"] if task == "regression" else LABELS
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    config = small_config(**labels, num_hidden_layers=1)
    config.jaxbert = {"task": task}
    model = make_model(kind.head, config)
    tokenizer = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    folder = save_folder(tmp_path / "model", random_params(model), config, tokenizer, architecture=kind.architecture)
    ours, other = jaxbert.load(folder), jaxbert.load(folder, engine="onnx")
    expected = ours.predict(INPUTS[task])
    assert len({json.dumps(answer) for answer in expected}) > 1
    assert_close(other.predict(INPUTS[task]), expected)


def test_export_writes_the_graphs_beside_the_model(run, exported):
    assert sorted(path.name for path in (exported / "onnx").iterdir()) == FILES
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= {
        path.name for path in exported.iterdir()
    }
    config = json.loads((exported / "config.json").read_text())
    assert config["jaxbert"]["temperature"] != 1
    assert config["jaxbert"]["reading"]["long_texts"] == {"how": "windows", "shared": 3}
    for name in FILES:
        kept = open_session(exported / "onnx" / name, 1).get_modelmeta().custom_metadata_map
        assert json.loads(kept["jaxbert"]) == config["jaxbert"]
        assert json.loads(kept["id2label"]) == config["id2label"]
        assert kept["task"] == "classification"


def test_predict_and_evaluate_answer_with_it(problem, run, exported, tmp_path, capsys):
    """From the files without any weights, and from a run without files; long texts, calibrated, with abstaining."""
    alone = tmp_path / "alone"
    shutil.copytree(exported, alone)
    (alone / "model.safetensors").unlink()
    dev = problem.folder / "dev.csv"
    for verb, *words in (["evaluate", "--data", dev], ["predict", "--input", dev, "--abstain_below", "0.6"]):
        expected = output_of(capsys, verb, "--model", run, *words)
        for model in (alone, run):
            found = output_of(capsys, verb, "--model", model, *words, "--engine", "onnx")
            parts = [text.splitlines() if verb == "predict" else [text] for text in (found, expected)]
            for one, other in zip(*parts, strict=True):
                assert_close(json.loads(one), json.loads(other))


def test_int8_is_taken_where_it_is_asked_for(problem, exported, capsys):
    words = ("predict", "--model", exported, "--input", problem.folder / "dev.csv", "--engine", "onnx")
    exact, found = output_of(capsys, *words), output_of(capsys, *words, "--quantize", "int8")
    assert exact != found
    pairs = [(json.loads(a), json.loads(b)) for a, b in zip(exact.splitlines(), found.splitlines(), strict=True)]
    assert all(abs(a["probabilities"]["good"] - b["probabilities"]["good"]) < 0.1 for a, b in pairs)
    assert np.mean([a["label"] == b["label"] for a, b in pairs]) > 0.9


def test_onnxruntime_alone_gives_the_labels(exported):
    """With transformers' tokenizer and the names in config.json, as any other program would."""
    tokenizer = AutoTokenizer.from_pretrained(exported)
    names = json.loads((exported / "config.json").read_text())["id2label"]
    rows = tokenizer(TEXTS[:3], padding=True, return_tensors="np", return_token_type_ids=True)
    session = open_session(exported / "onnx" / "model.onnx", 1)
    (logits,) = session.run(None, {name: values.astype(np.int64) for name, values in rows.items()})
    answers = jaxbert.load(exported).predict(TEXTS[:3])
    assert [names[str(best)] for best in logits.argmax(-1)] == [answer["label"] for answer in answers]
    odds = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    np.testing.assert_allclose(odds.max(-1), [answer["score"] for answer in answers], atol=1e-4)


def test_python_exports_and_opens_it(run, tmp_path):
    model = jaxbert.load(run)
    with pytest.raises(jaxbert.UserError, match="format is 'tflite'"):
        model.export(tmp_path / "x", format="tflite")
    with pytest.raises(jaxbert.UserError, match="set format to onnx or triton"):
        model.export(tmp_path / "x", quantize="int8")
    with pytest.raises(jaxbert.UserError, match="quantize is 'int4'"):
        model.export(tmp_path / "x", format="onnx", quantize="int4")
    assert not (tmp_path / "x").exists()
    folder = model.export(tmp_path / "x", format="onnx", quantize="fp16", packed=False)
    assert sorted(path.name for path in (folder / "onnx").iterdir()) == ["model.onnx", "model_fp16.onnx"]
    other = jaxbert.load(folder, engine="onnx", quantize="fp16")
    assert_close(other.predict(TEXTS), model.predict(TEXTS), 2e-3)
    for method in (lambda: other.explain("w1"), lambda: other.calibrate(run), lambda: other.export(tmp_path / "y")):
        with pytest.raises(jaxbert.UserError, match="was opened with engine='onnx'"):
            method()
    with pytest.raises(jaxbert.UserError, match="precision is bfloat16"):
        jaxbert.load(folder, engine="onnx", precision="bfloat16")


def test_new_weights_leave_no_old_graphs(run, exported, tmp_path, capsys):
    folder = tmp_path / "again"
    shutil.copytree(exported, folder)
    (folder / "onnx" / "model_q4.onnx").write_bytes(b"")
    assert main(["export", "--run", str(run), "--step", "last", "--output", str(folder)]) == 0
    assert [path.name for path in (folder / "onnx").iterdir()] == ["model_q4.onnx"]
    assert f"4 ONNX graphs of older weights are removed from {folder / 'onnx'}\n" in capsys.readouterr().err


def test_a_graph_of_another_config_is_refused(problem, exported, tmp_path, capsys):
    folder = tmp_path / "changed"
    shutil.copytree(exported, folder)
    config = json.loads((folder / "config.json").read_text())
    config["jaxbert"]["temperature"] = 2.5
    (folder / "config.json").write_text(json.dumps(config))
    words = ("predict", "--input", problem.folder / "dev.csv", "--engine", "onnx", "--model", folder)
    assert "was made for a config.json with other values of jaxbert: export" in refused(capsys, *words)
    (folder / "onnx" / "model_packed.onnx").write_bytes(b"no graph")
    assert "model_packed.onnx cannot be read by onnxruntime: " in refused(capsys, *words)


def test_mistakes_are_one_line(problem, run, tmp_path, capsys, monkeypatch):
    new = tmp_path / "new"
    export = ("export", "--run", run, "--output", new)
    assert "set format to onnx or triton" in refused(capsys, *export, "--quantize", "int8")
    assert "set format to onnx, or" in refused(capsys, *export, "--packed", "false")
    assert "set format to onnx, or" in refused(capsys, *export, "--format", "triton", "--packed", "false")
    assert "onnx" in refused(capsys, *export, "--format", "onxx")
    assert "int8" in refused(capsys, *export, "--format", "onnx", "--quantize", "int4")
    predict = ("predict", "--model", run, "--input", problem.folder / "dev.csv")
    assert "set engine to onnx" in refused(capsys, *predict, "--quantize", "int8", "--engine", "jax")
    monkeypatch.setattr("jaxbert.serve.onnx_export.find_spec", lambda name: None)
    assert "needs the package onnx: pip install 'jaxbert[onnx]'" in refused(capsys, *export, "--format", "onnx")
    assert "needs the package onnxruntime: pip install" in refused(capsys, *predict, "--engine", "onnx")
    assert not new.exists()


def test_pretraining_has_no_graph(tmp_path, capsys):
    run = tmp_path / "run"
    (run / "start").mkdir(parents=True)
    (run / "config.yaml").write_text("task: pretraining\n")
    config = small_config()
    config.jaxbert = {"task": "pretraining"}
    config.architectures = ["BertForMaskedLM"]
    config.save_pretrained(run / "start")
    words = ("export", "--run", run, "--output", tmp_path / "new", "--format", "onnx")
    assert "a model of task pretraining has no ONNX graph" in refused(capsys, *words)
    assert not (tmp_path / "new").exists()
