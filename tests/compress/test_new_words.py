"""A model with new words: which become tokens, what their rows start as, and that nothing else changes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from runs import VOCAB, write_csv
from runs import write_model as write_classifier
from safetensors.numpy import load_file
from tiny import write_word_model
from transformers import AutoTokenizer, BertTokenizer

import jaxbert
from jaxbert.cli.main import main
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.load import load_params
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.models.functional import make_model
from jaxbert.models.heads import MaskedLM, PreTraining

WORDS = (
    *("[PAD]", "[unused1]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused2]"),
    *("good", "film", "micro", "##sc", "##ope", "##d", "a", "##b", "##c", "x", "##s", "中", "##国", "b"),
)
"""The model has two rows more."""
LINES = (
    *("microscope a good film", "microscope", "microscoped", "abc 中国 圀", "圀 国 abc", "microsc 😀", "x😀 x😀"),
    *("micro micro good", "xs xs xs", "国"),
)


def options(model: Path, folder: Path, *more: str) -> list[str]:
    corpus = folder.parent / "corpus.txt"
    corpus.write_text("\n".join(LINES) + "\n")
    words = ["--model", str(model), "--corpus", str(corpus), "--output", str(folder), "--min_count", "2"]
    return ["vocabulary", "extend", *words, *more]


def new_words(folder: Path) -> list[dict[str, Any]]:
    return json.loads((folder / "new_words.json").read_text())


def tokens_of(folder: Path) -> dict[str, int]:
    return load_tokenizer(folder, read_config(folder)).get_vocab()


@pytest.fixture(scope="module")
def extended(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    write_word_model(folder / "model", WORDS)
    assert main(options(folder / "model", folder / "larger")) == 0
    return folder


def test_which_become_tokens(extended):
    """Characters by the words that they make unknown, words by the tokens that they save; unused rows come first.

    `国` stands at the start of a word, for which there is only `##国`; `😀` does once, inside two words. `microscoped`
    is there once, and begins with the new word.
    """
    added = new_words(extended / "larger")
    assert [(new["token"], new["id"], new["count"], new["pieces"]) for new in added] == [
        ("国", 1, 3, ["##国"]),
        ("##😀", 6, 2, ["[UNK]"]),
        ("圀", len(WORDS), 2, ["[UNK]"]),
        ("abc", len(WORDS) + 1, 2, ["a", "##b", "##c"]),
        ("microscope", len(WORDS) + 2, 2, ["micro", "##sc", "##ope"]),
    ]
    tokenizer = load_tokenizer(extended / "larger", read_config(extended / "larger"))
    assert tokenizer.tokenize("microscoped microsc 中国 x😀 😀") == (
        ["microscope", "##d", "micro", "##sc", "中", "国", "x", "##😀", "[UNK]"]
    )
    assert read_config(extended / "larger").vocab_size == len(WORDS) + 3
    assert not {"[unused1]", "[unused2]"} & tokens_of(extended / "larger").keys()


def test_what_rows_start_as(extended):
    """The mean of the pieces; in the bias also how much rarer a word is than these; all other rows stay.

    Of 41 tokens 31 are left. `abc` is there twice, `a` 3 times, `##b` and `##c` twice. `圀` is two of 8 unknown words, and
    `##国` is not in the corpus.
    """
    rarer = {entry["token"]: entry["rarer"] for entry in new_words(extended / "larger")}
    less = np.log(41 / 31)
    assert rarer["abc"] == pytest.approx(np.log(2) - np.log(3 * 2 * 2) / 3 + less, abs=1e-5)
    assert rarer["圀"] == pytest.approx(np.log(2 / 8) + less, abs=1e-5)
    assert rarer["国"] == pytest.approx(less, abs=1e-5)
    before, after = (load_file(extended / name / "model.safetensors") for name in ("model", "larger"))
    ids, added = tokens_of(extended / "model"), new_words(extended / "larger")
    new = [entry["id"] for entry in added]
    for name, tensor in before.items():
        if name not in ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"):
            np.testing.assert_array_equal(after[name], tensor, err_msg=name)
            continue
        same = np.setdiff1d(np.arange(len(tensor)), new)
        np.testing.assert_array_equal(after[name][same], tensor[same])
        for entry in added:
            expected = np.mean([tensor[ids[piece]] for piece in entry["pieces"]], axis=0)
            expected = expected + (entry["rarer"] if name.endswith("bias") else 0)
            np.testing.assert_allclose(after[name][entry["id"]], expected, rtol=1e-6, err_msg=entry["token"])


def test_texts_without_new_tokens_have_the_same_logits(extended):
    """For all old tokens, bit by bit, in PyTorch; with a character that was unknown, the vectors stay."""
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    texts, logits, states = ["good microsc a film", "xs [MASK] b 中", "micro"], [], []
    for name in ("model", "larger"):
        tokenizer = AutoTokenizer.from_pretrained(extended / name)
        model = transformers.AutoModelForMaskedLM.from_pretrained(extended / name).eval()
        with torch.no_grad():
            logits.append(model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy())
            states.append(model.bert(**tokenizer("good 圀 film", return_tensors="pt")).last_hidden_state.numpy())
    old = np.setdiff1d(np.arange(len(WORDS)), [1, 6])
    np.testing.assert_array_equal(logits[0][..., old], logits[1][..., old])
    np.testing.assert_array_equal(*states)
    new = tokens_of(extended / "larger")["microscope"]
    pieces = [WORDS.index(piece) for piece in ("micro", "##sc", "##ope")]
    (rarer,) = (entry["rarer"] for entry in new_words(extended / "larger") if entry["id"] == new)
    np.testing.assert_allclose(logits[1][..., new], logits[0][..., pieces].mean(-1) + rarer, atol=1e-5)


def test_counts_by_script(extended, tmp_path):
    """From Python, from rows in memory: pieces a word, and the share of tokens that are unknown."""
    rows = [{"sentence": line} for line in LINES]
    found = jaxbert.extend_vocabulary(extended / "model", rows, tmp_path / "out", min_count=2, text="sentence")
    assert (found.tokens_before, found.tokens) == (len(WORDS) + 2, len(WORDS) + 3)
    assert found.parameters - found.parameters_before == 16 + 1
    counts = {name: counts.to_dict() for name, counts in found.scripts.items()}
    chinese, latin = counts["chinese"], counts["latin"]
    assert (chinese["words"], chinese["tokens_before"], chinese["tokens"]) == (6, 6, 6)
    assert (chinese["unknown_before"], chinese["unknown"]) == (5, 0)
    # microscope x2, microscoped, microsc, abc x2, a, good x2, film, micro x2, xs x3; x😀 x2 was unknown
    assert (latin["words"], latin["tokens_before"], latin["tokens"]) == (17, 3 * 2 + 4 + 2 + 3 * 2 + 6 + 6 + 2, 24)
    assert latin["pieces_a_word_before"] == round(32 / 17, 6)
    assert (latin["unknown_share_before"], latin["unknown_share"]) == (round(2 / 32, 6), 0)
    assert (counts["other"]["unknown_before"], counts["other"]["unknown"]) == (1, 1)
    assert counts["all"]["words"] == 24


def test_a_token_that_makes_a_longer_word_unknown_is_left_out(tmp_path):
    """`abcs` was `abc`, `##s`... here: `mab`, `##cd`; behind the new word `mabc` there is no `##d`."""
    words = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "ma", "##b", "##c", "##bcd", "good")
    write_word_model(tmp_path / "model", words)
    rows = ["mabc mabc mabc", "mabcd", "good"]
    for texts, token in ((rows, None), (rows[:1], "mabc")):
        call = (tmp_path / "model", [{"text": text} for text in texts], tmp_path / "out")
        if token is None:
            with pytest.raises(jaxbert.UserError, match="no word of 3 pieces or more 2 times"):
                jaxbert.extend_vocabulary(*call, min_count=2)
        else:
            assert [new.token for new in jaxbert.extend_vocabulary(*call, min_count=2).added] == [token]


def test_how_many_and_which_rows(extended, tmp_path):
    """`--size` ends the list; without unused rows, the model's two rows without a token come first.

    `xs` is there three times and saves three tokens, `abc` twice and saves four.
    """
    assert (
        main(options(extended / "model", tmp_path / "a", "--size", "4", "--reuse_unused", "false", "--min_pieces", "2"))
        == 0
    )
    found = tokens_of(tmp_path / "a")
    assert sorted(found, key=found.get)[len(WORDS) :] == ["国", "##😀", "圀", "abc"]
    more = ("--min_pieces", "2", "--min_count", "3", "--bias", "mean")
    assert main(options(extended / "model", tmp_path / "b", *more)) == 0
    assert {entry["rarer"] for entry in new_words(tmp_path / "b")} == {0}
    assert {*tokens_of(tmp_path / "b")} - {*WORDS} == {"国", "xs"}


def test_an_unused_token_that_somebody_uses_is_kept(tmp_path):
    """The tokenizer lists it among its own tokens."""
    folder = write_word_model(tmp_path / "model", WORDS)
    state = json.loads((folder / "tokenizer.json").read_text())
    state["added_tokens"].append(state["added_tokens"][0] | {"id": 1, "content": "[unused1]"})
    (folder / "tokenizer.json").write_text(json.dumps(state))
    assert main(options(folder, tmp_path / "larger")) == 0
    assert tokens_of(tmp_path / "larger")["[unused1]"] == 1
    assert new_words(tmp_path / "larger")[0]["id"] == 6


@pytest.mark.parametrize("changes", [{"tie_word_embeddings": False}, {}], ids=["untied", "with pairs"])
def test_other_heads_of_words(tmp_path, changes):
    """Untied scores have their own rows; our own models load them all."""
    head = MaskedLM if changes else PreTraining
    write_word_model(tmp_path / "model", WORDS, head, **changes)
    assert main(options(tmp_path / "model", tmp_path / "larger")) == 0
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("model", "larger"))
    name = "cls.predictions.decoder.weight" if changes else "bert.embeddings.word_embeddings.weight"
    pieces = [WORDS.index(piece) for piece in ("micro", "##sc", "##ope")]
    new = tokens_of(tmp_path / "larger")["microscope"]
    np.testing.assert_allclose(after[name][new], before[name][pieces].mean(0), rtol=1e-6)
    params, report = load_params(tmp_path / "larger", make_model(head, read_config(tmp_path / "larger")))
    assert not report.fresh
    assert params["bert"]["embeddings"]["word_embeddings"]["embedding"].shape == (len(WORDS) + 3, 16)


@pytest.mark.parametrize("lower", [True, False], ids=["lower-cased", "with capitals"])
def test_an_old_folder_with_a_vocabulary_alone(tmp_path, lower):
    """`vocab.txt` and no `tokenizer.json`, as of TensorFlow's time: both are written, and agree."""
    words = (*WORDS, *(("Good", "M", "##icro", "##S", "##A", "##B") if not lower else ("m", "##icro")))
    folder = write_word_model(tmp_path / "model", words)
    for path in (folder / "tokenizer.json", folder / "tokenizer_config.json"):
        path.unlink()
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    arguments = options(folder, tmp_path / "larger", "--lower_case", str(lower).lower())
    (tmp_path / "corpus.txt").write_text(
        "Microscope MICROSCOPE microscope\n" * 2 if lower else "Microscope\nMicroscope\n"
    )
    assert main(arguments) == 0
    listed = (tmp_path / "larger" / "vocab.txt").read_text().splitlines()
    assert {token: i for i, token in enumerate(listed)} == tokens_of(tmp_path / "larger")
    word = "microscope" if lower else "Microscope"
    assert listed[1] == word
    for tokenizer in (
        AutoTokenizer.from_pretrained(tmp_path / "larger"),
        BertTokenizer.from_pretrained(tmp_path / "larger"),
    ):
        assert tokenizer.tokenize("Microscope good") == [word, "good"]


