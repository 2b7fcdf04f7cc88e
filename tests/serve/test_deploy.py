"""The examples of deployment name what jaxbert has; tests/launch/test_manifests.py reads the manifests."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest
import yaml
from runs import ROOT

from jaxbert.cli.parsing import parse
from jaxbert.cli.serve import make_serve_parser, parse_models
from jaxbert.errors import UserError

DEPLOY = ROOT / "examples" / "deploy"
DOCKERFILE = (DEPLOY / "Dockerfile").read_text()
UNIT = (DEPLOY / "jaxbert.service").read_text()


def entry_point() -> list[str]:
    found = re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.M)
    assert found is not None
    return yaml.safe_load(found[1])


def test_the_image_copies_what_there_is():
    for line in re.findall(r"^COPY (?!--)(.*) \S+$", DOCKERFILE, re.M):
        assert all((ROOT / name).exists() for name in line.split())
    extras = re.search(r"'\.\[(.*)\]'", DOCKERFILE)
    assert extras is not None
    assert all(
        re.search(rf"^{name} = \[", (ROOT / "pyproject.toml").read_text(), re.M) for name in extras[1].split(",")
    )
    assert entry_point()[:2] == ["jaxbert", "serve"]


def test_the_unit_of_systemd():
    command = re.search(r"^ExecStart=(.*)$", UNIT, re.M)
    assert command is not None
    program, verb, *words = command[1].split()
    assert (program, verb) == ("/opt/jaxbert/bin/jaxbert", "serve")
    assert parse(make_serve_parser(), words).model == ["/srv/reviews"]
    assert "RestartPreventExitStatus=2" in UNIT
    if shutil.which("systemd-analyze"):
        done = subprocess.run(["systemd-analyze", "verify", DEPLOY / "jaxbert.service"], capture_output=True, text=True)
        problems = [line for line in done.stderr.splitlines() if "jaxbert.service" in line]
        assert all("is not executable" in line for line in problems), problems


def test_names_of_models():
    assert parse_models(["runs/a/", "b=runs/c", "org/name"]) == {"a": "runs/a/", "b": "runs/c", "name": "org/name"}
    with pytest.raises(UserError, match="two models are called a: give them names, --model a=x/a --model b=y/a"):
        parse_models(["x/a", "y/a"])
