"""What was understood of the data, as a table for people: before the first step, and in `jaxbert inspect`."""

from __future__ import annotations

from itertools import dropwhile
from typing import Any

from rich.markup import escape
from rich.table import Table
from rich.text import Text

_SETS = 4
"""Sets that a table shows side by side."""
_LABELS = 8
_FEW = 3
_COLUMNS = 6
_BLOCKS = " ▏▎▍▌▋▊▉█"
_BAR = 30

Content = dict[str, Any]


def data_table(overview: Content) -> Table:
    """Return the table of `Overview.to_dict`: a column for each set, a line for what there is to say."""
    sources: dict[str, Content] = overview["sources"]
    shown = list(sources)[:_SETS]
    table = Table("data", *map(escape, shown))
    leaks = {leak["sets"][1]: leak for leak in overview["leaks"]}
    lines = {
        "read from": _origin,
        "rows": lambda name, s: _rows(s),
        "columns": lambda name, s: _columns(s),
        "labels": lambda name, s: _labels(s),
        "tokens": lambda name, s: _tokens(s["lengths"]),
        "too long": lambda name, s: _long(s),
        "without tokens": lambda name, s: _count(s["empty_texts"], s["unit"]),
        "characters lost": lambda name, s: _count(s["lossy_texts"], s["unit"]),
        "unknown tokens": lambda name, s: _unknown(s),
        "repeated texts": lambda name, s: _twice(s["duplicates"]),
        "also in train": lambda name, s: _leak(leaks.get(name)),
    }
    for title, tell in lines.items():
        cells = [tell(name, sources[name]) for name in shown]
        if any(cells):
            table.add_row(title, *map(Text, cells))
    return table


def data_notes(overview: Content) -> list[str]:
    """Return what is said below the table."""
    notes = []
    if (lower := overview["lower_case"]) is not None:
        notes.append(f"the tokenizer {'lower-cases' if lower else 'keeps capitals'}")
    more = list(overview["sources"])[_SETS:]
    if more:
        notes.append(f"{len(more)} more sets are in summary.json: {', '.join(more)}")
    return notes


def _origin(name: str, source: Content) -> str:
    source_name = source["source"]
    if isinstance(source_name, list):
        source_name = f"{len(source_name)} files, {source_name[0]} to {source_name[-1]}"
    how = [f"separator {source['separator']!r}"] if source["separator"] else []
    how += [source["encoding"]] if source["encoding"] else []
    return source_name + (f" ({', '.join(how)})" if how else "")


def _rows(source: Content) -> str:
    skipped = source["skipped"]["rows"]
    return _some_of(source["rows"], source["unit"]) + (f", {skipped:,} left out" if skipped else "")


def _columns(source: Content) -> str:
    used = source["columns_used"]
    over = [name for name in source["columns"] if name not in used]
    return _some(used) + (f"; not read: {_some(over)}" if over else "")


def _some(names: list[str]) -> str:
    return ", ".join(names[:_COLUMNS]) + (f" and {len(names) - _COLUMNS} more" if len(names) > _COLUMNS else "")


def _labels(source: Content) -> str:
    labels, meaning = source["labels"], source["label_meaning"]
    if not labels:
        return ""
    if meaning == "score":
        return f"scores from {labels['min']:g} to {labels['max']:g}, mean {labels['mean']:g}"
    ranked = sorted(labels.items(), key=lambda pair: -pair[1])
    if len(ranked) > _LABELS:
        parts = [f"{name} {count:,}" for name, count in (*ranked[:_FEW], *ranked[-_FEW:])]
        listed = f"{', '.join(parts[:_FEW])}, ... {', '.join(parts[_FEW:])}"
    else:
        listed = ", ".join(f"{name} {count:,}" for name, count in ranked)
    numbers = {"index": "numbers are indices", "multi-hot position": "multi-hot"}
    return f"{len(ranked)}{f' ({numbers[meaning]})' if meaning in numbers else ''}: {listed}"


def _tokens(lengths: Content) -> str:
    quantiles = lengths["quantiles"]
    return f"median {quantiles['0.5']}, 99% up to {quantiles['0.99']}, longest {quantiles['1']}"


def _long(source: Content) -> str:
    lengths = source["lengths"]
    if not lengths["longer"]:
        return ""
    share = f"{lengths['longer']:,} ({lengths['longer'] / source['rows']:.2%}) have more than {lengths['max_length']} tokens"
    if not lengths["cut"]:
        return f"{share} and are read in windows"
    return f"{share} and are cut: {lengths['tokens_lost'] / lengths['tokens']:.2%} of all tokens are lost"


def _count(count: int, unit: str) -> str:
    return _some_of(count, unit) if count else ""


def _some_of(count: int, unit: str) -> str:
    """Return a number with its noun, which is `unit` in the plural: texts, pairs of texts."""
    first, *rest = unit.split(" ")
    return " ".join([f"{count:,}", first.removesuffix("s") if count == 1 else first, *rest])


def _unknown(source: Content) -> str:
    share = source["unknown_tokens"] / source["lengths"]["tokens"]
    return f"{share:.2%} of the tokens are not in the vocabulary" if share >= 0.0001 else ""


def _twice(duplicates: Content) -> str:
    if not duplicates["rows"]:
        return ""
    conflicts = duplicates["conflicting_texts"]
    said = f"{_some_of(duplicates['rows'], 'rows')} repeat an earlier text"
    return said + (f"; {_some_of(conflicts, 'texts')} with different labels" if conflicts else "")


def _leak(leak: Content | None) -> str:
    return f"{_some_of(leak['rows'], 'rows')} ({leak['share']:.2%})" if leak and leak["rows"] else ""


def length_bars(source: Content) -> list[str]:
    """Return the histogram of a set's lengths, a line for each bar."""
    bars = list(dropwhile(lambda bar: not bar[2], source["lengths"]["histogram"]))
    highest = max(count for *_, count in bars)
    width = len(str(bars[-1][1]))
    return [f"{low:>{width}}-{high:<{width}} {_bar(count / highest)} {count:,}" for low, high, count in bars]


def _bar(share: float) -> str:
    whole, part = divmod(round(share * _BAR * 8), 8)
    return (("█" * whole) + (_BLOCKS[part] if part else "")).ljust(_BAR)
