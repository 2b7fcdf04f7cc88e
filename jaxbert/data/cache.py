"""The folder in which the tokens of earlier starts are kept.

An entry's name is a hash of everything that decides its content: the source and how it is read, the tokenizer, the longest
example. Entries appear whole by a rename, so several processes may use the folder; what was used longest ago goes first
when they grow past `LIMIT_BYTES`.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jaxbert.data.long_texts import LongTexts
from jaxbert.data.store import FORMAT, HEADER, DamagedError, Stored, open_stored

LIMIT_BYTES = 20 * 2**30
_ENTRY = re.compile("[0-9a-f]{40}")
_PREFIX = "unfinished-tokens-"
_ABANDONED_SECONDS = 24 * 3600

logger = logging.getLogger("jaxbert")


def user_cache(name: str) -> Path:
    """Return where the user's own cache of this name is."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "jaxbert" / name


def cache_folder(cache_dir: str | None) -> Path | None:
    """Return the folder that `data.cache_dir` names; None switches the cache off."""
    if cache_dir is None:
        return None
    if cache_dir == "auto":
        return user_cache("tokens")
    return Path(cache_dir).expanduser()


def entry_name(source_identity: Any, tokenizer: Any, max_length: int, long: LongTexts = LongTexts()) -> str | None:  # noqa: B008 (frozen)
    """Return the name of the entry, None for a tokenizer that cannot be told from another."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if source_identity is None or backend is None:
        return None
    state = json.loads(backend.to_str())
    for changing in ("truncation", "padding"):  # left over from the last call
        state.pop(changing, None)
    versions = [importlib.metadata.version(library) for library in ("tokenizers", "transformers")]
    kind = type(tokenizer)
    settings = [kind.__module__, kind.__qualname__, tokenizer.truncation_side, tokenizer.split_special_tokens]
    return name_of([source_identity, state, settings, versions, max_length, asdict(long)])


def name_of(content: Any) -> str:
    """Return the name of the entry that these plain values decide."""
    return hashlib.sha256(json.dumps([FORMAT, *content], sort_keys=True).encode()).hexdigest()[:40]


def cached(
    source: str,
    key: Callable[[], str | None],
    write: Callable[[Path], None],
    *,
    folder: Path | None,
    all_have: Callable[[bool], bool] = bool,
    said: bool = True,
) -> Stored:
    """Return what an earlier start has left in the cache, else what `write` puts into an empty folder.

    Args:
      source: what is read, as messages name it.
      key: returns the name of the entry; None for what cannot be told from other content, which is not kept.
      write: fills a folder.
      folder: of the cache; None keeps nothing.
      all_have: says whether every process of the run says yes.
      said: whether the user is told where the content was in the cache.

    Raises:
      UserError: what `write` raises.
    """
    name = None if folder is None else key()
    found = None if folder is None or name is None else find(folder, name, source)
    if all_have(found is not None):
        assert found is not None
        if said:
            logger.info("tokens of %s taken from the cache", source)
        for note in found.said:
            logger.warning("%s", note)
        return found
    written = new_folder(None if name is None else folder)
    try:
        write(written)
        stored = open_stored(written, source)
        # A file that changed while it was read must not be kept under the name of what it was.
        if name is not None and written.parent == folder and key() == name:
            publish(written, name)
        return stored
    finally:
        shutil.rmtree(written, ignore_errors=True)  # unless it was published; what is mapped stays readable


def find(folder: Path, name: str, source: str) -> Stored | None:
    """Open an entry if it is there and whole; one that is damaged is removed, and said."""
    entry = folder / name
    if not entry.is_dir():
        return None
    try:
        stored = open_stored(entry, source)
    except DamagedError as error:
        if entry.is_dir():  # else another process has just removed it
            logger.warning("tokens of %s in the cache are damaged (%s): tokenizing again", source, error)
            shutil.rmtree(entry, ignore_errors=True)
        return None
    try:
        os.utime(entry)
    except OSError:  # a folder that is only read keeps its order
        logger.debug("cannot mark %s as used", entry)
    return stored


def new_folder(folder: Path | None) -> Path:
    """Make a folder to write to: beside the entries where there is a cache that can be written, else a temporary one."""
    if folder is not None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))
        except OSError as error:
            logger.warning("data.cache_dir: tokens cannot be kept in %s (%s)", folder, error.strerror)
    return Path(tempfile.mkdtemp(prefix="jaxbert-tokens-"))


def publish(written: Path, name: str) -> None:
    """Give a folder that was written beside the entries its name, unless another process was first."""
    try:
        written.rename(written.with_name(name))
    except OSError:
        return
    _make_room(written.parent, keep=name)


def _make_room(folder: Path, keep: str) -> None:
    """Remove what was used longest ago until the rest fits, and what a killed process left behind."""
    entries: list[tuple[float, int, Path]] = []
    for path in folder.iterdir():
        try:
            used = path.stat().st_mtime
            if path.name.startswith(_PREFIX):
                if time.time() - used > _ABANDONED_SECONDS:
                    shutil.rmtree(path, ignore_errors=True)
            elif _ENTRY.fullmatch(path.name) and (path / HEADER).exists():
                entries.append((used, sum(file.stat().st_size for file in path.iterdir()), path))
        except OSError:  # another process removed it
            continue
    total = sum(size for _, size, _ in entries)
    for _, size, path in sorted(entries):
        if total <= LIMIT_BYTES:
            return
        if path.name != keep:
            shutil.rmtree(path, ignore_errors=True)
            total -= size
