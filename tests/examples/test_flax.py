"""The programs in examples/flax run on small files, their loss falls, and what they save is read."""

from __future__ import annotations

import importlib
import json
import sys

import numpy as np
import pytest
from runs import ROOT, random_rows, write_csv, write_model
from token_tasks import write_questions, write_sentences

import jaxbert

SMALL = ["--max_length=32", "--row_length=64", "--rows=4", "--slots=8", "--learning_rate=5e-3", "--log_every=5"]


@pytest.fixture
def program(monkeypatch):
    """Import a program by its name, as running it does."""
    folder = str(ROOT / "examples" / "flax")
    monkeypatch.syspath_prepend(folder)
    yield importlib.import_module
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(folder):
            del sys.modules[name]


@pytest.fixture
def model(tmp_path):
    return write_model(
        tmp_path / "model",
        num_hidden_layers=1,
        initializer_range=0.05,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )


@pytest.mark.parametrize(
    ("name", "files", "kind", "said", "options"),
    [
        ("classification", "csv", "SequenceClassification", "accuracy", ["--epochs=5"]),
        ("tagging", "conll", "TokenClassification", "accuracy", ["--epochs=4"]),
        ("answering", "json", "QuestionAnswering", "exact match", ["--epochs=4"]),
        ("masked_words", "txt", "MaskedLM", "perplexity", ["--epochs=4", "--from_nothing"]),
    ],
)
def test_it_learns(program, model, tmp_path, capsys, name, files, kind, said, options):
    train, held_out = tmp_path / f"train.{files}", tmp_path / f"dev.{files}"
    for seed, (path, count) in enumerate(((train, 80), (held_out, 12))):
        if files == "csv":
            write_csv(path, random_rows(count, seed))
        elif files == "txt":
            path.write_text("\n\n".join(f"good great {text}" for text, _ in random_rows(count, seed, longest=4)))
        else:
            (write_sentences if files == "conll" else write_questions)(path, count, seed, longest=12)
    paths = [f"--model={model}", f"--train={train}", f"--validation={held_out}", f"--output={tmp_path / 'saved'}"]
    losses = program(name).main([*paths, *SMALL, *options])
    assert np.mean(losses[-3:]) < 0.9 * np.mean(losses[:3]), losses
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"epoch {options[0][-1]}: ")
    assert said in last
    saved = json.loads((tmp_path / "saved" / "config.json").read_text())
    assert saved["architectures"] == [f"BertFor{kind}"]
    getattr(jaxbert, f"FlaxBertFor{kind}").from_pretrained(tmp_path / "saved")


def test_packing_keeps_every_example(program):
    common = program("common")
    rng = np.random.default_rng(0)
    examples = [
        {"input_ids": list(range(1, n + 1)), "labels": [7] * n, "label": n} for n in rng.integers(1, 9, 30).tolist()
    ]
    values = common.make_parser("").parse_args(["--model=m", "--train=t", "--rows=2", "--row_length=12", "--slots=3"])
    seen = []
    for batch in common.pack(examples, values, rng):
        for r, slot in zip(*np.nonzero(batch["index"] >= 0), strict=True):
            i, start = batch["index"][r, slot], batch["cls_positions"][r, slot]
            mine = batch["segment_ids"][r] == slot + 1
            assert batch["input_ids"][r][mine].tolist() == examples[i]["input_ids"]
            assert (mine.argmax(), batch["label"][r, slot]) == (start, mine.sum())
            seen.append(i)
        assert (batch["labels"] == np.where(batch["segment_ids"] > 0, 7, common.NO_LABEL)).all()
    assert sorted(seen) == list(range(30))


def test_a_mistake_is_one_line(program, model, tmp_path):
    common, classification = program("common"), program("classification")
    path = write_csv(tmp_path / "train.csv", random_rows(4))
    for arguments, said in (
        ([f"--train={path}", "--text=title"], "no column 'title'"),
        ([f"--train={tmp_path / 'none.csv'}"], "none.csv"),
        ([f"--train={path}", "--row_length=2"], "--row_length is 2"),
        ([f"--train={write_csv(tmp_path / 'empty.csv', [])}"], "holds no rows"),
        ([f"--train={write_csv(tmp_path / 'short.csv', [['a', 'b'], ['c']])}"], "row 2 lacks fields"),
    ):
        with pytest.raises(SystemExit, match=said) as caught:
            common.run(lambda arguments=arguments: classification.main([f"--model={model}", *arguments]))
        assert str(caught.value).startswith("error: ")


def test_programs_are_short():
    for path in (ROOT / "examples" / "flax").glob("*.py"):
        assert path.read_text("utf-8").count("\n") <= (180 if path.name == "common.py" else 130)
