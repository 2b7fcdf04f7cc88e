"""The one entry to read examples: chooses the reader by how the user named the source.

`hf:...` is the Hugging Face Hub, `tfds:...` TensorFlow Datasets, `-` standard input, everything else a file. Plain text
(one example a line) is understood here, for prediction; the formats themselves are the readers' part.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from itertools import chain
from typing import Literal

from jaxbert.config import DataConfig
from jaxbert.data.files import decoded_lines, find_file, read_file, read_json_lines
from jaxbert.data.table import Table, Wanted, at_row, build_table
from jaxbert.errors import UserError

Role = Literal["train", "validation", "test", "predict"]
STDIN = "-"

# A role without a split of its own name reads this one.
_SPLITS: dict[Role, str] = {"train": "train", "validation": "validation", "test": "test", "predict": "test"}


def read(spec: str, data: DataConfig, *, role: Role, labelled: bool | None, limit: int | None = None) -> Table:
    """Read the first `limit` examples of a source.

    `labelled` True: every row must have a label. False: labels are not looked at. None: labels are taken where the label
    column is there and filled in every row. `role` is the split that is read where `spec` names none (for "predict" the
    test split), and lets "predict" read plain text.

    Raises:
      UserError: for a source that is missing, unreachable or malformed.
    """
    wanted = Wanted.of(data, labelled)
    if spec == STDIN:
        return read_lines(sys.stdin.buffer, "standard input", data, labelled=labelled, limit=limit)
    if spec.startswith("hf:"):
        from jaxbert.data import hub

        return hub.read_hub(spec, wanted, _SPLITS[role], limit)
    if spec.startswith("tfds:"):
        from jaxbert.data import tfds

        return tfds.read_tfds(spec, wanted, _SPLITS[role], limit)
    if role == "predict" and _is_plain_text(spec, data):
        with open(spec, "rb") as stream:
            return read_lines(stream, spec, data, labelled=labelled, limit=limit)
    return read_file(spec, data, wanted, limit)


def read_lines(
    stream: Iterable[bytes], source: str, data: DataConfig, *, labelled: bool | None, limit: int | None = None
) -> Table:
    """Read JSON lines if the first line that is not blank starts with `{`, otherwise one text a line.

    A blank line of plain text is an error, because outputs are matched to inputs by line.

    Raises:
      UserError: for a line that is blank or malformed, and where plain text cannot carry what is asked for.
    """
    wanted = Wanted.of(data, labelled)
    lines = iter(stream)
    head: list[bytes] = []
    for line in lines:
        head.append(line)
        if line.removeprefix(b"\xef\xbb\xbf").strip():
            break
    if not head:
        raise UserError(f"{source}: empty: at least one example is needed")
    everything = chain(head, lines)
    if head[-1].removeprefix(b"\xef\xbb\xbf").lstrip().startswith(b"{"):
        return read_json_lines(everything, source, wanted, limit)
    return _plain_table(everything, source, wanted, limit)


def _plain_table(lines: Iterable[bytes], source: str, wanted: Wanted, limit: int | None) -> Table:
    if wanted.text_pair is not None or wanted.labelled:
        missing = "a second text (data.text_pair)" if wanted.text_pair is not None else "labels"
        raise UserError(f"{source}: one text a line has no place for {missing}: give one JSON object a line")
    texts: list[str] = []
    for row, line in enumerate(decoded_lines(lines, source), 1):
        if limit is not None and row > limit:
            break
        if not line.strip():
            raise UserError(f"{at_row(source, row)}: the line is blank: each line is one example")
        texts.append(line.rstrip("\r\n"))
    return build_table({wanted.text: texts}, wanted, source=source, rows=range(1, len(texts) + 1))


def _is_plain_text(spec: str, data: DataConfig) -> bool:
    """Tell whether a .txt file holds one text a line: its first line has no tab and is not the text column's name."""
    if not spec.lower().endswith(".txt"):
        return False
    try:
        with find_file(spec).open("rb") as stream:
            first = stream.readline().removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    except OSError as error:
        raise UserError(f"{spec}: cannot be read: {error.strerror or error}") from error
    return b"\t" not in first and first.strip() != data.text.encode()
