"""Lengths of synthetic examples: those of a known data set, of a simple distribution, or of a file. Uses only NumPy."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from jaxbert.errors import UserError

# The number of SST-2's 67,349 training phrases that have 3, 4, 5, ... tokens (uncased vocabulary, with special tokens).
_SST2_FIRST = 3
# fmt: off
_SST2_COUNTS = (
    1978, 5322, 6065, 5345, 4749, 4155, 3713, 3267, 2947, 2650, 2413, 2138, 1950, 1777, 1661, 1515, 1373, 1285, 1132, 1106,
    1046, 909, 820, 806, 733, 692, 628, 538, 491, 442, 448, 400, 337, 304, 286, 242, 195, 203, 192, 155, 148, 130, 89, 82,
    85, 73, 55, 42, 50, 40, 36, 19, 21, 22, 15, 8, 6, 3, 2, 5, 5, 1, 2, 2,
)
# fmt: on
_FORMS = "sst2, uniform:LOW:HIGH, fixed:N or a file with one length on each line"


def draw_lengths(spec: str, count: int, max_length: int, seed: int) -> np.ndarray:
    """Draw `count` lengths in tokens, special tokens included, int32.

    Lengths of `sst2` and of a file are cut at `max_length`, as texts would be.

    Args:
      spec: `sst2`, `uniform:LOW:HIGH` (both included), `fixed:N` or a file with one length per line.
      count: the number of lengths.
      max_length: the longest example of the run.
      seed: the seed of the draw.

    Raises:
      UserError: for any other `spec`, for a bound above `max_length` or below 1, and for a bad file.
    """
    rng = np.random.default_rng(seed)
    kind, _, rest = spec.partition(":")
    if spec == "sst2":
        known = np.repeat(np.arange(len(_SST2_COUNTS)) + _SST2_FIRST, _SST2_COUNTS)
        drawn = np.minimum(rng.choice(known, count), max_length)
    elif kind in ("uniform", "fixed") and not Path(spec).is_file():
        low, high = _bounds(spec, rest, 2 if kind == "uniform" else 1, max_length)
        drawn = rng.integers(low, high + 1, count)
    else:
        drawn = np.minimum(rng.choice(_read_file(spec), count), max_length)
    return drawn.astype(np.int32)


def _bounds(spec: str, rest: str, parts: int, max_length: int) -> tuple[int, int]:
    try:
        numbers = [int(part) for part in rest.split(":")]
    except ValueError:
        numbers = []
    if len(numbers) != parts:
        raise UserError(f"--lengths {spec} is not understood: give {_FORMS}")
    low, high = numbers[0], numbers[-1]
    if not 1 <= low <= high:
        raise UserError(f"--lengths {spec}: lengths must be at least 1, and LOW at most HIGH")
    if high > max_length:
        raise UserError(
            f"--lengths {spec}: {high} tokens are above the longest example ({max_length}): lower it, or raise "
            "data.max_length up to the model's positions"
        )
    return low, high


def _read_file(name: str) -> np.ndarray:
    try:
        lines = Path(name).expanduser().read_text("utf-8").splitlines()
    except FileNotFoundError as error:
        raise UserError(f"--lengths {name} is not a file, and is not understood: give {_FORMS}") from error
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--lengths {name} cannot be read: {' '.join(str(error).split())}") from error
    lengths = [_length(line, f"--lengths {name}, line {i}") for i, line in enumerate(lines, 1) if line.strip()]
    if not lengths:
        raise UserError(f"--lengths {name} is empty: give one length in tokens on each line")
    return np.array(lengths)


def _length(line: str, where: str) -> int:
    text = line.strip()
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and 1 <= int(text) < 2**31):
        raise UserError(
            f"{where}: {text[:40]!r} is not a length: give one whole number of tokens on each line, at least 1"
        )
    return int(text)
