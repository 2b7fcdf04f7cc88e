"""Find the files of a source: a file, a folder or a pattern of shards, on this machine or in a bucket.

The files of train, validation and test are never mixed. `sources` and `records` read the files.
"""

from __future__ import annotations

import functools
import glob
import os
import re
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

from etils import epath

from jaxbert.bucket import fetched, in_bucket, to_path
from jaxbert.data.streams import COMPRESSED
from jaxbert.data.table import Facts, nearest, quoted
from jaxbert.errors import UserError, foreign_errors

DELIMITERS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}
JSON_LINES = (".jsonl", ".json", ".ndjson")
EXTENSIONS = (*DELIMITERS, *JSON_LINES, ".parquet")
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
"""The words in the names of files, and of a data set's splits, that stand for each split."""
_NOTES = re.compile(
    r"(readme|license|licence|notice|changelog|requirements|dataset_infos?|dataset_dict)\b.*", re.IGNORECASE
)
_WAYS = {
    (".xlsx", ".xls", ".xlsm", ".ods", ".numbers"): "; save the sheet as CSV",
    (".zip", ".tar", ".tgz", ".7z", ".rar"): "; unpack it",
}


class FoundFiles(NamedTuple):
    """The files of a source, in the order in which they are read."""

    source: str
    files: list[str]
    several: bool
    """Whether the source is a folder or a pattern."""
    note: str = ""
    """A decision about the files that the user is told; empty for none."""

    def say(self, facts: Facts) -> None:
        """Note the files, and tell the user the note, if there is one."""
        facts.files = self.files if self.several else []
        if self.note:
            facts.say(self.source, self.note)


def extension_of(name: str) -> str:
    """Return the extension that names the format of a file; of `x.csv.gz`, `.csv`."""
    path = Path(name)
    suffix = path.suffix.lower()
    inner = Path(path.stem).suffix.lower()
    return inner if suffix in COMPRESSED and inner in EXTENSIONS and inner != ".parquet" else suffix


def find_file(name: str) -> Path:
    """Return the path of a file whose extension names a readable format; raise `UserError` for any other."""
    path = existing_file(name)
    if extension_of(name) not in EXTENSIONS:
        suffix = path.suffix.lower()
        way = next(
            (way for suffixes, way in _WAYS.items() if suffix in suffixes or Path(path.stem).suffix in suffixes), ""
        )
        raise UserError(
            f"{name}: unknown file type {suffix!r}: it must be one of {' '.join(EXTENSIONS)}, all but the last also "
            f"compressed ({' '.join(COMPRESSED)}){way}"
        )
    return path


def existing_file(name: str) -> Path:
    """Return the path of an existing file, or raise `UserError`; a file in a bucket is copied once in each process."""
    if in_bucket(name):
        return _copy_of(name)
    path = Path(name).expanduser()
    if path.is_dir():
        raise UserError(f"{name}: is a folder: name a file in it")
    check_exists(path, name)
    return path


@functools.cache
def _copy_of(name: str) -> Path:
    path = to_path(name)
    with foreign_errors(f"{name}: cannot be read"):
        if path.is_dir():
            raise UserError(f"{name}: is a folder: name a file in it")
        check_exists(path, name)
    return fetched(path)


def check_exists(path: Path | epath.Path, name: str) -> None:
    """Raise `UserError` if a path does not exist; the message suggests a similar name."""
    if not path.exists():
        raise UserError(f"{name}: no such file{'' if in_bucket(path) else _nearest_file(Path(path))}")


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f": there is no folder {str(path.parent)!r}"
    near = nearest(path.name, sorted(os.listdir(path.parent)))
    return f"; did you mean {str(path.with_name(near))!r}?" if near else f" in folder {str(path.parent)!r}"


def check_there(spec: str) -> None:
    """Check that a file or folder exists; a pattern is not checked.

    Raises:
      UserError: if it does not exist.
    """
    with foreign_errors(f"{spec}: cannot be read"):
        place, _ = divided(spec)
        if not glob.has_magic(place):
            check_exists(to_path(place), spec)


def divided(spec: str) -> tuple[str, str | None]:
    """Return a path, and the split that follows the path of a folder (`shards:test`), or None."""
    place, colon, split = spec.rpartition(":")
    if colon and split.isidentifier() and not to_path(spec).exists() and to_path(place).is_dir():
        return place, split
    return spec, None


def find_files(spec: str, split: str, *, mixed: bool = False) -> FoundFiles:
    """Return the files of a source; if a folder or a pattern has files of several splits, those of `split`.

    Args:
      spec: a file, a folder, a folder followed by a split (`shards:test`), or a pattern.
      split: train, validation or test.
      mixed: whether files of several formats may be one source.

    Raises:
      UserError: if there is no file, or the files of the split are ambiguous.
    """
    with foreign_errors(f"{spec}: cannot be read"):
        place, asked = divided(spec)
        path, split = to_path(place), split_of(asked or "") or asked or split
        if path.is_dir():
            names = _in_folder(path, place, split)
        elif not glob.has_magic(place) or path.exists():
            return FoundFiles(spec, [spec], several=False)
        else:
            names = _matching(place)
    names = _data_files(names, mixed)
    if not names:
        there = _say_inside(path, place) if path.is_dir() else ""
        raise UserError(f"{spec}: no file to read there{there}: it must name files of {' '.join(EXTENSIONS)}")
    chosen, note = _of_split(names, spec, split, folder=path.is_dir(), asked=asked is not None)
    _check_alike(chosen, spec, mixed)
    if path.is_dir() and not note and os.path.dirname(names[0]) != place.rstrip("/"):
        note = f"its folder {os.path.dirname(names[0])} is read"
    return FoundFiles(spec, chosen, several=True, note=note)


