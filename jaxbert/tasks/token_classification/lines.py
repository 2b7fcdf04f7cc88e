"""Read files with a token on each line and a blank line between sentences: all forms of CoNLL.

The separator and the content of each column are decided for a complete file. `remarks` finds comments.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, compress, pairwise
from typing import NamedTuple

from jaxbert.config import DataConfig
from jaxbert.data.table import BadRows, Facts, Problem
from jaxbert.errors import UserError, quoted
from jaxbert.tasks.token_classification.remarks import Line, find_remarks
from jaxbert.tasks.token_classification.tag_sets import clean_tag, looks_like_scheme

_BLANKS = " \t\r\n\u00a0\ufeff"  # a wide space may be a token
_NEW_DOCUMENT = "-DOCSTART-"
_TAB, _SPACES, _HARD_SPACES = (re.compile(blanks) for blanks in ("\t", "[ \t]+", "[ \t\u00a0]+"))
_CONLL_U = ("ID", "FORM", "LEMMA", "UPOS", "XPOS", "FEATS", "HEAD", "DEPREL", "DEPS", "MISC")
_NO_VALUE = "_"
_GLOBAL_COLUMNS = re.compile(r"#\s*global\.columns\s*=\s*(.+)")
_INDEX = re.compile(r"([0-9]{1,9})([-.][0-9]+)?")
_WORD_HEADS = ("form", "token", "tokens", "word", "words")
_TAG_HEADS = ("tag", "tags", "label", "labels", "ner", "ner_tag", "ner_tags", "pos", "pos_tag", "upos", "xpos")
_EACH_LINE = "each line is a token and its tag, with a blank line between sentences"
_ENOUGH = 10
"""From this many lines on, a column that is constant in each sentence holds no words."""

logger = logging.getLogger("jaxbert")


class Sentence(NamedTuple):
    """Words with their tags; None if tags are not read, and for a word without a tag."""

    rows: Sequence[int]
    """The line of each word, from 1."""
    words: list[str]
    tags: list[str | None] | None


class _Lines(NamedTuple):
    """The lines that are not blank."""

    rows: list[int]
    texts: list[str]
    begins: list[int]
    """The indices of lines that begin a sentence, and the number of lines."""


@dataclass(frozen=True)
class _Layout:
    """The separator of a file, and the contents of its columns, which are counted from 0."""

    separator: re.Pattern[str]
    width: int
    head: tuple[str, ...]
    """The names of the columns in the first line."""
    values: list[set[str]]
    """The distinct values of each column."""
    index: bool
    """Whether the first column counts the words of each sentence."""
    still: bool
    """Whether the first column is constant in each sentence."""
    given: tuple[str, ...]
    """The names of the columns in a comment `# global.columns = ...`."""

    @property
    def conll_u(self) -> bool:
        """Whether the columns are the ten of CoNLL-U."""
        return self.index and self.width == len(_CONLL_U) and self.separator == _TAB and not self.given

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the columns; their numbers if they have no names."""
        return self.given or self.head or (_CONLL_U if self.conll_u else tuple(map(str, range(1, self.width + 1))))

    def find(self, wanted: str) -> int | None:
        """Return the index of the column with this name or number; None if there is none."""
        folded = [name.casefold() for name in self.names]
        if wanted.casefold() in folded:
            return folded.index(wanted.casefold())
        return int(wanted) - 1 if re.fullmatch("[0-9]{1,4}", wanted) and 1 <= int(wanted) <= self.width else None


