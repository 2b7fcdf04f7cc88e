"""Arguments of the command line: one parser a verb, and errors that name the nearest flag."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

from jsonargparse import ArgumentError, ArgumentParser, Namespace

from jaxbert.cli.output import check_output, write_out
from jaxbert.errors import UserError
from jaxbert.settings import check_keys, explain, nearest


class _Parser(ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        """Print a help; argparse would say nothing where it cannot."""
        write_out(message)


def make_parser(verb: str, description: str) -> ArgumentParser:
    """Return an empty parser whose mistakes are raised."""
    return _Parser(prog=f"jaxbert {verb}", description=description, exit_on_error=False)


def parse(parser: ArgumentParser, arguments: Sequence[str]) -> Namespace:
    """Parse, turning every mistake into one line.

    Raises:
      UserError: for an unknown flag or key (with the nearest valid one) or a value of the wrong type.
    """
    flags = [option for action in parser._actions for option in action.option_strings]
    _check_flags(arguments, flags)
    _check_files(arguments)
    if any(argument.startswith("--print_config") for argument in arguments):
        check_output("-")
    try:
        return parser.parse_args(list(arguments))
    except ArgumentError as error:
        raise UserError(explain(error)) from error


def _check_flags(arguments: Sequence[str], flags: list[str]) -> None:
    for argument in arguments:
        name = argument.split("=")[0]
        if name.startswith("--") and name != "--" and name not in flags:
            raise UserError(f"unknown option {name}{nearest(name, flags)}")


def _check_files(arguments: Sequence[str]) -> None:
    """Check the keys of every file behind `--config`."""
    for flag, value in itertools.pairwise([*arguments, ""]):
        if flag == "--config":
            check_keys(value)
        elif flag.startswith("--config="):
            check_keys(flag.split("=", 1)[1])
