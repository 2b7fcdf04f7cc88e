"""HTML from plain values: elements, tables, figures, marked texts, and the page around them.

Every text is escaped unless it is `Html`, which only these functions make. A page loads nothing from elsewhere, can be read
without JavaScript, and has a policy that lets no script run but its own.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from typing import Any

from jaxbert.understand.report.style import SCRIPT, STYLE, WORD_STYLE

_UNPRINTABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff\ufffe\uffff]")
_EMPTY_ELEMENTS = {"meta", "br"}
_CUT = 700
"""Characters of a text that a report shows."""


class Html(str):
    """A text that is HTML already."""


def escaped(value: object) -> Html:
    """Return a value as HTML: `Html` unchanged, everything else as text; characters that HTML forbids are replaced."""
    if isinstance(value, Html):
        return value
    return Html(html.escape(_UNPRINTABLE.sub("\ufffd", str(value))))


def element(tag: str, *content: object, **attributes: object) -> Html:
    """Return an element; `kind` is its class, and an attribute that is None is left out."""
    names = {"kind": "class"}
    written = "".join(
        f' {names.get(name, name).replace("_", "-")}="{html.escape(_UNPRINTABLE.sub("", str(value)))}"'
        for name, value in attributes.items()
        if value is not None
    )
    if tag in _EMPTY_ELEMENTS:
        return Html(f"<{tag}{written}>")
    return Html(f"<{tag}{written}>{joined_html(content)}</{tag}>")


def joined_html(parts: Iterable[object]) -> Html:
    """Return parts one after the other; None is left out."""
    return Html("".join(escaped(part) for part in parts if part is not None))


def timed(value: object) -> Html:
    """Return a value that differs between two runs of one seed: a time, a rate, or what follows from them."""
    return element("data", value, kind="time")


def shown_number(value: float) -> str:
    """Return a number for readers: counts with separators, other numbers with four digits after the point."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.4f}" if abs(value) < 1000 else f"{value:,.1f}"


def table(
    head: Sequence[object], rows: Iterable[Sequence[object]], *, sortable: bool = False, caption: object = None
) -> Html:
    """Return a table, its caption above it; a column whose first value is a number is aligned to the right."""
    rows = [*rows]
    numeric = [bool(rows) and _is_number(rows[0][column]) for column in range(len(head))]
    kinds = ["number" if right else None for right in numeric]

    def cell(value: object, kind: str | None) -> Html:
        if value is None:
            return element("td", "", kind=kind)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return element("td", shown_number(value), kind=kind)
        return value if isinstance(value, Html) and value.startswith("<td") else element("td", value, kind=kind)

    top = element("tr", *(element("th", name, kind=kind, scope="col") for name, kind in zip(head, kinds, strict=True)))
    lines = [element("tr", *map(cell, row, kinds)) for row in rows]
    inner = element(
        "table",
        *(element("thead", top) if any(head) else None, element("tbody", *lines)),
        kind="sortable" if sortable and len(rows) > 1 else None,
    )
    title = None if caption is None else element("p", caption, kind="note")  # a caption would scroll with a wide table
    return joined_html([title, element("div", inner, kind="scroll")])


def _is_number(value: object) -> bool:
    if isinstance(value, Html):
        return value.startswith('<td class="number"')
    return isinstance(value, int | float) and not isinstance(value, bool)


def heat_map(names: Sequence[str], counts: Sequence[Sequence[int]]) -> Html:
    """Return counts as a coloured table: a row for each true label, a column for each predicted one.

    The colour is the share of the row, blue on the diagonal and orange beside it.
    """
    top = element("tr", element("th", "true \\ predicted"), *(_upright(name) for name in names))
    lines = []
    for place, row in enumerate(counts):
        total = max(1, sum(row))
        cells = [
            element(
                "td", count or "", style=f"--s:{count / total:.2f};--of:var(--{'first' if i == place else 'second'})"
            )
            for i, count in enumerate(row)
        ]
        lines.append(element("tr", element("th", names[place], dir="auto", scope="row"), *cells))
    grid = element("table", element("thead", top), element("tbody", *lines), kind="heat")
    return element("div", grid, kind="scroll")


def _upright(name: str) -> Html:
    return element("th", element("span", name, dir="auto"), kind="up", scope="col")


def figure(drawing: Html, caption: object) -> Html:
    """Return a drawing with its caption."""
    return element("figure", drawing, element("figcaption", caption))


def bar(share: float) -> Html:
    """Return a horizontal bar that fills a share, from 0 to 1, of its width."""
    return element("span", element("i", style=f"--w:{min(1.0, max(0.0, share)):.1%}"), kind="bar")


def text_cell(text: object) -> Html:
    """Return a cell of a table with a text of the user, cut if it is very long."""
    return element("td", shortened(text) if not isinstance(text, Html) else text, kind="text", dir="auto")


def shortened(text: object) -> str:
    """Return the beginning of a long text."""
    written = str(text)
    return written if len(written) <= _CUT else f"{written[:_CUT]} … ({len(written) - _CUT:,} more characters)"


def marked_text(text: str, marks: Iterable[tuple[int, int, str, str]]) -> Html:
    """Return a text in which pieces are marked; a mark that overlaps an earlier one follows the text on its own.

    Args:
      text: the text.
      marks: for each piece its first character, the one after its last, its kind (a class of the style) and its name.
    """
    parts: list[object] = []
    late: list[object] = []
    place = 0
    for start, end, kind, name in sorted(marks):
        piece = element("mark", text[start:end], element("b", name) if name else None, kind=kind)
        if start < place:
            late += [" ", piece]
            continue
        parts += [text[place:start], piece]
        place = end
    parts.append(text[place:])
    return joined_html([*parts, *([element("br"), "also: ", *late] if late else [])])


def page(title: str, sections: Sequence[tuple[str, Html]]) -> str:
    """Return the whole page: a title, a menu, and sections with their headings."""
    digest = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(STYLE + WORD_STYLE)),
    )
    names = [(f"s{number}", name) for number, (name, _) in enumerate(sections, 1)]
    menu = element("nav", *(element("a", name, href=f"#{anchor}") for anchor, name in names))
    parts = [
        element("section", element("h2", name), content, id=anchor)
        for (anchor, name), (_, content) in zip(names, sections, strict=True)
    ]
    body = element("body", element("h1", title, dir="auto"), menu, *parts, element("script", Html(SCRIPT)))
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def paragraphs(*lines: object) -> Html:
    """Return each line as a paragraph; None is left out."""
    return joined_html(element("p", line) for line in lines if line is not None)


def subsection(title: str, *content: Any) -> Html | None:
    """Return a heading with what follows it; None if nothing does."""
    kept = [part for part in content if part is not None]
    return joined_html([element("h3", title), *kept]) if kept else None
