"""The trial of a lost process is taken up by one other process, and that of a living one by none."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import optuna
import pytest

from jaxbert.runs import lock
from jaxbert.runs.lock import STALE_SECONDS, Clock, Owner
from jaxbert.studies.workers import Worker


class Time:
    """A clock that is moved by hand; what sleeps moves it."""

    def __init__(self):
        self.at = 0.0
        self.clock = Clock(lambda: self.at, self.sleep)

    def sleep(self, seconds):
        self.at += seconds


@pytest.fixture
def study():
    return optuna.create_study()


def join(study, owner: Owner) -> None:
    """Let a process with this record take part."""
    study.set_user_attr(f"worker {owner.token}", json.dumps(asdict(owner)))


def begin(study, owner: Owner | None):
    """Begin a trial of a process; return it as the storage has it."""
    trial = study.ask()
    if owner is not None:
        trial.set_user_attr("worker", owner.token)
    return latest(study, trial.number)


def latest(study, number):
    return study.get_trials()[number]


def ended_process() -> Owner:
    """Return the record of a process of this machine that was killed."""
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    owner = replace(Owner.of_this_process(), pid=child.pid, started=lock._start_of(child.pid))
    assert owner.is_alive()
    child.kill()
    child.communicate()
    return owner


def elsewhere(**changes) -> Owner:
    return replace(Owner.of_this_process(), kernel="another machine", **changes)


def test_a_killed_process_of_this_machine_is_lost_at_once(study):
    dead = ended_process()
    join(study, dead)
    trial, time = begin(study, dead), Time()
    with Worker(study, time.clock) as worker:
        assert worker.others() == set()
        assert worker.take(trial)
        assert latest(study, 0).user_attrs["worker"] != dead.token
    assert time.at == 0, "alone, there is nobody to agree with"


def test_a_process_of_another_machine_is_lost_when_it_gives_no_sign(study):
    far, time = elsewhere(), Time()
    join(study, far)
    trial = begin(study, far)
    with Worker(study, time.clock) as worker:
        assert not worker.take(trial)
        time.at += STALE_SECONDS - 1
        join(study, replace(far, beats=1))
        assert not worker.take(trial)
        time.at += STALE_SECONDS - 1
        assert not worker.take(trial)
        time.at += 2
        assert worker.take(trial)


def test_a_process_that_has_ended_is_lost_wherever_it_was(study):
    far = elsewhere(ended=True)
    join(study, far)
    with Worker(study, Time().clock) as worker:
        assert worker.take(begin(study, far))


def test_of_two_that_take_a_trial_the_last_one_has_it(study):
    """While the first waits for the other's word, the other writes."""
    time = Time()
    join(study, elsewhere())
    trial = begin(study, None)
    with Worker(study, Clock(lambda: time.at, lambda s: begin_again(study))) as worker:

        def begin_again(study):
            study._storage.set_trial_user_attr(trial._trial_id, "worker", "the other")

        assert not worker.take(trial)
        time.at += STALE_SECONDS + 1
        join(study, elsewhere())
        assert not worker.take(trial)
        assert latest(study, 0).user_attrs["worker"] == "the other"


def test_a_worker_says_when_it_ends(study):
    with Worker(study) as worker:
        assert worker.others() == set()
        (record,) = study.user_attrs.values()
        assert (json.loads(record)["pid"], json.loads(record)["ended"]) == (os.getpid(), False)
    (record,) = study.user_attrs.values()
    assert json.loads(record)["ended"]
