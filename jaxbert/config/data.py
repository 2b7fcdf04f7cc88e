"""The section `data`: the data, and how examples become rows of tokens."""

from __future__ import annotations

import codecs
from dataclasses import dataclass
from typing import Annotated, Literal

from jaxbert.errors import UserError
from jaxbert.ranges import NotNegative, Number, Positive, Range, Share, check_fields, insist_on

MaxLength = Annotated[int, Range(least=3)]


@dataclass(frozen=True)
class DataConfig:
    """The data, and how examples become rows of tokens."""

    train: str | None = None
    """Training examples: a file (csv, tsv, jsonl, json, parquet; may be compressed), a folder or a pattern of such files, a
    folder written by datasets.save_to_disk, hf:ORG/NAME[/CONFIG][:SPLIT] or tfds:NAME[:SPLIT]."""
    validation: str | dict[str, str] | None = None
    """Examples to evaluate on during training, given like `train`. Several sets can have names, {en: FILE, zh: FILE}: their
    metrics are shown for each set, and as a mean."""
    unlabelled: str | None = None
    """Further training texts without labels, given like `train`: `train.teacher` answers for them, or the model labels them
    itself (`train.self_training`). A file may also be plain text, one text per line."""
    test: str | dict[str, str] | None = None
    """Examples to evaluate on once, after training; one set, or several by name."""
    validation_fraction: Share = 0.0
    """Fraction of the training rows to use for validation if there is no validation set. The split keeps the share of each
    label; in question answering, all questions of a context stay together."""
    text: str = "text"
    """Column of the text."""
    text_pair: str | None = None
    """Column of the second text, for pairs of texts."""
    label: str | list[str] = "label"
    """Column of the label: a name or an integer. multi_label: a list of them, or several columns of 0 and 1,
    [NAME, ...]. regression: a number."""
    label_separator: str = ","
    """Separator of the labels, if one field holds several."""
    label_format: Literal["auto", "names", "indices", "multi_hot"] = "auto"
    """The meaning of numbers in the label column: names of labels (names), positions of labels from 0 (indices), or a list
    of 0 and 1, one number per label (multi_hot). auto: decided from the whole column; an error if two meanings fit."""
    label_map: str | dict[str, str | int] | None = None
    """New names for labels, used as soon as they are read: {pos: positive}, or a YAML or JSON file of such pairs."""
    tokens: str = "tokens"
    """Token classification: column of the words, a list. In files with one token per line, the column's number from 1, or
    its name if the file has column names. If not set there, the first column that holds words."""
    tag_column: str | None = None
    """Token classification: column of the words' tags. If not set, `tags` or `ner_tags`. In files with one token per line,
    its number from 1 or its name; if not set there, UPOS in CoNLL-U and the last column in others."""
    tag_scheme: Literal["auto", "BIO", "BIOES", "BMES", "BILOU", "plain"] = "auto"
    """Token classification: the letters by which tags mark entities, or plain if each tag stands for itself. auto: the
    scheme that fits all tags of the training texts."""
    comment_lines: Literal["auto", "skip", "tokens"] = "auto"
    """Token classification, files with one token per line: whether lines that begin with # are comments (skip) or tokens
    (tokens). auto: decided from the columns and tags of the complete file."""
    spans: str = "entities"
    """Token classification: column of the spans marked in `text`, a list of {start, end, label}."""
    question: str = "question"
    """Question answering and multiple choice: column of the question."""
    context: str = "context"
    """Question answering: column of the text that holds the answer. Multiple choice: column of the text that the question is
    about; the column may be missing."""
    choices: str | list[str] = "choices"
    """Multiple choice: column of the choices, a list; or several columns with one choice each, [NAME, ...], the last ones of
    which may be empty. `data.label` names the right choice by its number, its letter or its text."""
    answers: str = "answers"
    """Question answering: column of the answers, {text: [...], answer_start: [...]}, with empty lists if there is none."""
    no_answer_threshold: Number = 0.0
    """Question answering: "no answer" is given only if its log-score exceeds that of the best answer by more than this. Used
    if some questions of the training set have no answer."""
    columns: list[str] | None = None
    """Column names for a file without a header line."""
    separator: str | None = None
    """Separator of the fields in csv, tsv and txt files: one character, or `tab`. If not set, it is read from the header or
    the first rows; the extension does not decide."""
    quoting: Literal["csv", "none"] = "csv"
    """How fields are quoted in csv and tsv files. csv: quotes around fields that need them; none: quotes are part of the
    text."""
    quote: str | None = None
    """Quote character for `quoting: csv`. If not set, the double quote."""
    encoding: str | None = None
    """Encoding of text files, as Python names it: gbk, gb18030, cp1252, shift_jis, utf-16. If not set, the byte-order mark
    decides, else UTF-8."""
    bad_rows: Literal["error", "skip"] = "error"
    """Malformed or empty rows: stop at the first one (error), or leave all of them out and count them (skip)."""
    group: str | None = None
    """Folds (`train.folds`): all rows with the same value in this column (a person, a document) stay in one fold. If not
    set, rows are divided one by one; in multiple choice, the questions of a context stay together."""
    label_names: list[str] | None = None
    """Names for integer labels, in order from 0. Token classification: all tags, needed if no training text has some of them
    or if a column holds their numbers."""
    max_length: MaxLength | None = None
    """Length limit of an example in tokens, special tokens included. If not set, the limit of the model."""
    long_texts: Literal["cut", "head_tail", "windows"] = "cut"
    """What happens to a text above `max_length`: its end is cut off (cut), its middle is cut out (head_tail), or it is read
    in overlapping windows whose outputs `model.pooling` combines (windows)."""
    window_stride: NotNegative | None = None
    """Number of tokens that two neighbouring windows of a long text share. If not set, a quarter of `max_length`, at most
    128."""
    limit: Positive | None = None
    """Use only the first N training rows."""
    corrections: str | list[str] | None = None
    """Corrections of labels: a CSV file, or several that are applied one after another. `jaxbert audit RUN --output
    FILE.csv` writes such a file, and a person sets its actions (keep, relabel, drop)."""
    packing: bool = True
    """Whether to pack several examples into one row of tokens."""
    row_length: Positive | None = None
    """Length of a row in tokens. If not set, it is chosen from the lengths of the examples."""
    cache_dir: str | None = "auto"
    """Folder that keeps tokenized data for the next start. auto: $XDG_CACHE_HOME/jaxbert/tokens; null: keep nothing."""

    def __post_init__(self) -> None:
        check_fields(self, "data.{}".format)
        _check_reading(self)
        _check_sets("data.validation", self.validation)
        _check_sets("data.test", self.test)
        if self.row_length and self.max_length and self.max_length > self.row_length:
            raise UserError(
                f"data.max_length ({self.max_length}) is above data.row_length ({self.row_length}): "
                "lower the first or raise the second"
            )
        shared, longest = self.window_stride, self.max_length
        if shared is not None and longest is not None and shared >= longest - 2:
            raise UserError(
                f"data.window_stride is {shared}, but it must be from 0 to below data.max_length - 2 ({longest - 2})"
            )
        if self.validation and self.validation_fraction:
            raise UserError("data.validation and data.validation_fraction are both set: keep one of them")


