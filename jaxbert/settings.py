"""Converts names and values to a `Config`, for the command line, YAML files and Python alike.

One parser has every key with its type and its help; a mistake in a name or a value is one line with the nearest valid key.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
import re
import threading
import typing
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from docstring_parser import parse_from_object
from jsonargparse import ArgumentError, ArgumentParser, Namespace, get_loader, set_loader, set_parsing_settings

from jaxbert.config import Config, DataConfig
from jaxbert.errors import UserError
from jaxbert.plain import read_yaml, shown
from jaxbert.ranges import insist_on, listed_choices, range_texts
from jaxbert.tasks import check_task

set_parsing_settings(docstring_parse_attribute_docstrings=True)
_load_yaml = get_loader("yaml")
_NAMES_ELSEWHERE = {
    "lr": "learning_rate",
    "lr_scheduler_type": "schedule",
    "lr_scheduler": "schedule",
    "scheduler": "schedule",
    "adam_beta1": "b1",
    "adam_beta2": "b2",
    "adam_epsilon": "eps",
    "max_grad_norm": "clip_norm",
    "warmup": "warmup_ratio",
    "optim": "name",
    "bf16": "compute",
    "fp16": "compute",
    "dtype": "compute",
    "bs": "batch_size",
    "per_device_train_batch_size": "batch_size",
    "per_device_eval_batch_size": "eval_batch_size",
    "num_train_epochs": "epochs",
    "num_epochs": "epochs",
    "gradient_accumulation_steps": "accumulation_steps",
    "patience": "early_stopping_patience",
    "metric_for_best_model": "best_metric",
    "load_best_model_at_end": "keep_best",
    "save_steps": "checkpoint_every",
    "save_total_limit": "keep_checkpoints",
    "logging_steps": "log_every",
    "train_file": "train",
    "validation_file": "validation",
    "test_file": "test",
    "text_column": "text",
    "label_column": "label",
    "max_train_samples": "limit",
    "max_seq_length": "max_length",
    "max_seq_len": "max_length",
    "output": "output_dir",
    "model_name_or_path": "name_or_path",
    "model_name": "name_or_path",
}
"""Names of settings in other programs, above all transformers, and of the keys that say the same."""


def _load(value: str) -> Any:
    """Load YAML, but read a single line after `#` as text: MRPC has a column `#1 String`, which is no comment."""
    return value if re.fullmatch(r"\s*#.*", value) else _load_yaml(value)


set_loader("yaml", _load, (yaml.YAMLError,))

FIELDS: dict[str, Any] = typing.get_type_hints(Config)
SECTIONS: dict[str, type[Any]] = {name: hint for name, hint in FIELDS.items() if name != "task"}
KEYS = [f"{name}.{field.name}" for name, section in SECTIONS.items() for field in dataclasses.fields(section)]
_ONE_AT_A_TIME = threading.Lock()
_RANGE = "jaxbert_range"
"""The attribute of an option that holds its range in words."""

_UNION = re.compile(
    r'(?P<key>[\w.]+)"?: Does not validate against any of the Union subtypes Subtypes: \[(?P<kinds>.*?)\] Errors: '
    r".* Given value: ?(?P<value>.*)"
)
"""The parser's message about a value that fits none of several types."""
_SINGLE = re.compile(r'(?P<key>[\w.]+)"?: Expected an? (?P<kind>.+)\. Got value: ?(?P<value>.*)')
"""The parser's message about a value that does not fit a single type."""
_KIND = re.compile(r"[\w.]+(?:\[(?:[^\[\]]|\[[^\[\]]*\])*\])?")
_KINDS = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "NoneType": "null",
    "list[str]": "[TEXT, ...]",
    "list[int]": "[NUMBER, ...]",
    "list[float]": "[NUMBER, ...]",
    "dict[str, str]": "{NAME: TEXT, ...}",
}


def help_texts(section: type[Any]) -> dict[str, str]:
    """Return the help text of each key of a section: the docstring of its field."""
    return {param.arg_name: " ".join((param.description or "").split()) for param in parse_from_object(section).params}


