"""One process owns a run folder: a second one is told, a dead one's place is taken, and of several that try one gets it."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from jaxbert.errors import UserError
from jaxbert.runs import lock as module
from jaxbert.runs.folder import RunFolder
from jaxbert.runs.lock import BEAT_SECONDS, STALE_SECONDS, Clock, Owner, RunLock, owned


class Time:
    """A clock that passes while somebody sleeps; `meanwhile` may do something then."""

    def __init__(self, meanwhile=lambda passed: None):
        self.passed = 0.0
        self.meanwhile = meanwhile

    def clock(self):
        return Clock(lambda: self.passed, self.sleep)

    def sleep(self, seconds):
        self.passed += seconds
        self.meanwhile(self.passed)


def no_waiting():
    def sleep(seconds):
        raise AssertionError("it waits")

    return Clock(sleep=sleep)


def leave(folder, ago=0.0, number=1, **changes):
    """Leave the lock of another process behind, touched some seconds ago; return it and its file."""
    owner = dataclasses.replace(Owner.of_this_process(), token="other", **changes)
    file = folder.lock / str(number)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(dataclasses.asdict(owner)))
    os.utime(file, (time.time() - ago,) * 2)
    return owner, Path(file)


ELSEWHERE = {"kernel": "another boot pid:[1]", "host": "node-7", "pid": 1}


def names(folder):
    return sorted(path.name for path in folder.lock.iterdir())


def test_a_second_one_is_told_who_and_since_when(folder):
    with owned(folder):
        folder.config.write_text("")
        owner = Owner.parse((folder.lock / "1").read_text())
        assert (owner.pid, owner.host) == (os.getpid(), os.uname().nodename)
        with pytest.raises(UserError) as caught:
            RunLock(folder, no_waiting()).acquire()
    said = f"train.output_dir {folder.path} is in use by process {os.getpid()} on {os.uname().nodename}, since {owner.since}"
    assert str(caught.value).startswith(said)


def test_it_is_left_at_the_end_and_in_an_error(folder, said):
    folder.path.mkdir()
    folder.config.write_text("")
    with pytest.raises(RuntimeError), owned(folder):
        raise RuntimeError
    for number in ("2", "3"):
        with owned(folder):
            assert names(folder) == [number]
    assert Owner.parse((folder.lock / "3").read_text()).ended
    assert not said.messages


def test_a_run_that_did_not_begin_leaves_nothing(tmp_path):
    folder = RunFolder(tmp_path / "a" / "b" / "run")
    with owned(folder):
        assert names(folder) == ["1"]
    assert not (tmp_path / "a").exists()
    with owned(folder):
        folder.vocabulary.write_text("a word")
    assert [path.name for path in folder.path.iterdir()] == ["vocab.txt"]


def test_a_process_that_was_killed_is_dead(folder, said):
    """Also before anyone has asked for its exit code."""
    process = subprocess.Popen(["sleep", "600"])
    started = module._start_of(process.pid)
    leave(folder, pid=process.pid, started=started)
    with pytest.raises(UserError, match=f"is in use by process {process.pid}"):
        RunLock(folder, no_waiting()).acquire()
    process.kill()
    while module._start_of(process.pid) == started:
        time.sleep(0.001)
    lock = RunLock(folder, no_waiting())
    lock.acquire()
    lock.release(keep=True)
    assert f"is taken over from process {process.pid} on" in said.messages[0]
    assert names(folder) == ["2"]
    process.wait()


DEAD = {
    "no such process": {"pid": 2**22 + 1},
    "the number is another's now": {"pid": 1, "started": "1"},
    "an image of this process before it was replaced": {},
}


@pytest.mark.parametrize("changes", DEAD.values(), ids=DEAD)
def test_a_dead_process_is_known_at_once(folder, said, changes):
    leave(folder, **changes)
    lock = RunLock(folder, no_waiting())
    lock.acquire()
    lock.release(keep=True)
    assert "which is dead" in said.messages[0]


def test_one_elsewhere_is_refused_after_its_next_sign_of_life(folder, said):
    _, file = leave(folder, ago=10, **ELSEWHERE)
    there = Time(lambda passed: os.utime(file) if passed > BEAT_SECONDS else None)
    with pytest.raises(UserError, match="in use by process 1 on node-7"):
        RunLock(folder, there.clock()).acquire()
    assert there.passed < 2 * BEAT_SECONDS
    assert f"waiting up to {STALE_SECONDS - 10:.0f} s to see it" in said.messages[0]


def test_one_elsewhere_that_gives_none_is_dead(folder, said):
    leave(folder, ago=10, **ELSEWHERE)
    there = Time()
    lock = RunLock(folder, there.clock())
    lock.acquire()
    lock.release(keep=True)
    assert STALE_SECONDS - 12 < there.passed < STALE_SECONDS
    assert "is taken over from process 1 on node-7" in said.messages[1]


def test_nobody_waits_for_one_that_was_silent_long_ago(folder, said):
    leave(folder, ago=STALE_SECONDS + 5, **ELSEWHERE)
    lock = RunLock(folder, no_waiting())
    lock.acquire()
    lock.release(keep=True)
    assert len(said.messages) == 1


def test_one_elsewhere_may_end_while_it_is_waited_for(folder):
    owner, file = leave(folder, **ELSEWHERE)
    ended = json.dumps(dataclasses.asdict(dataclasses.replace(owner, ended=True)))
    lock = RunLock(folder, Time(lambda passed: file.write_text(ended)).clock())
    lock.acquire()
    lock.release(keep=True)
    assert names(folder) == ["2"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"pid": "x"}', '{"pid": -1}', '{"other": 1}'])
def test_a_damaged_lock_is_waited_for(folder, text):
    folder.lock.mkdir(parents=True)
    (folder.lock / "4").write_text(text)
    there = Time()
    lock = RunLock(folder, there.clock())
    lock.acquire()
    lock.release(keep=True)
    assert there.passed > STALE_SECONDS - 5
    assert names(folder) == ["5"]


def test_of_many_that_try_at_once_one_gets_it(folder):
    leave(folder, pid=2**22 + 1)
    start, got, refused = threading.Barrier(16), [], []

    def attempt():
        lock = RunLock(folder)
        start.wait()
        try:
            lock.acquire()
            got.append(lock)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=attempt) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(got), len(refused)) == (1, 15)
    got[0].check()
    got[0].release(keep=True)


def test_one_that_looked_at_an_older_one_gives_way(folder, monkeypatch):
    """Between its look and its step, others have taken over, ended and cleaned up."""
    leave(folder, number=9, pid=os.getppid(), started=module._start_of(os.getppid()))
    lock = RunLock(folder, no_waiting())
    looks = iter([(3, dataclasses.replace(Owner.of_this_process(), ended=True))])
    real = RunLock._newest
    monkeypatch.setattr(RunLock, "_newest", lambda self: next(looks, None) or real(self))
    with pytest.raises(UserError, match="is in use"):
        lock.acquire()
    assert names(folder) == ["9"]


def test_an_owner_that_was_away_too_long_finds_out(folder):
    with owned(folder) as lock:
        folder.config.write_text("")
        lock.check()
        leave(folder, number=2, **ELSEWHERE)
        with pytest.raises(UserError, match="was taken over by process 1 on node-7"):
            lock.check()
    assert not Owner.parse((folder.lock / "2").read_text()).ended


def test_it_gives_signs_of_life(folder, monkeypatch):
    monkeypatch.setattr(module, "BEAT_SECONDS", 0.01)
    with owned(folder) as lock:
        file = Path(folder.lock / "1")
        os.utime(file, (1, 1))
        deadline = time.monotonic() + 60
        while file.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.005)
        lock.check()
    assert lock._ended.is_set()


def test_a_forked_child_does_not_release_it(folder, monkeypatch):
    with owned(folder) as lock:
        folder.config.write_text("")
        with monkeypatch.context() as child:
            child.setattr(module.os, "getpid", lambda: 2**22 + 1)
            lock.release(keep=True)
        lock.check()
        assert not Owner.parse((folder.lock / "1").read_text()).ended


def test_a_folder_that_cannot_be_written_is_one_line(folder, monkeypatch):
    def full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "create", full)
    with pytest.raises(UserError, match="cannot be written: No space left on device"), owned(folder):
        raise AssertionError
