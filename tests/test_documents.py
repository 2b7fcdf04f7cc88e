"""What the documents tell a user to run, runs; each configuration says what it gave."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from runs import ROOT, random_rows, write_csv, write_model

import jaxbert
from jaxbert.cli.main import main

README = (ROOT / "README.md").read_text("utf-8")
BENCH = (ROOT / "docs" / "bench.md").read_text("utf-8")
CONFIGS = sorted((ROOT / "configs").glob("*.yaml"))
PAGES = sorted({*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "scripts" / "launch" / "README.md"})


def code_blocks(language: str, text: str = README) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def commands(text: str = README) -> list[list[str]]:
    lines = "".join(code_blocks("bash", text)).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if line.startswith("jaxbert ")]


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the README names, and a small model under the name that it uses."""
    monkeypatch.chdir(tmp_path)
    write_model(tmp_path / "bert-base-uncased", num_hidden_layers=1)
    for seed, name in enumerate(("reviews.csv", "test.csv", "new.csv")):
        write_csv(tmp_path / name, random_rows(60, seed))
    return tmp_path


@pytest.mark.slow
def test_every_command_of_the_readme_runs(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    assert [command[1] for command in commands()] == ["train", "evaluate", "predict", "export", "bench"]
    for command in commands():
        fewer = (
            ["--bench.steps=5", "--bench.warmup=1", "--bench.measure_compile=false"] if command[1] == "bench" else []
        )
        assert main([*command[1:], *fewer]) == 0, command
    assert len((workplace / "answers.jsonl").read_text("utf-8").splitlines()) == 60
    assert (workplace / "my-classifier" / "model.safetensors").is_file()
    pytest.importorskip("torch")
    namespace = {"input_ids": [[2, 5, 3]], "attention_mask": [[1, 1, 1]]}
    for block in code_blocks("python"):
        exec(block, namespace)
    assert namespace["classify"]("great")[0]["label"] in ("bad", "good")
    assert namespace["logits"].shape == (1, 2)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize("command", commands(BENCH), ids=lambda command: command[-1])
def test_every_benchmark_runs(command: list[str], workplace: Path):
    """With fewer steps than the page has, and the first value of each that is swept."""
    shorter = [word.split(",")[0] for word in command[1:]]
    assert main([*shorter, "--bench.steps=2", "--bench.measure_compile=false"]) == 0
    written = [command[command.index(flag) + 1] for flag in ("--output", "--profile") if flag in command]
    assert written
    assert all((workplace / name).exists() for name in written)


def test_every_number_of_a_benchmark_is_explained():
    from jaxbert.bench.measure import PREDICTION_NUMBERS
    from jaxbert.bench.training import TRAINING_NUMBERS

    explained = re.findall(r"`([a-z_0-9]+)`", BENCH)
    own = {"predict_examples", "predict_real_tokens_per_second", "predict_row_length", "predict_compile_seconds"}
    assert {*TRAINING_NUMBERS, *PREDICTION_NUMBERS} - own <= set(explained)


def test_scripts_of_the_readme_are_there():
    scripts = re.findall(r"bash (scripts/[\w./-]+\w)", README)
    assert scripts
    assert all((ROOT / script).is_file() for script in scripts)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_configuration_opens_with_its_command_and_result(path: Path):
    head = path.read_text("utf-8").split("model:")[0]
    verb = "pretrain" if "task: pretraining" in head else "train"
    assert f"jaxbert {verb} --config configs/{path.name}" in head
    assert "Result:" in head


def anchors(path: Path) -> set[str]:
    """The anchors that GitHub and the site give the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.M | re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_of_a_page_lead_somewhere(path: Path):
    text = re.sub(r"^```.*?^```", "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target, anchor in re.findall(r"\]\((?![a-z]+:)([^)#\s]*)(?:#([^)\s]+))?\)", text):
        file = (path.parent / target).resolve() if target else path
        assert file.exists(), target
        assert not anchor or anchor in anchors(file), f"{target}#{anchor}"


def test_the_index_and_the_menu_have_every_page():
    pages = {path.name for path in (ROOT / "docs").glob("*.md")} - {"README.md"}
    index = set(re.findall(r"\]\(([\w-]+\.md)\)", (ROOT / "docs" / "README.md").read_text("utf-8")))
    assert pages <= index
    assert pages <= set(re.findall(r": ([\w-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))


def test_the_api_page_has_every_public_name():
    shown = set(re.findall(r"^::: jaxbert\.([\w.]+)$", (ROOT / "docs" / "api.md").read_text("utf-8"), re.MULTILINE))
    public = {name for name in jaxbert.__all__ if not name.startswith(("FLAX", "FlaxAuto", "_"))}
    sections = {f"config.{kind.__name__}" for kind in map(type, vars(jaxbert.Config()).values()) if kind is not str}
    assert public - {"FlaxBertForCausalLM"} | sections <= shown
