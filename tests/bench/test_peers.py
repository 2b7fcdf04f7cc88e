"""The side-by-side with the Hugging Face Trainer: the table by itself, and both scripts end to end, offline."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "bench"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", '"', "film", "plot", "a")


@pytest.fixture(scope="module")
def compare() -> ModuleType:
    spec = importlib.util.spec_from_file_location("compare", SCRIPTS / "compare.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_of(rate: float | None, accuracy: float = 0.5) -> dict:
    return {"examples_per_second": rate, "accuracy": {"validation": accuracy}, "wall_seconds": 9.0, "device": "cpu"}


def test_rates_are_medians_and_ratios_refer_to_the_baseline(compare):
    results = {"a": [run_of(30.0, 0.9), run_of(10.0, 0.7), run_of(20.0, 0.8)], "b": [run_of(5.0)]}
    table = compare.summarize(results, "b")
    assert (table["a"]["examples_per_second"], table["a"]["least"], table["a"]["most"]) == (20.0, 10.0, 30.0)
    assert (table["a"]["ratio"], table["a"]["accuracy"], table["b"]["ratio"]) == (4.0, 0.8, 1.0)


def test_what_was_not_run_or_failed_is_unmeasured(compare):
    results = {"a": [run_of(30.0), {"error": "boom"}], "b": [{"error": "no | memory"}], "c": [], "d": [run_of(None)]}
    lines = compare.markdown(compare.summarize(results, "c"), "c", {"date": "today"}).splitlines()
    assert lines[2] == "| a | 30.0 | 30.0-30.0 | UNMEASURED | 0.5000 | 9 | 1 (1 failed) | cpu |"
    assert lines[3].startswith("| b | UNMEASURED (no / memory) |")
    assert lines[4].startswith("| c | UNMEASURED |")
    assert lines[5].startswith("| d | UNMEASURED (too few steps to time) |")
    assert lines[-1] == "- date: today"


@pytest.mark.parametrize("modes", ["jaxbert-float16", "peer-float32", "peer-max-float32-fast", "jaxbert-float32x"])
def test_an_unknown_mode_is_refused(compare, capsys, modes):
    with pytest.raises(SystemExit):
        compare.parse_arguments([f"--modes={modes}"])
    assert "unknown mode" in capsys.readouterr().err


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Path:
    """A tiny model folder, its vocabulary, and raw TSV files in which quotes are plain characters."""
    pytest.importorskip("torch")
    pytest.importorskip("accelerate")
    import jax
    from tiny import tiny_model
    from transformers import BertTokenizer

    from jaxbert.interop.write import save_folder
    from jaxbert.models.functional import init_params

    folder = tmp_path_factory.mktemp("problem")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    model = tiny_model(vocab_size=len(WORDS), num_hidden_layers=1)
    save_folder(
        folder / "model",
        init_params(model, jax.random.key(0)),
        model.config,
        BertTokenizer(vocab=str(folder / "vocab.txt")),
    )
    rows = [(f'a {"film " * (i % 7)}" {("bad", "good")[i % 2]}', i % 2) for i in range(60)]
    for name, part in (("train", rows), ("dev", rows[:10])):
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in part))
    return folder


def run_script(name: str, problem: Path, *more: str) -> str:
    files = (f"--train={problem / 'train.tsv'}", f"--validation={problem / 'dev.tsv'}")
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / name), *files, "--text=sentence", "--max-length=20", "--batch-size=8", *more],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_peer_learns_a_new_model(problem, tmp_path):
    output = tmp_path / "peer.json"
    model = ("--new-model=1,32,2,64", f"--vocab={problem / 'vocab.txt'}", f"--test={problem / 'dev.tsv'}")
    rate = ("--learning-rate=1e-2", "--epochs=8", "--padding=grouped")
    run_script("peer.py", problem, *model, *rate, f"--output={output}")
    result = json.loads(output.read_text())
    assert (result["steps"], result["steps_timed"], result["train_examples"]) == (64, 59, 60)
    assert result["accuracy"] == {"validation": 1.0, "test": 1.0}
    assert result["examples_per_second"] > 0
    assert set(result["versions"]) == {"torch", "transformers", "accelerate", "python"}


@pytest.mark.slow
def test_both_sides_run_in_turns(problem, tmp_path, monkeypatch):
    monkeypatch.delenv("XLA_FLAGS")
    output = tmp_path / "compare.json"
    modes = "jaxbert-float32,peer-max-float32,peer-dynamic-bfloat16"
    short = ("--max-steps=7", "--limit=50", "--repeats=1", "--baseline=peer-max-float32")
    table = run_script(
        "compare.py", problem, f"--model={problem / 'model'}", f"--modes={modes}", *short, f"--output={output}"
    )
    content = json.loads(output.read_text())
    measured = {mode for mode, row in content["table"].items() if "unmeasured" not in row}
    assert measured == set(modes.split(","))
    assert content["runs"]["jaxbert-float32"][0]["steps"] == 7
    assert "| jaxbert-bfloat16 | UNMEASURED |" in table
    assert "| peer-max-float32 |" in table
