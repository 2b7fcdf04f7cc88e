"""Small files of settings, JSON and YAML, from any author: read as plain data and within bounds.

A file that is too large, too deep, or that grows on reading (a YAML alias of aliases) is rejected before it uses memory. The
caller interprets the settings.
"""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from etils import epath

from jaxbert.errors import UserError, foreign_errors, one_line

MOST_JSON = 32 * 2**20
"""Most bytes of a JSON file; the index of the largest sharded models takes less than one MiB, a vocabulary a few."""
MOST_YAML = 2**18
"""Most bytes of a YAML file; a whole configuration with every key takes a few thousand."""
_MOST_VALUES = 10_000
_BLOCK = 2**16

_short = reprlib.Repr()
_short.maxlevel = 3
_short.maxstring = _short.maxother = _short.maxlong = 60


def shown(value: object) -> str:
    """Return a value of a file as text for a message, shortened if it is long."""
    return _short.repr(value)


def listed(names: Sequence[str], most: int = 5) -> str:
    """Return names as text for a message; of many, the first ones and the number."""
    if len(names) <= most:
        return ", ".join(names)
    return f"{len(names)} of them, {', '.join(names[:most])} and {len(names) - most} others"


def flat(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values of nested mappings by their dotted names."""
    found: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, Mapping):
            found |= {f"{name}.{key}": inner for key, inner in flat(value).items()}
        else:
            found[str(name)] = value
    return found


def read_json(path: Path | epath.Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
      UserError: if the file is missing or holds anything else.
    """
    try:
        content = json.loads(_read_text(path, MOST_JSON))
    except FileNotFoundError as error:
        raise UserError(f"{path} is missing") from error
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path} is not valid JSON ({one_line(error)}): download or copy it again") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: download or copy it again")
    return content


def read_yaml(path: Path | epath.Path, name: str) -> Any:
    """Read a YAML file of plain values; messages call it `name`.

    Raises:
      UserError: if it cannot be read, is no YAML, or holds too much.
    """
    try:
        text = _read_text(path, MOST_YAML)
    except FileNotFoundError as error:
        raise UserError(f"{name} does not exist") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{name} cannot be read as YAML: {one_line(error)}") from error
    # Besides its own errors the library raises those of Python's int, date and dict, and RecursionError.
    with foreign_errors(f"{name} cannot be read as YAML"):
        return _construct(text, name)


_OLD_NUMBER = re.compile(r"[+-]?(0[0-9_]+|[0-9_]+(:[0-5]?[0-9])+(\.[0-9_]*)?)")
"""Octal numbers and numbers to the base of 60, as YAML 1.1 has them."""
_HIDDEN = re.compile(r" +(#\S[^\r\n]*)")


class _Loader(yaml.SafeLoader):
    """Rejects too many values, each of which first takes some hundred bytes, and text that YAML reads as something else."""

    composed = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        self.composed += 1
        if self.composed > _MOST_VALUES:
            raise ValueError(f"it holds more than {_MOST_VALUES} values")
        node = super().compose_node(parent, index)
        if isinstance(node, yaml.ScalarNode) and not node.value and not node.style:
            _check_not_hidden(node.end_mark)
        if isinstance(node, yaml.ScalarNode) and not node.style and _OLD_NUMBER.fullmatch(node.value):
            raise ValueError(
                f"line {node.start_mark.line + 1}: YAML reads {node.value} as another number (010 is 8, 1:30 is 90): write "
                "a decimal number, or text in quotes"
            )
        if isinstance(node, yaml.MappingNode):
            _check_keys_once(node)
        return node


def _check_keys_once(node: yaml.MappingNode) -> None:
    """Raise an error if a mapping has a key twice, of which YAML would keep the last value."""
    lines: dict[tuple[str, str], int] = {}
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            name, line = (key.tag, key.value), key.start_mark.line + 1
            if name in lines:
                raise ValueError(
                    f"line {line}: key {shown(key.value)} is in line {lines[name]} already: keep one of them"
                )
            lines[name] = line


def _check_not_hidden(mark: yaml.Mark) -> None:
    """Raise an error if an empty value has a comment that may have been meant as its text: `text: #1 String`."""
    if hidden := _HIDDEN.match(mark.buffer or "", mark.pointer):
        raise ValueError(
            f"line {mark.line + 1}: {shown(hidden[1])} is a comment, so the key has no value: put it in quotes, "
            "or a space after the #"
        )


def _construct(text: str, name: str) -> Any:
    loader = _Loader(text)
    try:
        node = loader.get_single_node()
        if node is None:
            return None
        if _count(node, {}) > _MOST_VALUES:
            raise UserError(f"{name} holds more than {_MOST_VALUES} values, aliases counted as what they stand for")
        return loader.construct_document(node)
    finally:
        loader.dispose()


def _count(node: yaml.Node, counts: dict[yaml.Node, float]) -> float:
    """Return the number of values in `node` with each alias written out; infinite if an alias is inside its own value."""
    if node not in counts:
        counts[node] = math.inf
        parts = [part for pair in node.value for part in pair] if isinstance(node, yaml.MappingNode) else node.value
        below = parts if isinstance(node, yaml.CollectionNode) else ()
        counts[node] = 1 + sum(_count(part, counts) for part in below)
    return counts[node]


def read_bytes(path: Path | epath.Path, most: int) -> bytes:
    """Read a file of at most `most` bytes.

    Raises:
      ValueError: if it is larger.
    """
    content = bytearray()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):  # a single read would reserve `most` bytes even for the smallest file
            content += block
            if len(content) > most:
                raise ValueError(f"it is larger than {most // 1024} KiB")
    return bytes(content)


def _read_text(path: Path | epath.Path, most: int) -> str:
    return read_bytes(path, most).decode("utf-8")


def to_json(value: Any, indent: str = "\n") -> str:
    """Return plain data as readable JSON: one value per line, but a list of plain values or a row of a table on one line.

    A table is an object of objects that all have the same keys, such as the metrics of each label.
    """
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        write = json.JSONEncoder(ensure_ascii=False).encode if _is_table(value) else partial(to_json, indent=deeper)
        members = [f"{json.dumps(name, ensure_ascii=False)}: {write(part)}" for name, part in value.items()]
        return "{" + deeper + f",{deeper}".join(members) + indent + "}"
    if isinstance(value, list | tuple) and not _is_flat(value):
        return "[" + deeper + f",{deeper}".join(to_json(part, deeper) for part in value) + indent + "]"
    return json.dumps(value, ensure_ascii=False)


def _is_flat(values: Iterable[Any]) -> bool:
    return not any(isinstance(value, dict | list | tuple) for value in values)


def _is_table(content: dict[str, Any]) -> bool:
    first = next(iter(content.values()))
    return all(
        isinstance(row, dict) and row.keys() == first.keys() and _is_flat(row.values()) for row in content.values()
    )
