"""Ways to damage a valid file: its bytes, or the structure that its bytes spell out; all from one random generator."""

from __future__ import annotations

import json
from collections.abc import Callable
from random import Random
from typing import Any

LARGEST = 2**16
"""Bytes of a damaged file; what costs more than in proportion shows at this size already."""

_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    127,
    128,
    255,
    256,
    65535,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
)
_SCALARS: tuple[Any, ...] = (
    *(None, True, False, "", " ", "x", "\0", "\x1b[31m", "\ud800", "\u202e", "../../etc/passwd", "/etc/passwd", "NaN"),
    *(-1, -(2**63), 10**9, 10**12, 2**60, 10**30, 10**400, 0.5, -0.0, 1e308, 1e-320, float("nan"), float("inf")),
    *([], {}, [[]], {"": {}}, ["a", 1, None], {"0": "a", "1": ["b"]}, "long " * 1000, list(range(500))),
    *_NUMBERS,
)
_DEEP = "\u2756deep"
"""Stands for a nesting that the library could not write, until the text is there."""
_TWICE = "\u2756twice"
"""In front of a key that will stand there twice, which no dictionary can hold."""


def damage_bytes(rng: Random, content: bytes, tokens: tuple[bytes, ...] = (b"\0", b"\xff")) -> bytes:
    """Apply one or a few changes to bytes; `tokens` are what means something in the format."""
    for _ in range(rng.choice((1, 1, 1, 2, 3, 6))):
        content = rng.choice(_BYTE_CHANGES)(rng, content, tokens)[:LARGEST]
    return content


def _place(rng: Random, content: bytes) -> int:
    """Choose a place, as likely near the beginning, where headers are, as anywhere."""
    return rng.randrange(min(len(content), 64) + 1 if rng.random() < 0.4 else len(content) + 1)


def _span(rng: Random, content: bytes) -> tuple[int, int]:
    begin = _place(rng, content)
    return begin, min(len(content), begin + rng.choice((1, 2, 4, 8, 16, 100, 1000)))


def _flip(rng: Random, content: bytes, tokens: tuple[bytes, ...]) -> bytes:
    if not content:
        return content
    at = min(_place(rng, content), len(content) - 1)
    return content[:at] + bytes([content[at] ^ 1 << rng.randrange(8)]) + content[at + 1 :]


def _overwrite(rng: Random, content: bytes, tokens: tuple[bytes, ...]) -> bytes:
    at, new = _place(rng, content), _piece(rng, tokens)
    return content[:at] + new + content[at + len(new) :]


def _insert(rng: Random, content: bytes, tokens: tuple[bytes, ...]) -> bytes:
    at = _place(rng, content)
    return content[:at] + _piece(rng, tokens) * rng.choice((1, 1, 1, 2, 50, 3000)) + content[at:]


def _piece(rng: Random, tokens: tuple[bytes, ...]) -> bytes:
    kind = rng.randrange(3)
    if kind == 0:
        return rng.choice(tokens)
    if kind == 1:
        width = rng.choice((1, 2, 4, 8))
        return (rng.choice(_NUMBERS) % 2 ** (8 * width)).to_bytes(width, rng.choice(("little", "big")))
    return rng.randbytes(rng.choice((1, 2, 8)))


def _cut_off(rng: Random, content: bytes, tokens: tuple[bytes, ...]) -> bytes:
    return content[: _place(rng, content)]


def _remove(rng: Random, content: bytes, tokens: tuple[bytes, ...]) -> bytes:
    begin, end = _span(rng, content)
    return content[:begin] + content[end:]


def _repeat(rng: Random, content: bytes, tokens: tuple[bytes, ...]) -> bytes:
    begin, end = _span(rng, content)
    return content[:end] + content[begin:end] * rng.choice((1, 2, 10, 500)) + content[end:]


def _move(rng: Random, content: bytes, tokens: tuple[bytes, ...]) -> bytes:
    begin, end = _span(rng, content)
    rest = content[:begin] + content[end:]
    at = _place(rng, rest)
    return rest[:at] + content[begin:end] + rest[at:]


