"""The mkdocs hooks of mkdocs.yml: pages outside of docs/, their links, and docstrings as plain text.

The documents are written for a reader of the repository, with relative links. On the site the files in `OUTSIDE` are pages
too; a link to any other file of the repository becomes plain text, because the site does not hold that file.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changelog.md",
    "scripts/launch/README.md": "launch.md",
}
"""Pages of the site by their paths in the repository."""
LINK = re.compile(r"(?<!!)\[([^\]]*)\]\((?![a-z]+:|#)([^)#\s]+)(#[^)\s]*)?\)")
PICTURE = re.compile(r"!\[([^\]]*)\]\(docs/([^)\s]+)\)")
FENCE = re.compile(r"^(```.*?^```)", re.MULTILINE | re.DOTALL)


def on_files(files: Files, config: Any) -> Files:
    """Add the pages that lie outside of docs/."""
    for path, page in OUTSIDE.items():
        files.append(File.generated(config, page, content=(ROOT / path).read_text("utf-8")))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, **_: Any) -> str:
    """Point the relative links of a page to pages of the site."""
    name = page.file.src_uri
    path = next((path for path, outside in OUTSIDE.items() if outside == name), f"docs/{name}")
    titles = dict(_titles(config.nav))
    pieces = FENCE.split(markdown)
    pieces[::2] = [LINK.sub(lambda link: _on_site(link, path, titles), text) for text in pieces[::2]]
    if path in OUTSIDE:  # the site's root is docs/
        pieces[::2] = [PICTURE.sub(r"![\1](\2)", text) for text in pieces[::2]]
    return "".join(pieces)


def _titles(menu: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield each page of the menu with its title."""
    for title, entry in (item for part in menu for item in part.items()):
        yield from _titles(entry) if isinstance(entry, list) else [(entry, title)]


def _on_site(link: re.Match[str], path: str, titles: dict[str, str]) -> str:
    """Return a link of the document at `path` in its form on the site; a link text that is a file's name becomes a title."""
    text, target, anchor = link[1], posixpath.normpath(posixpath.join(posixpath.dirname(path), link[2])), link[3] or ""
    if not (ROOT / target).exists():
        raise PluginError(f"{path}: the link to {link[2]} leads nowhere")
    if target == "docs/README.md":
        return f"[{text}](index.md)"
    page = OUTSIDE.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
    if page is None:
        return text
    return f"[{titles.get(page, text) if text.endswith('.md') else text}]({page}{anchor})"


class PlainDocstrings(griffe.Extension):
    """Shows the docstrings of settings as plain text, like `--help`: brackets and stars stay as they are."""

    def on_instance(self, *, node: Any, obj: griffe.Object, **_: Any) -> None:
        """Escape a docstring of jaxbert.config, except within backticks."""
        if obj.docstring is None or not obj.path.startswith("jaxbert.config."):
            return
        pieces = re.split(r"(`[^`]*`)", obj.docstring.value)
        pieces[::2] = [re.sub(r"([\[\]*_<>#{}])", r"\\\1", text) for text in pieces[::2]]
        obj.docstring.value = "".join(pieces)
