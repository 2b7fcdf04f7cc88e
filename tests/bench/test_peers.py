"""The side-by-side with jaxbert's peers: modes become commands, tokens agree, and the scripts run end to end, offline."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import compare
import examples
import modes
import numpy as np
import pytest
import quick
import table
from tiny import tiny_model
from transformers import BertTokenizer

from jaxbert.data.tokens import encode_texts
from jaxbert.models.functional import init_params

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts" / "bench"
WORDS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "good", "bad", '"', "film", "plot", "a", "好", "片")


@pytest.mark.parametrize(
    "mode",
    [
        *("jaxbert-float16", "peer-float32", "peer-max-float32-fast", "jaxbert-float32x", "varlen-max-float32"),
        *("jaxbert-float32-nodrop-scanned", "varlen-flat-float32", "peer-flat-float32-nodrop"),
        *("legacy", "x@2", "legacy-float32@0", "legacy-float32@", "legacy-float32@x"),
    ],
)
def test_an_unknown_mode_is_refused(capsys, mode):
    with pytest.raises(SystemExit):
        compare.parse_arguments([f"--modes={mode}", "--model=x", f"--train={__file__}"])
    assert "unknown mode" in capsys.readouterr().err


def test_modes_become_commands(tmp_path):
    recipe = modes.Recipe(new_model="mini", vocab=Path("v.txt"), train=Path("t.tsv"), legacy_python="old-python")

    def command(mode: str, **changes: object) -> list[str]:
        return modes.command_of(dataclasses.replace(recipe, **changes), mode, 3, tmp_path, 7)

    ours = command("jaxbert-bfloat16-padded-xla")
    assert {"train", "--model.name_or_path=mini", "--data.packing=false", "--model.attention=xla"} <= set(ours)
    assert {"--train.seed=3", "--train.max_steps=7", "--precision.compute=bfloat16"} <= set(ours)
    assert not any("attention" in word or "scan" in word for word in command("jaxbert-bfloat16"))
    assert {"--model.scan_layers=true", "--model.attention_dropout=0"} <= set(
        command("jaxbert-bfloat16-cudnn-scanned-nodrop")
    )
    bench = command("jaxbert-float32", train=None, vocab=None, lengths="fixed:9")
    assert {"bench", "--lengths=fixed:9", "--bench.steps=7"} <= set(bench)
    assert "--padding=flat" in command("peer-flat-bfloat16")
    peer = command("peer-grouped-float32-compile")
    assert {"--padding=grouped", "--precision=float32", "--new-model=4,256,4,1024", "--compile"} <= set(peer)
    assert {"--compile=static", "--no-attention-dropout"} <= set(command("varlen-bfloat16-static-nodrop"))
    assert "--compile=dynamic" in command("varlen-bfloat16-compile")
    assert command("legacy-float32")[0] == "old-python"


def test_a_mode_without_its_environment_says_so():
    result = modes.run_mode(modes.Recipe(legacy_python="no/such/python"), "legacy-float32", 0)
    assert result == {"error": "no/such/python does not exist: bash scripts/bench/legacy_env.sh makes it"}


def test_every_round_begins_with_another_mode_and_some_end_early(monkeypatch):
    ran = []

    def run_mode(recipe, mode, seed, *, max_steps=None):
        ran.append((mode, seed, max_steps))
        return {"examples_per_second": 80.0}

    monkeypatch.setattr(compare, "run_mode", run_mode)
    train = f"--train={__file__}"
    listed = "--modes=jaxbert-float32,legacy-float32@1,varlen-float32"
    values = compare.parse_arguments(["--model=x", train, listed, "--repeats=2", "--seconds=20", "--batch-size=16"])
    *_, runs = compare.run_rounds(values, compare.make_recipe(values))
    assert ran == [
        ("jaxbert-float32", 0, 10),  # how many steps it takes in 20 s: not counted
        ("jaxbert-float32", 0, 105),
        ("legacy-float32", 0, None),
        ("varlen-float32", 0, None),
        ("varlen-float32", 1, None),
        ("jaxbert-float32", 1, 105),
    ]
    assert [len(runs[mode]) for mode in ("jaxbert-float32", "legacy-float32", "varlen-float32")] == [2, 1, 2]


def test_peers_that_saw_other_tokens_are_told():
    runs = {"peer-max-float32": [{"tokens_crc32": 1}], "legacy-float32": [{"tokens_crc32": 1}], "x": [{"error": "x"}]}
    assert compare.same_tokens(runs) is None
    assert "different tokens" in str(compare.same_tokens(runs | {"varlen-float32": [{"tokens_crc32": 2}]}))


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Path:
    """A tiny model folder, its vocabulary, and raw TSV files in which quotes are plain characters."""
    import jax

    from jaxbert.interop.write import save_folder

    folder = tmp_path_factory.mktemp("problem")
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    model = tiny_model(vocab_size=len(WORDS), num_hidden_layers=1, id2label={0: "0", 1: "1"}, label2id={"0": 0, "1": 1})
    tokenizer = BertTokenizer(vocab=str(folder / "vocab.txt"))
    save_folder(folder / "model", init_params(model, jax.random.key(0)), model.config, tokenizer)
    rows = [(f'a {"film " * (i % 7)}好片" {("bad", "good")[i % 2]}', i % 2) for i in range(60)]
    for name, part in (("train", rows), ("dev", rows[:10])):
        (folder / f"{name}.tsv").write_text("sentence\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in part))
    return folder


def test_peers_see_jaxberts_tokens(problem):
    rows = examples.read_tsv(problem / "train.tsv", "sentence", "label", None)
    tokenizer = BertTokenizer(vocab=str(problem / "vocab.txt"))
    ours = encode_texts(tokenizer, [text for text, _ in rows], None, 8)
    theirs = examples.tokenize(rows, ["0", "1"], tokenizer, 8)
    assert ours.lengths.max() == 8
    assert {WORDS.index("好"), WORDS.index('"')} <= set(ours.ids.tolist())
    np.testing.assert_array_equal(np.concatenate([example["input_ids"] for example in theirs]), ours.ids)


@pytest.mark.long
@pytest.mark.slow
def test_the_legacy_loop_learns(problem, tmp_path, monkeypatch):
    """jaxbert's class stands in for the one that transformers removed; it has the same interface."""
    import transformers

    import jaxbert

    monkeypatch.setattr(
        transformers, "FlaxBertForSequenceClassification", jaxbert.FlaxBertForSequenceClassification, raising=False
    )
    import legacy

    output = tmp_path / "legacy.json"
    files = (f"--train={problem / 'train.tsv'}", f"--validation={problem / 'dev.tsv'}", "--text=sentence")
    recipe = (
        "--max-length=20",
        "--batch-size=8",
        "--learning-rate=1e-2",
        "--epochs=8",
        "--skip-seconds=1e6",
        "--eval-batch-size=4",
    )
    legacy.main([f"--model={problem / 'model'}", *files, *recipe, f"--output={output}"])
    result = json.loads(output.read_text())
    assert (result["steps"], result["steps_timed"], result["train_examples"]) == (56, 51, 60)
    assert result["accuracy"] == {"validation": 1.0, "test": None}
    assert result["examples_per_second"] > 0


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


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "more", "steps", "timed"),
    [("peer.py", ["--padding=grouped"], 64, 59), ("peer.py", ["--padding=flat"], 64, 59), ("varlen.py", [], 56, 51)],
)
def test_a_peer_learns_a_new_model(problem, tmp_path, script, more, steps, timed):
    pytest.importorskip("torch")
    output = tmp_path / "peer.json"
    model = ("--new-model=1,32,2,64", f"--vocab={problem / 'vocab.txt'}", f"--test={problem / 'dev.tsv'}")
    run_script(
        script, problem, *model, "--learning-rate=1e-2", "--epochs=8", "--skip-seconds=1e6", *more, f"--output={output}"
    )
    result = json.loads(output.read_text())
    assert (result["steps"], result["steps_timed"], result["train_examples"]) == (steps, timed, 60)
    assert result["accuracy"] == {"validation": 1.0, "test": 1.0}
    assert result["examples_per_second"] > 0
    assert {"torch", "transformers", "python"} <= set(result["versions"])


