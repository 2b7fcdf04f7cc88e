"""Whatever a file holds, its reader takes it or refuses it in one line: no other exception, no crash, no hang, no flood.

Ten thousand cases by default, spread over the formats; `JAXBERT_FUZZ_CASES=1000000 pytest -m fuzz` tries more. Each format
runs in a process of its own, because a crash of a library would take the tests with it.
"""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fuzz_run import FORMATS, SHARES
from runs import python

PROGRAM = Path(__file__).with_name("fuzz_run.py")
CASES = int(os.environ.get("JAXBERT_FUZZ_CASES", "10000"))
PATIENCE = 120.0
"""Seconds without a new case after which a process hangs; a case that takes ten of them by itself has failed already."""
ENOUGH = 5
"""Failures after which a format is not tried any further."""

pytestmark = [pytest.mark.fuzz, pytest.mark.slow]


@pytest.fixture(scope="module")
def results() -> Iterator[dict[str, Future[dict[str, Any]]]]:
    """Start all formats, two at a time."""
    assert sum(SHARES.values()) == 100
    with ThreadPoolExecutor(2) as pool:
        yield {name: pool.submit(fuzz, name, CASES * SHARES[name] // 100) for name in FORMATS}


@pytest.mark.parametrize("name", FORMATS)
def test_every_file_is_taken_or_refused(results, name):
    result = results[name].result()
    again = (
        f"`{Path(sys.executable).name} {PROGRAM.relative_to(PROGRAM.parents[2])} {name} NUMBER` runs a case by itself"
    )
    assert not result["failures"], f"{again}\n" + "\n".join(f"case {n}: {why}" for n, why in result["failures"])
    print(f"{name}: {result}")
    assert result["accepted"] + result["refused"] == CASES * SHARES[name] // 100
    assert result["refused"] > result["accepted"] * 0.05, "nothing was damaged"
    assert result["accepted"], "nothing was left to read"


def fuzz(name: str, cases: int) -> dict[str, Any]:
    """Run the first cases of a format, in a new process after each crash; return what came of them."""
    totals: dict[str, Any] = {"accepted": 0, "refused": 0, "failures": []}
    begin = 0
    while begin < cases and len(totals["failures"]) < ENOUGH:
        words = (str(PROGRAM), name, str(begin), str(cases))
        with python(*words, errors="replace") as process:
            begin = _follow(process, begin, totals)
    return totals


def _follow(process: subprocess.Popen[str], begin: int, totals: dict[str, Any]) -> int:
    """Read what a process says, and end it when it says nothing any more; return the case to go on with."""
    lines: queue.Queue[str | None] = queue.Queue()
    said: list[str] = []
    threads = [
        threading.Thread(target=lambda: [*map(lines.put, process.stdout or ()), lines.put(None)], daemon=True),
        threading.Thread(target=lambda: said.extend(process.stderr or ()), daemon=True),
    ]
    for thread in threads:
        thread.start()
    current, done = begin, False
    try:
        while (line := lines.get(timeout=PATIENCE)) is not None:
            news = json.loads(line)
            current = news.get("begins", current)
            if "failed" in news:
                totals["failures"].append((news["failed"], news["why"]))
                if len(totals["failures"]) == ENOUGH:
                    process.kill()
            if "done" in news:
                done = True
                _add(totals, news["done"])
    except queue.Empty:
        process.kill()
        totals["failures"].append((current, f"nothing happened for {PATIENCE:.0f} seconds"))
        return current + 1
    code = process.wait()
    if not done and len(totals["failures"]) < ENOUGH:
        threads[1].join()
        totals["failures"].append((current, f"the process ended with {code}: {''.join(said[-20:])}"))
    return sys.maxsize if done else current + 1


def _add(totals: dict[str, Any], more: dict[str, Any]) -> None:
    for key, value in more.items():
        totals[key] = max(totals.get(key, 0), value) if key.startswith("most") else totals.get(key, 0) + value
