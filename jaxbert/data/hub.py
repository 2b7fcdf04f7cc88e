"""Read examples from a dataset on the Hugging Face Hub, from its local copy, or from a folder that `save_to_disk` wrote.

Finds the dataset, its config and its split through the datasets library, and turns the errors of that library into one
line. `Intake` checks the values of the columns.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etils import epath

from jaxbert.data.files import split_of
from jaxbert.data.table import Facts, Intake, RawPart
from jaxbert.errors import UserError, foreign_errors, quoted, shorten
from jaxbert.plain import read_json, shown

_DICT, _STATE, _INFO = "dataset_dict.json", "state.json", "dataset_info.json"
"""The file in a folder of several splits, and the two files in the folder of one split."""


@dataclass(frozen=True)
class Split:
    """A split that was found; its records are on disk."""

    spec: str
    rows: Any
    """A dataset of the library."""
    identity: Callable[[], Any]
    """Return plain values that change with the content."""
    note: str = ""
    """A decision about the split that the user is told; empty for none."""

    def say(self, facts: Facts) -> None:
        """Tell the user the note, if there is one."""
        if self.note:
            facts.say(self.spec, self.note)


def open_hub(spec: str, default_split: str) -> Split:
    """Return the split that `hf:ORG/NAME[/CONFIG][:SPLIT]` names, or `hf:FOLDER[:SPLIT]` for a folder of this machine.

    A split may be sliced as the datasets library does it: `train[:10%]`.

    Raises:
      UserError: if the dataset, the config or the split does not exist or cannot be reached.
    """
    base, _, asked = spec.removeprefix("hf:").partition(":")
    folder = Path(base).expanduser()
    if base and is_saved(folder):
        return open_saved(folder, f"hf:{base}", asked or None, default_split)
    if base and folder.is_dir():
        name, config = str(folder), None
        note = "" if base.startswith(("/", ".", "~")) else f"read from the folder {base} of this machine"
    else:
        (name, config, _), note = parse_spec(spec), ""
    rows = _load_split(name, config, asked or default_split, spec)
    # The library's fingerprint names data files, config and split.
    return Split(spec, rows, lambda: [rows._fingerprint], note)


def is_saved(folder: Path | epath.Path) -> bool:
    """Return whether `save_to_disk` of the datasets library wrote a folder."""
    return (folder / _DICT).exists() or ((folder / _STATE).exists() and (folder / _INFO).exists())


def open_saved(folder: Path, base: str, asked: str | None, default_split: str) -> Split:
    """Return a split of a folder that `save_to_disk` wrote.

    Only its Arrow files and the types of their columns are read; formats and code are ignored.

    Args:
      folder: the folder of one split, or of several.
      base: its name in messages.
      asked: the split that the user names, or None.
      default_split: the split to read where the user names none.

    Raises:
      UserError: if the split does not exist, or the folder is incomplete.
    """
    import datasets

    note, spec = "", base if asked is None else f"{base}:{asked}"
    if (folder / _DICT).exists():
        splits = read_json(folder / _DICT).get("splits")
        names = [name for name in splits if _is_plain(name)] if isinstance(splits, list) else []
        split = _choose_split(names, base, asked, default_split)
        if split != (asked or default_split):
            note = f"its split {split!r} is read"
        folder = folder / split
    state = read_json(folder / _STATE)
    files = state.get("_data_files")
    paths = [folder / str(file.get("filename")) for file in files] if isinstance(files, list) else []
    if not paths or not all(_is_plain(path.name) and path.parent == folder for path in paths):
        raise UserError(f"{spec}: {folder / _STATE} names no files of its folder: save the data set again")
    if asked and state.get("_split") not in (asked, None) and folder.name != asked:
        raise UserError(f"{spec}: holds the split {shown(state['_split'])} only: leave out :{asked}")
    with foreign_errors(f"{spec}: cannot be loaded"):
        info = datasets.DatasetInfo.from_dict(read_json(folder / _INFO))
        rows = datasets.concatenate_datasets([datasets.Dataset.from_file(str(path), info=info) for path in paths])
    return Split(spec, rows, lambda: [_hash(path) for path in paths], note)


def _is_plain(name: Any) -> bool:
    """Return whether a name is a plain file or folder name and not a path."""
    return isinstance(name, str) and name not in ("", ".", "..") and os.path.basename(name) == name


def _choose_split(names: list[str], base: str, asked: str | None, default: str) -> str:
    split = asked or default
    alike = [name for name in names if split_of(name) == split]
    if split in names:
        return split
    if asked is None and len(alike) == 1:
        return alike[0]
    raise UserError(f"{base}: no split {split!r}; there are {quoted(names)}: name one as {base}:SPLIT")


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def read_hub(split: Split, intake: Intake) -> Iterator[RawPart]:
    """Yield the examples of a split part by part.

    Raises:
      UserError: if a column is missing.
    """
    rows = split.rows
    split.say(intake.facts)
    if any("." in name and name not in rows.column_names for name in intake.wanted.columns()):
        rows = rows.flatten()  # a column inside of another is named a.b
    chosen = intake.choose(rows.column_names, split.spec)
    names = class_names(rows.features, chosen.get(intake.wanted.label, ""))
    picked, low, count = rows.select_columns(list(dict.fromkeys(chosen.values()))), 0, len(rows)
    while low < count and (room := intake.room):
        high = min(low + room, count)
        found = picked[low:high]
        columns = {asked: found[column] for asked, column in chosen.items()}
        yield RawPart(columns, range(low + 1, high + 1), label_names=names)
        low = high


def parse_spec(spec: str) -> tuple[str, str | None, str | None]:
    """Split a spec into the dataset's name, its config and its split."""
    address, _, split = spec.removeprefix("hf:").partition(":")
    parts = address.split("/")
    if len(parts) > 3 or not all(parts):
        raise UserError(f"{spec}: expected hf:ORG/NAME[/CONFIG][:SPLIT], for instance hf:nyu-mll/glue/sst2:train")
    return "/".join(parts[:2]), parts[2] if len(parts) == 3 else None, split or None


