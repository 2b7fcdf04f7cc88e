"""The sections about the run itself: its data, curves, packed rows, speed, and how to make it again."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxbert.config import Config
from jaxbert.data.batches import batches
from jaxbert.data.memory import PREFIX
from jaxbert.plain import read_json
from jaxbert.tasks.metrics import falls, improves, value_of
from jaxbert.train.inference import Finished
from jaxbert.train.programs import training_layout
from jaxbert.train.report import data_lines, data_notes
from jaxbert.understand.report.charts import Plane, Series, draw, thinned
from jaxbert.understand.report.page import (
    Html,
    element,
    figure,
    joined_html,
    paragraphs,
    subsection,
    table,
    text_cell,
    timed,
)
from jaxbert.understand.robustness import disturbance_rows
from jaxbert.versions import installed

_DRAWN_ROWS = 8
_PLACES = 10
_WAITS = 0.05
"""The share of the time from which waiting for the host is worth a word."""
_LABELS = 10
"""The most labels whose added texts are counted one by one."""
_UNITS = (("GiB", 2**30), ("MiB", 2**20))


def data_section(overview: Mapping[str, Any]) -> Html:
    """Return what was understood of the data: the table of the terminal, duplicates, and rows in two sets."""
    names, lines = data_lines(dict(overview))
    rows = [[title, *map(text_cell, cells)] for title, cells in lines]
    return joined_html(
        [table(["", *names], rows), paragraphs(*data_notes(dict(overview))), _duplicates(overview), _leaks(overview)]
    )


def robustness_section(finished: Finished) -> Html | None:
    """Return what disturbed texts did to the answers, if `jaxbert robustness` has measured it for this run."""
    if not finished.folder.robustness.exists():
        return None
    numbers = read_json(finished.folder.robustness)
    head, *rows = disturbance_rows(numbers)
    said = (
        f"{numbers['rows']:,} rows of {numbers['data']}, whose texts were changed at random (seed {numbers['seed']})."
    )
    return joined_html([paragraphs(said), table(head, rows)])


def _duplicates(overview: Mapping[str, Any]) -> Html | None:
    parts = []
    for name, source in overview["sources"].items():
        found = source["duplicates"]
        if not found["rows"]:
            continue
        lines = []
        for place in found["places"][:_PLACES]:
            labels = place.get("labels", [])
            differing = f", labels {', '.join(labels)}" if len(set(labels)) > 1 else ""
            lines.append(element("li", f"rows {', '.join(map(str, place['rows']))}{differing}"))
        more = found["texts"] - len(lines)
        lines += [element("li", f"and {more:,} more texts")] if more > 0 else []
        conflicts = (
            f", {found['conflicting_texts']:,} of them with different labels" if found["conflicting_texts"] else ""
        )
        parts += [
            element("p", f"{name}: {found['texts']:,} texts occur twice or more{conflicts}."),
            element("ul", *lines),
        ]
    return subsection("Texts that occur twice", *parts)


def _leaks(overview: Mapping[str, Any]) -> Html | None:
    parts = []
    for leak in overview["leaks"]:
        if not leak["rows"]:
            continue
        first, second = leak["sets"]
        said = f"{leak['rows']:,} rows of {second} ({leak['share']:.2%}) are in {first}, too: its metrics are too good."
        places = [f"row {place[second]} is row {place[first]} of {first}" for place in leak["places"][:_PLACES]]
        parts += [element("p", said), element("ul", *(element("li", line) for line in places))]
    return subsection("Texts that are in two sets", *parts)


def curve_section(finished: Finished) -> Html | None:
    """Return the charts of training: loss, metric, learning rate, norm of the gradient."""
    lines = finished.folder.read_metrics()
    best = finished.config.train.best_metric or finished.model.task.default_metric

    def series(key: str, name: str = "", colour: Any = 0) -> list[Series]:
        found = [(line["step"], line[key]) for line in lines if isinstance(line.get(key), int | float)]
        points = np.array(found, np.float64).reshape(-1, 2)
        points = points[np.isfinite(points[:, 1])]
        return [Series(*thinned(points[:, 0], points[:, 1]), name, colour=colour)] if len(points) else []

    charts = {
        "Loss": (series("train_loss", "training") + series("eval_loss", "validation", 1), "loss"),
        f"{best} on the validation set, {'smaller' if falls(best) else 'larger'} is better": (
            series(f"eval_{best}", colour=1) if best != "loss" else [],
            best,
        ),
        "Learning rate": (series("learning_rate"), "learning rate"),
        "Norm of the gradient, before clipping": (series("grad_norm"), "norm"),
    }
    drawn = [
        figure(draw(points, Plane("step", y_name, whole=True)), caption)
        for caption, (points, y_name) in charts.items()
        if points
    ]
    bad = sum(bool(line.get("bad_step")) for line in lines)
    skipped = f"{bad:,} steps were skipped, because loss or gradient was not finite." if bad else None
    return joined_html([element("div", *drawn, kind="charts"), paragraphs(skipped)]) if drawn else None


def self_training_section(summary: Mapping[str, Any]) -> Html:
    """Return which texts without labels the rounds of self-training added, and what the validation set says of it."""
    record = summary["self_training"]
    metric, rounds = record["metric"], record["rounds"]
    after = value_of(summary["eval"], metric)
    names = list(rounds[0]["by_label"])[:_LABELS]
    rows: list[list[object]] = [
        [f"training {one['round']}", one["value"], one["added"], *(one["by_label"][name] for name in names)]
        for one in rounds
    ]
    rows.append([f"training {len(rounds) + 1}, the last one", after, None, *(None for _ in names)])
    more = "" if len(names) == len(rounds[0]["by_label"]) else f" The first {len(names)} labels are shown."
    caption = (
        f"{record['unlabelled']:,} texts without labels. Each training labels those for which the probability is at "
        f"least {record['threshold']:g}, and the next training learns from them too. They are in added.jsonl.{more}"
    )
    worse = improves(metric, rounds[0]["value"], after)
    said = (
        "The last model is worse on the validation set than the first one, which learned only from the labelled rows."
    )
    left = [f"{count:,} texts were left out: they are also in {name}." for name, count in record["left_out"].items()]
    notes = [f"Training {one['round']}: {one['note']}." for one in rounds if "note" in one]
    columns = ["", f"validation: {metric}", "texts added", *names]
    return joined_html([table(columns, rows, caption=caption), paragraphs(said if worse else None, *left, *notes)])


def packing_section(finished: Finished) -> Html | None:
    """Return a drawing of the first rows of the run's first step, and what of them is padding.

    None for a run of several trainings, or without a step.
    """
    several = "folds" in finished.summary or "self_training" in finished.summary  # each has its own rows
    if several or not finished.summary["steps"]:
        return None
    config, train = finished.config, finished.inputs.train
    mesh = finished.model.predictor.mesh
    layout = training_layout(config, train.tokens.lengths, mesh, windows=train.windows)
    batch = next(batches(train, layout, config.train.batch_size, seed=config.train.seed))
    rows = batch["segment_ids"]
    drawn = [
        element(
            "div",
            *(element("i", style=f"--w:{count / rows.shape[1]:.3%}") for count in np.bincount(row)[1:]),
            kind="row",
        )
        for row in rows[:_DRAWN_ROWS]
    ]
    shown = len(drawn)
    said = (
        f"{'All' if shown == len(rows) else f'The first {shown} of'} {len(rows)} rows of the first step: "
        f"{rows.shape[1]} tokens each, {int(batch['example_mask'].sum())} segments. Each coloured piece is a segment; "
        f"hatched pieces are padding, {1 - np.count_nonzero(rows) / rows.size:.1%} of the step."
    )
    return joined_html([element("div", *drawn, role="img", aria_label=said), element("p", said, kind="note")])


def speed_section(summary: Mapping[str, Any]) -> Html:
    """Return rates, memory, efficiency, and what the time was spent on."""
    names = {
        "examples_per_second": "training examples a second",
        "real_tokens_per_second": "real tokens a second (padding not counted)",
        "tflops_per_second": "TFLOP/s",
        "mfu": "MFU, the share of the device's peak",
        "compile_seconds": "seconds of compiling",
        "timed_steps": "steps that were timed",
    }
    rows: list[list[object]] = [["devices", f"{summary['devices']} x {summary['device']}"]]
    if summary["packing_efficiency"]:
        rows.append(["packing efficiency, the share of real tokens", f"{summary['packing_efficiency']:.1%}"])
    found = {said: summary[key] for key, said in names.items() if summary.get(key) is not None}
    rows += [[said, timed(f"{value:,.0f}" if value >= 100 else f"{value:.3g}")] for said, value in found.items()]
    if summary.get("peak_memory_bytes"):
        rows.append(["most memory of a device", timed(_bytes(summary["peak_memory_bytes"]))])
    rows.append(
        ["parameters, and those that were trained", f"{summary['parameters']:,}, {summary['trained_parameters']:,}"]
    )
    waited = summary.get("data_wait_fraction")
    lines = []
    if waited is not None:
        bound = "the host bounds the speed" if waited >= _WAITS else "the device bounds the speed"
        lines.append(timed(f"The device waited {waited:.1%} of the time for data: {bound}."))
    return joined_html([table(["", ""], rows), paragraphs(*lines)])


def _bytes(count: int) -> str:
    name, size = next((unit for unit in _UNITS if count >= unit[1]), _UNITS[-1])
    return f"{count / size:,.1f} {name}"


def again_section(finished: Finished) -> Html:
    """Return the command that makes the run again, and the versions."""
    versions = installed() | {"jax": str(finished.summary["jax_version"])}
    held = any(str(spec).startswith(PREFIX) for spec in _sources(finished.config))
    note = "Rows that a Python program held in memory have no name on the command line." if held else None
    return joined_html(
        [
            element("pre", command_of(finished.config)),
            paragraphs(note, ", ".join(f"{name} {number}" for name, number in versions.items())),
        ]
    )


def _sources(config: Config) -> list[Any]:
    found: list[Any] = []
    for spec in (config.data.train, config.data.validation, config.data.test):
        found += spec.values() if isinstance(spec, dict) else [spec]
    return found


def command_of(config: Config) -> str:
    """Return the command line of a configuration: every key that differs from its default."""
    verb = "pretrain" if config.task == "pretraining" else "train"
    default, words = Config(), [f"jaxbert {verb}"]
    for part in dataclasses.fields(config):
        mine, usual = getattr(config, part.name), getattr(default, part.name)
        if not dataclasses.is_dataclass(mine):
            words += _flag(part.name, mine) if mine != usual and verb == "train" else []
            continue
        for key in dataclasses.fields(mine):
            value = getattr(mine, key.name)
            if value != getattr(usual, key.name):
                words += _flag(f"{part.name}.{key.name}", value)
    return " \\\n  ".join(words)


def _flag(name: str, value: Any) -> list[str]:
    written = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return [f"--{name} {shlex.quote(written)}"]
