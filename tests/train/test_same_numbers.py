"""An export is read and computed as its run did: `evaluate` gives the run's own numbers, digit for digit."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import Problem, make_config, random_rows, write_csv
from token_tasks import write_questions
from transformers import AutoTokenizer, BertConfig

from jaxbert.config import Config, ModelConfig
from jaxbert.data.tokens import LongTexts, Reading
from jaxbert.runs.folder import RunFolder
from jaxbert.train.inference import open_trained
from jaxbert.train.run import Run, open_run


def write_rows(folder: Path) -> None:
    """Write pairs of texts, the first of up to 40 tokens."""
    for name, count in (("train", 30), ("dev", 23)):
        rows = [(f"{text} {text} {text}", text, label) for text, label in random_rows(count, seed=count)]
        write_csv(folder / f"{name}.csv", rows, ("text", "second", "label"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("numbers")
    Problem.write(folder)
    write_rows(folder)
    (folder / "question_answering").mkdir()
    for name in ("train", "dev"):
        write_questions(folder / "question_answering" / f"{name}.json", 23, unanswered=0.4)
    return folder


# Windows and the other tasks are compared after whole runs, in tests/cli.
RUNS: dict[str, dict[str, Any]] = {
    "cut": {"data__max_length": 10, "train__eval_batch_size": 7, "precision__compute": "bfloat16"},
    "cut in the middle": {"data__max_length": 12, "data__long_texts": "head_tail"},
    "pairs": {"data__max_length": 13, "data__text_pair": "second"},
    "question_answering": {"data__max_length": 16, "data__window_stride": 4, "data__no_answer_threshold": -0.5},
}


def start(folder: Path, name: str, run: Path) -> tuple[Config, Run]:
    """Open a run of a configuration without training it."""
    answers = name == "question_answering"
    inner, ending = (folder / name, "json") if answers else (folder, "csv")
    files = {"data__train": str(inner / f"train.{ending}"), "data__validation": str(inner / f"dev.{ending}")}
    fixed = {"model__name_or_path": str(folder / "model"), "train__output_dir": str(run), "data__cache_dir": None}
    config = make_config(**fixed, **files, **RUNS[name])
    config = dataclasses.replace(config, task=name if answers else "classification")
    return config, open_run(config, RunFolder(run))


@pytest.mark.parametrize("name", RUNS)
def test_evaluate_gives_the_numbers_of_the_run(folder, tmp_path, name):
    config, session = start(folder, name, tmp_path)
    params = session.first_params()
    evaluation = session.predictor.evaluate(params, session.inputs.validation).metrics
    session.export(params, evaluation)
    model = open_trained(str(tmp_path / "export"))
    assert model.evaluate(str(config.data.validation), config.data).metrics == evaluation
    assert model.predictor.batch_size == config.train.eval_batch_size
    assert model.predictor.call.scan_layers is True
    assert model.max_length == RUNS[name]["data__max_length"]


def test_other_programs_cut_where_the_run_does(folder, tmp_path):
    for name in ("cut", "pairs"):
        _, session = start(folder, name, tmp_path / name)
        session.export(session.first_params(), {})
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name / "export")
        assert tokenizer.model_max_length == RUNS[name]["data__max_length"]
        texts = [(f"{text} {text} {text}", text)[: 2 if name == "pairs" else 1] for text, _ in random_rows(23, seed=23)]
        tokens = session.inputs.validation["validation"].tokens
        for i, text in enumerate(texts):
            begin = tokens.begins[i]
            own = tokens.ids[begin : begin + tokens.lengths[i]].tolist()
            assert tokenizer(*text, truncation=True)["input_ids"] == own


def test_without_a_length_the_models_own_is_kept(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(RUNS, "cut", {})
    _, session = start(folder, "cut", tmp_path)
    assert (session.inputs.task.reading.max_length, session.pretrained.tokenizer.model_max_length) == (None, 48)
    assert session.inputs.validation["validation"].tokens.lengths.max() > 20


def test_a_further_training_says_what_the_first_one_took(folder, tmp_path, caplog):
    _, session = start(folder, "cut", tmp_path / "first")
    session.export(session.first_params(), {})
    again = dataclasses.replace(session.config, model=ModelConfig(str(tmp_path / "first" / "export")))
    said = "was trained with data.max_length 10, here texts have up to 48 tokens"
    for length, expected in ((10, False), (None, True)):
        caplog.clear()
        data = dataclasses.replace(again.data, max_length=length)
        open_run(dataclasses.replace(again, data=data), RunFolder(tmp_path / "second"))
        assert (said in caplog.text) == expected


@pytest.mark.parametrize(
    "reading",
    [
        Reading(),
        Reading(max_length=10),
        Reading(max_length=10, pairs=True),
        Reading(LongTexts("windows", 3), "max", 12),
        Reading(LongTexts("head_tail", 3), None, 12),
    ],
)
def test_a_reading_comes_back(reading):
    config = BertConfig.from_dict({"jaxbert": {"reading": reading.to_dict()}})
    assert Reading.of(config.jaxbert["reading"]) == reading


@pytest.mark.parametrize(
    "content", [None, [], {}, {"pairs": 1}, Reading(LongTexts("windows"), "max").to_dict(), {"max_length": "x"}]
)
def test_a_damaged_reading_is_none(content):
    assert Reading.of(content) == Reading()


def test_no_computation_of_other_devices_or_of_nonsense(folder, tmp_path):
    from jaxbert.config import MeshConfig
    from jaxbert.train.evaluate import ComputeSettings
    from jaxbert.train.sharding import make_mesh

    mesh = make_mesh(MeshConfig())
    kept = {"platform": "cpu", "batch_size": 7, "precision": "bfloat16", "attention": "xla", "scan_layers": True}
    assert ComputeSettings.of(kept, mesh) == ComputeSettings("cpu", 7, "bfloat16", "xla", True)
    for wrong in (
        {"platform": "gpu"},
        {"batch_size": 0},
        {"precision": "int4"},
        {"attention": []},
        {"scan_layers": "x"},
    ):
        assert ComputeSettings.of(kept | wrong, mesh) == ComputeSettings("cpu")
    assert ComputeSettings.of(np.zeros(3), mesh) == ComputeSettings("cpu")
