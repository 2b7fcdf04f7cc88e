"""Arguments of the command line: one parser per verb, its two helps, and errors that name the nearest flag."""

from __future__ import annotations

import argparse
import itertools
import re
import shutil
import textwrap
from collections.abc import Iterable, Sequence

from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter, Namespace

from jaxbert.cli.output import check_output, write_out
from jaxbert.errors import UserError
from jaxbert.settings import check_keys, explain, nearest_key, plain_kind, range_of

_HELP, _HELP_ALL = ("-h", "--help"), "--help_all"
_GLUE = "\0"
"""Replaces a space at which a line must not be broken."""


class _Formatter(DefaultHelpFormatter):
    """Writes types in plain words, and the range of a number after its type."""

    def _get_type_str(self, action: argparse.Action) -> str | None:
        kind = super()._get_type_str(action)
        return None if kind is None else ", ".join(filter(None, [_readable(kind), range_of(action)]))

    def explain(self, action: argparse.Action) -> str:
        """Return the help of one option on one line, with its type and its default."""
        return " ".join(self._expand_help(action).split())


def _readable(kind: str) -> str:
    """Return a type in plain words: `one of a, b`, `float | null`."""
    kind = re.sub(r"Literal\[(.*?)\]", lambda found: plain_kind(found[0]), kind)
    if union := re.fullmatch(r"Optional\[(.*)\]", kind):
        return f"{union[1]} | null"
    if union := re.fullmatch(r"Union\[(.*)\]", kind):
        return re.sub(r", (?![^\[]*\])", " | ", union[1])
    return kind


class Parser(ArgumentParser):
    """The parser of a verb; mistakes in its arguments are raised as errors."""

    usage_text = ""
    """The beginning of the short help: an example, the source of data, the place of results."""
    main_keys: tuple[str, ...] = ()
    """The keys that the short help explains; empty if the verb has few options, and only one help."""

    def short_help(self) -> str:
        """Return the short help: the usage, the explained main keys, and the other keys with their defaults."""
        width = shutil.get_terminal_size().columns - 2
        formatter = _Formatter(self.prog)
        options = {action.dest: action for action in self._actions if _is_value(action, self._actions)}
        required = [f"--{name} {name.upper()}" for name, action in options.items() if action.required]
        if "config" in options:
            required.append("[--config FILE.yaml]")
        parts = [f"usage: {self.prog} {' '.join(required)} [--KEY VALUE ...]", "", str(self.description), ""]
        parts += [self.usage_text, "", "The keys that matter most:"]
        for name in self.main_keys:
            wrapped = textwrap.wrap(formatter.explain(options[name]), width - 6, break_on_hyphens=False)
            parts += [f"  --{name}", *(f"      {line}" for line in wrapped)]
        others = [action for name, action in options.items() if name not in {*self.main_keys, "config"}]
        parts += ["", f"All other keys with their defaults ({self.prog} {_HELP_ALL} explains them):"]
        for _, group in itertools.groupby(others, lambda action: action.dest.rpartition(".")[0]):
            entries = [f"--{action.dest}{_GLUE}{_default(action)}".rstrip(_GLUE) for action in group]
            filled = textwrap.wrap("  ".join(entries), width - 2, break_on_hyphens=False, break_long_words=False)
            parts += [f"  {line.replace(_GLUE, ' ')}" for line in filled]
        return "\n".join(parts) + "\n"


def _is_value(action: argparse.Action, actions: Iterable[argparse.Action]) -> bool:
    """Return whether an option is a key, and not a help, `--print_config`, a whole section, or one that the parser hides."""
    if not action.option_strings or action.dest in ("help", "help_all", "print_config"):
        return False
    if action.help == argparse.SUPPRESS:
        return False
    return not any(other.dest.startswith(f"{action.dest}.") for other in actions)


def _default(action: argparse.Action) -> str:
    value = action.default
    if action.required:
        return ""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def make_parser(verb: str, description: str, usage_text: str = "", main_keys: Sequence[str] = ()) -> Parser:
    """Return an empty parser that raises errors for mistakes.

    Args:
      verb: the verb of the command line.
      description: the purpose of the verb, one sentence.
      usage_text: the beginning of the short help.
      main_keys: the keys that the short help explains.
    """
    parser = Parser(prog=f"jaxbert {verb}", description=description, exit_on_error=False, formatter_class=_Formatter)
    parser.usage_text, parser.main_keys = usage_text, tuple(main_keys)
    if main_keys:
        parser.add_argument(_HELP_ALL, action="help", help="Show all keys with their help and exit.")
    return parser


def parse(parser: Parser, arguments: Sequence[str]) -> Namespace:
    """Parse arguments; every mistake becomes a one-line error, and `--max-length` is read as `--max_length`.

    Raises:
      UserError: for an unknown flag or key (with the nearest valid one) or a value of the wrong type.
      SystemExit: after a help or `--print_config`.
    """
    flags = [option for action in parser._actions for option in action.option_strings]
    given, arguments = arguments, [_underscored(argument) for argument in arguments]
    if not {*_HELP, _HELP_ALL}.isdisjoint(arguments):
        short = parser.main_keys and _HELP_ALL not in arguments
        write_out(parser.short_help() if short else parser.format_help())
        raise SystemExit(0)
    _check_flags(given, flags)
    _check_files(arguments)
    if any(argument.startswith("--print_config") for argument in arguments):
        check_output("-")
    try:
        return parser.parse_args(arguments)
    except ArgumentError as error:
        raise UserError(explain(error)) from error


def _underscored(argument: str) -> str:
    """Return an argument with underscores in its flag."""
    if not argument.startswith("--"):
        return argument
    flag, equals, value = argument[2:].partition("=")
    return f"--{flag.replace('-', '_')}{equals}{value}"


def _check_flags(arguments: Sequence[str], flags: list[str]) -> None:
    for argument in arguments:
        name = argument.split("=")[0]
        if name.startswith("--") and name != "--" and _underscored(name) not in flags:
            raise UserError(f"unknown option {name}{nearest_key(_underscored(name), flags)}")


def _check_files(arguments: Sequence[str]) -> None:
    """Check the keys of every file after `--config`."""
    for flag, value in itertools.pairwise([*arguments, ""]):
        if flag == "--config":
            check_keys(value)
        elif flag.startswith("--config="):
            check_keys(flag.split("=", 1)[1])
