"""A model beside the one that it was made smaller from: its teacher, or the run whose parts it was pruned from."""

from __future__ import annotations

from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.runs.folder import RunFolder
from jaxbert.train.inference import Finished
from jaxbert.understand.compare import Comparison, compare_finished
from jaxbert.understand.compare_page import metrics_part, pair_part
from jaxbert.understand.reopen import reopen
from jaxbert.understand.report.page import Html, joined_html, paragraphs, timed


def parent_of(config: Config) -> str | None:
    """Return the complete run from which a run's model was made smaller; None if there is none."""
    train, model = config.train, config.model
    made_of_it = train.prune is not None or model.layers is not None
    name = train.teacher or (model.name_or_path if made_of_it else None)
    return name if name is not None and RunFolder(name).summary.exists() else None


def parent_section(finished: Finished) -> Html | None:
    """Return accuracy, calibration, size, speed and the texts with other answers, beside those of the parent."""
    parent = parent_of(finished.config)
    if parent is None:
        return None
    try:
        paths = [str(RunFolder(parent).path), str(finished.folder.path)]
        comparison = compare_finished(paths, [reopen(parent), finished], timed=True)
    except UserError as error:
        return paragraphs(f"{parent} cannot be shown beside this run: {error}.")
    return joined_html([_gain(comparison), metrics_part(comparison), *map(pair_part, comparison.pairs)])


def _gain(comparison: Comparison) -> Html:
    """Return a sentence on how much smaller and faster the second model is."""
    (larger, before), (smaller, after) = comparison.sizes.items()
    share = f"{smaller} has {after.parameters / before.parameters:.0%} of the parameters of {larger}"
    if before.answers_per_second is None or after.answers_per_second is None:
        return paragraphs(f"{share}.")
    faster = timed(f"{after.answers_per_second / before.answers_per_second:.2f}")
    return paragraphs(joined_html([f"{share}, and answers ", faster, " times as fast on this machine."]))