def add_config(parser: ArgumentParser) -> None:
    """Add `--config FILE`, `--print_config` and a flag for every key of a run."""
    parser.add_argument("--config", action="config", help="YAML file of keys; flags after it change single keys")
    add_fields(parser, Config, ["task"])
    for name, section in SECTIONS.items():
        add_section(parser, section, name)


def add_section(parser: ArgumentParser, section: type[Any], name: str, skip: Iterable[str] = ()) -> None:
    """Add a flag `--NAME.FIELD` for each field of a dataclass of settings, with its type, default, help and range."""
    parser.add_class_arguments(section, name, skip=set(skip))
    ranges = {f"{name}.{key}": text for key, text in range_texts(section).items()}
    for action in parser._actions:
        if action.dest in ranges:
            setattr(action, _RANGE, ranges[action.dest])


def add_fields(parser: ArgumentParser, section: type[Any], names: Iterable[str], **other_defaults: Any) -> None:
    """Add a flag `--FIELD` for some fields of a dataclass of settings, with their types, defaults, help and ranges."""
    hints, helps, ranges = typing.get_type_hints(section), help_texts(section), range_texts(section)
    defaults = {field.name: field.default for field in dataclasses.fields(section)} | other_defaults
    for name in names:
        action = parser.add_argument(f"--{name}", type=hints[name], default=defaults[name], help=helps[name])
        setattr(action, _RANGE, ranges.get(name))


def range_of(option: Any) -> str | None:
    """Return the range in words of an option that was added here; None if it has none."""
    return getattr(option, _RANGE, None)


def to_config(values: Namespace) -> Config:
    """Build the configuration from parsed values.

    Raises:
      UserError: for a value out of range, values that contradict each other, or an unknown task.
    """
    config = Config(task=values.task, **{name: section(**values[name].as_dict()) for name, section in SECTIONS.items()})
    check_task(config.task)
    return config


def check_keys(path: str) -> None:
    """Check that a YAML file holds only sections with known keys.

    Raises:
      UserError: for any other name, with the nearest valid one.
    """
    content = read_yaml(Path(path), f"--config {path}") or {}
    if not isinstance(content, dict):
        raise UserError(f"--config {path} must hold sections ({', '.join(SECTIONS)}) with keys, but is not a mapping")
    for section, values in content.items():
        if section == "task":
            continue
        if section not in SECTIONS:
            raise UserError(f"{path}: unknown section {shown(section)}{nearest_key(str(section), list(FIELDS))}")
        if not isinstance(values, dict):
            raise UserError(f"{path}: section {section} must hold keys, but is {shown(values)}")
        for key in values:
            if f"{section}.{key}" not in KEYS:
                name = f"{section}.{key if isinstance(key, str) else shown(key)}"
                raise UserError(f"{path}: unknown key {name}{nearest_key(name, KEYS)}")


def nearest_key(name: str, known: list[str]) -> str:
    """Return the end of a message about an unknown name: the nearest known name, or where to find the names."""
    matches = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    tail = _own_name(name)
    same_tail = [k for k in known if k.split(".")[-1].lstrip("-") == tail]
    found = (same_tail or matches)[:1]
    return f"; did you mean {found[0]}?" if found else "; see --help"


def explain(error: ArgumentError) -> str:
    """Return the parser's message on one line, with types in plain words."""
    line = re.sub(r"<class '(\w+)'>", r"\1", " ".join(str(error).split()))
    if wrong := _UNION.search(line) or _SINGLE.search(line):
        found = wrong.groupdict()
        kinds = _KIND.findall(found["kinds"]) if "kinds" in found else [found["kind"]]
        value = found["value"] or "''"
        line = f"{found['key']} is {value}, but it must be {' or '.join(map(plain_kind, kinds))}"
    line = re.sub(
        r"argument (--[\w.]+): expected one argument",
        r"\1 needs a value; write one that begins with - as \1=VALUE",
        line,
    )
    return re.sub(r'Parser key "([\w.]+)"', r"\1", line).replace("typing.", "")


def plain_kind(kind: str) -> str:
    """Return a type in plain words."""
    if (choices := re.search(r"Literal\[(.*)\]", kind)) is None:
        return _KINDS.get(kind, "{NAME: VALUE, ...}" if kind.startswith("dict[") else kind)
    names = choices[1].replace("'", "")
    return listed_choices(tuple(names.split(", ")))


