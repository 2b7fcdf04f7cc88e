"""Read examples from a TensorFlow Datasets folder by random access, without TensorFlow.

Only data that was prepared before is read, as array_record; nothing is downloaded, because TFDS needs TensorFlow for
many sources and waits minutes for a network that is not there. The columns' contents are `table`'s part.
"""

from __future__ import annotations

import os
from typing import Any

from jaxbert.data.hub import name_split
from jaxbert.data.table import Table, Wanted, build_table, quoted, shorten
from jaxbert.errors import UserError

# Reading in batches is three times as fast as one by one; this one keeps the undecoded records small.
_BATCH = 4096


def read_tfds(spec: str, wanted: Wanted, default_split: str, limit: int | None = None) -> Table:
    """Read the first `limit` examples of `tfds:NAME[/CONFIG][:SPLIT]` from the folder TFDS_DATA_DIR.

    Raises:
      UserError: if the extra is not installed, or the data set, the split or a column is not there.
    """
    name, _, split = spec.removeprefix("tfds:").partition(":")
    builder = _find_builder(name, spec)
    features = dict(builder.info.features.items())
    chosen = wanted.choose(list(features), spec)
    examples = _open_split(builder, split or default_split, spec)
    rows = range(1, len(examples) + 1)[:limit]
    columns: dict[str, list[Any]] = {column: [] for column in chosen}
    for start in range(0, len(rows), _BATCH):
        batch = examples.__getitems__(range(start, min(start + _BATCH, len(rows))))
        for column, values in columns.items():
            values.extend(_plain(example[column]) for example in batch)
    return build_table(columns, wanted, source=spec, rows=rows, label_names=_class_names(features.get(wanted.label)))


def _find_builder(name: str, spec: str) -> Any:
    try:
        import array_record  # noqa: F401
        from tensorflow_datasets.core import read_only_builder, registered
    except ImportError as error:
        raise UserError(f"{spec}: needs TensorFlow Datasets: pip install 'jaxbert[tfds]'") from error
    folder = os.path.expanduser(os.environ.get("TFDS_DATA_DIR", os.path.join("~", "tensorflow_datasets")))
    try:
        return read_only_builder.builder_from_files(name, data_dir=folder)
    except registered.DatasetNotFoundError as error:
        raise UserError(
            f"{spec}: not found in {folder}: prepare it there with `tfds build {name} --file_format=array_record "
            f"--data_dir={folder}`, or set TFDS_DATA_DIR to the folder that has it"
        ) from error
    # A folder that TFDS cannot make sense of raises whatever its parsers raise.
    except Exception as error:
        raise UserError(f"{spec}: cannot be loaded from {folder}: {_one_line(error)}") from error


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


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and getattr(value, "ndim", 0) == 0 else value


def _class_names(feature: Any) -> list[str] | None:
    return list(feature.names) if type(feature).__name__ == "ClassLabel" else None
