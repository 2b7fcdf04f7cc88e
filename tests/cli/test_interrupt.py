"""Ctrl-C ends a command, even if a library drops the exception."""

from __future__ import annotations

import subprocess
import sys

DROPPING = """
import signal, time
from jaxbert.cli import main as module

def main():
    try:
        signal.raise_signal(signal.SIGINT)
        time.sleep(30)
    except KeyboardInterrupt:
        pass
    try:
        time.sleep(30)
    except KeyboardInterrupt:
        return 130
    return 1

module.main = main
module.entry()
"""


def test_an_interruption_that_a_library_drops_comes_again():
    assert subprocess.run([sys.executable, "-c", DROPPING], timeout=25, check=False).returncode == 130


IN_A_CALLBACK = """
import gc, signal, time
from jaxbert.cli import main as module

def interrupt(phase, information):
    if phase == "start":
        signal.raise_signal(signal.SIGINT)

def main():
    gc.callbacks.append(interrupt)
    gc.collect()
    gc.callbacks.remove(interrupt)
    try:
        time.sleep(30)
    except KeyboardInterrupt:
        return 130
    return 1

module.main = main
module.entry()
"""


def test_an_interruption_in_a_callback_is_not_spoken_of():
    """Python prints what a callback of its collector raises, of which jaxlib has one."""
    ended = subprocess.run([sys.executable, "-c", IN_A_CALLBACK], timeout=25, check=False, capture_output=True)
    assert (ended.returncode, ended.stderr) == (130, b"")