def read_sentences(
    lines: Iterable[str], source: str, data: DataConfig, labelled: bool, facts: Facts
) -> Iterator[Sentence]:
    """Yield the sentences of a file.

    Raises:
      UserError: for a line without all columns, and if the meaning of a column or a line is ambiguous.
    """
    everything = _split(lines)
    if not everything.rows:
        return
    hashes = {row for row, text in zip(everything.rows, everything.texts, strict=True) if text.startswith("#")}
    sure = _without(everything, hashes)
    separator = _separator(sure.texts or everything.texts, source)
    everything = everything._replace(texts=_plain(everything.texts, separator))
    sure = _without(everything, hashes)
    layout = _layout(sure if sure.rows else everything, everything, separator)
    word = _word_column(layout, data.tokens, source)
    tag = _tag_column(layout, word, data.tag_column, source, labelled)
    passed: set[int] = set()
    if len(everything.rows) > len(sure.rows) > 0:
        passed = _comments(everything, layout, tag, source, data.comment_lines)
    used = [layout.names[at] for at in (word, tag if labelled else None) if at is not None]
    _say(layout, used, len(passed), source)
    facts.choose(layout.names, used)
    facts.separator = "\t" if layout.separator == _TAB else " "
    if layout.head:
        passed.add((sure if sure.rows else everything).rows[0])
    kept = _whole(_without(everything, passed), layout, tag if labelled else None, BadRows(source, data, facts), source)
    columns = _fields(kept.texts, layout.separator, layout.width)
    tags = None
    if tag is not None and labelled:
        tags = _tags(columns[tag], layout)
        if not any(tags):
            raise UserError(f"{source}: column {used[-1]} gives no word a tag: name another by data.tag_column")
    yield from _sentences(kept, columns[word], tags, columns[0] if layout.index else None)


def _split(lines: Iterable[str]) -> _Lines:
    """Group lines into sentences, at blank lines and at the start of a document."""
    rows: list[int] = []
    texts: list[str] = []
    begins, row, apart = [0], 0, False
    for line in lines:
        text = line.rstrip(_BLANKS)
        for piece in text.split("\r") if "\r" in text else (text,):
            row += 1
            piece = piece.lstrip("\ufeff")
            if not piece or piece.startswith(_NEW_DOCUMENT):
                apart = True
                continue
            if apart and len(rows) > begins[-1]:
                begins.append(len(rows))
            apart = False
            rows.append(row)
            texts.append(piece)
    return _Lines(rows, texts, [*begins, len(rows)])


def _without(lines: _Lines, passed: set[int]) -> _Lines:
    """Return the lines whose numbers are not in `passed`."""
    if not passed:
        return lines
    kept = [row not in passed for row in lines.rows]
    places = [0, *accumulate(kept)]
    begins = list(dict.fromkeys(places[begin] for begin in lines.begins))
    return _Lines(list(compress(lines.rows, kept)), list(compress(lines.texts, kept)), begins)


def _plain(texts: list[str], separator: re.Pattern[str]) -> list[str]:
    """Return lines with the same separator between all columns."""
    if separator == _TAB:
        return texts
    if separator == _SPACES and not any("  " in text or "\t" in text or text[0] in _BLANKS for text in texts):
        return texts
    return [separator.sub(" ", text.strip(_BLANKS)) for text in texts]


def _mark(separator: re.Pattern[str]) -> str:
    return "\t" if separator == _TAB else " "


def _widths(texts: Sequence[str], separator: re.Pattern[str]) -> list[int]:
    mark = _mark(separator)
    return [text.count(mark) + 1 for text in texts]


def _fields(texts: Sequence[str], separator: re.Pattern[str], width: int) -> list[list[str]]:
    """Return the columns of lines that all have `width` fields; blanks around a field are removed, unless it is blank.

    All lines are split at once: a list for each line would be many objects.
    """
    mark = _mark(separator)
    flat = mark.join(texts).split(mark) if texts else []
    if separator == _TAB:
        flat = [field.strip(" ") or field for field in flat]
    return [flat[at::width] for at in range(width)]


def _separator(texts: list[str], source: str) -> re.Pattern[str]:
    """Return the first separator that splits all lines into the same number of columns."""
    tabs = sum("\t" in text for text in texts)
    candidates = [_TAB] if tabs == len(texts) else []
    candidates += [_SPACES, _HARD_SPACES] if any("\u00a0" in text for text in texts) else [_SPACES]
    for separator in candidates:
        if len(set(_widths(_plain(texts, separator), separator))) == 1:
            if separator == _HARD_SPACES:
                logger.warning("%s: non-breaking spaces are read as spaces between columns", source)
            return separator
    return _TAB if 2 * tabs > len(texts) else _SPACES


