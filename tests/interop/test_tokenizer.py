"""A tokenizer reads texts as the files beside the model mean it, says what was guessed, and is saved as it reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer, BertConfig, BertTokenizer

from jaxbert.errors import UserError
from jaxbert.interop.tokenizer import load_tokenizer, new_tokenizer
from jaxbert.models.families import DEFAULT

SPECIAL_TOKENS = tuple(DEFAULT.special_tokens.values())
CASED = (*SPECIAL_TOKENS, "The", "the", "Bar", "bar", "Café", "cafe", "café", "caf")
LOWER = (*SPECIAL_TOKENS, "the", "bar", "cafe", "caf")
ACCENTED = (*SPECIAL_TOKENS, "the", "bar", "cafe", "café")
CONFIG = BertConfig(vocab_size=100)
TEXT = "The bar Café"
KEPT, LOWERED, LOWERED_WITH_ACCENTS = ["The", "bar", "Café"], ["the", "bar", "cafe"], ["the", "bar", "café"]


class Folder:
    """A folder with any of a tokenizer's files."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def write(self, vocab: tuple = (), saved: bool | None = None, config: dict | None = None, **pipeline: Any) -> Path:
        """Write `vocab.txt`, or a `tokenizer.json` that lower-cases or not, with some of its parts replaced."""
        if saved is None and vocab:
            (self.path / "vocab.txt").write_text("\n".join(vocab))
        elif vocab:
            BertTokenizer(vocab={t: i for i, t in enumerate(vocab)}, do_lower_case=saved).save_pretrained(self.path)
            (self.path / "tokenizer_config.json").unlink()
            path = self.path / "tokenizer.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | pipeline))
        if config is not None:
            (self.path / "tokenizer_config.json").write_text(json.dumps(config))
        return self.path


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


def tokens_of(tokenizer: Any, folder: Path) -> list[str]:
    """Return the tokens of the text, after a look at what PyTorch's users get from a copy."""
    tokenizer.save_pretrained(folder / "saved")
    theirs = AutoTokenizer.from_pretrained(folder / "saved", config=BertConfig())
    for pair in ((TEXT, None), ("中文 Über", "the Café")):
        ours = tokenizer(*pair)
        assert dict(theirs(*pair)) == dict(ours)
    again = load_tokenizer(folder / "saved", CONFIG)
    assert again(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]
    return tokenizer.tokenize(TEXT)


READ = [
    ({"vocab": CASED}, None, KEPT, "3 of 8 words in it have capitals: texts keep their capitals (model.lower_case)"),
    ({"vocab": LOWER}, None, LOWERED, "no word in it has capitals: texts are lower-cased (model.lower_case)"),
    ({"vocab": ACCENTED}, None, LOWERED_WITH_ACCENTS, "texts are lower-cased and keep their accents"),
    ({"vocab": CASED}, False, KEPT, ""),
    ({"vocab": CASED}, True, LOWERED, "texts are lower-cased, but 3 of 8 words of the vocabulary have capitals"),
    ({"vocab": LOWER}, False, ["[UNK]", "bar", "[UNK]"], "words with capitals become [UNK]"),
    ({"vocab": CASED, "config": {"do_lower_case": True}}, None, LOWERED, "are never found"),
    ({"vocab": CASED, "config": {"do_lower_case": False}}, False, KEPT, ""),
    ({"vocab": CASED, "saved": False}, None, KEPT, "texts keep their capitals, as tokenizer.json says"),
    ({"vocab": CASED, "saved": False, "config": {"do_lower_case": False}}, None, KEPT, ""),
    ({"vocab": CASED, "saved": False, "config": {"do_lower_case": True}}, None, LOWERED, "they are lower-cased, as in"),
    ({"vocab": CASED, "saved": False, "config": {"do_lower_case": True}}, False, KEPT, ""),
    (
        {"vocab": ACCENTED, "saved": True, "config": {"strip_accents": False}},
        None,
        LOWERED_WITH_ACCENTS,
        "tokenizer_config.json says strip_accents false, tokenizer.json true",
    ),
    (
        {"vocab": CASED, "saved": False, "normalizer": {"type": "NFC"}},
        None,
        KEPT,
        "is not BERT's usual tokenizer",
    ),
]


