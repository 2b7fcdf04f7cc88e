"""Where the trials of a study are kept: Optuna's journal in a file, or a database; and how values are drawn for a trial.

The values of a trial depend on the seed, its number and the trials before it, and on no state of a process: a study that was
killed goes on with the same trials.
"""

from __future__ import annotations

import json
import logging
import os
import re
import secrets
import time
import zlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from etils import epath

from jaxbert.bucket import create, in_bucket
from jaxbert.errors import UserError, foreign_errors
from jaxbert.options import SearchOptions
from jaxbert.plain import flat, read_json, shown
from jaxbert.studies.space import Dimension, grid

if TYPE_CHECKING:
    import optuna

_DRIVERS = {"postgresql": ("psycopg2", "psycopg"), "mysql": ("MySQLdb", "pymysql")}
"""By the kind of a database, the library that SQLAlchemy takes by itself, and the one to name if that is not there."""
_LOCK_SECONDS = 10
_TRIES, _TRY_SECONDS = 10, 0.2
_FREE = {
    *("config.train.output_dir", "config.launch", "config.report", "search.trials", "search.seconds", "search.keep"),
    *("config.data.train", "config.data.validation", "config.data.test", "config.data.cache_dir"),
    *("config.model.name_or_path", "config.model.vocab"),
}
"""What may change when a study goes on; of data and model the content is compared."""
JOURNAL = "journal.log"
STUDY = "study.json"
"""The file that holds the identity and the settings of a study."""


def need_optuna() -> None:
    """Check that Optuna is installed, and let it be silent.

    Raises:
      UserError: if it is not.
    """
    if find_spec("optuna") is None:
        raise UserError("a search needs Optuna: pip install 'jaxbert[search]'")
    import optuna

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    logging.getLogger("alembic").setLevel(logging.ERROR)


def check_study(folder: epath.Path, settings: dict[str, Any]) -> str | None:
    """Compare the settings of a search with those of the study in its folder; return its name, None if there is none.

    Raises:
      UserError: if the folder holds something else, or a study with other settings.
    """
    path = folder / STUDY
    if not path.exists():
        others = sorted({found.name for found in folder.iterdir()} - {STUDY}) if folder.exists() else []
        if others:
            raise UserError(
                f"train.output_dir {folder} has other files than those of a search ({others[0]}): choose a new folder"
            )
        return None
    kept = _read_study(path)
    before, now = flat({key: kept.get(key, {}) for key in settings}), flat(json.loads(json.dumps(settings)))
    differing = [
        f"{key}: {shown(before.get(key))} there, {shown(now.get(key))} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key) and not any(key == free or key.startswith(f"{free}.") for free in _FREE)
    ]
    if differing:
        raise UserError(
            f"train.output_dir {folder} holds a search with other settings or other data ({'; '.join(differing)}): "
            "use the same ones to resume, or choose a new folder"
        )
    return str(kept.get("name"))


def _read_study(path: epath.Path) -> dict[str, Any]:
    """Read the settings, which another process may be writing just now."""
    for _ in range(_TRIES):
        if path.read_text().endswith("}\n"):
            break
        time.sleep(_TRY_SECONDS)
    return read_json(path)


def begin_study(folder: epath.Path, settings: dict[str, Any]) -> str:
    """Write the settings of a new study, unless it has begun; return its name.

    Raises:
      UserError: as `check_study`.
    """
    known = check_study(folder, settings)
    if known is not None:
        return known
    name = f"jaxbert-{secrets.token_hex(8)}"
    content = json.dumps({"name": name, **settings}, indent=2, ensure_ascii=False) + "\n"
    with foreign_errors(f"train.output_dir {folder} cannot be written"):
        folder.mkdir(parents=True, exist_ok=True)
        written = create(folder / STUDY, content)
    return name if written else begin_study(folder, settings)


def without_password(where: str | None) -> str | None:
    """Return a storage as it may be shown and kept: the address of a database has no user and no password."""
    return None if where is None else re.sub(r"//[^@/]*@", "//...@", where)


