"""A run whose folder is in a bucket: the same files as in a folder, the same bits after a crash, the same damage found.

Google's storage and S3 are emulated on loopback; where an emulator is not installed, its tests are skipped.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import socket
import subprocess
import threading
import time
from importlib.util import find_spec

import fsspec
import pytest
from etils import epath
from runs import LABELS, ROOT, CrashError, Problem, crash_before, python, read_metrics, weights, whole_losses

from jaxbert.bucket import copy, create, fetched, in_bucket
from jaxbert.cli.main import main
from jaxbert.cli.output import check_output
from jaxbert.data.files import find_files
from jaxbert.errors import UserError
from jaxbert.runs.checkpoint import Checkpoints
from jaxbert.runs.folder import RunFolder
from jaxbert.runs.lock import STALE_SECONDS, Clock, Owner, RunLock

pytestmark = [
    pytest.mark.usefixtures("shared_programs"),
    pytest.mark.filterwarnings("default"),  # other people's sockets and event loops
]


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    return Problem.write(tmp_path_factory.mktemp("problem"))


@pytest.fixture(scope="module", params=["gs", "s3"], autouse=True)
def storage(request):
    """Emulate a kind of bucket; return the address of one, which is empty."""
    with STORES[request.param]() as address:
        yield address


@contextlib.contextmanager
def google():
    needed("gcsfs", "gcp_storage_emulator")
    with server(str(ROOT / "tests" / "storage_emulator.py")) as address, pytest.MonkeyPatch.context() as patch:
        for name in ("STORAGE_EMULATOR_HOST", "TENSORSTORE_GCS_HTTP_URL"):
            patch.setenv(name, address)
        for name, value in {"GOOGLE_CLOUD_PROJECT": "nobody", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}.items():
            patch.setenv(name, value)
        patch.setitem(fsspec.config.conf, "gcs", {"token": "anon"})
        yield "gs://bucket"


@contextlib.contextmanager
def s3():
    needed("s3fs", "moto")
    with server("-m", "moto.server", "-p") as address, pytest.MonkeyPatch.context() as patch:
        account = {"ACCESS_KEY_ID": "anyone", "SECRET_ACCESS_KEY": "anything", "DEFAULT_REGION": "us-east-1"}
        for name, value in {**account, "ENDPOINT_URL": address}.items():
            patch.setenv(f"AWS_{name}", value)
        fsspec.filesystem("s3").mkdir("bucket")
        yield "s3://bucket"


STORES = {"gs": google, "s3": s3}


def needed(*modules):
    """Skip where a module is not installed; imported, it would read the environment too early."""
    for name in modules:
        if find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


@contextlib.contextmanager
def server(*command):
    """Run a Python program that takes its port as the last argument."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = python(*command, str(port), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    wait_for(port)
    yield f"http://127.0.0.1:{port}"
    running.kill()
    running.wait()


def wait_for(port):
    deadline = time.monotonic() + 60
    while True:
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            assert time.monotonic() < deadline, "the emulator does not answer"
            time.sleep(0.1)


def keys(problem, run):
    return {"data__validation": problem.folder / "dev.csv", "train__checkpoint_every": 3, "train__output_dir": run}


@pytest.fixture(scope="module")
def local_run(problem):
    """A run in a folder, left alone."""
    run = problem.folder / "local"
    if not run.exists():
        assert problem.train(**keys(problem, run)) == 0
    return run


