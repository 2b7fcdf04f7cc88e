"""`jaxbert explain`: tells which words of a text an answer comes from."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePath
from typing import TYPE_CHECKING

from jaxbert.cli.inference_options import READING_OPTIONS, add_options, add_texts, open_model
from jaxbert.cli.output import check_output, write_pieces, write_text
from jaxbert.cli.parsing import Parser, make_parser, parse
from jaxbert.config import DataConfig, TrainConfig
from jaxbert.errors import UserError
from jaxbert.options import ExplainOptions
from jaxbert.settings import add_fields

if TYPE_CHECKING:
    from jaxbert.understand.explain import Explanation, WordEffects

_USAGE = """\
Example:  jaxbert explain --model runs/reviews --input new.csv --output why.jsonl
          jaxbert explain --model runs/reviews --input new.csv --output why.html --summary words.json
Model:    a run folder, an exported folder or a name on the Hugging Face Hub; any task but
          multiple_choice.
Input:    as for `jaxbert predict`.
Results:  one JSON object per text: label, score, and the weight of each word for the label; a page
          with coloured words if the name of --output ends in .html."""
_MAIN_KEYS = (*("model", "input", "output", "text", "method", "label", "steps", "baseline", "neighbours", "summary"),)
_OPTIONS = ("method", "label", "steps", "baseline", "unit", "neighbours")
_PAGES = (".html", ".htm")


def run(arguments: list[str]) -> int:
    """Explain answers; write one JSON line for each text, or a page."""
    values = parse(_make_parser(), arguments)
    options = ExplainOptions(**{name: values[name] for name in _OPTIONS})
    data = DataConfig(**{name: values[name] for name in READING_OPTIONS})  # `label` is the label to explain
    check_output(values.output, source=values.input)
    if values.summary is not None:
        check_output(values.summary, "--summary", source=values.input)
        if values.summary == values.output:
            raise UserError(f"--summary and --output both name {values.output}: choose another place for one of them")
    from jaxbert.data.sources import check_rows
    from jaxbert.plain import to_json
    from jaxbert.processes import is_main
    from jaxbert.runs.folder import RunFolder
    from jaxbert.tasks.reading import ReadingProgress

    check_rows(data)
    RunFolder(values.model).check_one_model()
    model = open_model(values, values.input)
    from jaxbert.understand.explain import Explainer, WordEffects, unit_of
    from jaxbert.understand.explain_page import page_pieces
    from jaxbert.understand.neighbours import TrainingExamples

    training = TrainingExamples.of(values.model, model) if options.neighbours else None
    explainer, effects = Explainer(model, training), WordEffects()
    with ReadingProgress(values.input, "explaining", silent=values.output == "-") as progress:
        explanations = _counted(explainer(values.input, data, options), effects, progress.add)
        if PurePath(values.output).suffix.lower() in _PAGES:
            pieces = page_pieces(explanations, options, unit_of(model.task, options), PurePath(values.model).name)
        else:
            pieces = (json.dumps(found.answer, ensure_ascii=False) + "\n" for found in explanations)
        write_pieces(values.output, pieces)
    if values.summary is not None and is_main():
        write_text(values.summary, to_json(effects.to_dict()) + "\n")
    return 0


@functools.cache
def _make_parser() -> Parser:
    parser = make_parser(
        "explain", "Show how much each word of a text supports the model's answer.", _USAGE, _MAIN_KEYS
    )
    add_options(parser, batch_size=TrainConfig.eval_batch_size)
    add_texts(
        parser, "standard input", "A name that ends in .html gets a page with coloured words, any other JSON lines."
    )
    add_fields(parser, ExplainOptions, _OPTIONS)
    parser.add_argument(
        "--summary",
        type=str | None,
        default=None,
        help="JSON file for the words of all texts that support or contradict each label most.",
    )
    return parser


def _counted(
    explanations: Iterable[Explanation], effects: WordEffects, count: Callable[[int], None]
) -> Iterator[Explanation]:
    """Yield explanations; their words are added to `effects`, and `count` gets the number of them."""
    for explanation in explanations:
        effects.add(explanation)
        yield explanation
        count(1)