def is_outside(where: str | None, folder: epath.Path) -> bool:
    """Return whether a storage is not in the folder of the study, so that it can be opened before the study begins."""
    if where is None or _is_database(where):
        return where is not None
    journal, inside = (Path(os.path.abspath(path)) for path in (_journal_path(where), folder))
    return inside not in journal.parents


def _is_database(where: str) -> bool:
    return "://" in where and not where.startswith("file://")


def _journal_path(where: str) -> epath.Path:
    return epath.Path(where.removeprefix("file://"))


def open_storage(where: str | None, folder: epath.Path) -> optuna.storages.BaseStorage:
    """Open the storage of a study.

    Raises:
      UserError: if it cannot be opened, or a journal would be in a bucket.
    """
    if where is not None and _is_database(where):
        with foreign_errors(f"search.storage {without_password(where)} cannot be opened"):
            return _open_database(_with_driver(where))
    path = folder / JOURNAL if where is None else _journal_path(where)
    if in_bucket(path):
        raise UserError(f"{path} is in a bucket, which has no journal: set search.storage to a database or a file")
    with foreign_errors(f"search.storage {path} cannot be opened"):
        return _open_journal(Path(path))


def _open_database(url: str) -> optuna.storages.BaseStorage:
    """Open a database; of processes that make its tables at the same moment all but one fail, and try again."""
    import optuna

    for _ in range(_TRIES):
        try:
            return optuna.storages.RDBStorage(url)
        except Exception as error:
            if "UniqueViolation" not in str(error) and "already exists" not in str(error):
                raise
            time.sleep(_TRY_SECONDS)
    return optuna.storages.RDBStorage(url)


def _with_driver(url: str) -> str:
    kind, _, rest = url.partition("://")
    usual, other = _DRIVERS.get(kind, ("", ""))
    return f"{kind}+{other}://{rest}" if other and find_spec(usual) is None else url


def _open_journal(path: Path) -> optuna.storages.BaseStorage:
    """Open a journal, and drop a last line that a killed process has not finished."""
    from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock, JournalStorage

    lock = JournalFileSymlinkLock(str(path), _LOCK_SECONDS)
    backend = JournalFileBackend(str(path), lock)
    lock.acquire()
    try:
        content = path.read_bytes()
        if content and not content.endswith(b"\n"):
            with path.open("r+b") as file:
                file.truncate(content.rfind(b"\n") + 1)
    finally:
        lock.release()
    return JournalStorage(backend)


def make_sampler(options: SearchOptions, space: tuple[Dimension, ...]) -> optuna.samplers.BaseSampler:
    """Return what draws the values of a trial."""
    import optuna

    points = grid(space) if options.method == "grid" else []

    def seed_of(number: int, name: str) -> int:
        words = [options.seed, number, zlib.crc32(name.encode())]
        return int(np.random.SeedSequence(words).generate_state(1)[0])

    def inner(number: int, name: str = "") -> optuna.samplers.BaseSampler:
        seed = seed_of(number, name)
        return optuna.samplers.TPESampler(seed=seed) if options.method == "tpe" else optuna.samplers.RandomSampler(seed)

    class ByNumber(optuna.samplers.BaseSampler):
        """A sampler whose draws depend on the number of the trial."""

        def infer_relative_search_space(self, study: Any, trial: Any) -> dict[str, Any]:
            return {} if points else inner(trial.number).infer_relative_search_space(study, trial)

        def sample_relative(self, study: Any, trial: Any, search_space: Mapping[str, Any]) -> dict[str, Any]:
            return {} if points else inner(trial.number).sample_relative(study, trial, dict(search_space))

        def sample_independent(self, study: Any, trial: Any, param_name: str, param_distribution: Any) -> Any:
            if points:
                return points[trial.number % len(points)][param_name]
            return inner(trial.number, param_name).sample_independent(study, trial, param_name, param_distribution)

    return ByNumber()
