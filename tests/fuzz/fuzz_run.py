"""Run cases of one format in this process: `python tests/fuzz/fuzz_run.py FORMAT FIRST LAST`, or one, to look at it.

A case is a number: from it alone come the damaged file and the way it is read. `python tests/fuzz/fuzz_run.py FORMAT NUMBER`
keeps the file and shows the traceback. For several cases a line of JSON says which one begins, and which one failed.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import resource
import sys
import tempfile
import time
import traceback
import warnings
from pathlib import Path
from random import Random
from typing import Any, TextIO

HERE = Path(__file__).resolve().parent
FORMATS = {
    "safetensors": ("fuzz_weights", "Safetensors"),
    "msgpack": ("fuzz_weights", "Msgpack"),
    "index": ("fuzz_weights", "Index"),
    "config": ("fuzz_weights", "Config"),
    "tokenizer": ("fuzz_settings", "Tokenizer"),
    "yaml": ("fuzz_settings", "Yaml"),
    "run": ("fuzz_settings", "RunFiles"),
    "tables": ("fuzz_tables", "Tables"),
}
SHARES = {
    "safetensors": 35,
    "msgpack": 20,
    "index": 12,
    "config": 4,
    "tokenizer": 5,
    "yaml": 4,
    "run": 5,
    "tables": 15,
}
"""Cases of each hundred; fewer where a case takes longer."""
SLACK = 12 * 2**20
"""Bytes that a case may take beyond twice its files, which have 512 KiB at most: the interpreter, NumPy and the libraries in
Rust reserve memory in arenas of a few MiB, and keep tables and messages that do not depend on the file. Seen: 2 MiB."""
SECONDS = 10.0
"""Processor time of a case; an honest one takes some milliseconds."""
HEADROOM = 2**28
"""Bytes of address space above what the process has: an allocation beyond it fails, whether it is touched or not."""


def main(arguments: list[str]) -> int:
    """Run what the command line asks for."""
    name, first, *last = arguments
    faulthandler.enable()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="jaxbert-fuzz-") as folder:
        os.chdir(folder)
        target = make_target(name, Path(folder))
        if not last:
            return show(name, target, int(first))
        with os.fdopen(os.dup(1), "w") as said:
            os.dup2(2, 1)  # what a library prints is not what this program says
            return run(name, target, range(int(first), int(last[0])), Path(folder), said)


def make_target(name: str, folder: Path) -> Any:
    """Import a format's module, write its good files, and read one case, so that what is made once is made."""
    for key, value in {"JAX_PLATFORMS": "cpu", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        os.environ[key] = value
    sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]
    module, target = FORMATS[name]
    return getattr(__import__(module), target)(folder)


def run(name: str, target: Any, cases: range, folder: Path, said: TextIO) -> int:
    """Run cases, and say what became of them."""

    def say(**news: Any) -> None:
        print(json.dumps(news), file=said, flush=True)

    from jaxbert.errors import UserError

    for number in range(-20, 0):  # what is imported and cached by the first uses is no case's memory
        say(begins=number)
        damage(target, name, number)
        attempt(target, UserError)
    limit = _status("VmSize") + HEADROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    totals: dict[str, Any] = {"accepted": 0, "refused": 0, "most_bytes": 0, "most_seconds": 0.0}
    for number in cases:
        say(begins=number)
        size = damage(target, name, number)
        before, _ = _status("VmRSS"), _forget_peak()
        begin = time.process_time()
        outcome = attempt(target, UserError)
        seconds, grown = time.process_time() - begin, _status("VmHWM") - before
        if not outcome and grown > 2 * size + SLACK:
            outcome = f"took {grown} bytes of memory for files of {size}"
        if not outcome and seconds > SECONDS:
            outcome = f"took {seconds:.1f} seconds"
        if (folder / "canary").exists():
            (folder / "canary").unlink()
            outcome = "ran code from a file"
        if outcome not in ("", None):
            say(failed=number, why=outcome)
        totals["accepted" if outcome is None else "refused"] += 1
        totals["most_bytes"] = max(totals["most_bytes"], grown - 2 * size)
        totals["most_seconds"] = max(totals["most_seconds"], round(seconds, 2))
    say(done=totals)
    return 0


def damage(target: Any, name: str, number: int) -> int:
    """Write the files of a case; return their bytes."""
    return sum(path.stat().st_size for path in target.write(Random(f"{name} {number}")))


def attempt(target: Any, expected: type[Exception]) -> str | None:
    """Read the files; return None if they were accepted, "" if refused, else what went wrong."""
    try:
        target.read()
    except expected as error:
        return "" if str(error).strip() else "an error without a message"
    except BaseException:
        return traceback.format_exc(limit=-4)
    return None


def show(name: str, target: Any, number: int) -> int:
    """Run one case without a net, and keep its files."""
    kept = Path(tempfile.mkdtemp(prefix=f"jaxbert-fuzz-{name}-{number}-"))
    for path in target.write(Random(f"{name} {number}")):
        (kept / path.name).write_bytes(path.read_bytes())
    print(f"its files: {kept}")
    target.read()
    print("accepted")
    return 0


def _status(key: str) -> int:
    """Return a size of this process in bytes, as the kernel counts it."""
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(f"{key}:"))


def _forget_peak() -> None:
    """Let the kernel count the peak of the resident memory (VmHWM) from here on."""
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
