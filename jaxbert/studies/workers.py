"""The processes that work on one study: who is alive, and whose trial is lost.

Each process keeps a record of itself in the study's storage, which all of them reach, and renews it as a sign of life. A
process on the same machine is looked up by its number; of another machine's, the renewals are watched.
"""

from __future__ import annotations

import json
import threading
from contextlib import suppress
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from jaxbert.runs.lock import BEAT_SECONDS, STALE_SECONDS, Clock, Owner

if TYPE_CHECKING:
    import optuna

_PREFIX = "worker "
_WORKER = "worker"
"""The attribute of a trial that names the process that runs it."""
_CONFIRM_SECONDS = 2.0
"""Seconds after which two processes that take the same lost trial agree on the last one that wrote."""


class Worker:
    """This process in a study, from `__enter__` to `__exit__`."""

    def __init__(self, study: optuna.Study, clock: Clock = Clock()) -> None:  # noqa: B008 (frozen)
        self._study, self._clock = study, clock
        self._me = Owner.of_this_process()
        self._ended = threading.Event()
        self._seen: dict[str, tuple[str, float]] = {}
        """By a process or a trial, its last record and when it was first seen."""

    def __enter__(self) -> Worker:
        self._write()
        threading.Thread(target=self._beat, name="sign of life", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._me = replace(self._me, ended=True)
        with suppress(Exception):  # the storage may be what has failed
            self._write()

    def _beat(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with suppress(Exception):  # the storage may be out of reach for a moment
                self._me = replace(self._me, beats=self._me.beats + 1)
                self._write()

    def _write(self) -> None:
        self._study.set_user_attr(_PREFIX + self._me.token, json.dumps(asdict(self._me)))

    def own(self, trial: optuna.trial.FrozenTrial) -> None:
        """Record that this process runs a trial."""
        self._study._storage.set_trial_user_attr(trial._trial_id, _WORKER, self._me.token)

    def others(self) -> set[str]:
        """Return the other processes that are alive, as far as one can tell."""
        records = {
            name.removeprefix(_PREFIX): text
            for name, text in self._study.user_attrs.items()
            if name.startswith(_PREFIX)
        }
        return {
            token for token, text in records.items() if token != self._me.token and self._is_alive(token, str(text))
        }

    def _is_alive(self, token: str, text: str) -> bool:
        owner = Owner.parse(text)
        alive = False if owner.ended else owner.is_alive()
        return self._renewed(token, text) if alive is None else alive

    def _renewed(self, name: str, record: str) -> bool:
        """Return whether a record has changed within the time after which a process counts as dead."""
        now = self._clock.now()
        kept, since = self._seen.get(name, ("", now))
        if kept != record:
            self._seen[name] = (record, now)
            return True
        return now - since < STALE_SECONDS

    def take(self, trial: optuna.trial.FrozenTrial) -> bool:
        """Take over a running trial if its process is lost; return whether it is this process's now."""
        others, owner = self.others(), trial.user_attrs.get(_WORKER)
        if owner in others or (owner is None and others and self._renewed(f"trial {trial.number}", str(trial.params))):
            return False
        self.own(trial)
        if others:
            self._clock.sleep(_CONFIRM_SECONDS)
            trial = self._study._storage.get_trial(trial._trial_id)
        return trial.user_attrs.get(_WORKER) == self._me.token if others else True
