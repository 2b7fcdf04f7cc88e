"""Arguments to configuration: one parser a verb, and errors that name the nearest key."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import re
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from docstring_parser import parse_from_object
from jsonargparse import ArgumentError, ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings

from jaxbert.cli.output import check_output, write_out
from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.plain import read_yaml, shown

set_parsing_settings(docstring_parse_attribute_docstrings=True)
_load_yaml = get_loader("yaml")


def _load(value: str) -> Any:
    """Read YAML, but take a single line behind `#` for text: MRPC has a column `#1 String`, which is no comment."""
    return value if re.fullmatch(r"\s*#.*", value) else _load_yaml(value)


set_loader("yaml", _load, (yaml.YAMLError,))

_FIELDS: dict[str, Any] = typing.get_type_hints(Config)
SECTIONS: dict[str, type[Any]] = {name: hint for name, hint in _FIELDS.items() if name != "task"}
KEYS = [f"{name}.{field.name}" for name, section in SECTIONS.items() for field in dataclasses.fields(section)]

_UNION = re.compile(
    r'(?P<key>[\w.]+)"?: Does not validate against any of the Union subtypes Subtypes: \[(?P<kinds>.*?)\] Errors: '
    r".* Given value: (?P<value>.*)"
)
"""What the parser says of a value that is of none of several types."""
_KIND = re.compile(r"[\w.]+(?:\[[^\]]*\])?")
_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "NoneType": "null",
    "list[str]": "[TEXT, ...]",
    "list[float]": "[NUMBER, ...]",
    "dict[str, str]": "{NAME: TEXT, ...}",
}


class _Parser(ArgumentParser):
    def _print_message(self, message: str, file: Any = None) -> None:
        """Print a help; argparse would say nothing where it cannot."""
        write_out(message)


def make_parser(verb: str, description: str) -> ArgumentParser:
    """Return an empty parser whose mistakes are raised."""
    return _Parser(prog=f"jaxbert {verb}", description=description, exit_on_error=False)


def help_of(section: type[Any], name: str) -> str:
    """Return the help text of a key: the docstring of its field."""
    described = next(param.description for param in parse_from_object(section).params if param.arg_name == name)
    return " ".join((described or "").split())


def add_config(parser: ArgumentParser) -> None:
    """Add `--config FILE`, `--print_config` and a flag for every key of a run."""
    parser.add_argument("--config", action="config", help="YAML file; flags behind it change single keys")
    parser.add_argument("--task", type=str, default=Config.task, help=help_of(Config, "task"))
    for name, section in SECTIONS.items():
        parser.add_class_arguments(section, name)


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
        raise UserError(_one_line(error)) from error


def to_config(values: Namespace) -> Config:
    """Build the configuration from parsed values.

    Raises:
      UserError: for a null in a file where the key has no such value; the parser takes it for "not given".
    """
    for name, section in SECTIONS.items():
        for key, hint in typing.get_type_hints(section).items():
            if values[name][key] is None and type(None) not in typing.get_args(hint):
                raise UserError(f"{name}.{key} is null, but it must have a value; leave the key out for its default")
    return Config(task=values.task, **{name: section(**values[name].as_dict()) for name, section in SECTIONS.items()})


def _check_flags(arguments: Sequence[str], flags: list[str]) -> None:
    for argument in arguments:
        name = argument.split("=")[0]
        if name.startswith("--") and name != "--" and name not in flags:
            raise UserError(f"unknown option {name}{nearest(name, flags)}")


def _check_files(arguments: Sequence[str]) -> None:
    """Check the keys of every file behind `--config`."""
    for flag, value in itertools.pairwise([*arguments, ""]):
        if flag == "--config":
            _check_keys(value)
        elif flag.startswith("--config="):
            _check_keys(flag.split("=", 1)[1])


def _check_keys(path: str) -> None:
    content = read_yaml(Path(path), f"--config {path}") or {}
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold sections ({', '.join(SECTIONS)}) with keys, but is no mapping")
    for section, values in content.items():
        if section == "task":
            continue
        if section not in SECTIONS:
            raise UserError(f"{path}: unknown section {shown(section)}{nearest(str(section), list(_FIELDS))}")
        if not isinstance(values, dict):
            raise UserError(f"{path}: section {section} must hold keys, but is {shown(values)}")
        for key in values:
            if f"{section}.{key}" not in KEYS:
                name = f"{section}.{key if isinstance(key, str) else shown(key)}"
                raise UserError(f"{path}: unknown key {name}{nearest(name, KEYS)}")


def nearest(name: str, known: list[str]) -> str:
    """Return the end of a message about an unknown name: the known one that is nearest, else where to look."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    tail = name.split(".")[-1]
    same_tail = [k for k in known if k.split(".")[-1].lstrip("-") == tail.lstrip("-")]
    found = (same_tail or matches)[:1]
    return f"; did you mean {found[0]}?" if found else "; see --help"


def _one_line(error: BaseException) -> str:
    """Return the message on one line, with Python's names of types made plain."""
    line = re.sub(r"<class '(\w+)'>", r"\1", " ".join(str(error).split()))
    if wrong := _UNION.search(line):
        kinds = [
            _KINDS.get(kind, kind.removeprefix("typing.Literal").strip("[]")) for kind in _KIND.findall(wrong["kinds"])
        ]
        line = f"{wrong['key']} is {wrong['value']}, but it must be {' or '.join(kinds)}"
    return re.sub(r'Parser key "([\w.]+)"', r"\1", line).replace("typing.", "").replace(" a int", " an int")