def test_a_trained_classifier_keeps_its_head_and_has_a_graph(tmp_path):
    """Its answers stay, for texts without a new token; ONNX and PyTorch read the new word."""
    words = [*VOCAB, "##x", "##y"]
    model = write_classifier(tmp_path / "model", vocab_size=len(words))
    state = json.loads((model / "tokenizer.json").read_text())
    state["model"]["vocab"] = {word: i for i, word in enumerate(words)}
    (model / "tokenizer.json").write_text(json.dumps(state))
    corpus = write_csv(tmp_path / "texts.csv", [("w1xy w1xy good", "x"), ("bad", "x")])
    found = jaxbert.extend_vocabulary(model, corpus, tmp_path / "larger", min_count=2)
    assert [new.token for new in found.added] == ["w1xy"]
    texts = ["w1 w2 good", "awful w1x", "w1xy bad"]
    before, after = (jaxbert.load(folder).predict(texts) for folder in (model, tmp_path / "larger"))
    assert before[:2] == after[:2]
    assert before[2] != after[2]
    torch, transformers = pytest.importorskip("torch"), pytest.importorskip("transformers")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "larger")
    classifier = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "larger").eval()
    with torch.no_grad():
        scores = classifier(**tokenizer(texts, padding=True, return_tensors="pt")).logits.softmax(-1).numpy()
    jaxbert.load(tmp_path / "larger").export(tmp_path / "graph", format="onnx", packed=False)
    graph = jaxbert.load(tmp_path / "graph", engine="onnx").predict(texts)
    for answers in (after, graph):
        np.testing.assert_allclose([[*answer["probabilities"].values()] for answer in answers], scores, atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--size", "0"], "size is 0, but it must be at least 1"),
        (["--min_count", "1000"], "no unknown character and no word of 3 pieces or more 1000 times"),
        (["--min_pieces", "1"], "min_pieces is 1, but it must be at least 2"),
    ],
)
def test_mistakes_are_one_line(extended, tmp_path, capsys, arguments, said):
    assert main(options(extended / "model", tmp_path / "out", *arguments)) == 2
    err = capsys.readouterr().err.splitlines()[-1]
    assert err.startswith("error: ")
    assert said in err
    assert not (tmp_path / "out").exists()


