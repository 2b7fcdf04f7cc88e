"""A smaller vocabulary reads its corpus as before, and the model gives the same logits for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file
from tiny import write_word_model
from transformers import AutoTokenizer

import jaxbert
from jaxbert.cli.main import main
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.models.heads import PreTraining

WORDS = (
    *(
        "[PAD]",
        "[unused1]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "[MASK]",
        "good",
        "bad",
        "film",
        "ab",
        "a",
        "##bc",
        "##b",
    ),
    *("play", "##ing", "##ed", "walk", "p", "##l", "##i", "中", "国", "人", "##s", "x"),
)
CORPUS = ("good film", "abc plays a film", "中国 playing", "walked")


def write_corpus(path: Path) -> Path:
    path.write_text("\n".join(CORPUS) + "\n")
    return path


@pytest.fixture(scope="module")
def pruned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vocabulary")
    write_word_model(folder / "model", WORDS)
    write_corpus(folder / "corpus.txt")
    arguments = [
        "--model",
        str(folder / "model"),
        "--corpus",
        str(folder / "corpus.txt"),
        "--output",
        str(folder / "small"),
    ]
    assert main(["vocabulary", "prune", *arguments]) == 0
    return folder


def test_what_is_kept(pruned):
    """What is used, special tokens, single characters of these; and what the search for an unknown word met.

    `abc` is unknown: after `ab` there is no `##c...`; without `ab` it would be `a`, `##bc`.
    """
    small = load_tokenizer(pruned / "small", read_config(pruned / "small"))
    large = load_tokenizer(pruned / "model", read_config(pruned / "model"))
    kept = sorted(small.get_vocab(), key=small.get_vocab().get)
    assert kept == [word for word in WORDS if word not in ("[unused1]", "bad", "人", "x", "##bc")]
    assert large.tokenize("abc") == ["[UNK]"]
    for text in CORPUS:
        assert small.tokenize(text) == large.tokenize(text)
    assert small("good [MASK]", "film")["input_ids"] == [
        small.get_vocab()[t] for t in ["[CLS]", "good", "[MASK]", "[SEP]", "film", "[SEP]"]
    ]
    config = json.loads((pruned / "small" / "config.json").read_text())
    assert config["vocab_size"] == len(kept)
    assert config["pad_token_id"] == kept.index("[PAD]")


def test_rows_of_all_tables(pruned):
    """Of the embeddings and of the bias of the head; all other tensors stay."""
    large, small = (load_file(pruned / name / "model.safetensors") for name in ("model", "small"))
    tokenizers = [AutoTokenizer.from_pretrained(pruned / name).get_vocab() for name in ("model", "small")]
    rows = [tokenizers[0][token] for token in sorted(tokenizers[1], key=tokenizers[1].get)]
    assert large.keys() == small.keys()
    for name, tensor in large.items():
        of_words = name in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias")
        np.testing.assert_array_equal(small[name], tensor[rows] if of_words else tensor, err_msg=name)


def test_pytorch_gives_the_same_logits(pruned):
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    logits = []
    for name in ("model", "small"):
        tokenizer = AutoTokenizer.from_pretrained(pruned / name)
        model = transformers.AutoModelForMaskedLM.from_pretrained(pruned / name).eval()
        with torch.no_grad():
            logits.append(model(**tokenizer(list(CORPUS), padding=True, return_tensors="pt")).logits.numpy())
    vocabularies = [AutoTokenizer.from_pretrained(pruned / name).get_vocab() for name in ("model", "small")]
    common = sorted(vocabularies[1], key=vocabularies[1].get)
    np.testing.assert_array_equal(logits[0][..., [vocabularies[0][token] for token in common]], logits[1])


@pytest.mark.parametrize("changes", [{"tie_word_embeddings": False}, {}], ids=["untied", "with pairs"])
def test_other_heads(tmp_path, changes):
    """In Python, from rows in memory."""
    write_word_model(tmp_path / "model", WORDS, **({} if changes else {"head": PreTraining}), **changes)
    rows = [{"sentence": text} for text in CORPUS]
    found = jaxbert.prune_vocabulary(tmp_path / "model", rows, tmp_path / "small", text="sentence")
    small = load_file(tmp_path / "small" / "model.safetensors")
    assert found.tokens < found.tokens_before == len(WORDS) + 2
    assert found.parameters == sum(t.size for n, t in small.items() if n != "cls.predictions.decoder.bias")
    assert found.parameters_before - found.parameters == (found.tokens_before - found.tokens) * (
        16 + 1 + 16 * bool(changes)
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "say what to do with the vocabulary: jaxbert vocabulary prune"),
        (["shrink"], "unknown action 'shrink': use jaxbert vocabulary prune"),
        (["prune", "--model", "MODEL", "--corpus", "nothing.csv", "--output", "out"], "nothing.csv"),
        (
            ["prune", "--model", "MODEL", "--corpus", "-", "--output", "out"],
            "vocabulary prune reads twice: write it to a",
        ),
        (
            ["prune", "--model", "MODEL", "--corpus", "CORPUS", "--output", "CORPUS"],
            "has other files than those of a model",
        ),
    ],
)
def test_mistakes_are_one_line(pruned, capsys, arguments, said):
    places = {"MODEL": pruned / "model", "CORPUS": pruned / "corpus.txt"}
    assert main(["vocabulary", *(str(places.get(word, word)) for word in arguments)]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.startswith("error: ")


@pytest.mark.parametrize("action", ["prune", "extend"])
@pytest.mark.parametrize("text", ["", "\n \n", "\u200b\n"], ids=["empty", "blank", "invisible"])
def test_a_corpus_without_words_is_refused(pruned, tmp_path, capsys, action, text):
    (tmp_path / "texts.txt").write_text(text)
    arguments = ["--model", pruned / "model", "--corpus", tmp_path / "texts.txt", "--output", tmp_path / "out"]
    assert main(["vocabulary", action, *map(str, arguments)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert "nothing is written" in err
    assert not (tmp_path / "out").exists()


def test_graphs_and_predictions_of_the_older_vocabulary_go(pruned, tmp_path):
    run = tmp_path / "run"
    export = shutil.copytree(pruned / "model", run / "export")
    (export / "onnx").mkdir()
    stale = [export / "onnx" / "model_packed.onnx", run / "predictions.npz", run / "robustness.json"]
    for path in (*stale, run / "summary.json"):
        path.write_text("old")
    jaxbert.prune_vocabulary(export, [{"text": text} for text in CORPUS], export)
    assert not any(path.exists() for path in stale)


def test_a_tokenizer_of_another_kind_is_refused(pruned, tmp_path, capsys):
    folder = write_word_model(tmp_path / "model", WORDS)
    content = json.loads((folder / "tokenizer.json").read_text())
    content["model"] = {"type": "WordLevel", "vocab": content["model"]["vocab"], "unk_token": "[UNK]"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    arguments = ["--model", str(folder), "--corpus", str(pruned / "corpus.txt"), "--output", str(tmp_path / "out")]
    assert main(["vocabulary", "prune", *arguments]) == 2
    assert "not WordPiece" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_the_multilingual_vocabulary_for_english_and_chinese(shared_data, tmp_path):
    """The published vocabulary of 119,547 tokens on SST-2 and THUCNews; hidden states of real texts, bit by bit."""
    words = (shared_data / "vocab" / "bert-base-multilingual-cased-vocab.txt").read_text("utf-8").splitlines()
    write_word_model(tmp_path / "model", words)
    sources = [shared_data / "glue_SST-2" / "dev.tsv", shared_data / "thucnews" / "dev.txt"]
    found = jaxbert.prune_vocabulary(tmp_path / "model", sources, tmp_path / "small", text="sentence", quoting="none")
    assert found.tokens_before == 119_549
    assert found.tokens < 20_000
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    texts = [line.split("\t")[0] for source in sources for line in source.read_text("utf-8").splitlines()[1:40]]
    states = []
    for name in ("model", "small"):
        tokenizer = AutoTokenizer.from_pretrained(tmp_path / name)
        model = transformers.AutoModel.from_pretrained(tmp_path / name).eval()
        with torch.no_grad():
            encoded = tokenizer(texts, padding=True, truncation=True, max_length=40, return_tensors="pt")
            states.append(model(**encoded).last_hidden_state.numpy())
    np.testing.assert_array_equal(*states)
