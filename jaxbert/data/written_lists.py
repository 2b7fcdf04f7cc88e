"""Lists that are written out as text, as Python, JSON and NumPy write them.

`['a', 'b']`, `["a", "b"]`, `['a' 'b']`, `[1 0 1]`, `[1. 0.]`, `[True, False]`, `('a', 'b')`, `{'a', 'b'}`, `array([1, 0])`,
`[np.str_('a')]`. A text that only begins like one is left to the caller.
"""

from __future__ import annotations

import ast
import json
import math
import re
from typing import Any

_CALL = re.compile(r"(?:np\.|numpy\.|torch\.)?(?:array|tensor|list|set|frozenset|tuple)\((.*)\)", re.DOTALL)
_OPTIONS = re.compile(r",\s*(?:dtype|device)\s*=[^\[\]]*\Z")
_MEMBER = re.compile(
    r"""\s*(?:np\.\w+\()?
        (?: (?P<quoted> [bu]?'(?:[^'\\]|\\.)*' | [bu]?"(?:[^"\\]|\\.)*")
          | (?P<number> [+-]?(?:(?:0|[1-9]\d*)(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
          | (?P<word> True|False|true|false) )
        \)?(?P<end> \s*,\s* | \s+ | \Z)""",
    re.VERBOSE | re.DOTALL,
)
_PAIRS = {"[": "]", "(": ")", "{": "}"}


def looks_like_list(text: str) -> bool:
    """Say whether a text begins and ends as a list does, in square or curly brackets."""
    return text[:1] in ("[", "{") or _CALL.fullmatch(text) is not None


def read_list(text: str) -> list[Any] | None:
    """Return the members of a list that is written out: texts, numbers, true and false; None if it is none."""
    if text[:1] == "[" and (members := _read_json(text)) is not None:
        return members
    call = _CALL.fullmatch(text)
    if call is not None:
        text = _OPTIONS.sub("", call[1]).strip() or "[]"
    if len(text) < 2 or _PAIRS.get(text[0]) != text[-1]:
        return None
    inside = text[1:-1].strip()
    if inside and text[0] != "[" and not inside.startswith(("'", '"')) and "," not in inside:
        return None  # "(other)" is a name
    members = []
    at = 0
    while at < len(inside):
        found = _MEMBER.match(inside, at)
        if found is None:
            return None
        members.append(_member(found))
        at = found.end()
    return members


def _read_json(text: str) -> list[Any] | None:
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        return None
    plain = all(isinstance(m, str | int) or (isinstance(m, float) and math.isfinite(m)) for m in members)
    return members if plain else None


def _member(found: re.Match[str]) -> Any:
    if quoted := found["quoted"]:
        # The text of a name is taken as it is, but for what is escaped in it.
        return _unescaped(quoted) if "\\" in quoted else quoted.lstrip("bu")[1:-1]
    if number := found["number"]:
        return int(number) if number.lstrip("+-").isdigit() else float(number)
    return found["word"].lower() == "true"


def _unescaped(quoted: str) -> str:
    try:
        value = ast.literal_eval(quoted)
    except (ValueError, SyntaxError):
        return quoted[1:-1]
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
