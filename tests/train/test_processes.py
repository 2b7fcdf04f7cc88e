"""Several processes with several devices each train, evaluate and save as one device does."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import numpy as np
import pytest
from cluster import Cluster, kill, losses, wait_for
from etils import epath
from runs import Problem, finish, random_rows, read_metrics, write_csv
from safetensors.numpy import load_file

from jaxbert.data.packing import GROUP
from jaxbert.runs.out_of_fold import read_out_of_fold

pytestmark = pytest.mark.slow

RELATIVE = 1e-5


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


def evaluations(run: Path) -> list[dict[str, float]]:
    return [line for line in read_metrics(run) if "eval_loss" in line]


def assert_same_course(run: Path, expected: Path) -> None:
    """Compare the loss of every step, the evaluations and the exported weights."""
    assert [step for step, _ in losses(run)] == [step for step, _ in losses(expected)]
    np.testing.assert_allclose([x for _, x in losses(run)], [x for _, x in losses(expected)], rtol=RELATIVE)
    assert [e["eval_accuracy"] for e in evaluations(run)] == [e["eval_accuracy"] for e in evaluations(expected)]
    np.testing.assert_allclose(
        [e["eval_loss"] for e in evaluations(run)], [e["eval_loss"] for e in evaluations(expected)], rtol=RELATIVE
    )
    found, wanted = (load_file(folder / "export" / "model.safetensors") for folder in (run, expected))
    for name, tensor in wanted.items():
        np.testing.assert_allclose(found[name], tensor, rtol=0, atol=1e-5, err_msg=name)


def keys(problem: Problem, name: str, **changes: object) -> list[str]:
    """Return the arguments of 14 steps without dropout and two evaluations of 37 examples."""
    return problem.arguments(
        data__validation=problem.folder / "dev.csv",
        data__cache_dir=problem.folder / name / "tokens",
        train__output_dir=problem.folder / name / "run",
        **{"model__dropout": 0.0} | changes,
    )


def mesh_keys(mesh: dict[str, int]) -> dict[str, int]:
    return {f"mesh__{axis}": size for axis, size in mesh.items()}


@pytest.fixture(scope="module")
def one_device(problem):
    Cluster(1, 1).run(keys(problem, "one-device"))  # not in this process, which has eight
    return problem.folder / "one-device" / "run"


EVERY_MESH = [
    {"data": -1},
    {"data": 1, "fsdp": -1},
    {"data": 1, "fsdp": 4, "tensor": 2},
    {"data": 2, "fsdp": 2, "tensor": 2},
]
MATRIX = [
    pytest.param(Cluster(1, 8), EVERY_MESH, marks=pytest.mark.long, id="1x8"),
    pytest.param(Cluster(2, 4), [EVERY_MESH[1], EVERY_MESH[3]], id="2x4-fsdp-mixed"),
    pytest.param(Cluster(2, 4), [EVERY_MESH[0], EVERY_MESH[2]], marks=pytest.mark.long, id="2x4-data-tensor"),
    pytest.param(Cluster(4, 2), EVERY_MESH, marks=pytest.mark.long, id="4x2"),
]


@pytest.mark.parametrize(("cluster", "meshes"), MATRIX)
def test_the_course_is_that_of_one_device(problem, one_device, cluster, meshes):
    """Each process tokenizes a share of its own, because none finds tokens in the cache."""
    names = [f"{cluster.processes}x{cluster.devices}-{'-'.join(map(str, mesh.values()))}" for mesh in meshes]
    runs = [keys(problem, name, **mesh_keys(mesh)) for name, mesh in zip(names, meshes, strict=True)]
    said = cluster.run(*runs)
    for name in names:
        assert_same_course(problem.folder / name / "run", one_device)
    assert said[0].count("export: ") == len(runs)
    assert all(speaks_of_its_place_alone(err) for err in said[1:]), said


@pytest.mark.long
def test_folds_of_two_processes_are_those_of_one(problem):
    """The models of the folds, their ensemble, and the numbers about both."""
    changes = {"train__folds": 2, "train__folds_final": False, "train__epochs": 1, "train__checkpoint_every": 1}
    found = []
    for processes in (1, 2):
        name = f"folds-{processes}"
        said = Cluster(processes, 1).run(keys(problem, name, **changes))
        run = problem.folder / name / "run"
        summary = json.loads((run / "summary.json").read_text())
        found.append(
            (read_out_of_fold(epath.Path(run)).probabilities, summary["folds"]["out_of_fold"], summary["eval"])
        )
        assert not list(run.glob("folds/*/checkpoints"))
    assert speaks_of_its_place_alone(said[1]), said
    np.testing.assert_allclose(found[1][0], found[0][0], atol=1e-5)
    for metrics, expected in zip(found[1][1:], found[0][1:], strict=True):
        assert metrics["accuracy"] == expected["accuracy"]
        assert metrics["loss"] == pytest.approx(expected["loss"], rel=RELATIVE)


OTHER_LOSSES: dict[str, dict[str, object]] = {
    "contrastive": {"train__method": "contrastive"},
    "r-drop": {"train__r_drop": 1.0, "model__dropout": 0.1},
    "fgm": {"train__adversarial": "fgm"},
    "ema": {"train__ema": 0.9},
    "augment": {"train__augment": "{word_dropout: 0.2, swap: 0.2}"},
    "self-training": {"data__unlabelled": None, "train__self_training": "{rounds: 1, threshold: 0.51}"},
}


@pytest.mark.long
def test_other_losses_and_little_data_have_one_course(problem):
    """Two processes with one device each, and one process with two."""
    texts = problem.folder / "unlabelled.txt"
    texts.write_text("".join(f"{text} good\n" for text, _ in random_rows(40, seed=9)))
    places = {}
    for processes in (1, 2):
        runs = []
        for name, changes in OTHER_LOSSES.items():
            own = {key: texts if value is None else value for key, value in changes.items()}
            runs.append(keys(problem, f"{name}-{processes}", **own))
            places[name, processes] = problem.folder / f"{name}-{processes}" / "run"
        Cluster(processes, 2 // processes).run(*runs)
    for name in OTHER_LOSSES:
        assert_same_course(places[name, 2], places[name, 1])


@pytest.mark.long
def test_steps_of_several_groups_have_one_course(problem):
    """Two groups of 4,096 examples in each of four steps, on one, two and four processes with four devices together."""
    rows = write_csv(problem.folder / "many.csv", random_rows(2 * 2 * GROUP))
    for processes in (1, 2, 4):
        changes = {"data__train": rows, "train__batch_size": 2 * GROUP}
        Cluster(processes, 4 // processes).run(keys(problem, f"groups-{processes}", **changes))
    runs = [problem.folder / f"groups-{processes}" / "run" for processes in (1, 2, 4)]
    assert [step for step, _ in losses(runs[0])] == [1, 2, 3, 4]
    for run in runs[1:]:
        assert_same_course(run, runs[0])


@pytest.mark.long
def test_a_run_goes_on_with_another_number_of_devices(problem, one_device):
    """8 -> 4 -> 1 -> 8 devices, each stage taking up a checkpoint of the one before."""
    stages = [(Cluster(2, 4), {"fsdp": 8}), (Cluster(2, 2), {}), (Cluster(1, 1), {}), (Cluster(4, 2), {"fsdp": 2})]
    run = problem.folder / "elastic" / "run"
    for number, (cluster, mesh) in enumerate(stages, 1):
        arguments = keys(problem, "elastic", train__checkpoint_every=1, **mesh_keys(mesh))
        if number == len(stages):
            assert "going on after step" in cluster.run(arguments)[0]
            break
        with cluster.start(arguments) as running:
            wait_for(run, 3 * number, running)
            kill(running)
    assert_same_course(run, one_device)


def speaks_of_its_place_alone(err: str) -> bool:
    """Say whether a process left all but the note of its start to the first."""
    return all(line.startswith("note: process ") or "SIGTERM caught" in line for line in err.splitlines())


@pytest.mark.parametrize(
    ("number", "to"), [(signal.SIGTERM, 1), pytest.param(signal.SIGINT, 0, marks=pytest.mark.long)]
)
def test_a_signal_to_one_process_stops_all_after_the_same_step(problem, number, to):
    name = f"{number.name}-{to}"
    run = problem.folder / name / "run"
    with Cluster(2, 1).start(keys(problem, name, train__epochs=4000, train__checkpoint_every=1000)) as running:
        wait_for(run, 7, running)
        running[to].send_signal(number)
        ends = [finish(process) for process in running]
    assert [code for code, _, _ in ends] == [75, 75], ends
    assert "run the same command to resume" in ends[0][2]
    assert speaks_of_its_place_alone(ends[1][2]), ends
    assert (run / "checkpoints" / str(losses(run)[-1][0])).is_dir()


@pytest.mark.long
def test_when_one_process_dies_the_others_end_in_time(problem):
    run = problem.folder / "dies" / "run"
    arguments = keys(problem, "dies", train__epochs=4000, train__checkpoint_every=7, launch__heartbeat_seconds=10)
    with Cluster(2, 1).start(arguments) as running:
        wait_for(run, 7, running)
        running[1].kill()
        code, _, err = finish(running[0], seconds=60)
    assert code not in (0, 2, 75), err
    assert "Traceback" not in err
    assert "error: another process of this run ended" in err or "detected fatal errors" in err, (
        "JAX may be the first to say"
    )