def _layout(sure: _Lines, everything: _Lines, separator: re.Pattern[str]) -> _Layout:
    """Return the layout of a file, from all lines that are surely tokens."""
    widths = _widths(sure.texts, separator)
    width = Counter(widths).most_common(1)[0][0]
    if widths.count(width) < len(widths):
        sure = _without(sure, {row for row, found in zip(sure.rows, widths, strict=True) if found != width})
    columns = _fields(sure.texts, separator, width)
    head = _head(columns)
    begin = int(bool(head))
    firsts = [columns[0][max(low, begin) : high] for low, high in pairwise(sure.begins)]
    remarks = (text for text in everything.texts if text.startswith("#"))
    named = next((match for text in remarks if (match := _GLOBAL_COLUMNS.match(text))), None)
    given = tuple(named[1].split()) if named else ()
    return _Layout(
        separator=separator,
        width=width,
        head=head,
        values=[set(column[begin:]) for column in columns],
        index=width > 1 and _counts(firsts, 1 if width == len(_CONLL_U) and separator == _TAB else 2),
        still=width > 2 and len(sure.rows) >= _ENOUGH and all(len(set(block)) <= 1 for block in firsts),
        given=given if len(given) == width else (),
    )


def _whole(lines: _Lines, layout: _Layout, tag: int | None, bad: BadRows, source: str) -> _Lines:
    """Return the sentences in which every line has all columns, and a tag if tags are read.

    Raises:
      UserError: for the first malformed line, unless bad rows are left out; then its sentence is left out.
    """
    widths = _widths(lines.texts, layout.separator)
    told = {
        row: f"{found} columns, but other rows have {layout.width}: {_EACH_LINE}"
        for row, found in zip(lines.rows, widths, strict=True)
        if found != layout.width
    }
    if tag is not None:
        own = _without(lines, set(told))
        column = _fields(own.texts, layout.separator, layout.width)[tag]
        nothing = {value for value in set(column) if not clean_tag(value)}
        if nothing:
            told |= {
                row: "no tag: give the word one"
                for row, value in zip(own.rows, column, strict=True)
                if value in nothing
            }
    if not told:
        return lines
    if len(told) < len(lines.rows):
        bad.good(source)
    for row in sorted(told):
        bad.note(source, Problem(row, told[row]))
    bad.finish()
    stretches = (lines.rows[low:high] for low, high in pairwise(lines.begins))
    return _without(lines, {row for rows in stretches if not told.keys().isdisjoint(rows) for row in rows})


def _comments(lines: _Lines, layout: _Layout, tag: int | None, source: str, setting: str) -> set[int]:
    """Return the line numbers of comments."""

    if layout.index and setting == "auto":  # a token begins with its number
        return {row for row, text in zip(lines.rows, lines.texts, strict=True) if text.startswith("#")}

    def tag_of(line: Line) -> str | None:
        if _widths([line.text], layout.separator) != [layout.width]:
            return None
        return "" if tag is None else clean_tag(_fields([line.text], layout.separator, layout.width)[tag][0])

    known = {""} if tag is None else set(map(clean_tag, layout.values[tag]))
    both = list(map(Line, lines.rows, lines.texts))
    blocks = [both[low:high] for low, high in pairwise(lines.begins)]
    return find_remarks(blocks, tag_of, layout.width, known, source, setting)


