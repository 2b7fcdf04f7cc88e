"""Run folders on this machine and in buckets (`gs://`, `s3://`), with one type of path for both.

Orbax writes checkpoints to a bucket itself. Libraries that support only local files read a copy (`fetched`) and write to a
folder that is copied when it is complete (`staged`).
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

from jaxbert.errors import UserError, foreign_errors, kind_of

S3 = "s3://"
_LIBRARIES = {"gs://": ("gcsfs", "gcs"), S3: ("s3fs", "s3")}
"""By the scheme of a bucket, the library that reads its files, and jaxbert's extra with that library."""
_LAST = "config.json"
"""The file that is written after all others: a model's folder that has it is complete."""


def path_text(path: str | os.PathLike[str], what: str) -> str:
    """Return a path as text; `what` is its name in messages.

    Raises:
      UserError: if it is no path.
    """
    if not isinstance(path, str | os.PathLike):
        raise UserError(f"{what} is {kind_of(path)}, but it must be text or a path")
    return os.fspath(path)


def to_path(name: str | os.PathLike[str]) -> epath.Path:
    """Return the path of a folder, on this machine or in a bucket.

    Raises:
      UserError: for an unknown kind of bucket, a bucket of S3 that does not exist, or a library that is not installed.
    """
    if not isinstance(name, str | os.PathLike):
        raise UserError(f"the folder is {kind_of(name)}, but it must be text or a path")
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
    """Raise an error if a bucket of S3 does not exist: its library would make one."""
    with foreign_errors(f"{name} cannot be reached"):
        if not bucket or not epath.Path(S3 + bucket).exists():
            raise UserError(f"{name}: there is no bucket {S3}{bucket}: create it or correct the name")


def in_bucket(path: os.PathLike[str] | str) -> bool:
    """Return whether a path is in a bucket."""
    return os.fspath(path).startswith(tuple(_LIBRARIES))


def _see_what_others_write() -> None:
    """Turn off caching of folder listings, because TensorStore and other processes add files."""
    import fsspec

    logging.getLogger("gcsfs").setLevel(logging.ERROR)  # it warns about each bucket whose type it may not request

    for kind in ("gcs", "s3"):
        fsspec.config.conf.setdefault(kind, {})["use_listings_cache"] = False


def write_whole(path: epath.Path, text: str) -> None:
    """Write a file completely or not at all."""
    if in_bucket(path):
        path.write_text(text)
        return
    staged = path.with_name(path.name + ".tmp")
    staged.write_text(text)
    staged.replace(path)


def create(path: epath.Path, text: str) -> bool:
    """Write a new file; if several processes try at once, only one gets True.

    If a service does not support this request (S3's `If-None-Match`), check whether the file exists, then write it.

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
        if path.exists():  # perhaps from our own first try, whose answer was lost
            return path.read_text() == text
        if getattr(error, "errno", None) not in (None, errno.ENOSYS):
            raise
        path.write_text(text)
    return True


def fetched(path: epath.Path) -> Path:
    """Return a local path with the same content; a bucket's is copied to a folder that is removed when the process ends.

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
    """Make a folder that is removed when the process ends."""
    scratch = tempfile.TemporaryDirectory(prefix="jaxbert-")
    atexit.register(scratch.cleanup)
    return Path(scratch.name)


@contextmanager
def staged(target: epath.Path) -> Iterator[Path]:
    """Yield a local folder to write to: the target itself, or a folder that is copied to the bucket at the end."""
    if not in_bucket(target):
        yield Path(target)
        return
    with tempfile.TemporaryDirectory(prefix="jaxbert-") as scratch:
        yield Path(scratch)
        with foreign_errors(f"{target} cannot be written"):
            copy(epath.Path(scratch), target)


def move(folder: epath.Path, target: epath.Path) -> None:
    """Rename a folder; in a bucket each file is copied for it."""
    if not in_bucket(folder):
        folder.rename(target)
        return
    copy(folder, target)
    folder.rmtree()


def copy(source: epath.Path, target: epath.Path) -> None:
    """Copy a file, or a folder with its content."""
    if not source.is_dir():
        target.parent.mkdir(parents=True, exist_ok=True)
        source.copy(target, overwrite=True)
        return
    for path in sorted(source.iterdir(), key=lambda path: (path.name == _LAST, path.name)):
        copy(path, target / path.name)
