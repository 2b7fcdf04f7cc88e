"""The terminal output of a run (tables of data and results, progress bars) and its TensorBoard files."""

from __future__ import annotations

import time
from importlib.util import find_spec
from itertools import dropwhile
from statistics import mean, stdev
from typing import Any

from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from tensorboardX import SummaryWriter

from jaxbert.runs.folder import RunFolder
from jaxbert.tasks.metrics import value_of
from jaxbert.terminal import PLAIN_LINE_SECONDS, console

_DRAW_SECONDS = 0.3
_HEADLINE = 4
_LABELS = 20
_SETS = 4
"""Most evaluation sets that a table shows side by side."""
_COUNTED = 8
"""Most labels whose counts the data table shows."""
_FEW = 3
_COLUMNS = 6
_BLOCKS = " ▏▎▍▌▋▊▉█"
_BAR = 30

Content = dict[str, Any]


class Report:
    """Shows progress on the terminal and writes metrics to the run folder. Without a terminal, prints a line now and then.

    Only one of several processes writes.
    """

    def __init__(self, folder: RunFolder, total_steps: int, first_step: int, *, writes: bool = True) -> None:
        self._folder = folder
        self._total = total_steps
        self._board = SummaryWriter(str(folder.board), purge_step=first_step + 1) if writes else None
        self._bar = Progress(
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            # In a notebook, a drawing thread would overwrite the program's own output.
            auto_refresh=not console.is_jupyter,
        )
        # A bar can move on a terminal, and in a notebook with widgets.
        self._has_bar = console.is_terminal or (console.is_jupyter and find_spec("ipywidgets") is not None)
        self._last_drawn = 0.0
        self._task = self._bar.add_task("training", total=total_steps, completed=first_step, note="compiling")
        self._last_plain_line = 0.0

    def __enter__(self) -> Report:
        if self._has_bar:
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()
        if self._board is not None:
            self._board.close()
            self._folder.flush()

    def flush(self) -> None:
        """Write the logged metrics to the folder, before a checkpoint is saved that relies on them."""
        if self._board is not None:
            self._board.flush()
            self._folder.flush()

    def progress(
        self, step: int, loss: float, examples_per_second: float, tokens_per_second: float, bad_steps: int
    ) -> None:
        """Show the current step and its numbers."""
        note = f"loss {loss:.4f}  {examples_per_second:,.0f} examples/s  {tokens_per_second:,.0f} tokens/s"
        if bad_steps:
            note += f"  {bad_steps} steps skipped (loss or gradient not finite)"
        self._draw(completed=step, note=note)
        if not self._has_bar and time.monotonic() - self._last_plain_line > PLAIN_LINE_SECONDS:
            self._last_plain_line = time.monotonic()
            console.print(f"step {step}/{self._total}  {note}", highlight=False, soft_wrap=True)

    def compiling(self, rows: int) -> None:
        """Tell the user that a program is being compiled, so that a pause is no surprise."""
        self._last_drawn = 0.0
        self._draw(note=f"compiling the step for {rows} rows")
        if not self._has_bar:
            self.say(f"compiling the step for {rows} rows")

    def _draw(self, **fields: Any) -> None:
        """Update the bar; if no thread draws it, draw it now and then."""
        due = self._has_bar and console.is_jupyter and time.monotonic() - self._last_drawn > _DRAW_SECONDS
        self._last_drawn = time.monotonic() if due else self._last_drawn
        self._bar.update(self._task, refresh=due, **fields)

    def say(self, line: str) -> None:
        """Print a line above the progress bar."""
        console.print(line, highlight=False, soft_wrap=True)

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Write a line of metrics; its numbers also go to TensorBoard."""
        if self._board is None:
            return
        self._folder.log(step, values)
        for name, value in values.items():
            if isinstance(value, int | float):
                self._board.add_scalar(name, value, step)


def metrics_headline(metrics: dict[str, Any], also: str | None = None) -> str:
    """Return the first few scalar metrics on one line, and the one named by `also`."""
    names = [name for name, value in metrics.items() if isinstance(value, float)]
    shown = [name for place, name in enumerate(names) if place < _HEADLINE or name == also]
    return "  ".join(f"{name} {metrics[name]:.4f}" for name in shown)


def print_metrics(metrics: dict[str, Any], title: str, rest: str) -> None:
    """Print overall metrics, then those of each label (only the worst of many); `rest` says where to find the others."""
    console.print(Text.assemble((title, "bold"), f"  {metrics_headline(metrics)}"), soft_wrap=True)
    if "sets" in metrics:
        print_sets(metrics["sets"], "set")
    if "f1_macro_present" in metrics:
        over = f"f1_macro is the mean over {metrics['macro_over']}; f1_macro_present does not count these labels"
        console.print(over, highlight=False, soft_wrap=True)
    per_class: dict[str, dict[str, float]] = metrics.get("per_class", {})
    if not per_class:
        return
    shown = list(per_class.items())
    if len(shown) > _LABELS:
        shown = sorted(shown, key=lambda item: (item[1]["f1"], -item[1]["support"]))[:_LABELS]
    table = Table("label", *shown[0][1])
    for name, scores in shown:
        table.add_row(Text(name), *(f"{s:.4f}" if isinstance(s, float) else str(s) for s in scores.values()))
    console.print(table)
    if len(shown) < len(per_class):
        line = f"these are the {len(shown)} labels with the lowest F1, of {len(per_class):,}; all are in {rest}"
        console.print(line, highlight=False, soft_wrap=True)


def print_sets(sets: dict[str, dict[str, Any]], title: str) -> None:
    """Print a table of several evaluation sets, one per line; `title` is the heading of their names."""
    first = next(iter(sets.values()))
    names = [name for name, value in first.items() if isinstance(value, float)][:_HEADLINE]
    table = Table(title, *names, "examples")
    for name, metrics in sets.items():
        table.add_row(Text(name), *(f"{value_of(metrics, key):.4f}" for key in names), str(metrics.get("examples", "")))
    console.print(table)


def print_summary(summary: dict[str, Any], folder: RunFolder) -> None:
    """Print the final table of a run and the path of its export."""
    table = Table("", "", show_header=False)
    for part, name in (("eval", "validation"), ("test", "test")):
        several = "sets" in (summary.get(part) or {})
        if several:
            print_sets(summary[part]["sets"], f"{name} set")
        if summary.get(part):
            table.add_row(f"{name}, mean" if several else name, metrics_headline(summary[part]))
    if "folds" in summary:
        table.add_row(f"{summary['folds']['count']} folds, mean ± std", _spread_headline(summary["folds"]))
    exported = "" if summary["exported_step"] is None else f", exported: step {summary['exported_step']}"
    skipped = f", {summary['bad_steps']} skipped (loss or gradient not finite)" if summary["bad_steps"] else ""
    table.add_row("steps", f"{summary['steps']} ({summary['epochs']:g} epochs){exported}{skipped}")
    rates = ("examples_per_second", "real_tokens_per_second")
    speed = [f"{summary[name]:,.0f} {name.split('_per')[0].replace('_', ' ')}/s" for name in rates if summary[name]]
    table.add_row("speed", ", ".join([*speed, f"compiled in {summary['compile_seconds']:.1f} s"]))
    if summary["packing_efficiency"]:
        table.add_row("packing", f"{summary['packing_efficiency']:.1%} of the tokens are real, the others are padding")
    for name, line in tuning_lines(summary).items():
        table.add_row(name, Text(line))
    console.print(table, highlight=False)
    made = (
        f"ensemble of the models in {folder.folds}" if summary["exported_step"] is None else f"export: {folder.export}"
    )
    console.print(made, highlight=False, soft_wrap=True)


def print_curve(result: Content, folder: RunFolder) -> None:
    """Print the table of a learning curve, and the sentence about it."""
    names = [*result["points"][0]["each"][0]]
    names = list(dict.fromkeys([result["metric"], *names[:_HEADLINE]]))
    table = Table("share", "rows", *names, title=f"mean ± standard deviation over {result['folds']} folds")
    for point in result["points"]:
        values = [[value_of(of_fold, name) for of_fold in point["each"]] for name in names]
        cells = (f"{mean(found):.4f} ± {stdev(found):.4f}" for found in values)
        table.add_row(point["fraction"], f"{point['rows']:,.0f}", *cells)
    console.print(table, highlight=False)
    console.print(result["verdict"]["sentence"], highlight=False, soft_wrap=True)
    console.print(f"curve.json and curve.png: {folder.path}", highlight=False, soft_wrap=True)


def _spread_headline(folds: dict[str, Any]) -> str:
    """Return mean and standard deviation over the folds of the first few metrics, on one line."""
    means, deviations = folds["mean"], folds["std"]
    return "  ".join(f"{name} {means[name]:.4f} ± {deviations[name]:.4f}" for name in [*means][:_HEADLINE])


def tuning_lines(record: dict[str, Any]) -> dict[str, str]:
    """Return what was chosen on held-out examples (`train.calibrate`), a line for each kind; empty if nothing was."""
    lines: dict[str, str] = {}
    if calibration := record.get("calibration"):
        before, after = calibration.get("before", {}), calibration.get("after", {})
        moved = ", ".join(f"{name} {value:.4f} -> {after[name]:.4f}" for name, value in before.items())
        fitted = f"temperature {calibration.get('temperature', 1):.4f} on {calibration.get('examples', 0):,} examples: "
        lines["calibration"] = calibration.get("note") or fitted + moved
    if threshold := record.get("threshold"):
        numbers = "  ".join(f"{name} {value:.4f}" for name, value in threshold.items() if isinstance(value, float))
        lines["threshold"] = threshold.get("note") or f"{threshold['positive_label']}: {numbers}"
    if thresholds := record.get("thresholds"):
        lowest, highest = min(thresholds.values()), max(thresholds.values())
        lines["thresholds"] = f"one for each of {len(thresholds):,} labels, from {lowest:.4f} to {highest:.4f}"
    return lines


def data_table(overview: Content) -> Table:
    """Return the table of `data_lines` for the terminal."""
    shown, lines = data_lines(overview)
    table = Table("data", *map(escape, shown))
    for title, cells in lines:
        table.add_row(title, *map(Text, cells))
    return table


def data_lines(overview: Content) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the names of the sets of `Overview.to_dict`, the first four, and each property with its text for each set."""
    sources: dict[str, Content] = overview["sources"]
    shown = list(sources)[:_SETS]
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
    told = [(title, [tell(name, sources[name]) for name in shown]) for title, tell in lines.items()]
    return shown, [(title, cells) for title, cells in told if any(cells)]


def data_notes(overview: Content) -> list[str]:
    """Return the notes that are printed below the data table."""
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
    if len(ranked) > _COUNTED:
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
    """Return a number with its noun; `unit` is the plural, such as `texts` or `pairs of texts`."""
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
    """Return the histogram of a set's lengths, one line per bar."""
    bars = list(dropwhile(lambda bar: not bar[2], source["lengths"]["histogram"]))
    highest = max(count for *_, count in bars)
    width = len(str(bars[-1][1]))
    return [f"{low:>{width}}-{high:<{width}} {_bar(count / highest)} {count:,}" for low, high, count in bars]


def _bar(share: float) -> str:
    whole, part = divmod(round(share * _BAR * 8), 8)
    return (("█" * whole) + (_BLOCKS[part] if part else "")).ljust(_BAR)