_BYTE_CHANGES: tuple[Callable[[Random, bytes, tuple[bytes, ...]], bytes], ...] = (
    *(_flip, _overwrite, _insert, _cut_off, _remove, _repeat, _move),
)


def damage_value(rng: Random, value: Any, tokens: tuple[Any, ...] = ()) -> Any:
    """Return a copy of plain nested data with one or a few changes; `tokens` are values that mean something in it."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        value = _change_below(rng, value, tokens)
    return value


def set_keys(rng: Random, value: dict[str, Any], keys: tuple[str, ...], tokens: tuple[Any, ...] = ()) -> dict[str, Any]:
    """Return a copy in which keys that a reader looks at hold something else."""
    chosen = rng.sample(keys, rng.choice((1, 1, 2)))
    return value | {key: rng.choice(tokens if tokens and rng.random() < 0.6 else _SCALARS) for key in chosen}


def _change_below(rng: Random, value: Any, tokens: tuple[Any, ...]) -> Any:
    """Change `value` itself or something in it; what is deep in it is as likely as what is not."""
    if not (isinstance(value, dict | list) and value) or rng.random() < 0.15:
        return _replacement(rng, value, tokens)
    if isinstance(value, list):
        at = rng.randrange(len(value))
        changed = _change_list(rng, value, at)
        return (
            changed if changed is not None else [*value[:at], _change_below(rng, value[at], tokens), *value[at + 1 :]]
        )
    key = rng.choice(list(value))
    changed = _change_dict(rng, value, key, tokens)
    return changed if changed is not None else {**value, key: _change_below(rng, value[key], tokens)}


def _replacement(rng: Random, value: Any, tokens: tuple[Any, ...]) -> Any:
    kind = rng.randrange(8)
    if kind == 0:
        return [value]
    if kind == 1 and type(value) in (int, float) and abs(value) < 2**64:
        return value * rng.choice((-1, 2, 0.5, 2**20))
    if kind == 2 and isinstance(value, str):
        return value * rng.choice((0, 2, 100)) + rng.choice(("", "\n", "\0", "/", "..", "é"))
    if kind == 3:
        return _DEEP
    return rng.choice(tokens) if tokens and kind < 6 else rng.choice(_SCALARS)


def _change_list(rng: Random, value: list, at: int) -> list | None:
    kind = rng.randrange(8)
    if kind == 0:
        return value[:at] + value[at + 1 :]
    if kind == 1:
        return value[: at + 1] + [value[at]] * rng.choice((1, 10, 300)) + value[at + 1 :]
    if kind == 2:
        return value[at:] + value[:at]
    return None


def _change_dict(rng: Random, value: dict, key: str, tokens: tuple[Any, ...]) -> dict | None:
    kind = rng.randrange(10)
    other = rng.choice((str(rng.choice(_SCALARS[:40])), rng.choice(list(value)), *filter(_is_name, tokens)))
    if kind == 0:
        return {name: part for name, part in value.items() if name != key}
    if kind == 1:
        return {other if name == key else name: part for name, part in value.items()}
    if kind == 2:
        return {**value, other: value[key]}
    if kind == 3:
        return {**value, _TWICE + str(key): rng.choice(_SCALARS)}
    if kind == 4:
        return {**value, other: rng.choice(tokens or _SCALARS)}
    return None


def _is_name(token: Any) -> bool:
    return isinstance(token, str)


def write_json(rng: Random, value: Any) -> bytes:
    """Spell damaged data out, with what no data can hold put in: keys that stand twice, and very deep nesting."""
    text = json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, None, 1)))
    for mark in (_DEEP, json.dumps(_DEEP)[1:-1]):
        depth, (left, right) = rng.choice((20, 200, 900, 5000)), rng.choice(("[]", ('{"a":', "}")))
        text = text.replace(f'"{mark}"', left * depth + "0" + right * depth)
    for mark in (_TWICE, json.dumps(_TWICE)[1:-1]):
        text = text.replace(mark, "")
    return text.encode("utf-8", "surrogatepass")[:LARGEST]
