"""Several processes distil and prune as one does; and the same from Python, with rows in memory."""

from __future__ import annotations

import json

import numpy as np
import pytest
from cluster import Cluster, losses
from python_runs import rows_of
from runs import Problem, write_csv, write_model
from safetensors.numpy import load_file

import jaxbert

pytestmark = [pytest.mark.slow, pytest.mark.long]


def test_two_processes_are_as_one_device(tmp_path):
    """A teacher's answers and vectors, rows without labels, and two stages of pruning, on a mesh with all axes."""
    problem = Problem.write(tmp_path)
    write_csv(tmp_path / "more.csv", [(f"w{i} good w{i + 1}",) for i in range(30)], header=("text",))

    def keys(name: str, **changes: object) -> list[str]:
        return problem.arguments(
            data__validation=tmp_path / "dev.csv",
            data__cache_dir=tmp_path / name / "tokens",
            data__unlabelled=tmp_path / "more.csv",
            train__output_dir=tmp_path / name / "run",
            train__teacher=tmp_path / "model",
            train__distill="{hidden: 0.5}",
            train__prune="{layers: 1, heads: 1, intermediate: 0.5, steps: [2, 4]}",
            train__max_steps=8,
            model__dropout=0.0,
            **changes,
        )

    Cluster(1, 1).run(keys("one"))
    Cluster(2, 4).run(keys("two", mesh__data=2, mesh__fsdp=2, mesh__tensor=2))
    found, expected = (losses(tmp_path / name / "run") for name in ("two", "one"))
    assert [step for step, _ in found] == [step for step, _ in expected]
    np.testing.assert_allclose([loss for _, loss in found], [loss for _, loss in expected], rtol=1e-5)
    one, two = (load_file(tmp_path / name / "run" / "export" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        np.testing.assert_allclose(two[name], tensor, rtol=0, atol=1e-4, err_msg=name)


def test_from_python(tmp_path):
    """The teacher is a model that is open; the report is written although the teacher's rows are gone."""
    large = write_model(tmp_path / "model")
    settings = {"learning_rate": 1e-3, "batch_size": 16, "max_steps": 4, "scan_layers": True}
    teacher = jaxbert.finetune(
        rows_of(60), large, rows_of(20, seed=1), output_dir=str(tmp_path / "teacher"), **settings
    )
    texts = [{"text": row["text"]} for row in rows_of(20, seed=2)]
    student = jaxbert.finetune(
        rows_of(60),
        teacher.model,
        rows_of(20, seed=1),
        unlabelled=texts,
        layers=1,
        teacher=teacher.model,
        distill={"weight": 0.8},
        prune={"intermediate": 0.5},
        output_dir=str(tmp_path / "student"),
        **settings,
    )
    assert student.summary["teacher"]["unlabelled"] == 20
    assert student.summary["pruned"]["after"]["intermediate_size"] == 32
    assert len(student.model.predict(["w1 good"])) == 1
    assert "Beside the larger model" in (tmp_path / "student" / "report.html").read_text()
    json.dumps(student.summary["teacher"])