def test_the_warm_up_of_jaxbert_is_not_counted_either(tmp_path):
    """20 steps of 8 took 4 s, of which the first 5 took 2."""
    lines = ((5, 20.0, 100.0), (15, 36.0, 180.0), (20, 40.0, 210.0))
    names = ("step", "examples_per_second", "real_tokens_per_second")
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(dict(zip(names, line, strict=True))) + "\n" for line in lines))
    expected = {"steps_timed": 15, "examples_per_second": 60.0, "real_tokens_per_second": 320.0}
    assert modes._steady(path, 8) == expected
    assert modes._steady(tmp_path / "none", 8) == {}


@pytest.mark.long
@pytest.mark.slow
def test_all_run_in_turns(problem, tmp_path, monkeypatch):
    pytest.importorskip("torch")
    monkeypatch.delenv("XLA_FLAGS")
    output = tmp_path / "compare.json"
    listed = "jaxbert-float32,peer-max-float32,varlen-bfloat16"
    model = ("--new-model=tiny", f"--vocab={problem / 'vocab.txt'}", "--max-steps=7", "--limit=50", "--repeats=1")
    printed = run_script("compare.py", problem, *model, f"--modes={listed}", f"--output={output}")
    content = json.loads(output.read_text())
    measured = {mode for mode, row in table.summarize(content["runs"]).items() if "unmeasured" not in row}
    assert measured == set(listed.split(","))
    assert content["runs"]["jaxbert-float32"][0]["steps"] == 7
    assert len({r["tokens_crc32"] for mode in listed.split(",")[1:] for r in content["runs"][mode]}) == 1
    assert "| jaxbert, bfloat16 | UNMEASURED |" in printed
    assert "| Trainer, padded, float32 |" in printed


@pytest.mark.long
@pytest.mark.slow
def test_the_gpu_run_at_toy_size(tmp_path, monkeypatch):
    """A part that fails is a row; a second start repeats nothing."""
    pytest.importorskip("torch")
    import gpu

    for name, value in quick.variables(torch=True).items():
        monkeypatch.setenv(name, value)
    arguments = ["--toy", f"--output={tmp_path}", "--minutes=8"]
    assert gpu.main(arguments) == 0
    contents = json.loads((tmp_path / "results.json").read_text())
    rows = table.summarize(contents["toy"]["runs"], "real_tokens_per_second")
    assert [mode for mode, row in rows.items() if "unmeasured" in row] == ["jaxbert-bfloat16-cudnn-nodrop"]
    told = (tmp_path / "results.md").read_text()
    assert "| jaxbert, bfloat16, cudnn, no attention dropout | UNMEASURED (" in told
    assert "target: 750,000 real tokens/s (floor 560,000)" in told
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")
    monkeypatch.setattr(gpu, "run_mode", lambda *_, **__: pytest.fail("a part ran again"))
    assert gpu.main(arguments) == 0
    assert json.loads((tmp_path / "results.json").read_text()) == contents
