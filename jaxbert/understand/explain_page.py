"""Explanations as one HTML page that needs no other file: texts with coloured words, in light and dark."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jaxbert.options import ExplainOptions
from jaxbert.understand.coloured import coloured_texts, coloured_word
from jaxbert.understand.explain import Explanation, shown_label
from jaxbert.understand.report.page import escaped
from jaxbert.understand.report.style import WORD_STYLE
from jaxbert.understand.words import Text

MOST_SHOWN = 1000
"""The most texts on a page: a browser needs long for more."""
_METHODS = {
    "integrated_gradients": "integrated gradients, {steps} steps, from the baseline {baseline}",
    "gradient_x_input": "gradient times input",
    "occlusion": "occlusion by the baseline {baseline}",
}
_UNITS = {
    "log_odds": "log-odds of the label",
    "log_probability": "logarithm of the answer's probability",
    "probability": "probability of the answer",
    "score": "score",
}
_STYLE = """\
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #ffffff; --soft: #55555e; --line: #d5d5dc; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --paper: #17171b; --soft: #a9a9b4; --line: #3a3a42; } }
body { font: 16px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1rem;
  max-width: 52rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } header p, .facts { color: var(--soft); font-size: 0.9rem; }
article { border-top: 1px solid var(--line); padding: 0.8rem 0; } article p { margin: 0.3rem 0; white-space: pre-wrap; }
details { font-size: 0.9rem; } @media print { article { break-inside: avoid; } }
"""


def page_pieces(explanations: Iterable[Explanation], options: ExplainOptions, unit: str, model: str) -> Iterator[str]:
    """Yield the parts of a page that shows the first texts, up to `MOST_SHOWN`; all explanations are consumed.

    Args:
      explanations: the texts with their explained answers.
      options: how they were explained.
      unit: what the weights add up to, from `unit_of`.
      model: the name of the model.
    """
    how = _METHODS[options.method].format(steps=options.steps, baseline=options.baseline)
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Explanations of {escaped(model)}</title>\n<style>\n{_STYLE}{WORD_STYLE}</style>\n</head>\n"
        "<body>\n<header>\n"
        f"<h1>Why {escaped(model)} answers so</h1>\n"
        f"<p>Words that speak {coloured_word('for', 1)} the answer have a solid line, words "
        f"{coloured_word('against', -1)} it a dashed one; the stronger the colour, the larger the weight "
        f"among the words of the same text. Weights add up to the change of the {_UNITS[unit]} from a text without its "
        f"words to the whole text. Method: {escaped(how)}.</p>\n</header>\n"
    )
    number = 0
    for number, explanation in enumerate(explanations, 1):
        if number <= MOST_SHOWN:
            yield _article(number, explanation)
    if number > MOST_SHOWN:
        yield f"<p>This page shows the first {MOST_SHOWN:,} of {number:,} texts; JSON lines hold all.</p>\n"
    yield "</body>\n</html>\n"


def _article(number: int, explanation: Explanation) -> str:
    shown = [_answer(explanation.texts, answer, number) for answer in explanation.answers]
    return (
        "<article>\n"
        + ("\n".join(shown) or f'<p class="facts">text {number}: nothing is marked</p>')
        + "\n</article>\n"
    )


def _answer(texts: Sequence[Text], answer: dict[str, Any], number: int) -> str:
    of_word = f" for {escaped(answer['text'])}" if "text" in answer else ""
    facts = (
        f"text {number}; from {answer['baseline_value']:.3g} to {answer['value']:.3g}; completeness error "
        f"{answer['completeness_error']:.2%}"
    )
    lines = [f"<p>{text}</p>" for text in coloured_texts(texts, answer["words"])]
    return (
        f"<div><strong>{escaped(shown_label(answer))}</strong>{of_word} {answer['score']:.4g} "
        f'<span class="facts">{facts}</span></div>\n' + "\n".join(lines) + _neighbours(answer)
    )


def _neighbours(answer: dict[str, Any]) -> str:
    if "neighbours" not in answer:
        return ""
    rows = [
        f"<li>{escaped(str(near['label']))}, cosine {near['similarity']:.3f}, row {escaped(str(near['row']))}: "
        f"{escaped(' | '.join(near[key] for key in ('text', 'text_pair') if key in near))}</li>"
        for near in answer["neighbours"]
    ]
    return "\n<details>\n<summary>Nearest training examples</summary>\n<ol>\n" + "\n".join(rows) + "\n</ol>\n</details>"