@pytest.mark.long
def test_pretraining_and_training_go_on(tmp_path):
    """The embeddings of the new words learn, masked or not."""
    write_word_model(tmp_path / "model", WORDS)
    assert main(options(tmp_path / "model", tmp_path / "larger")) == 0
    (tmp_path / "texts.txt").write_text("\n\n".join(LINES * 4) + "\n")
    settings: dict[str, Any] = {"epochs": 1, "batch_size": 8, "learning_rate": 1e-2, "max_length": 32}
    done = jaxbert.pretrain(
        tmp_path / "texts.txt", tmp_path / "larger", output_dir=tmp_path / "run", next_sentence=False, **settings
    )
    new = tokens_of(tmp_path / "larger")["microscope"]
    name = "bert.embeddings.word_embeddings.weight"
    before, after = (load_file(f / "model.safetensors") for f in (tmp_path / "larger", Path(done.folder) / "export"))
    assert np.abs(after[name][new] - before[name][new]).max() > 1e-3
    rows = [{"text": line, "label": str(i % 2)} for i, line in enumerate(LINES * 4)]
    result = jaxbert.finetune(rows, Path(done.folder) / "export", output_dir=tmp_path / "tuned", **settings)
    assert np.isfinite(result.summary["train_loss"])
    shutil.rmtree(tmp_path / "run")
