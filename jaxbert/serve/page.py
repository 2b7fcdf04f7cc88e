"""The page at `/`: type a text, see its label, probabilities and coloured words. It has no script, and loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from jaxbert.serve.forms import to_text
from jaxbert.understand.explain import Explanation
from jaxbert.understand.explain_page import explained_article
from jaxbert.understand.report.page import Html, bar, element, joined_html, page, table

_STYLE = """
textarea { width: 100%; padding: .5rem;
  font: inherit; color: inherit; background: var(--soft); border: 1px solid var(--line); }
button { font: inherit; padding: .3rem 1rem; margin: .5rem .5rem 0 0; }
.facts { color: var(--faint); font-size: .9rem; }
"""


def ask_page(
    names: Sequence[str],
    model: str,
    texts: Sequence[str],
    *,
    labels: Sequence[str] = ("Text",),
    explains: bool = False,
    answer: Mapping[str, Any] | None = None,
    error: str | None = None,
    explanation: Explanation | None = None,
) -> str:
    """Return the page.

    Args:
      names: the names of all models.
      model: the name of the one that is asked.
      texts: what stands in the fields, one for each of `labels`.
      labels: the names of the fields.
      explains: whether answers can be explained.
      answer: the answer to the texts, in `predict`'s form.
      error: why there is none.
      explanation: the coloured words.
    """
    sections = [("Ask", _form(names, model, texts, labels, explains))]
    if error is not None:
        sections.append(("No answer", element("p", error, kind="note", role="alert")))
    if answer is not None:
        sections.append(("Answer", _answer(answer)))
    if explanation is not None:
        sections.append(("Why", joined_html([Html(explained_article(1, explanation))])))
    style = element("style", Html(_STYLE))
    head, content = sections[0]
    return page(f"jaxbert: {model}", [(head, joined_html([style, content])), *sections[1:]])


def _form(names: Sequence[str], model: str, texts: Sequence[str], labels: Sequence[str], explains: bool) -> Html:
    fields: list[object] = []
    for place, label in enumerate(labels):
        name = "text" if place == 0 else "pair"
        fields.append(element("label", label))
        value = texts[place] if place < len(texts) else ""
        fields.append(element("textarea", "\n", value, name=name, rows=4, dir="auto", aria_label=label))
    if len(names) > 1:
        options = (element("option", name, selected="" if name == model else None) for name in names)
        fields.append(element("select", *options, name="model", aria_label="Model"))
    buttons = [element("button", "Answer", type="submit")]
    if explains:
        buttons.append(element("button", "Answer and explain", type="submit", name="explain", value="1"))
    return element("form", *fields, element("div", *buttons), method="post", action="/")


def _answer(answer: Mapping[str, Any]) -> Html:
    """Return the label, the probabilities as bars, and everything else as JSON."""
    shown: list[object] = []
    if "label" in answer:
        label = "no label" if answer["label"] is None else answer["label"]
        shown.append(element("p", element("strong", label, id="label"), " ", str(answer.get("score", ""))))
    probabilities = answer.get("probabilities")
    if isinstance(probabilities, dict):
        ordered = sorted(probabilities.items(), key=lambda entry: -entry[1])
        shown.append(table(("label", "probability", ""), [(name, value, bar(value)) for name, value in ordered]))
    if not shown or answer.keys() - {"label", "score", "probabilities"}:
        shown.append(element("pre", to_text(answer)))
    return joined_html(shown)
