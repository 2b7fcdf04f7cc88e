"""The entry point: choose the verb, and turn its errors into one line and an exit code.

Exit codes: 0 done; 2 wrong input or configuration; 75 stopped by a signal after saving; any other is a bug.
"""

from __future__ import annotations

import importlib
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from jaxbert import __version__
from jaxbert.cli import insist
from jaxbert.cli.output import prepare_streams, write_out
from jaxbert.errors import UserError
from jaxbert.launch.start import end, lost

VERBS = {
    "train": "fine-tune BERT for a task and export it",
    "pretrain": "pretrain BERT on raw text, to fine-tune it later",
    "curve": "train on growing shares of the rows, and tell whether more labels would help",
    "search": "find good values of some keys by many trials",
    "inspect": "show how the data of a run are read, without training",
    "report": "write the page about a finished run: metrics, errors, reliability of the probabilities",
    "evaluate": "measure a model on labelled examples",
    "calibrate": "calibrate a model's probabilities, and choose thresholds, on held-out rows",
    "predict": "write a model's answers for texts from a file or standard input",
    "serve": "answer requests over HTTP, several in one packed batch",
    "robustness": "put faults into texts (typos, case, lost words, ...), and tell how many answers change",
    "explain": "show how much each word of a text supports the answer",
    "audit": "find the rows of a run whose labels are probably wrong",
    "compare": "compare runs on a held-out set, and tell which differences are more than chance",
    "vocabulary": "remove tokens that a corpus never uses from a model, or add words of a corpus to it",
    "export": "write a checkpoint of a run as a Hugging Face folder",
    "bench": "time training and prediction",
    "plan": "tell whether a run fits into the memory of other devices, and predict its time and price",
    "env": "print versions, devices and cache folders",
}
_INTERRUPTED = 130
_USAGE = "usage: jaxbert VERB [options]      jaxbert VERB --help\n"


class _Notes(logging.Handler):
    """Prints each note once."""

    def __init__(self) -> None:
        super().__init__()
        self._said: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = record.getMessage()
        if message not in self._said:
            self._said.add(message)
            print(f"note: {_harmless(message)}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one verb and return its exit code."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in arguments
    prepare_streams()
    try:
        return _run([a for a in arguments if a != "--debug"])
    except UserError as error:
        if debug:
            raise
        return _fail(str(error), 2)
    except KeyboardInterrupt as stop:
        insist.heard()
        return _fail(str(stop) or _nothing_saved(arguments), _INTERRUPTED)
    except BrokenPipeError:
        return 1
    except Exception as error:
        if not debug and "RESOURCE_EXHAUSTED" in str(error):
            return _fail("the device is out of memory: lower the batch size, or raise train.accumulation_steps", 2)
        reason = None if debug else lost(error)
        if reason is not None:
            return _fail(reason, 1)
        raise


def _nothing_saved(arguments: Sequence[str]) -> str:
    if arguments and arguments[0] in ("train", "pretrain"):
        return "interrupted before the first checkpoint; nothing was saved"
    return "interrupted; nothing was written"


def entry() -> NoReturn:
    """Run one verb and end the process.

    An interrupted or failed process ends at once: jaxlib may still be compiling in its own thread, and crashes if the
    interpreter ends before it (seen with 0.10.2); failed writes of a checkpoint would print after the error. One of several
    processes ends as described in `launch`.
    """
    insist.listen()
    _open_closed()
    try:
        code = main()
    except SystemExit as ended:  # raised by the parser after --help and --print_config
        code = ended.code if isinstance(ended.code, int) else 0
    except Exception:
        traceback.print_exc()
        code = 1
    code = _flushed(code)
    end(code)
    if code:
        os._exit(code)
    sys.exit(code)


def _open_closed() -> None:
    """Open /dev/null in place of a closed stream: else a file would get its number, and messages would be written to it."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 (stays open for the life of the process)


def _flushed(code: int) -> int:
    """Flush the output, and return the exit code: 1 if nobody reads it, 2 if it cannot be written."""
    sys.stderr.flush()
    if sys.stdout is None:
        return code
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        return code or 1
    except OSError as error:
        return code or _fail(f"standard output cannot be written: {error.strerror or error}", 2)
    return code


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        write_out(_USAGE + "\n" + "\n".join(f"  {verb:10} {what}" for verb, what in VERBS.items()) + "\n")
        return 0 if arguments else 2
    verb = arguments[0]
    if verb == "--version":
        write_out(f"{__version__}\n")
        return 0
    if verb not in VERBS:
        raise UserError(f"unknown verb {verb!r}: use one of {', '.join(VERBS)}")
    _quiet()
    module = importlib.import_module(f"jaxbert.cli.{verb}")
    return module.run(arguments[1:])


QUIET = {
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "TRANSFORMERS_NO_ADVISORY_WARNINGS": "1",
    "TRANSFORMERS_VERBOSITY": "error",
    "TOKENIZERS_PARALLELISM": "true",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
}
"""The environment variables, with their values, that hide messages of the libraries to programmers."""


def _quiet() -> None:
    """Show only our own notes on the terminal, and hide the libraries' messages to programmers."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    logger = logging.getLogger("jaxbert")
    logger.handlers = [_Notes()]
    logger.propagate = False
    logger.setLevel(logging.INFO)


def _harmless(message: str) -> str:
    """Return a message as one line without control characters, which a name in a file may hold."""
    line = " ".join(message.split())
    return line if line.isprintable() else "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)


def _fail(message: str, code: int) -> int:
    print(f"error: {_harmless(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    entry()