def _load_split(name: str, config: str | None, split: str, spec: str) -> Any:
    sliced = "[" in split or "+" in split
    try:
        loaded = _load(name, config, split if sliced else None)
    # The libraries and their HTTP client raise many types of errors, none of them about jaxbert.
    except Exception as error:
        raise UserError(f"{spec}: {_explain(error)}") from error
    if sliced:
        return loaded
    if split not in loaded:
        raise UserError(
            f"{spec}: no split {split!r}; there are {quoted(loaded)}: name one as {name_split(spec, 'SPLIT')}"
        )
    return loaded[split]


def _load(name: str, config: str | None, split: str | None) -> Any:
    """Load from the Hub; if it cannot be reached, from the cache of `datasets`, else from that of `hf download`."""
    import datasets
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        return datasets.load_dataset(name, config, split=split)
    except ConnectionError as error:
        try:
            folder = snapshot_download(name, repo_type="dataset", local_files_only=True)
            return datasets.load_dataset(folder, config, split=split)
        # FileNotFoundError: an incomplete copy, with a card and no data files.
        except (LocalEntryNotFoundError, FileNotFoundError):
            raise error from None


def name_split(spec: str, split: str) -> str:
    """Return the spec with its split replaced or added."""
    prefix, _, rest = spec.partition(":")
    return f"{prefix}:{rest.partition(':')[0]}:{split}"


def _explain(error: Exception) -> str:
    reason = shorten(" ".join(str(error).partition("Example of usage")[0].split()), 300)
    if isinstance(error, ConnectionError) or "offline" in reason.lower():
        return f"the Hub cannot be reached and no local copy was found ({reason})"
    if "Config name is missing" in reason or "BuilderConfig" in reason:
        return f"{reason}: name the config as hf:ORG/NAME/CONFIG"
    if isinstance(error, FileNotFoundError):
        return f"{reason} Check the name; a private dataset needs `hf auth login`"
    return f"cannot be loaded: {reason}"


_LISTS = ("List", "LargeList", "Sequence")


def class_names(features: Mapping[str, Any], column: str) -> list[str] | None:
    """Return the names for the integers of a column, or inside its lists; None if there are none.

    Args:
      features: the features of a data set of `datasets` or of TFDS, or the result of `parquet_features`.
      column: the name of the column; `a.b` for the field `b` inside the column `a`.
    """
    feature: Any = features
    for part in [column] if column in features else column.split("."):
        inner = _without_lists(feature)
        feature = inner.get(part) if isinstance(inner, Mapping) else None
    feature = _without_lists(feature)
    if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
        names = feature.get("names") or range(feature.get("num_classes") or 0)
    else:
        names = feature.names if type(feature).__name__ == "ClassLabel" else ()
    return [str(name) for name in names] or None


def _without_lists(feature: Any) -> Any:
    """Return the feature inside all lists."""
    while True:
        if isinstance(feature, list) and len(feature) == 1:
            feature = feature[0]
        elif isinstance(feature, dict) and feature.get("_type") in _LISTS:
            feature = feature.get("feature")
        elif (inner := getattr(feature, "feature", None)) is not None:
            feature = inner
        else:
            return feature


def parquet_features(metadata: Mapping[bytes, bytes] | None) -> dict[str, Any]:
    """Return the features that the datasets library wrote to the metadata of a parquet file; empty if there are none."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return features if isinstance(features, dict) else {}
