"""What the command line says of itself, and how fast."""

from __future__ import annotations

import subprocess
import sys

import pytest
import yaml
from runs import ROOT

from jaxbert.cli.main import VERBS, main
from jaxbert.config import COLUMN_KEYS, DataConfig
from jaxbert.settings import KEYS, help_texts

HEAVY = ("jax", "jaxlib", "flax", "transformers", "torch", "orbax", "datasets", "sklearn", "optuna")


def test_importing_the_package_brings_in_nothing_heavy():
    program = f"import sys, jaxbert, jaxbert.cli.main; print([m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_public_names_are_there_and_others_are_not():
    program = "import jaxbert; print(sorted(jaxbert.__all__) == dir(jaxbert)); jaxbert.UserError; jaxbert.nonsense"
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "True"
    assert "has no attribute 'nonsense'" in done.stderr


@pytest.mark.parametrize(
    "arguments", [["--help"], ["train", "--help"], ["evaluate", "--help"], ["search", "--help"]], ids=" ".join
)
def test_help_answers_at_once(arguments):
    """It loads nothing that takes long."""
    slow = {
        "jax",
        "flax",
        "optax",
        "orbax",
        "transformers",
        "datasets",
        "tokenizers",
        "numpy",
        "pyarrow",
        "sklearn",
        "optuna",
    }
    program = f"""
import contextlib, sys
from jaxbert.cli.main import main
with contextlib.suppress(SystemExit):
    main({arguments!r})
print(sorted({slow!r} & set(sys.modules)), file=sys.stderr)"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert all(verb in done.stdout for verb in VERBS) or len(arguments) > 1
    assert done.stderr.strip() == "[]"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help(verb, capsys):
    with pytest.raises(SystemExit) as caught:
        main([verb, "--help"])
    assert caught.value.code == 0
    assert f"usage: jaxbert {verb}" in capsys.readouterr().out


def help_of(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as caught:
        main([*arguments])
    assert caught.value.code == 0
    return capsys.readouterr().out


def test_help_all_explains_every_key_with_its_range_and_default(capsys):
    out = help_of(capsys, "train", "--help_all")
    assert [key for key in KEYS if f"--{key} " not in out] == []
    text = " ".join(out.split())
    assert "Number of examples per optimizer step, packed or not. (type: int, at least 1, default: 32)" in text
    assert "(type: float, above 0, default: 5e-05)" in text
    assert "(type: float | null, at least 0 and below 1, default: null)" in text
    assert "(type: int, at least 1, or -1 for all that remain, default: -1)" in text
    assert help_of(capsys, "train", "--help-all") == out


MAIN_KEYS = {
    "train": ["task", "model.name_or_path", "data.train", "train.epochs", "optimizer.learning_rate"],
    "pretrain": ["model.vocab", "pretrain.vocab_size", "train.max_steps"],
    "curve": ["fractions", "data.train", "train.folds"],
    "inspect": ["data.train", "data.label", "output"],
    "evaluate": ["model", "data", "label", "output"],
    "predict": ["model", "input", "output", "keep", "top_k", "abstain_below", "coverage"],
    "calibrate": ["model", "data", "output", "threshold", "positive_label", "thresholds", "label"],
    "explain": ["model", "input", "output", "method", "label", "summary"],
    "robustness": ["model", "data", "kinds", "strengths", "seed", "output"],
    "serve": ["model", "port", "host", "engine", "workers", "max_queue"],
    "bench": ["lengths", "bench.steps", "sweep", "peak_tflops"],
    "plan": ["topology", "lengths", "mesh.fsdp", "cost_per_hour"],
}


@pytest.mark.parametrize("verb", MAIN_KEYS)
def test_help_opens_with_the_use_and_ten_keys(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    out = help_of(capsys, verb, "--help")
    assert max(map(len, out.splitlines())) <= 105
    head, rest = out.split("\nThe keys that matter most:\n")
    keys, others = rest.split(f"\nAll other keys with their defaults (jaxbert {verb} --help_all explains them):\n")
    assert f"Example:  jaxbert {verb} --" in head
    assert "Results:  " in head
    explained = [line.strip(" -") for line in keys.splitlines() if line.startswith("  --")]
    assert len(explained) == 10
    assert {*MAIN_KEYS[verb]} <= {*explained}
    listed = [word.removeprefix("--") for word in others.split() if word.startswith("--")]
    everything = help_of(capsys, verb, "--help_all")
    assert {*explained, *listed} == {key for key in {*explained, *listed} if f"--{key} " in everything}
    if "train.seed" in listed:
        assert {*KEYS} <= {*explained, *listed}
        assert "--train.seed 0" in others


def test_flags_with_hyphens_are_those_with_underscores(capsys):
    flags = ["--data.max-length", "64", "--data.text-pair=a-b", "--optimizer.weight-decay=0.5", "--print-config"]
    content = yaml.safe_load(help_of(capsys, "train", *flags))
    assert (content["data"]["max_length"], content["data"]["text_pair"]) == (64, "a-b")
    assert content["optimizer"]["weight_decay"] == 0.5
    assert main(["predict", "--text-piar=x"]) == 2
    assert capsys.readouterr().err == "error: unknown option --text-piar; did you mean --text_pair?\n"
    for verb in ("train", "predict", "bench", "plan"):
        words = help_of(capsys, verb, "--help_all").split()
        assert [word for word in words if word.startswith("--") and "-" in word[2:]] == []


def test_no_arguments_print_the_usage(capsys):
    assert main([]) == 2
    assert "usage: jaxbert VERB" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.strip()[0].isdigit()


def test_an_unknown_verb(capsys):
    assert main(["trian"]) == 2
    assert capsys.readouterr().err == f"error: unknown verb 'trian': use one of {', '.join(VERBS)}\n"


def test_print_config_resolves_file_and_flags(tmp_path, capsys):
    path = tmp_path / "run.yaml"
    path.write_text("train:\n  epochs: 7\n  seed: 3\noptimizer:\n  schedule: cosine\n")
    with pytest.raises(SystemExit) as caught:
        main(["train", "--config", str(path), "--train.seed", "5", "--data.columns", "[a, b]", "--print_config"])
    assert caught.value.code == 0
    content = yaml.safe_load(capsys.readouterr().out)
    assert (content["train"]["epochs"], content["train"]["seed"]) == (7, 5)
    assert content["optimizer"]["schedule"] == "cosine"
    assert content["data"]["columns"] == ["a", "b"]
    assert content.pop("task") == "classification"
    assert {f"{section}.{key}" for section, keys in content.items() for key in keys} == set(KEYS)
    path.write_text(yaml.safe_dump(content))
    with pytest.raises(SystemExit):
        main(["train", "--config", str(path), "--print_config"])
    assert yaml.safe_load(capsys.readouterr().out) == content | {"task": "classification"}


def test_a_column_may_begin_as_a_comment_does(capsys):
    """As those of MRPC do: taken for a comment, the second text would be left out without a word."""
    with pytest.raises(SystemExit):
        main(["train", "--data.text", "#1 String", "--data.text_pair=#2 String", "--print_config"])
    content = yaml.safe_load(capsys.readouterr().out)
    assert (content["data"]["text"], content["data"]["text_pair"]) == ("#1 String", "#2 String")


@pytest.mark.parametrize("line", ["text_pair: #2 String", "text_pair:   #2 String", "text_pair: ~\n  text: #2 String"])
def test_a_value_that_is_a_comment_is_refused(line, tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text(f"data:\n  {line}\n")
    assert main(["train", "--config", str(path)]) == 2
    number = 2 + line.count("\n")
    assert (
        f"line {number}: '#2 String' is a comment, so the key has no value: put it in quotes" in capsys.readouterr().err
    )


@pytest.mark.parametrize(
    "line", ["text_pair:  # none", "text_pair:\n  #none", "columns: #two\n    - a", 'text: "#1 String"']
)
def test_other_comments_are_comments(line, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"data:\n  {line}\n")
    with pytest.raises(SystemExit):
        main(["train", "--config", str(path), "--print_config"])


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/**/*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_configuration_parses(path, capsys):
    with pytest.raises(SystemExit) as caught:
        main(["train", "--config", str(path), "--print_config"])
    assert caught.value.code == 0
    assert path.read_text().startswith("#")


def test_every_column_may_be_renamed_and_named_anew():
    """What names a column is compared by its content when a run goes on, and is a flag of `evaluate` and `predict`."""
    naming = {name for name, text in help_texts(DataConfig).items() if "olumn of" in text}
    assert {"text", "label", "choices", "answers"} <= naming <= set(COLUMN_KEYS)
