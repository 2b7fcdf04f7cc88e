"""Read examples from a TensorFlow Datasets folder by random access, without TensorFlow.

Only data that is already prepared as array_record is read. Nothing is downloaded, because TFDS needs TensorFlow for many
sources and waits minutes for a network that cannot be reached. `Intake` checks the values of the columns.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jaxbert.data.hub import class_names, name_split
from jaxbert.data.table import PART_ROWS, Intake, Problem, RawPart
from jaxbert.errors import UserError, quoted, shorten
from jaxbert.plain import read_json, shown

_OWN_FEATURES = "tensorflow_datasets."
_CLASS_KEYS = ("pythonClassName", "python_class_name", "type")


@dataclass(frozen=True)
class Prepared:
    """A split that was found."""

    spec: str
    split: str
    builder: Any
    examples: Any
    """Read by position, in batches, which is three times as fast as one by one."""

    def identity(self) -> list[Any]:
        """Return the folder, the split, and the name, size in bytes and modification time in ns of each file."""
        folder = Path(self.builder.data_path)
        files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in sorted(folder.iterdir())]
        return [str(folder), self.split, files]


def open_tfds(spec: str, default_split: str) -> Prepared:
    """Find `tfds:NAME[/CONFIG][:SPLIT]` in the folder TFDS_DATA_DIR.

    Raises:
      UserError: if the extra is not installed, or the data set or the split does not exist.
    """
    name, _, split = spec.removeprefix("tfds:").partition(":")
    split = split or default_split
    builder = _find_builder(name, spec)
    return Prepared(spec, split, builder, _open_split(builder, split, spec))


def read_tfds(prepared: Prepared, intake: Intake) -> Iterator[RawPart]:
    """Yield the examples part by part.

    Raises:
      UserError: if a column is missing.
    """
    features = dict(prepared.builder.info.features.items())
    chosen = intake.choose(list(features), prepared.spec)
    names = class_names(features, chosen.get(intake.wanted.label, ""))
    low, count = 0, len(prepared.examples)
    while low < count and (room := intake.room):
        part = range(low, min(low + room, count))
        examples = prepared.examples.__getitems__(part)
        columns = {asked: [_unpacked(example[column]) for example in examples] for asked, column in chosen.items()}
        yield RawPart(columns, range(part.start + 1, part.stop + 1), label_names=names)
        low = part.stop


def tfds_records(prepared: Prepared) -> Generator[tuple[str, int, dict[str, Any] | Problem], None, None]:
    """Yield the name of the source, the number of each example from 1, and the example."""
    for low in range(0, len(prepared.examples), PART_ROWS):
        part = range(low, min(low + PART_ROWS, len(prepared.examples)))
        for row, example in enumerate(prepared.examples.__getitems__(part), low + 1):
            yield prepared.spec, row, {name: _unpacked(value) for name, value in example.items()}


def _find_builder(name: str, spec: str) -> Any:
    try:
        import array_record  # noqa: F401
        from tensorflow_datasets.core import read_only_builder, registered
    except ImportError as error:
        raise UserError(f"{spec}: needs TensorFlow Datasets: pip install 'jaxbert[tfds]'") from error
    folder = os.path.expanduser(os.environ.get("TFDS_DATA_DIR", os.path.join("~", "tensorflow_datasets")))
    if name:
        _check_features(Path(folder, name), spec)
    try:
        return read_only_builder.builder_from_files(name, data_dir=folder)
    except registered.DatasetNotFoundError as error:
        raise UserError(
            f"{spec}: not found in {folder}: prepare it there with `tfds build {name} --file_format=array_record "
            f"--data_dir={folder}`, or set TFDS_DATA_DIR to the folder that has it"
        ) from error
    # For a malformed folder, the parsers of TFDS raise many types of errors.
    except Exception as error:
        raise UserError(f"{spec}: cannot be loaded from {folder}: {_one_line(error)}") from error


def _check_features(folder: Path, spec: str) -> None:
    """Check that all features are TFDS's own, since TFDS imports the module that a `features.json` names.

    Raises:
      UserError: for a class of any other project.
    """
    for path in folder.rglob("features.json"):
        for name in _class_paths(read_json(path)):
            if not name.startswith(_OWN_FEATURES):
                raise UserError(f"{spec}: {path} has a feature of the class {shown(name)}: only those of TFDS are read")


def _class_paths(features: Any) -> Iterator[str]:
    parts = (
        features.items() if isinstance(features, dict) else enumerate(features) if isinstance(features, list) else ()
    )
    for key, value in parts:
        if key in _CLASS_KEYS and isinstance(value, str):
            yield value
        yield from _class_paths(value)


def _open_split(builder: Any, split: str, spec: str) -> Any:
    splits = list(builder.info.splits)
    if split.partition("[")[0] not in splits and "+" not in split:
        raise UserError(
            f"{spec}: no split {split!r}; there are {quoted(splits)}: name one as {name_split(spec, 'SPLIT')}"
        )
    try:
        return builder.as_data_source(split=split)
    except NotImplementedError as error:
        raise UserError(
            f"{spec}: prepared as {builder.info.file_format.value}, which has no random access: prepare it again with "
            "--file_format=array_record"
        ) from error
    except Exception as error:
        raise UserError(f"{spec}: cannot be loaded: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    return shorten(" ".join(str(error).split()), 300)


def _unpacked(value: Any) -> Any:
    """Return a value with Python types in place of NumPy's, and with UTF-8 bytes decoded to text."""
    if isinstance(value, dict):
        return {name: _unpacked(inner) for name, inner in value.items()}
    value = value.tolist() if hasattr(value, "tolist") else value
    if isinstance(value, list):
        return [_unpacked(inner) for inner in value]
    try:
        return value.decode() if isinstance(value, bytes) else value
    except UnicodeDecodeError:  # reported where the column is checked
        return value