def test_a_crash_changes_no_bit(problem, storage, local_run, monkeypatch, tmp_path, capsys):
    run = f"{storage}/runs/crashed"
    with monkeypatch.context() as patch:
        crash_before(patch, 8)
        with pytest.raises(CrashError):
            problem.train(**keys(problem, run))
    capsys.readouterr()
    assert problem.train(**keys(problem, run)) == 0
    said = capsys.readouterr().err
    assert "going on after step 7" in said
    assert f"export: {run}/export" in said
    copy = fetched(epath.Path(run))
    assert weights(copy) == weights(local_run)
    assert whole_losses(copy) == whole_losses(local_run)
    assert len(read_metrics(copy)) == len(read_metrics(local_run))
    names = {path.name for path in local_run.iterdir() if not path.name.startswith("events")}
    assert names <= {path.name for path in copy.iterdir()}
    assert any(path.name.startswith("events") for path in copy.iterdir())  # of TensorBoard

    answers = tmp_path / "answers.jsonl"
    data = str(problem.folder / "dev.csv")
    assert main(["predict", "--model", run, "--input", data, "--output", str(answers)]) == 0
    assert {json.loads(line)["label"] for line in answers.read_text().splitlines()} <= set(LABELS)
    exported = f"{storage}/exports/last"
    assert main(["export", "--run", run, "--step", "last", "--output", exported]) == 0
    assert main(["evaluate", "--model", exported, "--data", data]) == 0


def test_the_report_of_a_run_is_written_there(storage, local_run, capsys):
    run = epath.Path(f"{storage}/runs/reported")
    for name in ("config.yaml", "summary.json", "metrics.jsonl", "predictions.npz", "export"):
        copy(epath.Path(local_run) / name, run / name)
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{run}/report.html\n"
    page = (run / "report.html").read_text()
    assert "Set: validation" in page
    assert f"--train.output_dir {run}" in page
    assert page.count("<svg ") == 7  # curves were read there too


@pytest.mark.slow
@pytest.mark.long
def test_data_and_answers_may_lie_there(problem, storage, local_run, tmp_path):
    for name in ("train.csv", "dev.csv"):
        (epath.Path(f"{storage}/data") / name).write_text((problem.folder / name).read_text())
    data = {"data__train": f"{storage}/data/train.csv", "data__validation": f"{storage}/data/dev.csv"}
    assert problem.train(**{**keys(problem, tmp_path / "run"), **data}) == 0
    assert weights(tmp_path / "run") == weights(local_run)

    for source, output in ((problem.folder, str(tmp_path / "local.jsonl")), (f"{storage}/data", f"{storage}/a.jsonl")):
        assert main(["predict", "--model", str(local_run), "--input", f"{source}/dev.csv", "--output", output]) == 0
    assert epath.Path(f"{storage}/a.jsonl").read_text() == (tmp_path / "local.jsonl").read_text()


def test_answers_need_the_name_of_a_file(storage):
    (epath.Path(f"{storage}/answers") / "a.jsonl").write_text("a")
    check_output(f"{storage}/answers/b.jsonl")
    with pytest.raises(UserError, match=f"--output {storage}/answers cannot be written: it is a folder"):
        check_output(f"{storage}/answers")


def test_a_corpus_is_found_by_folder_and_pattern(storage):
    for name in ("a/1.txt", "b/2.txt", "b/3.csv", "b/4.bin"):
        (epath.Path(f"{storage}/corpus") / name).write_text("a")

    def find(name: str) -> list[str]:
        return find_files(f"{storage}/corpus/{name}", "train", mixed=True).files

    assert find("b") == [f"{storage}/corpus/b/2.txt", f"{storage}/corpus/b/3.csv"]
    assert find("*/*.txt") == [f"{storage}/corpus/a/1.txt", f"{storage}/corpus/b/2.txt"]
    with pytest.raises(UserError, match="no file to read there"):
        find("*.txt")