def _in_folder(path: epath.Path, name: str, split: str) -> list[str]:
    """Return the files of a folder; if none is readable, those of its folder for the split, or of its only folder."""
    inside = sorted(entry for entry in path.iterdir() if not _is_hidden(entry.name))
    files = [f"{name.rstrip('/')}/{entry.name}" for entry in inside if not entry.is_dir()]
    folders = [entry for entry in inside if entry.is_dir()]
    if folders and not _data_files(files, mixed=True):
        of_split = [entry for entry in folders if split_of(entry.name) == split]
        meant = of_split or [entry for entry in folders if split_of(entry.name) is None]
        if len(meant) == 1 and (of_split or len(folders) == 1):
            (below,) = meant
            return _in_folder(below, f"{name.rstrip('/')}/{below.name}", split)
    return files


def _say_inside(path: epath.Path, name: str) -> str:
    names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in path.iterdir())
    pattern = f"{name.rstrip('/')}/**/*.csv"
    way = f"; name one of its folders, or a pattern such as {pattern}" if any("/" in n for n in names) else ""
    return f" (it has {quoted(names, 5)}{way})" if names else " (it is empty)"


def _is_hidden(name: str) -> bool:
    return name.startswith((".", "_"))


def _matching(pattern: str) -> list[str]:
    """Return the files that a pattern matches."""
    if not in_bucket(pattern):
        return [name for name in glob.glob(os.path.expanduser(pattern), recursive=True) if os.path.isfile(name)]
    path = to_path(pattern)
    fixed = list(takewhile(lambda part: not glob.has_magic(part.name), reversed([path, *path.parents])))
    found = fixed[-1].glob(str(path.relative_to(fixed[-1])))
    return [str(inside) for inside in found if not inside.is_dir()]


def _data_files(names: Sequence[str], mixed: bool) -> list[str]:
    """Return the names of data files, sorted: no hidden files, no notes such as README, no unknown formats."""
    data = [
        name
        for name in sorted(names)
        if extension_of(name) in EXTENSIONS
        and not _is_hidden(os.path.basename(name))
        and not _NOTES.fullmatch(os.path.basename(name))
    ]
    tables = [name for name in data if extension_of(name) != ".txt"]
    return data if mixed else tables or data


def split_of(name: str) -> str | None:
    """Return the split that a name stands for, train, validation or test; None if for none or several."""
    words = set(re.split(r"[^a-z]+", name.lower()))
    found = [split for split, known in _SPLITS.items() if words & set(known)]
    return found[0] if len(found) == 1 else None


def _splits_of(names: list[str], below: str) -> list[str | None]:
    """Return the split of each file, by its name below the folder `below`; None for a file that names no split."""
    splits = [split_of(name.removeprefix(below)) for name in names]
    if any(splits):
        return splits
    parts = [re.search("train|valid|test", name.removeprefix(below).lower()) for name in names]  # trainset, testData
    loose = [split_of(part[0]) if part else None for part in parts]
    return loose if len(set(filter(None, loose))) > 1 else splits


def _of_split(names: list[str], spec: str, split: str, *, folder: bool, asked: bool) -> tuple[list[str], str]:
    """Return the files of a split, and a note for the user; all files if their names name no split.

    If all files of a pattern are of one split, they are returned, whatever their split; a folder must have files of `split`.
    """
    below = _common_folder(names)
    splits = _splits_of(names, below)
    chosen = [name for name, own in zip(names, splits, strict=True) if own == split]
    if not asked and (not any(splits) or (not folder and len(set(splits)) == 1)):
        return names, ""
    if not chosen or None in splits:
        shown = quoted([name.removeprefix(below) for name in names], 6)
        raise UserError(
            f"{spec}: which of its files are for {split}? There are {shown}: name them, for instance by a pattern "
            f"({below}NAME*{os.path.splitext(names[0])[1]})"
        )
    few = f"{len(chosen)} of {len(names)} files are read, those that are named as {split}"
    return chosen, few if len(chosen) < len(names) else ""


def _common_folder(names: list[str]) -> str:
    """Return the deepest folder that holds all files, with a slash at its end."""
    folders = zip(*(name.split("/")[:-1] for name in names), strict=False)
    return "".join(f"{parts[0]}/" for parts in takewhile(lambda parts: len(set(parts)) == 1, folders))


def _check_alike(names: list[str], spec: str, mixed: bool) -> None:
    """Raise `UserError` for files of several formats, or a file that is also there compressed."""
    kinds = {extension_of(name): name for name in reversed(names)}
    if len(kinds) > 1 and not mixed:
        shown = quoted(sorted(os.path.basename(name) for name in kinds.values()), 5)
        raise UserError(
            f"{spec}: files of several formats ({shown}): name those of one by a pattern, for instance *{min(kinds)}"
        )
    bare: dict[str, str] = {}
    for name in names:
        stem, suffix = os.path.splitext(name)
        whole = stem if suffix.lower() in COMPRESSED else name
        if whole in bare:
            raise UserError(f"{spec}: {bare[whole]} and {name} are probably the same: remove one of them")
        bare[whole] = name
