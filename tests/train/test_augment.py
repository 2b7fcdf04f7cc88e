"""Runs on changed texts: packed, padded, on devices, in slices and gone on with, they learn the same; words from a model."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest
from runs import (
    VOCAB,
    CrashError,
    Problem,
    assert_close_params,
    crash_before,
    make_config,
    make_program,
    read_metrics,
    small_config,
    weights,
    whole_losses,
)
from tiny import random_params, unpacked_batch, write_word_model
from transformers import BertTokenizer

import jaxbert
from jaxbert.cli.main import main
from jaxbert.config import Augmenting
from jaxbert.data.augment import Augmenter
from jaxbert.data.examples import Examples
from jaxbert.data.tokens import Tokens, encode_texts, joined
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model
from jaxbert.models.heads import MaskedLM, PreTraining, SequenceClassificationHead
from jaxbert.train.augment import planned_lengths, token_kinds
from jaxbert.train.programs import training_layout
from jaxbert.train.refill import fill_words
from jaxbert.train.run import Run

pytestmark = pytest.mark.usefixtures("shared_programs")
WORDS = (*VOCAB, ",", ".", "##x")
CHANGES = {"word_dropout": 0.2, "swap": 0.3, "punctuation": 0.3}
STEPS = 20


def tokenizer_of(folder: Path) -> Any:
    return load_tokenizer(folder, read_config(folder))


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """The usual problem, whose vocabulary has marks, and a model of masked words with that vocabulary."""
    folder = tmp_path_factory.mktemp("augment")
    found = Problem.write(folder)
    (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
    model = make_model(SequenceClassificationHead, small_config(vocab_size=len(WORDS)))
    save_folder(folder / "model", random_params(model), model.config, BertTokenizer(vocab=str(folder / "vocab.txt")))
    write_word_model(folder / "filler", WORDS)
    return found


def encoded(folder: Path, count: int = 100) -> Tokens:
    """Return single texts and then pairs of texts."""
    rng, tokenizer = np.random.default_rng(0), tokenizer_of(folder)
    texts, seconds = ([" ".join(rng.choice(VOCAB[5:], rng.integers(1, 13))) for _ in range(count)] for _ in range(2))
    parts = encode_texts(tokenizer, texts, None, 30), encode_texts(tokenizer, texts, seconds, 30)
    found = joined(parts)
    return Tokens.from_lengths(found.ids, found.lengths, found.first_lengths)


def run_of(folder: Path, devices: int = 8, **changes: Any) -> SimpleNamespace:
    """Take some steps of a run, by its own batches."""
    config = make_config(train__batch_size=16, optimizer__learning_rate=1e-3, train__augment=CHANGES, **changes)
    examples = Examples(encoded(folder, 50))
    examples = Examples(examples.tokens, (examples.tokens.ids[examples.tokens.begins + 1] % 2).astype(np.int32))
    augmenter = Augmenter(Augmenting.of(CHANGES), token_kinds(tokenizer_of(folder)), 30)
    lengths, longest = planned_lengths(augmenter, examples)
    program = make_program(
        config, small_config(vocab_size=len(WORDS), num_attention_heads=4, num_hidden_layers=1), STEPS, devices
    )
    layout = training_layout(config, lengths, program.mesh, longest=longest)
    inputs: Any = SimpleNamespace(train=examples, collate=None)
    nothing: Any = None
    run = Run(config, nothing, nothing, inputs, program, layout, augmenter=augmenter)
    state, step = program.first_state(random_params(program.model)), program.train_step()
    found = SimpleNamespace(losses=[], ids=[], tokens=[], rows=set())
    for batch in itertools.islice(run.batches_from(0), STEPS):
        state, sums = step(state, program.put(batch), program.arguments)
        found.losses.append(float(sums["loss"] / sums["examples"]))
        found.ids.append(sorted(batch["example_ids"][batch["example_mask"]].tolist()))
        found.tokens.append(int((batch["segment_ids"] > 0).sum()))
        found.rows.add(batch["input_ids"].shape)
    found.params = jax.device_get(state["params"])
    return found


@pytest.fixture(scope="module")
def packed(problem):
    return run_of(problem.folder / "model")


def assert_same_steps(found: SimpleNamespace, expected: SimpleNamespace) -> None:
    assert found.ids == expected.ids
    np.testing.assert_allclose(found.losses, expected.losses, rtol=1e-5)
    assert_close_params(found.params, expected.params, 1e-4)


def test_twenty_steps_packed_on_eight_devices_and_padded_on_one(problem, packed):
    """Over three epochs, each with other texts."""
    other = run_of(problem.folder / "model", devices=1, data__packing=False)
    assert_same_steps(other, packed)
    assert packed.rows.isdisjoint(other.rows)
    assert packed.tokens == other.tokens
    assert sum(packed.tokens[:7]) != sum(packed.tokens[7:14]), "another epoch has other texts"


@pytest.mark.long
@pytest.mark.parametrize(
    "changes", [{"train__accumulation_steps": 2}, {"mesh__fsdp": 2, "mesh__tensor": 2}, {"devices": 1}]
)
def test_twenty_steps_in_slices_and_on_other_meshes(problem, packed, changes):
    assert_same_steps(run_of(problem.folder / "model", **changes), packed)


def test_a_crash_in_an_epoch_changes_no_bit(problem, monkeypatch, capsys, tmp_path):
    """With dropout on; evaluations are those of the texts as they are, and a few changed texts are shown."""
    keys = {
        "train__augment": json.dumps(CHANGES),
        "data__validation": problem.folder / "dev.csv",
        "train__checkpoint_every": 3,
        "train__keep_best": False,
        "train__output_dir": tmp_path / "whole",
    }
    assert problem.train(**keys) == 0
    said = capsys.readouterr().err
    assert said.count("  ->  ") == 3
    keys["train__output_dir"] = tmp_path / "crashed"
    with monkeypatch.context() as patch:
        crash_before(patch, 11)
        with pytest.raises(CrashError):
            problem.train(**keys)
    assert problem.train(**keys) == 0
    assert whole_losses(tmp_path / "whole") == whole_losses(tmp_path / "crashed")
    assert weights(tmp_path / "whole") == weights(tmp_path / "crashed")
    plain = keys | {"train__augment": None, "train__output_dir": tmp_path / "plain", "train__max_steps": 1}
    assert problem.train(**plain) == 0
    assert whole_losses(tmp_path / "plain")[1] != whole_losses(tmp_path / "whole")[1]
    (found,) = (line for line in read_metrics(tmp_path / "whole") if line.get("step") == 14 and "eval_loss" in line)
    again = jaxbert.load(tmp_path / "whole").evaluate(problem.folder / "dev.csv")
    assert again["loss"] == pytest.approx(found["eval_loss"], rel=1e-6)
    assert problem.train(**keys | {"train__augment": '{"swap": 0.3}'}) == 2
    assert "train.augment" in capsys.readouterr().err


def test_words_from_a_model(problem, capsys, monkeypatch, tmp_path):
    """The likeliest words where every seventh is masked, without the word itself, packed as alone; then from the cache."""
    folder, tokens = problem.folder / "filler", encoded(problem.folder / "model", 20)
    tokenizer = tokenizer_of(folder)
    kinds = token_kinds(tokenizer)
    fills, identity = fill_words(str(folder), tokens, kinds, tokenizer, str(tmp_path))
    model = make_model(MaskedLM, read_config(folder))
    params, _ = load_params(folder, model)
    allowed = np.array([index for token, index in tokenizer.get_vocab().items() if token[0].isalpha()])
    for begin, length, first in zip(tokens.begins[:2], tokens.lengths[:2], tokens.first_lengths[:2], strict=True):
        ids = tokens.ids[begin : begin + length].astype(np.int32)
        words = [i for i in range(length) if not kinds.special[ids[i]]]
        masked = np.tile(ids, (7, 1))
        for number, place in enumerate(words):
            masked[number % 7, place] = tokenizer.mask_token_id
        types = np.tile((np.arange(length) >= first).astype(np.int32), (7, 1))
        rows = {"input_ids": masked, "attention_mask": np.ones_like(masked), "token_type_ids": types}
        logits_7TV = np.asarray(model.apply(params, unpacked_batch(rows), None)["logits"])
        for number, place in enumerate(words):
            scores, others = logits_7TV[number % 7, place], allowed[allowed != ids[place]]
            best = others[np.argsort(-scores[others])][:5]
            assert fills.ids[begin + place].tolist() == best.tolist()
            odds = np.exp(scores[best] - scores[best].max())
            np.testing.assert_allclose(fills.probabilities[begin + place], odds / odds.sum(), atol=1e-5)
        assert fills.ids[begin, 0] == fills.ids[begin + length - 1, 0] == -1
    monkeypatch.setattr("jaxbert.train.refill._write", lambda *arguments: pytest.fail("not from the cache"))
    again, same = fill_words(str(folder), tokens, kinds, tokenizer, str(tmp_path))
    np.testing.assert_array_equal(again.ids, fills.ids)
    assert same == identity


def test_words_from_a_pretrained_model(problem, tmp_path):
    """A run of `jaxbert pretrain` has a head for next sentences too, which is not asked."""
    model, found = make_model(PreTraining, small_config(vocab_size=len(WORDS))), []
    both = random_params(model)
    encoder = {name: part for name, part in both["bert"].items() if name != "pooler"}
    words = {"bert": encoder, "cls": {"predictions": both["cls"]["predictions"]}}
    for folder, params in (("both", both), ("words", words)):
        save_folder(tmp_path / folder, params, model.config, tokenizer_of(problem.folder / "model"))
        tokenizer = tokenizer_of(tmp_path / folder)
        tokens = encoded(tmp_path / folder, 4)
        found.append(fill_words(str(tmp_path / folder), tokens, token_kinds(tokenizer), tokenizer, None)[0].ids)
    np.testing.assert_array_equal(*found)
    assert found[0].max() > 0


def test_a_run_with_words_from_a_model(problem, capsys, tmp_path):
    """From Python; `inspect` shows what is trained on; another model of words is another run."""
    folder = problem.folder
    augment = {"refill": 0.3, "refill_model": str(folder / "filler"), "share": 0.9}
    settings: dict[str, Any] = {"max_steps": 2, "batch_size": 16, "model__scan_layers": True, "augment": augment}
    run = {"train": folder / "train.csv", "model": folder / "model", "output_dir": tmp_path / "run", **settings}
    assert np.isfinite(jaxbert.finetune(**run).summary["train_loss"])
    shown = capsys.readouterr().err
    keys = problem.options(train__augment=json.dumps(augment), train__output_dir=None)
    flags = [
        f"--{key}={value}" for key, value in keys.items() if key.startswith(("data", "model.name", "train.augment"))
    ]
    assert main(["inspect", *flags, "--output", str(tmp_path / "seen.json")]) == 0
    found = json.loads((tmp_path / "seen.json").read_text())["augmented"]
    assert len(found) == 3
    for entry in found:
        assert f"row {entry['row']}: {entry['text']}  ->  {entry['augmented']}" in shown
        assert len(entry["text"].split()) == len(entry["augmented"].split())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__augment": '{"swap": 2}'}, "train.augment: swap is 2, but it must be at least 0 and at most 1"),
        ({"train__augment": '{"swop": 0.1}'}, "train.augment has 'swop', but its settings are word_dropout, swap,"),
        ({"train__augment": '{"refill": 0.1}'}, "refill is set, but refill_model is not"),
        (
            {"train__augment": '{"swap": 0.1}', "task": "token_classification"},
            "does not work with task token_classification",
        ),
        ({"train__augment": '{"swap": 0.1}', "train__teacher": "MODEL"}, "does not work with train.teacher"),
        ({"train__augment": '{"refill": 0.1, "refill_model": "MODEL"}'}, "refill_model predicts no masked words: "),
        ({"train__augment": '{"refill": 0.1, "refill_model": "OTHER"}'}, "has another vocabulary"),
    ],
)
def test_mistakes_are_one_line(problem, capsys, tmp_path, changes, said):
    write_word_model(tmp_path / "other", (*WORDS, "more"))
    places = {"MODEL": str(problem.folder / "model"), "OTHER": str(tmp_path / "other")}
    for name, place in places.items():
        changes = {key: value.replace(name, place) for key, value in changes.items()}
    assert problem.train(train__output_dir=tmp_path / "run", **changes) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ")
    assert said in err
