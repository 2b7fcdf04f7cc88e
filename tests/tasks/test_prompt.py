"""A prompt: the template around each text, the scores of its words by their definition, and the usual promises."""

from __future__ import annotations

import json
import re

import jax.numpy as jnp
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
    random_rows,
    run_steps,
    small_config,
    weights,
)
from scipy.special import log_softmax, softmax
from tiny import random_params
from transformers import BertTokenizer

import jaxbert
from jaxbert.cli.main import main
from jaxbert.config import Config, DataConfig, ModelConfig, TrainConfig
from jaxbert.config.few_labels import Prompt
from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import make_model
from jaxbert.models.heads import MaskedLM, PromptHead
from jaxbert.tasks.classification.prompt import Prompted, TokenPrompt
from jaxbert.train.inference import open_trained

pytestmark = pytest.mark.usefixtures("shared_programs")
NAMES = ("bad", "good")
PROMPT = {
    "template": "w1 [MASK] w2: {text} w3 [MASK] w4",
    "verbalizers": {"bad": ["bad w5", "poor w6"], "good": ["good w5"]},
}
SIMPLE = {"template": "{text} w1 [MASK].", "verbalizers": {"bad": ["bad", "poor"], "good": ["good"]}}
WORDS = (*VOCAB, ":", ".")


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A model of masked words, and rows with labels."""
    problem = Problem.write(tmp_path_factory.mktemp("prompt"))
    vocab = problem.folder / "words.txt"
    vocab.write_text("\n".join(WORDS) + "\n")
    model = make_model(MaskedLM, small_config(vocab_size=len(WORDS)))
    tokenizer = BertTokenizer(vocab=str(vocab))
    save_folder(problem.folder / "words", random_params(model), model.config, tokenizer, architecture="ForMaskedLM")
    return problem


@pytest.fixture(scope="module")
def tokenizer(problem):
    return BertTokenizer.from_pretrained(problem.folder / "words")


def keys(problem, **changes):
    return {
        "model__name_or_path": problem.folder / "words",
        "data__validation": problem.folder / "dev.csv",
        "train__method": "prompt",
        "train__prompt": json.dumps(SIMPLE),
        **changes,
    }


def test_the_template_stands_around_each_text(tokenizer):
    """As the tokenizer reads the whole text; a long text is cut, and the template is not."""
    texts = [text for text, _ in random_rows(6)] + ["w7"]
    parts = [tokenizer(text)["input_ids"] for text in texts]
    lengths = np.array([len(part) for part in parts], np.int32)
    given = TokenPrompt.of(Prompt.of(PROMPT), tokenizer)
    found = given.around(Tokens.from_lengths(np.concatenate(parts).astype(np.int32), lengths, lengths))
    for place, text in enumerate(texts):
        whole = tokenizer(PROMPT["template"].replace("{text}", text))["input_ids"]
        begin = found.begins[place]
        own = found.ids[begin : begin + found.lengths[place]].tolist()
        assert own == whole
        assert [own[p] for p in given.places] == [tokenizer.mask_token_id] * 2
    assert (given.length, given.room(20)) == (7, 13)
    with pytest.raises(UserError, match="the template has 7 tokens, which leave no room for a text in 9"):
        given.room(9)


def prompted(tokenizer):
    given = TokenPrompt.of(Prompt.of(PROMPT), tokenizer)
    task = Prompted(NAMES, prompt=given)
    texts = list(random_rows(24))
    parts = [tokenizer(text)["input_ids"] for text, _ in texts]
    lengths = np.array([len(part) for part in parts], np.int32)
    tokens = given.around(Tokens.from_lengths(np.concatenate(parts).astype(np.int32), lengths, lengths))
    return task, Examples(tokens, np.array([NAMES.index(label) for _, label in texts], np.int32))


def test_the_scores_are_mean_log_probabilities(tokenizer):
    """In packed rows those of each text alone: nothing comes from its neighbours."""
    task, examples = prompted(tokenizer)
    config = task.configure(small_config(vocab_size=len(WORDS)))
    model, words = make_model(PromptHead, config), make_model(MaskedLM, config)
    params = random_params(words)
    layout = choose_layout(examples.tokens.lengths, len(examples), row_length=48, seed=None)
    (batch,) = batches(examples, layout, len(examples), seed=None)
    arrays = {name: jnp.asarray(values) for name, values in batch.items() if name != "example_ids"}
    found = np.asarray(model.apply(params, arrays)["logits"])
    assert batch["segment_ids"].max() > 1
    for row, slot in np.argwhere(batch["example_mask"])[:4]:
        own = batch["input_ids"][row][batch["segment_ids"][row] == slot + 1][None]
        alone = {"input_ids": own, "token_type_ids": own * 0, "segment_ids": own * 0 + 1}
        alone["position_ids"] = np.arange(own.shape[1])[None]
        logits = np.asarray(words.apply(params, {name: jnp.asarray(value) for name, value in alone.items()})["logits"])
        at = np.flatnonzero(own[0] == tokenizer.mask_token_id)
        logs = log_softmax(logits[0].astype(np.float64), axis=-1)[at]
        scores = [
            np.mean([sum(logs[m, token] for m, token in enumerate(ids)) for ids in of_label])
            for of_label in task.prompt.words
        ]
        np.testing.assert_allclose(softmax(found[row, slot]), softmax(scores), atol=1e-5)


def small_run(tokenizer, devices=1, **changes):
    task, examples = prompted(tokenizer)
    config = make_config(train__batch_size=8, optimizer__learning_rate=1e-3, **changes)
    bert = task.configure(small_config(num_attention_heads=4, num_hidden_layers=1, vocab_size=len(WORDS)))
    program = make_program(config, bert, 20, devices, task)
    return run_steps(program, random_params(program.model), examples)


def test_packed_on_one_device_and_padded_on_eight(tokenizer):
    packed = small_run(tokenizer)
    padded = small_run(tokenizer, 8, data__packing=False, mesh__fsdp=2)
    assert padded.example_ids == packed.example_ids
    np.testing.assert_allclose(padded.losses, packed.losses, rtol=1e-5)
    assert_close_params(padded.params, packed.params, 1e-4)
    assert packed.losses[-1] < packed.losses[0]


@pytest.fixture(scope="module")
def trained(problem):
    assert problem.train(**keys(problem), train__checkpoint_every=3, train__output_dir=problem.folder / "whole") == 0
    return problem.folder / "whole"


@pytest.mark.long
def test_a_crash_changes_no_bit(problem, trained, monkeypatch):
    run = problem.folder / "stopped"
    with monkeypatch.context() as patch:
        crash_before(patch, 8)
        with pytest.raises(CrashError):
            problem.train(**keys(problem), train__checkpoint_every=3, train__output_dir=run)
    assert problem.train(**keys(problem), train__checkpoint_every=3, train__output_dir=run) == 0
    assert weights(run) == weights(trained)


def test_the_export_answers_with_labels(problem, trained, tokenizer, tmp_path, capsys):
    """`evaluate` and `predict` as the run, PyTorch as `predict`; a long text loses its end and not the template."""
    torch = pytest.importorskip("torch")
    from transformers import BertForMaskedLM

    summary = json.loads((trained / "summary.json").read_text())
    model = open_trained(str(trained))
    data = DataConfig(text="text", label="label")
    assert model.evaluate(str(problem.folder / "dev.csv"), data).metrics["loss"] == summary["eval"]["loss"]
    texts = [text for text, _ in random_rows(5, seed=3)] + ["w8 " * 100 + "bad"]
    answers = jaxbert.load(trained).predict(texts)
    reader = BertForMaskedLM.from_pretrained(trained / "export").eval()
    for text, answer in zip(texts, answers, strict=True):
        whole = tokenizer(SIMPLE["template"].replace("{text}", " ".join(text.split()[:43])), return_tensors="pt")
        with torch.no_grad():
            logits = reader(**whole).logits[0, -3].numpy()
        scores = [np.mean([logits[WORDS.index(word)] for word in words]) for words in SIMPLE["verbalizers"].values()]
        np.testing.assert_allclose([answer["probabilities"][name] for name in NAMES], softmax(scores), atol=1e-4)
    assert main(["export", "--run", str(trained), "--format", "onnx", "--output", str(tmp_path / "onnx")]) == 2
    assert "a model with a prompt has no ONNX graph" in capsys.readouterr().err
    assert main(["explain", "--model", str(trained), "--input", str(problem.folder / "dev.csv")]) == 2
    assert "answers by a prompt, and such answers cannot be explained" in capsys.readouterr().err


def test_zero_shot(problem, tmp_path, capsys):
    """Without a step, and without a row to learn from: the model as it is, the labels of the prompt."""
    run = tmp_path / "run"
    assert problem.train(**keys(problem, train__epochs=0, data__train=None), train__output_dir=run) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert (summary["steps"], summary["eval"]["examples"], list(summary["data"]["sources"])) == (0, 37, ["validation"])
    answers = jaxbert.load(run).predict(["w3 w4"])
    assert answers[0]["label"] in NAMES
    assert "100 " not in capsys.readouterr().err, "no rows are said to be learned from"
    assert main(["report", str(run)]) == 0
    nothing = keys(problem, train__epochs=0, data__train=None, data__validation=None)
    assert problem.train(**nothing, train__output_dir=tmp_path / "nothing") == 0
    more = json.dumps(SIMPLE | {"verbalizers": {**SIMPLE["verbalizers"], "rare": ["great"]}})
    rare = keys(problem, train__epochs=0, data__train=None, train__prompt=more)
    assert problem.train(**rare, train__output_dir=tmp_path / "rare") == 0, "a label without a row has its words"
    assert list(jaxbert.load(tmp_path / "rare").predict(["w3 w4"])[0]["probabilities"]) == [*NAMES, "rare"]
    assert problem.train(**keys(problem, train__epochs=1, data__train=None), train__output_dir=tmp_path / "other") == 2
    assert "data.train is missing" in capsys.readouterr().err


def labelled_rows(*labels):
    return [{"text": text, "label": labels[NAMES.index(label)]} for text, label in random_rows(12)]


@pytest.mark.parametrize("labels", [(0, 1), (False, True), ("0", "1")])
def test_numbers_are_not_labels_by_the_order_of_the_prompt(problem, tmp_path, labels):
    """The order of a dictionary of words is no meaning of 0 and 1: labels would be exchanged without a word."""
    run = {"model": problem.folder / "words", "method": "prompt", "epochs": 0, "at_end": False, "prompt": SIMPLE}
    with pytest.raises(
        UserError, match=r"has no words for the label '(0|false)', .* give their names in that order: data.label_n"
    ):
        jaxbert.finetune(labelled_rows(*labels), output_dir=tmp_path / "refused", **run)
    for sets in (
        {"train": labelled_rows(*NAMES), "validation": labelled_rows(*labels)},
        {"validation": labelled_rows(*labels)},
    ):
        with pytest.raises(UserError, match=r"(label ([01]|'true'|'false') is unknown|no words for the label)"):
            jaxbert.finetune(**sets, output_dir=tmp_path / "held-out", **run)
    found = [
        jaxbert.finetune(
            labelled_rows(*given), validation=labelled_rows(*given), output_dir=tmp_path / name, **more, **run
        )
        for name, given, more in (("names", NAMES, {}), ("named", labels, {"label_names": list(NAMES)}))
    ]
    assert found[0].metrics == found[1].metrics


def test_a_model_without_words_is_refused(problem, tmp_path, capsys):
    assert problem.train(**keys(problem, model__name_or_path=problem.folder / "model"), train__output_dir=tmp_path) == 2
    assert "needs a trained head for masked words, but" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"template": "no room [MASK]"}, "it must hold {text} once"),
        ({"template": "{text} no answer"}, "[MASK] for each token"),
        ({"verbalizers": {"bad": ["bad"]}}, "verbalizers must give words to each of two labels"),
        ({"verbalizers": {"bad": ["bad"], "good": []}}, "'good' has [], but it needs a word"),
        ({"verbalizers": {"bad": ["bad"], "good": ["bad"]}}, "the word 'bad' for 'bad' and for 'good': name it once"),
        (
            {"verbalizers": {"bad": ["bad"], "good": ["good w1"]}},
            "has 2 tokens (good w1), but the template has 1 [MASK]",
        ),
        ({"verbalizers": {"bad": ["bad"], "good": ["splendid"]}}, "does not know the word 'splendid' of 'good'"),
        ({"words": {}}, "train.prompt has template, verbalizers, words, but it needs template and verbalizers"),
    ],
)
def test_prompts_that_are_none(tokenizer, changes, said):
    with pytest.raises(UserError, match=re.escape(said)):
        TokenPrompt.of(Prompt.of(SIMPLE | changes), tokenizer)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"train": {"prompt": None}}, "train.method is prompt, but train.prompt is not: set both"),
        ({"train": {"method": "plain"}}, "train.prompt is set, but train.method is not prompt"),
        ({"train": {"teacher": "x"}}, "train.teacher does not work with train.method prompt"),
        ({"train": {"augment": {"swap": 0.1}}}, "train.augment does not work with train.method prompt"),
        ({"data": {"text_pair": "b"}}, "reads one text, but data.text_pair names a second one"),
        ({"model": {"head": "new"}}, "model.head is new"),
        ({"task": "regression"}, "works only with task classification"),
    ],
)
def test_what_does_not_go_together(keys, said):
    kinds = {"train": TrainConfig, "data": DataConfig, "model": ModelConfig}
    parts = keys | {"train": {"method": "prompt", "prompt": SIMPLE} | keys.get("train", {})}

    def make():
        return Config(**{name: kinds[name](**given) if name in kinds else given for name, given in parts.items()})

    with pytest.raises(UserError, match=said):
        make()
