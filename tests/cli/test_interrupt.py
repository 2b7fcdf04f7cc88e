"""Ctrl-C ends a command and leaves nothing on the terminal, even if a library drops the exception."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import gc, signal, time
from jaxbert.cli import main as module

{library}

def main():
    drop()
    try:
        time.sleep(30)
    except KeyboardInterrupt:
        return 130
    return 1

module.main = main
module.entry()
"""

CATCHING = """
def drop():
    try:
        signal.raise_signal(signal.SIGINT)
        time.sleep(30)
    except KeyboardInterrupt:
        pass
"""

# Python prints what a callback of its collector raises; jaxlib has one.
IN_A_CALLBACK = """
def interrupt(phase, information):
    signal.raise_signal(signal.SIGINT)

def drop():
    gc.callbacks.append(interrupt)
    gc.collect()
    gc.callbacks.remove(interrupt)
"""


@pytest.mark.parametrize("library", [CATCHING, IN_A_CALLBACK], ids=["caught", "in a callback"])
def test_an_interruption_that_a_library_drops_comes_again(library):
    words = [sys.executable, "-c", PROGRAM.format(library=library)]
    ended = subprocess.run(words, timeout=25, check=False, capture_output=True)
    assert (ended.returncode, ended.stderr) == (130, b"")


def test_a_second_signal_ends_a_run_at_once():
    program = (
        "import signal\n"
        "from jaxbert.processes import Interrupt\n"
        "with Interrupt():\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print('received', flush=True)\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "    print('went on', flush=True)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (128 + signal.SIGTERM, "received\n")
