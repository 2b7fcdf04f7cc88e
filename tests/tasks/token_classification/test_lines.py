"""Files with a token a line: columns, comments, CoNLL-U and its kin are told for a file as a whole."""

from __future__ import annotations

import pytest

from jaxbert.config import DataConfig
from jaxbert.data.table import Facts
from jaxbert.errors import UserError
from jaxbert.tasks.token_classification.lines import read_sentences


def read(text, labelled=True, **keys):
    lines = text.splitlines(keepends=True)
    return list(read_sentences(lines, "a.conll", DataConfig(**keys), labelled, Facts()))


def pairs(text, labelled=True, **keys):
    return [list(zip(s.words, s.tags or s.words, strict=True)) for s in read(text, labelled, **keys)]


ADA = [("Ada", "B-PER"), ("ran", "O")]

COMMENTS = {
    "CoNLL-U's": "# sent_id = 1\n# text = Ada ran\nAda\tB-PER\nran\tO\n\n# newdoc\nAda\tB-PER\nran\tO\n",
    "MultiCoNER's, of as many columns": "# id 4f1a\tdomain=en\nAda _ _ B-PER\nran _ _ O\n\n"
    "# id 4f1b\tdomain=en\nAda _ _ B-PER\nran _ _ O\n",
    "GermEval's": "#\thttp://a.b/c\t[2009-10-17]\n1\tAda\tB-PER\tO\n2\tran\tO\tO\n\n#\td\t[x]\n1\tAda\tB-PER\tO\n2\tran\tO\tO\n",
    "beside words that are counted": "# about O\n1 Ada B-PER\n2 ran O\n\n# about O\n1 Ada B-PER\n2 ran O\n",
    "BioNLP's": "###MEDLINE:95369245\n\nAda\tB-PER\nran\tO\n\n###MEDLINE:95369246\n\nAda\tB-PER\nran\tO\n",
    "a word of two columns": "# one\nAda B-PER\nran O\n\n# two\nAda B-PER\nran O\n",
    "with a value within a sentence": "Ada\tB-PER\n# a = b\nran\tO\n\nAda\tB-PER\nran\tO\n",
}


@pytest.mark.parametrize("name", COMMENTS)
def test_comments_are_passed_over_and_counted(name, caplog):
    keys = {"tag_column": "3"} if name == "GermEval's" else {}
    assert pairs(COMMENTS[name], **keys) == [ADA, ADA]
    number = COMMENTS[name].count("#") if "MEDLINE" not in COMMENTS[name] else 2
    assert [m for m in caplog.messages if "comment" in m] == [
        f"a.conll: {number} comment lines, which begin with #, were skipped"
    ]
    words = [["Ada", "ran"], ["Ada", "ran"]]
    assert [s.words for s in read(COMMENTS[name], labelled=False)] == words
    assert [s.words for s in read(COMMENTS[name], comment_lines="skip", **keys)] == words


TOKENS = {
    "a known tag": ("# O\nAda B-PER\n\nran O\n#run O\n", ["#", "Ada", "ran", "#run"]),
    "a new tag of the scheme": ("#Paris B-LOC\nis O\n", ["#Paris", "is"]),
    "a new tag within a sentence": ("two NUM\n# SYM\none NUM\n\n# SYM\ntwo NUM\n", ["two", "#", "one", "#", "two"]),
    "the tag of the Penn Treebank": ("a\tDT\n#\t#\n3\tCD\n", ["a", "#", "3"]),
    "nothing else": ("#a B-X\n#b O\n", ["#a", "#b"]),
}


@pytest.mark.parametrize("name", TOKENS)
def test_tokens_that_begin_with_a_hash(name, caplog):
    text, words = TOKENS[name]
    for labelled in (True, False):
        assert [word for s in read(text, labelled) for word in s.words] == words
    assert not caplog.messages