def test_one_process_owns_a_run(storage):
    """Of several that try at once one gets it; one elsewhere is known by its signs of life."""
    folder = RunFolder(f"{storage}/runs/owned")
    passed, got = [], []

    def sleep(seconds):
        passed.append(seconds)

    def attempt():
        lock = RunLock(folder, Clock(lambda: sum(passed), sleep))
        with contextlib.suppress(UserError):
            lock.acquire()
            got.append(lock)

    threads = [threading.Thread(target=attempt) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (lock,) = got
    folder.config.write_text("")
    file = folder.lock / "1"
    lock._touch()
    lock.check()
    assert Owner.parse(file.read_text()).beats == 1
    lock.release(keep=True)
    assert Owner.parse(file.read_text()).ended
    assert not create(file, "other")

    there = dataclasses.replace(Owner.of_this_process(), kernel="another", beats=3)
    file.write_text(json.dumps(dataclasses.asdict(there)))

    def beat(seconds):
        file.write_text(json.dumps(dataclasses.asdict(dataclasses.replace(there, beats=4))))

    with pytest.raises(UserError, match="is in use by process"):
        RunLock(folder, Clock(sleep=beat)).acquire()
    attempt()
    assert STALE_SECONDS - 60 < sum(passed) < STALE_SECONDS + 60
    assert [path.name for path in folder.lock.iterdir()] == ["2"]
    got[1].release(keep=False)
    assert not [*folder.path.glob("lock/*")]


@pytest.mark.long
def test_damage_is_found_and_what_is_not_committed_is_not_there(problem, storage, monkeypatch, capsys):
    run = epath.Path(f"{storage}/runs/damaged")
    with monkeypatch.context() as patch:
        crash_before(patch, 11)
        with pytest.raises(CrashError):
            problem.train(**keys(problem, run))
    checkpoints = run / "checkpoints"
    assert sorted(path.name for path in checkpoints.iterdir()) == ["7", "9"]
    (checkpoints / "7").joinpath("progress", "metadata").copy(checkpoints / "12" / "progress" / "metadata")
    state = checkpoints / "9" / "progress" / "metadata"
    state.write_text(state.read_text().replace("9", "8"))
    capsys.readouterr()
    with Checkpoints(checkpoints) as opened:
        assert opened.steps == [7]
    assert problem.train(**keys(problem, run)) == 0
    said = capsys.readouterr().err
    assert "the checkpoint of step 9 is damaged" in said
    assert "step 12" not in said
    assert "going on after step 7" in said
    aside = run / "damaged_checkpoints" / "9.1"
    assert (aside / "progress" / "metadata").exists()
    assert (aside / "files.json").exists()


@pytest.mark.parametrize(
    ("folder", "part"),
    [
        ("az://bucket/run", "az:// is not supported"),
        ("{kind}:/bucket/run", "two slashes, {kind}://BUCKET/FOLDER"),
        ("{kind}://elsewhere/run", "{kind}://elsewhere"),
        ("{kind}://bucket/file", "is a file"),
    ],
)
def test_mistakes_are_one_line(problem, storage, folder, part, capsys):
    kind = storage.partition(":")[0]
    folder, part = folder.format(kind=kind), part.format(kind=kind)
    epath.Path(f"{storage}/file").write_text("a")
    assert in_bucket(f"{storage}/file")
    assert problem.train(train__output_dir=folder) == 2
    said = capsys.readouterr().err.splitlines()
    assert [line for line in said if part in line] == [said[-1]]
    assert said[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("keys", "part"),
    [
        ({"data__train": "{storage}/data/none.csv"}, "{storage}/data/none.csv: no such file"),
        ({"data__test": "{storage}/data"}, "{storage}/data: which of its files are for test?"),
        ({"data__validation": "{storage}-misspelled/dev.csv"}, "{storage}-misspelled"),
    ],
)
def test_missing_data_is_one_line(problem, storage, keys, part, capsys):
    (epath.Path(f"{storage}/data") / "train.csv").write_text("a")
    given = {name: value.format(storage=storage) for name, value in keys.items()}
    assert problem.train(**given) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: {part.format(storage=storage)}")


def test_a_bucket_that_is_not_there_is_not_made(problem, storage):
    assert problem.train(train__output_dir=f"{storage}-misspelled/run") == 2
    with contextlib.suppress(OSError):  # Google's
        assert not epath.Path(f"{storage}-misspelled").exists()


@pytest.mark.parametrize(("folder", "extra"), [("gs://bucket/run", "gcs"), ("s3://bucket/run", "s3")])
def test_without_the_library_it_is_said(problem, monkeypatch, folder, extra, capsys):
    monkeypatch.setattr("jaxbert.bucket.find_spec", lambda name: None)
    assert problem.train(train__output_dir=folder) == 2
    assert f"install jaxbert[{extra}]" in capsys.readouterr().err
