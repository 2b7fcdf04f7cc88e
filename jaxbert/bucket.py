"""Run folders of this machine and in buckets (`gs://`, `s3://`), by one kind of path.

Orbax writes checkpoints to a bucket itself. Libraries that know local files only read a copy (`fetched`) and write to a
folder that is copied when it is whole (`staged`).
"""

from __future__ import annotations

import atexit
import errno
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from etils import epath

from jaxbert.errors import UserError, foreign_errors

S3 = "s3://"
_LIBRARIES = {"gs://": ("gcsfs", "gcs"), S3: ("s3fs", "s3")}
"""The library that reads the files of a kind of bucket, and jaxbert's extra with it, by the kind's scheme."""
_LAST = "config.json"
"""Written behind all others: a model's folder that has one is complete."""


def to_path(name: str | os.PathLike[str]) -> epath.Path:
    """Return the path of a folder, on this machine or in a bucket.

    Raises:
      UserError: for a bucket of another kind, one of S3 that is not there, or where the library for it is not installed.
    """
    text = os.fspath(name)
    scheme, found, inside = text.partition("://")
    if not found:
        if text.startswith(tuple(known.rstrip("/") for known in _LIBRARIES)):
            raise UserError(f"{text}: a bucket is named with two slashes, {text[:3]}//BUCKET/FOLDER")
        return epath.Path(Path(text).expanduser())
    if scheme + found not in _LIBRARIES:
        raise UserError(
            f"{text}: {scheme}:// is not supported, only {' and '.join(_LIBRARIES)}: mount the bucket as a folder"
        )
    library, extra = _LIBRARIES[scheme + found]
    if find_spec(library) is None:
        raise UserError(f"{text}: needs {library}: install jaxbert[{extra}]")
    _see_what_others_write()
    if scheme + found == S3:
        _check_bucket(inside.partition("/")[0], text)
    return epath.Path(text)


def _check_bucket(bucket: str, name: str) -> None:
    """Raise where a bucket of S3 is not there: its library would make one."""
    with foreign_errors(f"{name} cannot be reached"):
        if not bucket or not epath.Path(S3 + bucket).exists():
            raise UserError(f"{name}: there is no bucket {S3}{bucket}: create it or correct the name")


def in_bucket(path: os.PathLike[str] | str) -> bool:
    """Say whether a path is in a bucket."""
    return os.fspath(path).startswith(tuple(_LIBRARIES))


def _see_what_others_write() -> None:
    """Keep no list of a folder's files: TensorStore and other processes add to them."""
    import fsspec

    logging.getLogger("gcsfs").setLevel(logging.ERROR)  # it warns of each bucket whose kind it may not ask

    for kind in ("gcs", "s3"):
        fsspec.config.conf.setdefault(kind, {})["use_listings_cache"] = False


def write_whole(path: epath.Path, text: str) -> None:
    """Write a file whole or not at all."""
    if in_bucket(path):
        path.write_text(text)
        return
    staged = path.with_name(path.name + ".tmp")
    staged.write_text(text)
    staged.replace(path)


def create(path: epath.Path, text: str) -> bool:
    """Write a file that is not there yet; of several processes that try at once, one gets True.

    A service that has no such request (S3's `If-None-Match`) is asked whether the file is there, then told to write it.

    Raises:
      OSError: if it cannot be written.
    """
    if not in_bucket(path):
        local = Path(path)
        try:
            with local.open("x", encoding="utf-8") as file:
                file.write(text)
        except FileExistsError:
            return False
        except OSError:
            local.unlink(missing_ok=True)
            raise
        return True
    import fsspec

    system, inside = fsspec.core.url_to_fs(os.fspath(path))
    try:
        system.pipe_file(inside, text.encode(), mode="create")
    except (OSError, NotImplementedError) as error:
        if path.exists():  # perhaps by a first try of our own, whose answer was lost
            return path.read_text() == text
        if getattr(error, "errno", None) not in (None, errno.ENOSYS):
            raise
        path.write_text(text)
    return True


def fetched(path: epath.Path) -> Path:
    """Return a local path of the same content; a bucket's is copied to a folder that goes when the process ends.

    Raises:
      UserError: if the bucket cannot be read.
    """
    if not in_bucket(path):
        return Path(path)
    target = scratch_folder() / path.name
    with foreign_errors(f"{path} cannot be read"):
        copy(path, epath.Path(target))
    return target


def scratch_folder() -> Path:
    """Make a folder that goes when the process ends."""
    scratch = tempfile.TemporaryDirectory(prefix="jaxbert-")
    atexit.register(scratch.cleanup)
    return Path(scratch.name)


@contextmanager
def staged(target: epath.Path) -> Iterator[Path]:
    """Give a local folder to write to: the target itself, or one that is copied to the bucket at the end."""
    if not in_bucket(target):
        yield Path(target)
        return
    with tempfile.TemporaryDirectory(prefix="jaxbert-") as scratch:
        yield Path(scratch)
        with foreign_errors(f"{target} cannot be written"):
            copy(epath.Path(scratch), target)


def move(folder: epath.Path, target: epath.Path) -> None:
    """Give a folder another name; in a bucket each file is copied for it."""
    if not in_bucket(folder):
        folder.rename(target)
        return
    copy(folder, target)
    folder.rmtree()


def copy(source: epath.Path, target: epath.Path) -> None:
    """Copy a file, or a folder with all that is in it."""
    if not source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.copy(target, overwrite=True)
        return
    for path in sorted(source.iterdir(), key=lambda path: (path.name == _LAST, path.name)):
        copy(path, target / path.name)
