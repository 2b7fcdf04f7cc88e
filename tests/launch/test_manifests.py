"""The YAML files and the image: what they say is what their systems understand, and what jaxbert finds in them."""

from __future__ import annotations

import fnmatch
import re
import subprocess
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api.models.io_k8s_api_core_v1_container import IoK8sApiCoreV1Container
from kubeflow_trainer_api.models.io_k8s_api_core_v1_env_var import IoK8sApiCoreV1EnvVar
from kubeflow_trainer_api.models.io_k8s_api_core_v1_pod_template_spec import IoK8sApiCoreV1PodTemplateSpec
from kubeflow_trainer_api.models.io_k8s_api_core_v1_service import IoK8sApiCoreV1Service
from kubeflow_trainer_api.models.jobset_v1alpha2_job_set import JobsetV1alpha2JobSet
from runs import ROOT

from jaxbert.cli.parsing import parse
from jaxbert.cli.serve import make_serve_parser, parse_models
from jaxbert.launch.detect import detect
from jaxbert.serve.openapi import openapi_document

LAUNCH = ROOT / "scripts" / "launch"
DEPLOY = ROOT / "examples" / "deploy"
FLAGS = (
    "--name sst2 --image host/project/jaxbert:tpu --accelerator tpu-v5-lite-podslice --topology 4x4 --hosts 4 --chips 4"
)


def jobset(*more: str) -> dict[str, Any]:
    """Return the manifest that a dry run prints."""
    command = ["bash", str(LAUNCH / "gke_jobset.sh"), *FLAGS.split(), "--claim", "shared", "--dry-run", *more]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert not re.search(r"\$\{\w", done.stdout)
    return yaml.safe_load(done.stdout)


def lost(written: Any, understood: Any) -> list[Any]:
    """Return what was written and not understood; defaults may have been added."""
    if isinstance(written, dict):
        return [
            part
            for key in written
            for part in ([key] if key not in understood else lost(written[key], understood[key]))
        ]
    if isinstance(written, list):
        return [part for one, other in zip(written, understood, strict=True) for part in lost(one, other)]
    return [] if written == understood else [written]


def test_the_jobset_is_one():
    """Every field is known to the JobSet API, and of its type: nothing is lost on the way through its models."""
    manifest = jobset("--", "train", "--x", "1")
    assert lost(manifest, JobsetV1alpha2JobSet.from_dict(manifest).to_dict()) == []


def test_a_wrong_field_of_a_jobset_would_be_seen():
    manifest = jobset("--", "train")
    manifest["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]["spec"]["containers"][0]["arguments"] = []
    assert lost(manifest, JobsetV1alpha2JobSet.from_dict(manifest).to_dict()) == ["arguments"]


def test_the_jobset_has_what_was_asked_for():
    words = ["train", "--data.text", 'a & "b" $HOME']
    manifest = jobset("--slices", "2", "--restarts", "3", "--", *words)
    job = manifest["spec"]["replicatedJobs"][0]
    spec = job["template"]["spec"]
    pod = spec["template"]["spec"]
    (container,) = pod["containers"]
    assert (job["replicas"], spec["parallelism"], spec["completions"]) == (2, 4, 4)
    assert container["args"] == words
    assert container["resources"]["limits"] == {"google.com/tpu": 4}
    assert pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"] == "4x4"
    assert manifest["spec"]["failurePolicy"]["maxRestarts"] == 3
    (rule,) = spec["podFailurePolicy"]["rules"]
    assert rule == {"action": "FailJob", "onExitCodes": {"containerName": "jaxbert", "operator": "In", "values": [2]}}
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod["volumes"]}


def test_the_jobset_for_gpus_is_found():
    """The variables that the README adds are fields of a pod, and lead to the address that it names."""
    readme = (LAUNCH / "README.md").read_text()
    (block,) = re.findall(r"^```yaml\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    variables = yaml.safe_load(block)["env"]
    for variable in variables:
        assert IoK8sApiCoreV1EnvVar.from_dict(variable).to_dict() == variable
    name = jobset("--", "train")["spec"]["replicatedJobs"][0]["name"]
    values = {"JOBSET_NAME": "NAME", "REPLICATED_JOB_NAME": name, "JAX_NUM_PROCESSES": "2", "JOB_COMPLETION_INDEX": "1"}
    assert {variable["name"] for variable in variables} == {*values} - {"JOB_COMPLETION_INDEX"}
    place = detect(values)
    assert place is not None
    assert f"`{place.coordinator}`" in readme


def test_the_task_of_skypilot():
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    known = {"name", "num_nodes", "resources", "workdir", "envs", "file_mounts", "setup", "run"}
    assert set(task) == known
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75]
    assert set(task["file_mounts"]["/shared"]) == {"source", "mode"}
    assert all(value is None or isinstance(value, str) for value in task["envs"].values())


