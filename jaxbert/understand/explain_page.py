"""Explanations as one HTML page that needs no other file: texts with coloured words, in light and dark.

A word's colour says for or against the label; a line below the word says the same to readers who do not see the difference.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from typing import Any

from jaxbert.config import ExplainOptions
from jaxbert.understand.explain import Explanation

MOST_SHOWN = 1000
"""The most texts on a page: a browser needs long for more."""
_FAINTEST = 0.04
"""The smallest share of the largest weight of a text that is coloured."""
_METHODS = {
    "integrated_gradients": "integrated gradients, {steps} steps, from the baseline {baseline}",
    "gradient_x_input": "gradient times input",
    "occlusion": "occlusion by the baseline {baseline}",
}
_UNITS = {"log_odds": "log-odds of the label", "probability": "probability of the label", "score": "score"}
_STYLE = """\
:root { color-scheme: light dark; --ink: #1b1b1f; --paper: #ffffff; --soft: #55555e; --line: #d5d5dc;
  --for: 22, 132, 60; --against: 200, 40, 60; --deepest: 0.42; }
@media (prefers-color-scheme: dark) { :root { --ink: #ececf1; --paper: #17171b; --soft: #a9a9b4; --line: #3a3a42;
  --for: 46, 160, 90; --against: 225, 75, 90; --deepest: 0.55; } }
body { font: 16px/1.6 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 0 auto; padding: 1rem;
  max-width: 52rem; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; } header p, .facts { color: var(--soft); font-size: 0.9rem; }
article { border-top: 1px solid var(--line); padding: 0.8rem 0; } article p { margin: 0.3rem 0; white-space: pre-wrap; }
.w { border-radius: 0.2em; padding: 0.1em 0; border-bottom: 2px solid transparent; }
.f { background: rgba(var(--for), calc(var(--a) * var(--deepest))); border-bottom: 2px solid rgb(var(--for)); }
.g { background: rgba(var(--against), calc(var(--a) * var(--deepest))); border-bottom: 2px dashed rgb(var(--against)); }
details { font-size: 0.9rem; } @media print { article { break-inside: avoid; } }
"""


def page_pieces(explanations: Iterable[Explanation], options: ExplainOptions, unit: str, model: str) -> Iterator[str]:
    """Yield the parts of a page that shows the first texts, up to `MOST_SHOWN`; all explanations are consumed.

    Args:
      explanations: the texts with their explained answers.
      options: how they were explained.
      unit: what the weights add up to: `log_odds`, `probability` or `score`.
      model: the name of the model.
    """
    how = _METHODS[options.method].format(steps=options.steps, baseline=options.baseline)
    yield (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>Explanations of {escape(model)}</title>\n<style>\n{_STYLE}</style>\n</head>\n<body>\n<header>\n"
        f"<h1>Why {escape(model)} answers so</h1>\n"
        f'<p>Words that speak <span class="w f" style="--a: 1">for</span> the answer have a solid line, words '
        f'<span class="w g" style="--a: 1">against</span> it a dashed one; the stronger the colour, the larger the weight '
        f"among the words of the same text. Weights add up to the change of the {_UNITS[unit]} from a text without its "
        f"words to the whole text. Method: {escape(how)}.</p>\n</header>\n"
    )
    number = 0
    for number, explanation in enumerate(explanations, 1):
        if number <= MOST_SHOWN:
            yield _article(number, explanation)
    if number > MOST_SHOWN:
        yield f"<p>This page shows the first {MOST_SHOWN:,} of {number:,} texts; JSON lines hold all.</p>\n"
    yield "</body>\n</html>\n"


def _article(number: int, explanation: Explanation) -> str:
    answer, facts = explanation.answer, []
    label = "score" if answer["label"] is None else answer["label"]
    facts.append(f"from {answer['baseline_value']:.3g} to {answer['value']:.3g}")
    facts.append(f"completeness error {answer['completeness_error']:.2%}")
    largest = max((abs(word["weight"]) for word in answer["words"]), default=0.0)
    lines = [
        f"<p>{_coloured(text, [word for word in answer['words'] if word.get('pair', 0) == which], largest)}</p>"
        for which, text in enumerate(explanation.texts)
    ]
    return (
        f'<article>\n<div><strong>{escape(str(label))}</strong> {answer["score"]:.4g} <span class="facts">'
        f"text {number}; {'; '.join(facts)}</span></div>\n" + "\n".join(lines) + _neighbours(answer) + "\n</article>\n"
    )


def _coloured(text: str, words: list[dict[str, Any]], largest: float) -> str:
    """Return the text with a span around each word that has a weight worth a colour."""
    parts, end = [], 0
    for word in sorted(words, key=lambda word: word["start"]):
        parts.append(escape(text[end : word["start"]]))
        shown, share = escape(text[word["start"] : word["end"]]), abs(word["weight"]) / largest if largest else 0.0
        if share < _FAINTEST:
            parts.append(shown)
        else:
            kind = "f" if word["weight"] > 0 else "g"
            parts.append(
                f'<span class="w {kind}" style="--a: {share:.2f}" title="{word["weight"]:+.4g}">{shown}</span>'
            )
        end = word["end"]
    return "".join(parts) + escape(text[end:])


def _neighbours(answer: dict[str, Any]) -> str:
    if "neighbours" not in answer:
        return ""
    rows = [
        f"<li>{escape(str(near['label']))}, cosine {near['similarity']:.3f}, row {escape(str(near['row']))}: "
        f"{escape(' | '.join(near[key] for key in ('text', 'text_pair') if key in near))}</li>"
        for near in answer["neighbours"]
    ]
    return "\n<details>\n<summary>Nearest training examples</summary>\n<ol>\n" + "\n".join(rows) + "\n</ol>\n</details>"
