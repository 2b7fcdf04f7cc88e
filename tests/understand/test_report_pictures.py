"""Reports of eight sets of real data as a browser shows them: on a wide page and on a phone, light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from reports import made_up_run
from transformers import BertTokenizer

from jaxbert.understand.report.write import write_report

WIDE, PHONE, HEIGHT = 1000, 400, 900
SETTINGS = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--allow-file-access-from-files"]
# What is wrong with a page in a frame: parts that are wider than it, and texts of charts that are cut off or lie on others.
FAULTS = """
function faultsOf(page) {
  const wide = page.documentElement.scrollWidth - page.documentElement.clientWidth, faults = [];
  if (wide > 0) faults.push(`the page is ${wide} pixels wider than the window`);
  for (const svg of page.querySelectorAll("svg")) {
    const paper = svg.getBoundingClientRect(), texts = [...svg.querySelectorAll("text")].filter(t => t.textContent.trim());
    const boxes = texts.map(text => text.getBoundingClientRect());
    boxes.forEach((box, i) => {
      const name = texts[i].textContent;
      const over = Math.max(paper.left - box.left, box.right - paper.right, paper.top - box.top, box.bottom - paper.bottom);
      if (over > 1)
        faults.push(`"${name}" is cut off`);
      for (let j = 0; j < i; j++) {
        const other = boxes[j];
        const across = Math.min(box.right, other.right) - Math.max(box.left, other.left);
        const down = Math.min(box.bottom, other.bottom) - Math.max(box.top, other.top);
        if (across > 1 && down > 0.3 * Math.min(box.height, other.height))
          faults.push(`"${name}" lies on "${texts[j].textContent}"`);
      }
    });
  }
  return {faults, charts: page.querySelectorAll("svg").length, height: page.documentElement.scrollHeight};
}
"""

# A task, a file of the shared data, the number of its lines or articles that are taken, a vocabulary, settings.
DATA: dict[str, tuple[str, str, int, str, dict[str, Any]]] = {
    "sst2": (
        "classification",
        "glue_SST-2/dev.tsv",
        301,
        "uncased",
        {"data__text": "sentence", "data__quoting": "none"},
    ),
    "thucnews": (
        "classification",
        "thucnews/dev.txt",
        300,
        "chinese",
        {"data__columns": ["text", "label"], "data__quoting": "none", "data__label_names": [*"财房股教科社政体游娱"]},
    ),
    "go_emotions": (
        "multi_label",
        "go_emotions/dev.tsv",
        300,
        "uncased",
        {"data__columns": ["text", "label", "id"], "data__label": "label", "data__quoting": "none"},
    ),
    "resume_ner": ("token_classification", "resume_ner/dev.char.bmes", 2000, "chinese", {}),
    "xquad": ("question_answering", "xquad/xquad.zh.json", 3, "chinese", {}),
    "stsb": (
        "regression",
        "stsb/stsb-en-dev.csv",
        300,
        "uncased",
        {"data__columns": ["text", "text_pair", "label"], "data__text_pair": "text_pair"},
    ),
    "wikitext2": ("pretraining", "wikitext2/valid.txt", 400, "uncased", {"pretrain__documents": "heading"}),
    "classes119": ("classification", "thucnews/dev.txt", 600, "chinese", {"data__columns": ["text", "label"]}),
}
VOCABULARIES = {"uncased": "bert-base-uncased-vocab.txt", "chinese": "bert-base-chinese-vocab.txt"}


@pytest.fixture(scope="module")
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed, which shows pages as pictures")
    return found


def part_of(shared_data: Path, name: str, folder: Path) -> Path:
    """Write the first lines or articles of a set; 119 classes are the headlines', each divided by their numbers."""
    _, file, count, _, _ = DATA[name]
    text = (shared_data / file).read_text("utf-8")
    if file.endswith(".json"):
        text = json.dumps({"data": json.loads(text)["data"][:count]})
    else:
        text = "\n".join(text.splitlines()[:count]).rstrip() + "\n"
    if name == "classes119":
        lines = [line.split("\t")[0] for line in text.splitlines()]
        text = "".join(f"{line}\t主题{i % 119}的新闻\n" for i, line in enumerate(lines))
    path = folder / Path(file).name
    path.write_text(text, "utf-8")
    return path