@pytest.mark.parametrize(("files", "wanted", "expected", "said"), READ)
def test_texts_are_read_as_the_files_mean_it(folder, caplog, files, wanted, expected, said):
    tokenizer = load_tokenizer(folder.write(**files), CONFIG, wanted)
    notes = caplog.messages
    assert tokens_of(tokenizer, folder.path) == expected
    assert (said in " ".join(notes)) if said else not notes


@pytest.mark.parametrize(("vocab", "wanted", "expected"), [(c["vocab"], w, e) for c, w, e, _ in READ[:6]])
def test_a_new_model_reads_alike(folder, vocab, wanted, expected):
    path = folder.write(vocab)
    tokenizer = new_tokenizer(path / "vocab.txt", wanted)
    assert len(tokenizer) == len(vocab)
    assert tokens_of(tokenizer, path) == expected


MIXED = (*SPECIAL_TOKENS, *(f"w{i}" for i in range(900)), "Foo")


@pytest.mark.parametrize(
    ("files", "wanted", "expected"),
    [
        ({"vocab": MIXED}, None, "vocab.txt: 1 of 901 words in it have capitals ('Foo'), too few"),
        ({"vocab": CASED, "config": {"do_lower_case": True}}, False, "tokenizer_config.json says do_lower_case true"),
        ({"vocab": CASED, "saved": False}, True, "tokenizer.json says that texts keep their capitals"),
        ({"vocab": CASED, "config": {"do_lower_case": "no"}}, None, "do_lower_case 'no', but it must be true or false"),
        (
            {"vocab": CASED, "saved": False, "config": {"tokenizer_class": "PreTrainedTokenizerFast"}},
            True,
            "keeps capitals",
        ),
        ({"vocab": CASED, "config": {"tokenizer_class": "PreTrainedTokenizerFast"}}, None, "has no tokenizer.json"),
        ({"config": {"do_lower_case": False}}, None, "has no tokenizer: put tokenizer.json or vocab.txt"),
        ({"vocab": LOWER[:2]}, None, r"lacks [CLS], [SEP], [MASK] (line 1 is '[PAD]')"),
        ({"vocab": CASED, "config": {"do_basic_tokenize": False}}, None, "do_basic_tokenize false"),
    ],
)
def test_what_cannot_be_told_or_contradicts_itself_is_refused(folder, files, wanted, expected):
    config = BertConfig(
        vocab_size=2000 if files.get("vocab") == MIXED else 4 if files.get("vocab") == LOWER[:2] else 100
    )
    with pytest.raises(UserError) as caught:
        load_tokenizer(folder.write(**files), config, wanted)
    assert expected in str(caught.value)


def test_two_vocabularies_in_one_folder_are_refused(folder):
    path = folder.write(CASED, saved=False, config={"do_lower_case": False})
    folder.write(CASED)
    assert load_tokenizer(path, CONFIG).tokenize(TEXT) == KEPT
    folder.write((*CASED[:5], "new", *CASED[6:]))
    with pytest.raises(
        UserError, match=r"two vocabularies, which differ in 1 ids: 5 is 'The' in the first and 'new' in the"
    ):
        load_tokenizer(path, CONFIG)


def test_a_folder_keeps_a_mark_and_odd_lines_out_of_its_ids(folder):
    path = folder.write(LOWER)
    (path / "vocab.txt").write_text("\ufeff" + "\r\n".join(LOWER) + "\r\n\u2028\r\nlast\r\n\r\n", newline="")
    assert load_tokenizer(path, CONFIG)("the last")["input_ids"] == [2, 5, 10, 3]


@pytest.mark.parametrize(("size", "said"), [(len(CASED) + 100, False), (9000, True)])
def test_far_fewer_tokens_than_the_model_has_are_said(folder, caplog, size, said):
    load_tokenizer(folder.write(CASED), BertConfig(vocab_size=size), False)
    assert ("13 tokens, but the model 9000" in " ".join(caplog.messages)) == said
