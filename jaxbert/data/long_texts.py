"""What becomes of a text that is longer than a model takes: it is cut at the end, in the middle, or into windows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

How = Literal["cut", "head_tail", "windows"]
Pooling = Literal["mean", "max"]
_HEAD = 4
"""Of what is kept of a text that is cut in the middle, one part in four is its beginning (Sun et al., 2019: 128 of 510)."""
_MOST_SHARED = 128


@dataclass(frozen=True)
class LongTexts:
    """How long texts are read."""

    how: How = "cut"
    shared: int = 0
    """Tokens that neighbouring windows have in common; half of one at most."""

    def cut(self, ids: Sequence[int], max_length: int) -> list[list[int]]:
        """Return the pieces of a text of more than `max_length` tokens, each between the text's first and last token.

        Args:
          ids: the text's tokens, with a special token at both ends.
          max_length: longest piece, special tokens included.
        """
        body, room = list(ids[1:-1]), max_length - 2
        if self.how == "head_tail":
            head = room // _HEAD
            pieces = [body[:head] + body[len(body) - (room - head) :]]
        else:
            step = room - min(self.shared, room // 2)
            count = 1 + max(0, -(-(len(body) - room) // step))
            pieces = [body[i * step : i * step + room] for i in range(count)]
        return [[ids[0], *piece, ids[-1]] for piece in pieces]


def resolve_shared(window_stride: int | None, max_length: int) -> int:
    """Return how many tokens windows share: as asked, else a quarter of `max_length`, 128 at most."""
    return min(max_length // 4, _MOST_SHARED) if window_stride is None else window_stride


@dataclass(frozen=True)
class Reading:
    """How a model was taught to read long texts; an export keeps it."""

    long_texts: LongTexts = LongTexts()
    pooling: Pooling | None = None
    """How the outputs of a text's windows become one; None where no text has several."""
    max_length: int | None = None
    """The longest piece, or the longest text where none is read in pieces; None where the model's own limit will do."""
    pairs: bool = False
    """Whether examples are pairs of texts, which are always cut."""

    def to_dict(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    @classmethod
    def of(cls, content: Any) -> Reading:
        """Take what `to_dict` gave; anything else is read like a text that is cut at the model's own limit."""
        cut = cls(pairs=isinstance(content, dict) and content.get("pairs") is True)
        try:
            long_texts = LongTexts(content["long_texts"]["how"], int(content["long_texts"]["shared"]))
            length = None if content["max_length"] is None else int(content["max_length"])
            reading = cls(long_texts, content["pooling"], length, cut.pairs)
        except (KeyError, TypeError, ValueError):
            return cut
        known = reading.pooling in ("mean", "max", None) and long_texts.how in ("cut", "head_tail", "windows")
        whole = long_texts.how == "cut" if length is None else 0 <= long_texts.shared < length - 2
        return reading if known and whole else cut


AS_IT_IS = Reading()
"""Texts that are cut at the model's own limit."""