UNCLEAR = {
    "a plain tag that only lines before sentences have": "# SYM\ntwo NUM\none DET\n\n# SYM\ntwo NUM\n",
    "too few columns within a sentence": "Ada\tB-PER\n#tag O\n",
    "another separator": "#tag O\nAda\tB-PER\nran\tO\n",
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_what_can_be_both_names_the_setting(name):
    text = UNCLEAR[name]
    row = next(row for row, line in enumerate(text.splitlines(), 1) if line.startswith("#"))
    with pytest.raises(UserError, match=rf"a\.conll, row {row}: '#.*' can be a comment or a token: set data.comment_"):
        read(text)
    assert all("#" not in word for s in read(text, comment_lines="skip") for word in s.words)


def test_hashes_are_tokens_where_it_is_said():
    assert read("# SYM\ntwo NUM\none DET\n", comment_lines="tokens")[0].words == ["#", "two", "one"]
    with pytest.raises(UserError, match=r"row 2: 1 columns, but other rows have 2"):
        read("Ada\tO\n#tag O\n", comment_lines="tokens")


CONLL_U = """\
# sent_id = 1
# text = Vámonos al mar
1-2\tVámonos\t_\t_\t_\t_\t_\t_\t_\t_
1\tVamos\tir\tVERB\tVM\tMood=Imp\t0\troot\t_\t_
2\tnos\tnosotros\tPRON\tPP\t_\t1\tobj\t_\t_
3-4\tal\t_\t_\t_\t_\t_\t_\t_\t_
3\ta\ta\tADP\tSP\t_\t5\tcase\t_\t_
4\tel\tel\tDET\tDA\t_\t5\tdet\t_\t_
5\tNueva York\tmar\tPROPN\tNP\t_\t1\tobl\t_\tSpaceAfter=No
5.1\tva\tir\tVERB\t_\t_\t_\t_\t_\t_
6\t_\t_\t_\t_\t_\t1\tpunct\t_\t_

1\tHola\thola\tINTJ\tI\t_\t0\troot\t_\t_
"""


def test_conll_u(caplog):
    first, second = read(CONLL_U)
    assert first.words == ["Vamos", "nos", "a", "el", "Nueva York", "_"]
    assert first.tags == ["VERB", "PRON", "ADP", "DET", "PROPN", None]
    assert list(first.rows) == [4, 5, 7, 8, 9, 11]
    assert second == (range(13, 14), ["Hola"], ["INTJ"])
    assert caplog.messages == [
        "a.conll: CoNLL-U: words are taken from FORM and tags from UPOS (data.tag_column names another)",
        "a.conll: 2 comment lines, which begin with #, were skipped",
    ]
    for name in ("XPOS", "xpos", "5"):
        assert read(CONLL_U, tag_column=name)[1].tags == ["I"]
    assert read(CONLL_U, tag_column="DEPREL")[0].tags[:2] == ["root", "obj"]
    assert read(CONLL_U, tokens="LEMMA", tag_column="upos")[0].words[:2] == ["ir", "nosotros"]
    facts = Facts()
    lines = CONLL_U.splitlines()
    assert [s.words[0] for s in read_sentences(lines, "a", DataConfig(), False, facts)] == ["Vamos", "Hola"]
    assert (facts.columns[:2], facts.used, facts.separator) == (["ID", "FORM"], ["FORM"], "\t")


def test_conll_u_of_one_word_and_without_tags():
    assert read("1\tHi\thi\tINTJ\t_\t_\t0\troot\t_\t_\n")[0].tags == ["INTJ"]
    with pytest.raises(UserError, match=r"a\.conll: column UPOS gives no word a tag: name another by data\.tag_column"):
        read("1\tHi\thi\t_\t_\t_\t0\troot\t_\t_\n")


def test_columns_that_a_comment_names():
    text = "# global.columns = ID FORM UPOS NE\n1\tAda\tPROPN\tB-PER\n2\tran\tVERB\tO\n"
    assert pairs(text) == [ADA]
    assert read(text, tag_column="UPOS")[0].tags == ["PROPN", "VERB"]


@pytest.mark.parametrize("first", [0, 1, 17])
def test_numbers_of_words_are_no_words(first, caplog):
    lines = [f"{first + i}\t{word}\t{tag}\n" for i, (word, tag) in enumerate([*ADA, ("off", "O")])]
    assert pairs("".join(lines)) == [[*ADA, ("off", "O")]]
    assert "the first column counts the words: words are taken from column 2 and tags from 3" in caplog.text
    assert read("".join(lines), tokens="1")[0].words[0] == str(first)
    assert [s.words for s in read("1\tAda\n2\tran\n3\toff\n", labelled=False)] == [["Ada", "ran", "off"]]
    with pytest.raises(UserError, match="the second holds them, but a token and its tag are needed"):
        read("1\tAda\n2\tran\n3\toff\n")
    assert read("1984 O\n2001 B-X\n7 O\n")[0].words == ["1984", "2001", "7"]


def test_a_header_is_no_token(caplog):
    text = "token\tpos\tner\nAda\tPROPN\tB-PER\nran\tVERB\tO\n"
    assert pairs(text) == [ADA]
    assert "a line names the columns: words are taken from token and tags from ner" in caplog.text
    assert read(text, tag_column="pos")[0].tags == ["PROPN", "VERB"]
    assert pairs("TOKEN\tNE-COARSE-LIT\nAda\tB-PER\nran\tO\n") == [ADA]
    assert pairs("Tag Word\nB-PER Ada\nO ran\n", tag_column="1") == [ADA]
    assert read("word B-X\ntag O\n")[0].words == ["word", "tag"]
    assert read("word tag\nstart tag\n")[0].tags == ["tag", "tag"]


def test_the_last_column_holds_the_tags_unless_others_can_be_meant():
    assert read("EU NNP B-NP B-ORG\nwon VB O O\n")[0].tags == ["B-ORG", "O"]
    assert read("EU _ _ B-ORG\nwon _ _ O\n")[0].tags == ["B-ORG", "O"]
    assert read("EU - NNP\nwon - VB\n")[0].tags == ["NNP", "VB"]
    with pytest.raises(UserError, match=r"the tags seem to be in column 2, not in the last: name one by data\.tag_"):
        read("EU B-ORG eu\nwon O win\n")
    with pytest.raises(UserError, match=r"the tags can be in column 2 or 3: name one of them by data\.tag_column"):
        read("EU NNP eu\nwon VB win\n")
    assert read("EU NNP eu\nwon VB win\n", tag_column="2")[0].tags == ["NNP", "VB"]
    with pytest.raises(
        UserError, match=r"the first column \('doc1', 'doc2'\) never changes inside a sentence.*data\.tokens"
    ):
        read("doc1 EU B-X\ndoc1 won O\n" * 4 + "\n" + "doc2 EU B-X\n" * 4)


def test_blanks():
    windows = "\ufeffAda B-PER\r\nran O  \r\n\r\n \t \r\nAda\t B-PER\u00a0\r\nran O\r\n\u00a0\r\nNew O"
    assert pairs(windows) == [ADA, ADA, [("New", "O")]]
    assert pairs("Ada B-PER\rran O\r\rAda B-PER\rran O") == [ADA, ADA]
    assert pairs("Ada\u00a0B-PER\nran O\n") == [ADA]
    assert pairs("10\u00a0000 O\nEU B-X\n")[0][0] == ("10\u00a0000", "O")
    assert pairs(" \tO\nNew York \tB-X\u200b\n\u3000\tO\n") == [[(" ", "O"), ("New York", "B-X"), ("\u3000", "O")]]
    assert pairs("New York\tB-LOC\nYork\tI-LOC\n")[0][0][0] == "New York"
    with pytest.raises(UserError, match=r"a\.conll, row 2: no tag: give the word one"):
        read("a\tB-X\nb\t\u200b\n")
    with pytest.raises(UserError, match=r"a\.conll, row 3: 1 columns, but other rows have 2"):
        read("New York\tB-X\nc d\tO\nwon O\n")


def test_sentences_with_malformed_lines_are_left_out_where_it_is_asked_for(caplog):
    text = "Ada\tB-PER\nran\tO\n\nAda\tB-PER\nran\n\nEU\tO\n\na\t\u200b\nb\tO\n"
    with pytest.raises(
        UserError, match=r"row 5: 1 columns, .* \(and 1 more row; data.bad_rows: skip leaves them out\)"
    ):
        read(text)
    assert pairs(text, bad_rows="skip") == [ADA, [("EU", "O")]]
    assert "2 rows are left out (data.bad_rows: skip): row 5 (1 columns, but other rows have 2), row 9 (no tag)" in (
        caplog.text
    )