COLUMN_KEYS = (
    *("text", "text_pair", "label", "label_separator", "label_format", "label_map"),
    *("tokens", "tag_column", "comment_lines", "spans", "question", "context", "choices", "answers"),
)
"""Keys of the section `data` that name the columns to read, or the format of the labels in them."""
FILE_KEYS = ("columns", "separator", "quoting", "quote", "encoding", "bad_rows")
"""Keys of the section `data` about reading files."""


def _check_reading(data: DataConfig) -> None:
    separator = "\t" if data.separator in ("\\t", "tab") else data.separator
    raw = data.quoting == "none"
    one = "one character" if not raw else "text"
    for key, value in (("data.separator", separator), ("data.quote", data.quote)):
        fits = value is None or ((len(value) == 1 or (raw and bool(value))) and not set(value or "") & set("\r\n"))
        insist_on(fits, key, value, f"{one} and no line end")
    if raw and data.quote is not None:
        raise UserError("data.quoting is none, but data.quote is set: keep one of them")
    if separator is not None and separator == (data.quote or '"') and not raw:
        raise UserError(f"data.separator and data.quote are both {separator!r}: they must differ")
    try:
        known = data.encoding is None or codecs.lookup(data.encoding)._is_text_encoding
    except (LookupError, ValueError):
        known = False
    names = "an encoding as Python names it, for instance utf-8, gbk, gb18030, cp1252, shift_jis or utf-16"
    insist_on(bool(known), "data.encoding", data.encoding, names)


def _check_sets(key: str, sets: str | dict[str, str] | None) -> None:
    if not isinstance(sets, dict):
        return
    insist_on(
        bool(sets), key, sets, "a source, or at least one source with a name, {NAME: SOURCE}; leave it out for none"
    )
    for name in sets:
        text = isinstance(name, str) and bool(name.strip())  # YAML reads the name of Norwegian as false
        insist_on(text, f"{key}: the name of a set", name, "text: write it in quotes")
