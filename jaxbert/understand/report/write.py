"""Put the sections of a run's report together, and write `report.html` to its folder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from etils import epath

from jaxbert.bucket import write_whole
from jaxbert.errors import UserError
from jaxbert.train.inference import Finished
from jaxbert.understand.report.headline import headline_section
from jaxbert.understand.report.held_out import HeldOut
from jaxbert.understand.report.mistakes import mistake_section, suspect_section
from jaxbert.understand.report.page import Html, joined_html, page
from jaxbert.understand.report.parent import parent_section
from jaxbert.understand.report.scores import (
    confusion_section,
    frequency_section,
    label_section,
    scatter_section,
    slice_section,
)
from jaxbert.understand.report.trust import trust_section
from jaxbert.understand.report.whole_run import (
    again_section,
    curve_section,
    data_section,
    packing_section,
    robustness_section,
    self_training_section,
    speed_section,
)

_MOST_SETS = 4
"""The most sets that are shown in detail."""
_OF_A_SET: tuple[Callable[[HeldOut], Html | None], ...] = (
    label_section,
    confusion_section,
    scatter_section,
    frequency_section,
    trust_section,
    mistake_section,
    slice_section,
)
"""What is shown of each set, in this order."""


def write_report(finished: Finished) -> epath.Path:
    """Write the report of a complete run; return its path.

    Raises:
      UserError: if the folder cannot be written.
    """
    path, written = finished.folder.report, report_page(finished)
    with finished.folder.writing():
        write_whole(path, written)
    return path


def with_slices(finished: Finished, slices: list[str]) -> Finished:
    """Return a run whose report shows the scores by the values of these columns.

    Raises:
      UserError: if no held-out set has one of them.
    """
    sets = {v.name: v.seen.facts.columns for v in finished.inputs.overview.views if v.name in finished.outcomes}
    for name in slices:
        if sets and not any(name in columns for columns in sets.values()):
            has = "; ".join(f"{one} has {', '.join(columns) or 'no named columns'}" for one, columns in sets.items())
            raise UserError(f"--slices names {name!r}, but no held-out set has such a column: {has}")
    config = dataclasses.replace(finished.config.report, slices=slices)
    return dataclasses.replace(finished, config=dataclasses.replace(finished.config, report=config))


def report_page(finished: Finished) -> str:
    """Return the report of a complete run as HTML; only its times differ between two runs of one seed."""
    summary = finished.summary
    sets = [HeldOut(finished, name, outcome) for name, outcome in finished.outcomes.items()]
    sections: list[tuple[str, Html | None]] = [
        ("Result", headline_section(sets, summary)),
        ("Data", data_section(summary["data"])),
        ("Training", curve_section(finished)),
    ]
    for one in sets[:_MOST_SETS]:
        sections.append((f"Set: {one.name}", joined_html(tell(one) for tell in _OF_A_SET)))
    left = [one.name for one in sets[_MOST_SETS:]]
    if left:
        sections.append(("Further sets", Html(f"{len(left)} more sets are only in the table of results.")))
    sections += [
        ("Texts that the model labelled", self_training_section(summary) if "self_training" in summary else None),
        ("Disturbed texts", robustness_section(finished)),
        ("Beside the larger model", parent_section(finished)),
        ("Labels that may be wrong", suspect_section(finished)),
        ("Packed rows", packing_section(finished)),
        ("Speed", speed_section(summary)),
        ("The same run again", again_section(finished)),
    ]
    shown = [(name, content) for name, content in sections if content]
    return page(f"{finished.config.task.replace('_', ' ')}: {finished.folder.path.name}", shown)
