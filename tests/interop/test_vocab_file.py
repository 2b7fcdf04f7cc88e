"""A vocabulary file as people have it: a token's line is its id."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import BertTokenizer

from jaxbert.errors import UserError
from jaxbert.interop.tokenizer import read_vocabulary
from jaxbert.models.families import DEFAULT

SPECIAL_TOKENS = tuple(DEFAULT.special_tokens.values())
PLAIN = "\n".join((*SPECIAL_TOKENS, "foo", "##bar", "baz")) + "\n"


def read(folder: Path, content: bytes | str):
    path = folder / "vocab.txt"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_vocabulary(path)


@pytest.mark.parametrize(
    "content",
    [
        PLAIN,
        PLAIN.rstrip(),
        PLAIN + "\n\n \n",
        "\ufeff" + PLAIN,
        PLAIN.replace("\n", "\r\n"),
        "\ufeff" + PLAIN.replace("\n", "\r\n") + "\r\n",
        PLAIN.replace("\n", "\r"),
        PLAIN.replace("foo\n", "foo \t\n"),
        PLAIN.encode("utf-16"),
    ],
)
def test_ids_are_places_of_lines_however_lines_end(tmp_path, content):
    tokens = [*SPECIAL_TOKENS, "foo", "##bar", "baz"]
    assert read(tmp_path, content).ids() == {token: i for i, token in enumerate(tokens)}


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\x85", "\x0b", "\x0c", "\x1c", "\u3000"])
def test_no_other_character_ends_a_line(tmp_path, separator):
    ids = read(tmp_path, PLAIN + f"{separator}\na{separator}b\n##{separator}\nlast\n").ids()
    assert (ids["last"], ids["baz"], len(ids)) == (11, 7, 12)
    tokenizer = BertTokenizer(vocab=ids)
    assert tokenizer("last foobar")["input_ids"] == [2, 11, 5, 6, 3]


def test_a_blank_line_keeps_its_id(tmp_path):
    ids = read(tmp_path, PLAIN + "\nlast\n").ids()
    assert (ids["last"], sorted(ids.values())) == (9, list(range(10)))
    assert BertTokenizer(vocab=ids).convert_tokens_to_ids("last") == 9


def test_of_a_token_that_stands_twice_the_last_line_counts(tmp_path):
    vocabulary = read(tmp_path, PLAIN + "foo\n\n\nnew\n")
    assert (vocabulary.ids()["foo"], vocabulary.ids()["new"]) == (8, 11)
    with pytest.raises(UserError, match=r"vocab\.txt holds a token twice, 'foo' in lines 6 and 9: remove"):
        vocabulary.refuse_repeated()


def test_real_vocabularies_give_the_ids_that_the_library_gives(shared_data):
    path = shared_data / "vocab" / "bert-base-chinese-vocab.txt"
    ids, theirs = read_vocabulary(path).ids(), BertTokenizer(vocab=str(path)).get_vocab()
    assert len(ids) == 21128
    assert {token: i for token, i in ids.items() if theirs.get(token) != i} == {"[unused-line-344]": 343}


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (PLAIN.encode() + "中".encode("gbk"), "line 9 has the byte 0xd6: save it as UTF-8"),
        (b"\xff\xfe\x00", "cannot be read as UTF-8 text"),
    ],
)
def test_what_is_no_text_names_its_line(tmp_path, content, expected):
    with pytest.raises(UserError, match=expected):
        read(tmp_path, content)


def test_another_format_shows_its_first_line(tmp_path):
    with pytest.raises(UserError, match=r"lacks \[PAD\].*line 1 is '\[PAD\]\\t0'"):
        read(tmp_path, PLAIN.replace("\n", "\t0\n")).check_special(SPECIAL_TOKENS)
