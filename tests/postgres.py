"""A real PostgreSQL for tests, where Debian's package is there: a server of its own, in a folder that is removed."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

_SECONDS = 60


def lacks_postgres() -> str | None:
    """Return why there is no server, None if there may be one."""
    if _programs() is None:
        return "PostgreSQL is not installed (apt-get install postgresql)"
    if find_spec("psycopg") is None:
        return "psycopg is not installed"
    if os.getuid() == 0 and _owner() is None:
        return "PostgreSQL does not run as root, and there is no user postgres"
    return None


def _programs() -> Path | None:
    """Return the folder of the server's programs, the newest one."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    initdb = shutil.which("initdb")
    return found[-1].parent if found else Path(initdb).parent if initdb else None


def _owner() -> str | None:
    """Return the user that runs the server if this one may not."""
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres").pw_name
    return None


@contextlib.contextmanager
def postgres() -> Iterator[str]:
    """Start a server; yield the URL of an empty database."""
    programs = _programs()
    assert programs is not None
    owner = _owner() if os.getuid() == 0 else None
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        free.close()
        if owner:
            shutil.chown(folder, owner)
        data, options = f"{folder}/data", {"user": owner, "cwd": folder, "stdout": subprocess.DEVNULL}
        words = [programs / "initdb", "-D", data, "-U", "tests", "--auth=trust", "--no-sync"]
        subprocess.run(words, check=True, **options)  # type: ignore[call-overload]
        words = [programs / "postgres", "-D", data, "-p", str(port), "-k", folder, "-c", "fsync=off"]
        server = subprocess.Popen(words, stderr=subprocess.DEVNULL, **options)  # type: ignore[call-overload]
        try:
            _wait(programs, port)
            yield f"postgresql://tests@127.0.0.1:{port}/postgres"
        finally:
            server.terminate()
            server.wait()


def _wait(programs: Path, port: int) -> None:
    deadline = time.monotonic() + _SECONDS
    words = [programs / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]
    while subprocess.run(words).returncode:
        assert time.monotonic() < deadline, "PostgreSQL does not start"
        time.sleep(0.1)