@pytest.mark.parametrize("nodes", [1, 2])
def test_what_skypilot_runs(nodes, tmp_path):
    """The script of the task, with a python that says what it was given."""
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/bin/bash\nenv | grep ^JAX_ | sort\nprintf "<%s>" "$@"\n')
    python.chmod(0o755)
    environment = {
        "PATH": "/usr/bin:/bin",
        "ARGUMENTS": "train --data.text 'a b'",
        "PORT": task["envs"]["PORT"],
        "SKYPILOT_NUM_NODES": str(nodes),
        "SKYPILOT_NODE_RANK": str(nodes - 1),
        "SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2",
    }
    done = subprocess.run(
        ["bash", "-c", task["run"]], env=environment, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    *variables, words = done.stdout.splitlines()
    assert words == "<-m><jaxbert><train><--data.text><a b>"
    assert variables == (
        [] if nodes == 1 else ["JAX_COORDINATOR_ADDRESS=10.0.0.1:8476", "JAX_NUM_PROCESSES=2", "JAX_PROCESS_ID=1"]
    )


def test_the_image():
    lines = re.sub(r"\\\n", " ", (LAUNCH / "Dockerfile").read_text()).splitlines()
    instructions = [line.split(None, 1) for line in lines if line and not line.startswith("#")]
    users = [words for name, words in instructions if name == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    assert [words for name, words in instructions if name == "ENTRYPOINT"] == ['["python", "-m", "jaxbert"]']
    extras = (ROOT / "pyproject.toml").read_text()
    assert re.search(r"^cuda = ", extras, re.MULTILINE)
    assert re.search(r"^tpu = ", extras, re.MULTILINE)
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    for name, words in instructions:
        for source in words.split()[:-1] if name == "COPY" else []:
            assert (ROOT / source).exists()
            assert not ignored(source, rules), source
    assert ignored("runs", rules)
    assert ignored(".git", rules)


def ignored(path: str, rules: list[str]) -> bool:
    """Apply the rules of .dockerignore to a name of the root: the last that fits decides."""
    fits = [rule for rule in rules if fnmatch.fnmatch(path, rule.removeprefix("!"))]
    return bool(fits) and not fits[-1].startswith("!")


def check_probes(container: dict[str, Any]) -> None:
    for name, probe in container.items():
        if name.endswith("Probe"):
            assert probe["httpGet"]["path"] in openapi_document()["paths"], name


def test_a_server_on_kubernetes():
    deployment, service, _ = yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())
    dockerfile = (DEPLOY / "Dockerfile").read_text()
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", dockerfile, re.M)
    template = deployment["spec"]["template"]
    assert lost(template, IoK8sApiCoreV1PodTemplateSpec.from_dict(template).to_dict()) == []
    assert lost(service, IoK8sApiCoreV1Service.from_dict(service).to_dict()) == []
    assert service["spec"]["selector"].items() <= template["metadata"]["labels"].items()
    (container,) = template["spec"]["containers"]
    check_probes(container)
    values = parse(make_serve_parser(), [*yaml.safe_load(entry)[2:], *container["args"]])
    assert (values.host, values.port) == ("0.0.0.0", container["ports"][0]["containerPort"])
    assert template["spec"]["terminationGracePeriodSeconds"] > values.drain_seconds + 10
    assert template["spec"]["securityContext"]["runAsUser"] == 65532
    assert "USER 65532" in dockerfile
    assert [mount["mountPath"] for mount in container["volumeMounts"]] == ["/cache", "/tmp"]
    assert "XDG_CACHE_HOME=/cache" in dockerfile


def test_a_server_behind_kserve():
    kserve = yaml.safe_load((DEPLOY / "kserve.yaml").read_text())
    (container,) = kserve["spec"]["predictor"]["containers"]
    assert lost(container, IoK8sApiCoreV1Container.from_dict(container).to_dict()) == []
    check_probes(container)
    assert container["command"] == ["jaxbert", "serve"]
    values = parse(make_serve_parser(), container["args"])
    assert parse_models(values.model) == {"reviews": "/model"}
    assert values.port == container["ports"][0]["containerPort"]