def make_config(config: Config | str | os.PathLike[str] | None, changes: Mapping[str, Any]) -> Config:
    """Return a configuration with changes; names and values are checked as on the command line.

    Args:
      config: a configuration, a YAML file, or None for the defaults.
      changes: by section, `{"task": "regression", "train": {"epochs": 3}}`.

    Raises:
      UserError: for an unknown name in the file, or a wrong value.
    """
    parser = _config_parser()
    if config is None or isinstance(config, Config):
        content = _plain((config or Config()).to_dict())
    else:
        given = isinstance(config, str | os.PathLike)
        insist_on(given, "config", config, "a jaxbert.Config or the path of a YAML file; keys are arguments: epochs=2")
        check_keys(os.fspath(config))
        with _parsing():
            content = parser.parse_args([f"--config={os.fspath(config)}"]).as_dict()
        del content["config"]
    for section, values in changes.items():
        content[section] = content[section] | _plain(values) if isinstance(values, Mapping) else values
    with _parsing():
        parsed = parser.parse_object(content)
    return to_config(parsed)


def make_data_config(data: DataConfig, changes: Mapping[str, Any]) -> DataConfig:
    """Return a section `data` with changes, for a source that is read without a run.

    Raises:
      UserError: for a wrong value.
    """
    with _parsing():
        parsed = _config_parser().parse_object({"data": _plain(dataclasses.asdict(data) | dict(changes))})
    return DataConfig(**parsed.data.as_dict())


@functools.cache
def _config_parser() -> ArgumentParser:
    """Return the parser of all keys; making it takes a fifth of a second, since it reads the source of every section."""
    parser = ArgumentParser(exit_on_error=False)
    add_config(parser)
    return parser


@contextmanager
def _parsing() -> Iterator[None]:
    """Let one thread at a time use the cached parser, and turn its errors into a UserError."""
    try:
        with _ONE_AT_A_TIME:
            yield
    except ArgumentError as error:
        raise UserError(explain(error)) from error


def _plain(value: Any) -> Any:
    """Return a value as in a YAML file: without paths, tuples and NumPy's numbers."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return value.tolist() if hasattr(value, "tolist") else value


def place_keys(keys: Mapping[str, Any]) -> dict[str, Any]:
    """Return keys sorted into their sections, from `epochs`, `train__epochs`, or a whole section, `optimizer={"b1": 0.8}`.

    Raises:
      UserError: for a name that no section or several sections have.
    """
    found: dict[str, Any] = {}
    for name, value in keys.items():
        if name in SECTIONS:
            if not isinstance(value, Mapping):
                raise UserError(f"{name} is a section: give its keys as {name}={{KEY: VALUE}} or {name}__KEY=VALUE")
            inner = {f"{name}.{key}": part for key, part in value.items()}
        else:
            inner = {_whole_name(name): value}
        for key, part in inner.items():
            if key not in KEYS:
                raise UserError(f"unknown key {key}{_nearest_key(key)}")
            section, _, last = key.partition(".")
            if last in found.get(section, {}):
                raise UserError(f"key {key} is given twice: give it once")
            found.setdefault(section, {})[last] = part
    return found


def _whole_name(name: str) -> str:
    """Return a key with its section, such as `train.epochs`."""
    if "__" in name:
        return name.replace("__", ".", 1)
    having = [key for key in KEYS if key.partition(".")[2] == name]
    if len(having) == 1:
        return having[0]
    if having:
        ways = " or ".join(key.replace(".", "__") for key in having)
        raise UserError(f"key {name} is in several sections: write {ways}")
    raise UserError(f"unknown key {name}{_nearest_key(name)}")


def _own_name(name: str) -> str:
    """Return the last part of a key's name; that of a key of ours for a name that other programs have for it."""
    tail = name.split(".")[-1].lstrip("-")
    return _NAMES_ELSEWHERE.get(tail, tail)


def _nearest_key(name: str) -> str:
    """Return the end of a message about an unknown key."""
    by_name = {key.partition(".")[2]: key for key in KEYS}
    found = difflib.get_close_matches(_own_name(name), by_name, n=1, cutoff=0.5)
    return f"; did you mean {found[0]} ({by_name[found[0]]})?" if found else "; `jaxbert train --help` lists all keys"
