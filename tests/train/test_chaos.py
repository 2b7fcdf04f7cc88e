"""A run of two processes that is killed again and again ends with the very bits of one that was left alone."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest
from cluster import Cluster, kill, losses, wait_for
from runs import Problem, finish, weights, write_model

KILLS = int(os.environ.get("JAXBERT_CHAOS_KILLS", "20"))
STEPS = 200
MARGIN = 60
"""Steps kept free at the end: after SIGTERM the run goes on until both processes agree where to stop."""
SLOW = {"hidden_size": 192, "intermediate_size": 768, "num_hidden_layers": 4}
"""A model whose steps take a good part of a second, so that a second of agreeing is a few steps."""
PAIR = Cluster(2, 1)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    write_model(problem.folder / "slow", **SLOW)
    return problem


def keys(problem: Problem, name: str) -> list[str]:
    """Return the arguments of a run that saves every few steps, with dropout."""
    return problem.arguments(
        train__output_dir=problem.folder / name,
        model__name_or_path=problem.folder / "slow",
        train__batch_size=50,
        train__epochs=100,
        train__max_steps=STEPS,
        train__checkpoint_every=3,
    )


def wait_for_saving(run: Path, seconds: float = 5) -> bool:
    """Return as soon as a checkpoint is being written, which is said."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(".orbax-checkpoint-tmp" in path.name for path in (run / "checkpoints").iterdir()):
            return True
    return False


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("seed", [int(os.environ.get("JAXBERT_CHAOS_SEED", "0"))])
def test_a_run_that_is_killed_again_and_again_ends_the_same(problem, seed):
    """Signals to one process, deaths of both, at random moments and while a checkpoint is being written."""
    rng = random.Random(seed)
    PAIR.run(keys(problem, "undisturbed"))
    run, reached, ends, while_saving = problem.folder / "disturbed", 0, [], 0
    for left in range(KILLS, 0, -1):
        reached += rng.randint(1, max(1, (STEPS - MARGIN - reached) // left))
        with PAIR.start(keys(problem, "disturbed")) as running:
            wait_for(run, reached, running)
            if rng.random() < 0.5:
                while_saving += wait_for_saving(run)
            else:
                time.sleep(rng.random() / 2)
            number = rng.choice([signal.SIGTERM, signal.SIGKILL])
            at = losses(run)[-1][0]
            ends.append(end(number, rng.choice(running), running))
            assert losses(run)[-1][0] - at < MARGIN / 3, f"{ends[-1]} at step {at}: it went on to {losses(run)[-1][0]}"
        assert not (run / "summary.json").exists(), f"the run was complete before kill {KILLS - left + 1}"
        reached = losses(run)[-1][0]
    assert "going on after step" in PAIR.run(keys(problem, "disturbed"))[0]
    print(f"\n  {len(ends)} kills, {ends.count('SIGKILL')} of them SIGKILL, {while_saving} while saving ", end="")
    assert while_saving
    assert weights(run) == weights(problem.folder / "undisturbed")
    assert losses(run) == losses(problem.folder / "undisturbed")
    assert [step for step, _ in losses(run)] == list(range(1, STEPS + 1))


def end(number: signal.Signals, victim: subprocess.Popen[str], running: list[subprocess.Popen[str]]) -> str:
    """Send the signal to one process; where it cannot be answered, the others go down with it, as a scheduler sees to."""
    victim.send_signal(number)
    if number is signal.SIGKILL:
        kill(running)
    else:
        codes = [finish(process) for process in running]
        assert [code for code, _, _ in codes] == [75, 75], codes
    return number.name
