"""What docs/python.md and the notebook show, runs, and every public name is explained."""

from __future__ import annotations

import json
import re
import shutil

import pytest
from runs import ROOT, finish, python, random_rows, write_csv, write_model

import jaxbert

PAGE = (ROOT / "docs" / "python.md").read_text("utf-8")
NOTEBOOK = ROOT / "examples" / "quickstart.ipynb"


def blocks() -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


def test_every_public_name_is_explained():
    names = {name for name in jaxbert.__all__ if not name.lower().startswith(("flax", "_"))}
    assert names == set(re.findall(r"`jaxbert\.(\w+)", PAGE.split("## Data")[0]))


@pytest.mark.slow
def test_the_page_runs(tmp_path, monkeypatch, capsys):
    pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "bert-base-uncased", num_hidden_layers=1)
    for seed, name in enumerate(("reviews.csv", "validation.csv", "test.csv")):
        write_csv(tmp_path / name, random_rows(60, seed))
    namespace: dict[str, object] = {}
    assert len(blocks()) == 11
    for block in blocks():
        exec(block, namespace)
    said = capsys.readouterr().out
    for line in re.findall(r"print\(error\)(?:  # |\n# )(.+)$", PAGE, re.MULTILINE):
        assert line in said.splitlines()
    assert {"step", "evaluate", "save"} == set(namespace["seen"])
    assert (tmp_path / "runs" / "classifier-4" / "export" / "model.safetensors").is_file()
    assert (tmp_path / "my-classifier" / "model.safetensors").is_file()


def test_the_notebook_is_whole_and_empty():
    content = json.loads(NOTEBOOK.read_text("utf-8"))
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        keys = {"cell_type", "id", "metadata", "source"}
        assert cell.keys() == keys | ({"execution_count", "outputs"} if cell["cell_type"] == "code" else set())
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
def test_the_notebook_runs(tmp_path):
    """Cell after cell in a process of its own, beside the data of the repository."""
    pytest.importorskip("pandas")
    cells = [c["source"] for c in json.loads(NOTEBOOK.read_text("utf-8"))["cells"] if c["cell_type"] == "code"]
    code = "\n\n".join("".join(source) for source in cells)
    (tmp_path / "examples").mkdir()
    shutil.copytree(ROOT / "configs" / "reviews", tmp_path / "configs" / "reviews")
    process = python("-c", code + "\nprint(result.metrics['accuracy'])", cwd=tmp_path / "examples")
    code, out, err = finish(process)
    assert code == 0, err
    assert float(out.split()[-1]) > 0.85
