"""Every task can be timed and planned on its own data: what a step of it holds is not what a classifier's holds."""

from __future__ import annotations

import json

import pytest
from runs import Problem, random_rows

from jaxbert.cli.main import main


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    tagged = "\n\n".join("\n".join(f"{word} B-X" for word in text.split()) for text, _ in random_rows(40))
    (problem.folder / "train.conll").write_text(tagged + "\n")
    sentences = [text.capitalize() + "." for text, _ in random_rows(120)]
    documents = [" ".join(sentences[i : i + 6]) for i in range(0, 120, 6)]
    (problem.folder / "raw.txt").write_text("\n\n".join(documents) + "\n")
    return problem


SETTINGS = {
    "multi_label": ["--task=multi_label", "--data.train=train.csv"],
    "regression": ["--task=regression", "--data.train=scores.csv"],
    "documents": ["--data.train=train.csv", "--data.long_texts=windows", "--data.max_length=6"],
    "token_classification": ["--task=token_classification", "--data.train=train.conll"],
    "pretraining": ["--task=pretraining", "--data.train=raw.txt", "--data.max_length=24"],
}


def flags(problem: Problem, name: str) -> list[str]:
    """Return the settings of a task, with its data."""
    (problem.folder / "scores.csv").write_text("text,label\n" + "w1 w2,1.5\nw3,2.5\n" * 20)
    words = [word.replace("data.train=", f"data.train={problem.folder}/") for word in SETTINGS[name]]
    model = [f"--model.name_or_path={problem.folder / 'model'}", "--model.scan_layers=true"]
    return [*model, "--train.batch_size=8", *words]


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_timed(problem, name, tmp_path):
    output = tmp_path / "bench.json"
    timed = ["--bench.steps=2", "--bench.measure_compile=false", f"--output={output}"]
    assert main(["bench", *flags(problem, name), *timed]) == 0
    result = json.loads(output.read_text())
    assert result["examples_per_second"] > 0
    assert result["predict_examples_per_second"] > 0


@pytest.mark.parametrize("name", SETTINGS)
def test_it_is_planned(problem, name, tmp_path, monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
    output = tmp_path / "plan.json"
    assert main(["plan", *flags(problem, name), "--topology=cpu:2", f"--output={output}"]) == 0
    result = json.loads(output.read_text())
    assert result["examples_per_step"] == 8
    assert result["flops"]