def _head(columns: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """Return the first line if it has usual names of columns, and no other line repeats them; else nothing."""
    first = tuple(column[0] for column in columns)
    folded = [field.casefold() for field in first]
    tags = [at for at, name in enumerate(folded) if name in _TAG_HEADS or name.startswith("ne-")]
    if not tags or not set(folded) & set(_WORD_HEADS) or any(columns[at].count(first[at]) > 1 for at in tags):
        return ()
    return first


def _counts(firsts: Sequence[Sequence[str]], least: int) -> bool:
    """Return whether fields count the words of each sentence from 1, or are at least consecutive numbers.

    There may also be the ranges (`1-2`) and empty nodes (`1.1`) of CoNLL-U.
    """
    longest, from_one = 0, True
    for block in firsts:
        matches = [_INDEX.fullmatch(field) for field in block]
        numbers = [int(match[1]) for match in matches if match and not match[2]]
        if not all(matches) or any(number != numbers[0] + i for i, number in enumerate(numbers)):
            return False
        longest, from_one = max(longest, len(numbers)), from_one and numbers[:1] in ([], [1])
    return longest >= (least if from_one else 3)


def _word_column(layout: _Layout, wanted: str, source: str) -> int:
    """Return the column of the words: the configured one, the one named so, or the one after the words' numbers."""
    at = layout.find(wanted)
    if at is not None:
        return at
    if wanted.isdecimal():
        raise UserError(f"data.tokens is {wanted!r}, but {source} has {layout.width} columns")
    named = [at for at, name in enumerate(layout.names) if name.casefold() in _WORD_HEADS]
    if named:
        return named[0]
    if layout.still:
        raise UserError(
            f"{source}: the first column ({quoted(sorted(layout.values[0]), 3)}) never changes inside a sentence, and seems "
            "to hold no words: give the number of the words' column by data.tokens"
        )
    return int(layout.index)


def _tag_column(layout: _Layout, word: int, wanted: str | None, source: str, labelled: bool) -> int | None:
    """Return the column of the tags: the configured one, or the last one if it is not ambiguous."""
    at = None if wanted is None else layout.find(wanted)
    if at is not None and at != word:
        return at
    others = [at for at in range(layout.width) if at != word and not (layout.index and at == 0)]
    if not labelled:
        return others[-1] if others else None
    if not others:
        found = "the first column counts the words, and the second holds them" if layout.index else "one column"
        raise UserError(f"{source}: {found}, but a token and its tag are needed, separated by a space or a tab")
    if wanted is not None:
        there = f"one of {', '.join(layout.names)}" if not layout.names[0].isdecimal() else "the number of a column"
        raise UserError(
            f"data.tag_column is {wanted!r}, but in {source} it must be {there}, from {others[0] + 1} to {layout.width}"
        )
    if layout.conll_u:
        return _CONLL_U.index("UPOS")
    varied = [at for at in others if len(layout.values[at]) > 1]
    marking = [at for at in varied if looks_like_scheme(layout.values[at])]
    last = others[-1]
    if last in marking or (varied in ([last], []) and not layout.given):
        return last
    names = [layout.names[at] for at in marking or varied or others]
    raise UserError(
        f"{source}: the tags can be in column {' or '.join(names)}: name one of them by data.tag_column"
        if len(names) > 1
        else f"{source}: the tags seem to be in column {names[0]}, not in the last: name one by data.tag_column"
    )


def _tags(column: Sequence[str], layout: _Layout) -> list[str | None]:
    """Return the tags without surrounding blanks; None for a tag that CoNLL-U leaves out."""
    clean: dict[str, str | None] = {value: clean_tag(value) for value in set(column)}
    if layout.conll_u or layout.given:
        clean[_NO_VALUE] = None
    return [clean[value] for value in column]


def _sentences(
    lines: _Lines, words: list[str], tags: list[str | None] | None, index: list[str] | None
) -> Iterator[Sentence]:
    """Yield the sentences; with an index column, ranges of words and empty nodes are left out."""
    if index is not None and not all(map(str.isdecimal, index)):
        kept = [number.isdecimal() for number in index]
        lines = _without(lines, {row for row, own in zip(lines.rows, kept, strict=True) if not own})
        words = list(compress(words, kept))
        tags = None if tags is None else list(compress(tags, kept))
    for low, high in pairwise(lines.begins):
        first, last = lines.rows[low], lines.rows[high - 1]
        rows = range(first, last + 1) if last - first + 1 == high - low else lines.rows[low:high]
        yield Sentence(rows, words[low:high], None if tags is None else tags[low:high])


def _say(layout: _Layout, used: list[str], comments: int, source: str) -> None:
    """Tell the user each decision that differs from the plain layout."""
    columns = " and tags from ".join(used)
    if layout.conll_u:
        logger.warning("%s: CoNLL-U: words are taken from %s (data.tag_column names another)", source, columns)
    elif layout.head or layout.given:
        logger.warning("%s: a line names the columns: words are taken from %s", source, columns)
    elif layout.index:
        logger.warning("%s: the first column counts the words: words are taken from column %s", source, columns)
    if comments:
        logger.warning("%s: %d comment lines, which begin with #, were skipped", source, comments)
