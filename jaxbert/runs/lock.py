"""The lock of a run folder: one process owns the folder at a time.

`RUN/lock/` holds a file named 1, 2, 3 and so on for each process that has owned it; the highest number is the owner's. A
file is made only if its number does not exist yet, so only one of several processes that try at once gets it. The last file
stays when its process has ended, so that no number is used twice. If an owner has not recorded its end, processes of the
same machine check its process. Others wait for its signs of life: it touches its file every `BEAT_SECONDS`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import secrets
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from etils import epath

from jaxbert.bucket import create, in_bucket, write_whole
from jaxbert.errors import InUseError, UserError
from jaxbert.processes import main_decides
from jaxbert.runs.folder import RunFolder

BEAT_SECONDS = 15.0
STALE_SECONDS = 75.0
"""Seconds without a sign of life after which an owner counts as dead."""
_POLL_SECONDS = 3.0

_held: set[str] = set()
"""The tokens of the locks that this process holds."""

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Owner:
    """The process that holds a lock, as far as it is known."""

    token: str = ""
    host: str = "an unknown machine"
    pid: int = 0
    kernel: str | None = None
    """One boot of one machine and one space of process numbers; if it is the same as here, `pid` can be checked."""
    started: str | None = None
    """The start time of the process, to tell it from a later one of the same number."""
    since: str = "an unknown time"
    ended: bool = False
    beats: int = 0
    """The number of signs of life, used in a bucket, where a file cannot be touched without writing."""

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.since}"

    @classmethod
    def of_this_process(cls) -> Owner:
        """Describe this process."""
        pid, since = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z")
        return cls(secrets.token_hex(8), socket.gethostname(), pid, _kernel(), _start_of(pid), since)

    @classmethod
    def parse(cls, text: str) -> Owner:
        """Read a lock file; the fields are empty if the file is not written yet, or damaged."""
        try:
            found = cls(**json.loads(text))
        except (ValueError, TypeError, RecursionError):
            return cls()
        return found if type(found.pid) is int and found.pid > 0 else cls()

    def is_alive(self) -> bool | None:
        """Return whether the process runs; None if that cannot be seen from here."""
        if self.kernel is None or self.started is None or self.kernel != _kernel():
            return None
        if self.pid == os.getpid():
            return self.token in _held
        started = _start_of(self.pid)
        if started is not None:
            return started == self.started
        try:
            os.kill(self.pid, 0)  # tests whether it exists; sends no signal
        except ProcessLookupError:
            return False
        except (OSError, OverflowError):
            return None
        return None  # another user's process, which the system hides


def _kernel() -> str | None:
    """Return a name of the running system and its space of process numbers: every container may have a process 1."""
    if not Path("/proc/self").exists():
        return socket.gethostname()
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return None


def _start_of(pid: int) -> str | None:
    """Return the start time of a process as the system writes it; "" if it has ended, None if it cannot be seen."""
    try:
        if Path("/proc/self").exists():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            state, started = fields[0], fields[19]
        else:
            shown = subprocess.run(["ps", "-o", "state=,lstart=", "-p", str(pid)], capture_output=True, text=True)
            state, _, started = shown.stdout.strip().partition(" ")
    except (OSError, IndexError):
        return None
    return None if not started else "" if state[0] in "ZX" else started


@dataclass(frozen=True)
class Clock:
    """The source of time; tests use their own."""

    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = time.sleep


class RunLock:
    """The lock of a run folder, held from `acquire` to `release`; before and after, it blocks nothing."""

    def __init__(self, folder: RunFolder, clock: Clock = Clock()) -> None:
        self._of, self._run, self._folder = folder, folder.path, folder.lock
        self._clock = clock
        self._me = Owner.of_this_process()
        self._number = 0
        self._beating = threading.Lock()
        self._ended = threading.Event()
        self._made: list[epath.Path] = []
        """The folders that this lock made, the inner ones first."""

    def acquire(self) -> None:
        """Become the owner, also in place of a dead one.

        Raises:
          InUseError: if another process is the owner.
          UserError: if the folder cannot be written.
        """
        _held.add(self._me.token)  # before the file exists: another thread may read it at once
        try:
            with self._of.writing():
                self._acquire()
        except BaseException:
            _held.discard(self._me.token)
            raise
        threading.Thread(target=self._beat, name="lock of the run", daemon=True).start()

    def _acquire(self) -> None:
        while not self._number:
            number, owner = self._newest()
            free = number == 0 or owner.ended
            if not free:
                alive = owner.is_alive()
                alive = self._watch(number, owner) if alive is None else alive
                if alive:
                    raise InUseError(
                        f"train.output_dir {self._run} is in use by {owner}: wait for its end, or choose another folder"
                    )
                if alive is None:
                    continue
            if self._make(number + 1) and not free:
                logger.warning("%s is taken over from %s, which is dead", self._run, owner)

    def _make(self, number: int) -> bool:
        """Make the file of this number; return False if another process was faster."""
        if not in_bucket(self._folder):
            missing = [path for path in (self._folder, *self._folder.parents) if not path.exists()]
            self._made = self._made or missing
            self._folder.mkdir(parents=True, exist_ok=True)
        if not create(self._folder / str(number), json.dumps(asdict(self._me))):
            return False
        numbers = self._numbers()
        if max(numbers, default=0) > number:  # the one that this process saw has been removed in the meantime
            (self._folder / str(number)).unlink(missing_ok=True)
            return False
        self._number = number
        for older in numbers:
            if older < number:
                (self._folder / str(older)).unlink(missing_ok=True)
        return True

    def _numbers(self) -> list[int]:
        """Return the numbers of the existing files."""
        if not self._folder.exists():
            return []
        return [int(path.name) for path in self._folder.iterdir() if path.name.isdecimal()]

    def _newest(self) -> tuple[int, Owner]:
        """Return the highest number with its owner; 0 if there is none."""
        number = max(self._numbers(), default=0)
        try:
            return number, Owner.parse((self._folder / str(number)).read_text()) if number else Owner()
        except FileNotFoundError:  # another process has just removed it
            return self._newest()

    def _watch(self, number: int, owner: Owner) -> bool | None:
        """Wait as long as needed for a sign of life of a process that cannot be seen; return None if it has ended."""
        path = self._folder / str(number)
        first = path.stat().mtime if path.exists() else 0
        wait, begin = STALE_SECONDS - self._age(first), self._clock.now()
        if wait > 0:
            logger.warning(
                "%s is in use by %s, if that process is still alive: waiting up to %d s to see it",
                *(self._run, owner, round(wait)),
            )
        while self._clock.now() < begin + wait:
            self._clock.sleep(_POLL_SECONDS)
            now, found = self._newest()
            if (now, found.token) != (number, owner.token) or found.ended:
                return None
            if found.beats != owner.beats or path.stat().mtime != first:
                return True
        return False

    def _age(self, touched: float) -> float:
        """Return the seconds since a file was touched, by the clock of its file system."""
        probe = self._folder / f"clock-{self._me.token}"
        probe.write_text("")
        try:
            return max(0.0, probe.stat().mtime - touched)
        finally:
            probe.unlink(missing_ok=True)

    def _is_mine(self) -> bool:
        number, owner = self._newest()
        return (number, owner.token) == (self._number, self._me.token)

    def _beat(self) -> None:
        """Give signs of life until the end, or until another process becomes the owner."""
        while not self._ended.wait(BEAT_SECONDS):
            with self._beating, contextlib.suppress(Exception):  # the file system may be unreachable for a moment
                if self._ended.is_set() or not self._is_mine():
                    return
                self._touch()

    def _touch(self) -> None:
        path = self._folder / str(self._number)
        if in_bucket(path):
            self._me = replace(self._me, beats=self._me.beats + 1)
            path.write_text(json.dumps(asdict(self._me)))
        else:
            os.utime(path)

    def check(self) -> None:
        """Check that this process is still the owner.

        Raises:
          UserError: if another process has taken over because this one gave no answer for too long.
        """
        if self._number and os.getpid() == self._me.pid and not self._is_mine():
            raise UserError(
                f"train.output_dir {self._run} was taken over by {self._newest()[1]}, because this process gave no sign of "
                f"life for {STALE_SECONDS:g} s: its steps since the last checkpoint are not saved"
            )

    def release(self, *, keep: bool) -> None:
        """Record that the owner has ended, or with `keep` false remove the lock; a forked child does nothing."""
        if not self._number or os.getpid() != self._me.pid:
            return
        self._ended.set()
        _held.discard(self._me.token)
        with self._beating, contextlib.suppress(OSError):
            if not self._is_mine():
                return
            path = self._folder / str(self._number)
            if keep:
                write_whole(path, json.dumps(asdict(replace(self._me, ended=True))))
                return
            path.unlink()
            for made in dict.fromkeys([self._folder, *self._made]):
                if not in_bucket(made):
                    Path(made).rmdir()


@contextlib.contextmanager
def owned(folder: RunFolder) -> Iterator[RunLock]:
    """Own a run folder; the main process does it for all. If no run begins, nothing is left in the folder.

    Raises:
      UserError: in all processes, if another one is the owner.
    """
    lock = RunLock(folder)
    main_decides(lock.acquire)
    try:
        yield lock
    finally:
        with contextlib.suppress(OSError):
            lock.release(keep=folder.config.exists())
