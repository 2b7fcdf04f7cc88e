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
