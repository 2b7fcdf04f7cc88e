"""Explanations as one HTML page that needs no other file: texts with coloured words, in light and dark.

A word's colour says for or against the label; a line below the word says the same to readers who do not see the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from jaxbert.options import ExplainOptions
from jaxbert.understand.explain import Explanation, shown_label
from jaxbert.understand.report.page import escaped
from jaxbert.understand.words import Text

MOST_SHOWN = 1000
"""The most texts on a page: a browser needs long for more."""
_FAINTEST = 0.04
"""The smallest share of the largest weight of a text that is coloured."""
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
WORD_STYLE = """\
:root { --for: 22, 132, 60; --against: 200, 40, 60; --deepest: 0.42; }
@media (prefers-color-scheme: dark) { :root { --for: 46, 160, 90; --against: 225, 75, 90; --deepest: 0.55; } }
.w { color: var(--ink); border-radius: 0.2em; padding: 0.1em 0; border-bottom: 2px solid transparent; }
.f { background: rgba(var(--for), calc(var(--a) * var(--deepest))); border-bottom: 2px solid rgb(var(--for)); }
.g { background: rgba(var(--against), calc(var(--a) * var(--deepest))); border-bottom: 2px dashed rgb(var(--against)); }
"""
"""The style of coloured words, for a page that has the colour `--ink`."""
_STYLE = f"""\
:root {{ color-scheme: light dark; --ink: #1b1b1f; --paper: #ffffff; --soft: #55555e; --line: #d5d5dc; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ink: #ececf1; --paper: #17171b; --soft: #a9a9b4; --line: #3a3a42; }} }}
body {{ font: 16px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1rem;
  max-width: 52rem; overflow-wrap: anywhere; }}
h1 {{ font-size: 1.4rem; }} header p, .facts {{ color: var(--soft); font-size: 0.9rem; }}
article {{ border-top: 1px solid var(--line); padding: 0.8rem 0; }} article p {{ margin: 0.3rem 0; white-space: pre-wrap; }}
{WORD_STYLE}details {{ font-size: 0.9rem; }} @media print {{ article {{ break-inside: avoid; }} }}
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
        f"<title>Explanations of {escaped(model)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<header>\n"
        f"<h1>Why {escaped(model)} answers so</h1>\n"
        f'<p>Words that speak <span class="w f" style="--a: 1">for</span> the answer have a solid line, words '
        f'<span class="w g" style="--a: 1">against</span> it a dashed one; the stronger the colour, the larger the weight '
        f"among the words of the same text. Weights add up to the change of the {_UNITS[unit]} from a text without its "
        f"words to the whole text. Method: {escaped(how)}.</p>\n</header>\n"
    )
    number = 0
    for number, explanation in enumerate(explanations, 1):
        if number <= MOST_SHOWN:
            yield explained_article(number, explanation)
    if number > MOST_SHOWN:
        yield f"<p>This page shows the first {MOST_SHOWN:,} of {number:,} texts; JSON lines hold all.</p>\n"
    yield "</body>\n</html>\n"


def explained_article(number: int, explanation: Explanation) -> str:
    """Return the coloured texts of an explanation as HTML; `number` is the number of the text."""
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
    largest = max((abs(word["weight"]) for word in answer["words"]), default=0.0)
    lines = [
        f"<p>{_coloured(text, [word for word in answer['words'] if word.get('pair', 0) == which], largest)}</p>"
        for which, text in enumerate(texts)
    ]
    return (
        f"<div><strong>{escaped(shown_label(answer))}</strong>{of_word} {answer['score']:.4g} "
        f'<span class="facts">{facts}</span></div>\n' + "\n".join(lines) + _neighbours(answer)
    )


def _coloured(text: Text, words: list[dict[str, Any]], largest: float) -> str:
    """Return the text with a span around each word that has a weight worth a colour."""
    if isinstance(text, list):
        weights = {word["start"]: word["weight"] for word in words}
        return " ".join(_span(part, weights.get(place, 0.0), largest) for place, part in enumerate(text))
    parts: list[str] = []
    end = 0
    for word in sorted(words, key=lambda word: word["start"]):
        parts.append(escaped(text[end : word["start"]]))
        parts.append(_span(text[word["start"] : word["end"]], word["weight"], largest))
        end = word["end"]
    return "".join(parts) + escaped(text[end:])


def _span(word: str, weight: float, largest: float) -> str:
    share = abs(weight) / largest if largest else 0.0
    if share < _FAINTEST:
        return escaped(word)
    kind = "f" if weight > 0 else "g"
    return f'<span class="w {kind}" style="--a: {share:.2f}" title="{weight:+.4g}">{escaped(word)}</span>'


def _neighbours(answer: dict[str, Any]) -> str:
    if "neighbours" not in answer:
        return ""
    rows = [
        f"<li>{escaped(str(near['label']))}, cosine {near['similarity']:.3f}, row {escaped(str(near['row']))}: "
        f"{escaped(' | '.join(near[key] for key in ('text', 'text_pair') if key in near))}</li>"
        for near in answer["neighbours"]
    ]
    return "\n<details>\n<summary>Nearest training examples</summary>\n<ol>\n" + "\n".join(rows) + "\n</ol>\n</details>"