@pytest.fixture(scope="module")
def reports(shared_data, tmp_path_factory) -> dict[str, Path]:
    """The reports of all sets, with answers by chance."""
    pages = {}
    for name, (task, _, _, vocabulary, settings) in DATA.items():
        folder = tmp_path_factory.mktemp(name)
        tokenizer = BertTokenizer(vocab=str(shared_data / "vocab" / VOCABULARIES[vocabulary]))
        file = str(part_of(shared_data, name, folder))
        with made_up_run(folder / "run", task, file, tokenizer, **settings) as finished:
            pages[name] = write_report(finished)
    return pages


def browse(chromium: str, folder: Path, page: Path, *options: str) -> str:
    """Open a page and return what the program prints."""
    words = [chromium, *SETTINGS, f"--user-data-dir={folder / 'profile'}", *options, f"file://{page}"]
    return subprocess.run(words, check=True, capture_output=True, text=True, timeout=120).stdout


def frames(pages: dict[str, Path], script: str) -> str:
    """Return a page that has each report in two frames, as wide as a window and as a phone."""
    shown = [
        f'<iframe id="{name}-{width}" src="{path}" width="{width}" height="{HEIGHT}"></iframe>'
        for name, path in pages.items()
        for width in (WIDE, PHONE)
    ]
    body = f"body {{ margin: 0; font-size: 0; width: {WIDE + PHONE}px }}"
    style = f"<style>{body} iframe {{ border: 0; vertical-align: top }}</style>"
    return f'<!doctype html>{style}<body>{"".join(shown)}<pre id="said"></pre><script>{script}</script>'


@pytest.mark.slow
def test_no_part_of_a_report_is_cut_off_or_lies_on_another(chromium, reports, tmp_path):
    script = f"""{FAULTS}
    window.onload = () => {{
      const said = {{}};
      for (const frame of document.querySelectorAll("iframe")) said[frame.id] = faultsOf(frame.contentDocument);
      document.getElementById("said").textContent = JSON.stringify(said);
    }}"""
    page = tmp_path / "frames.html"
    page.write_text(frames(reports, script), "utf-8")
    shown = browse(chromium, tmp_path, page, "--dump-dom")
    match = re.search(r'<pre id="said">(.*?)</pre>', shown, re.DOTALL)
    assert match, "the browser ran the script"
    found = json.loads(unescape(match[1]))
    assert len(found) == 2 * len(DATA)
    assert {name: said["faults"] for name, said in found.items() if said["faults"]} == {}
    assert all(said["charts"] >= 3 and said["height"] > HEIGHT for said in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_browser_paints_every_report_at_two_widths(scheme, chromium, reports, tmp_path):
    from matplotlib.image import imread

    page, picture = tmp_path / "frames.html", tmp_path / "picture.png"
    page.write_text(frames(reports, ""), "utf-8")
    window = f"--window-size={WIDE + PHONE},{HEIGHT * len(DATA)}"
    theme = f"--blink-settings=preferredColorScheme={int(scheme == 'light')}"
    browse(chromium, tmp_path, page, window, theme, f"--screenshot={picture}")
    pixels = imread(picture)[:, :, :3]
    assert pixels.shape[:2] == (HEIGHT * len(DATA), WIDE + PHONE)
    for i, name in enumerate(reports):
        row = pixels[HEIGHT * i : HEIGHT * (i + 1)]
        for shown in (row[:, :WIDE], row[:, WIDE:]):
            paper = shown[5, 5].mean()
            assert paper > 0.9 if scheme == "light" else paper < 0.2, name
            colours = (255 * shown[::3, ::3]).astype(np.int32) @ (1, 256, 65536)
            assert len(np.unique(colours)) > 50, f"charts and texts of {name} are painted"
