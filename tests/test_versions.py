"""Tested releases of the libraries: they stand in one place for pip and in one for users, and newer ones are said."""

from __future__ import annotations

import re
import tomllib

import pytest
from runs import ROOT

from jaxbert import versions
from jaxbert.cli.main import main

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))


def test_what_users_are_told_is_what_was_tested():
    assert PROJECT["tool"]["jaxbert"]["newest-tested"] == versions.NEWEST_TESTED


def test_the_fast_tests_are_there():
    """Pytest runs nothing at all where one of the files that it is given is missing."""
    script = (ROOT / "scripts" / "test_versions.sh").read_text("utf-8")
    (named,) = re.findall(r"^FAST=\(([^)]*)\)", script, re.MULTILINE)
    assert len(named.split()) > 5
    assert [name for name in named.split() if not (ROOT / name).exists()] == []


def test_every_dependency_has_an_oldest_release():
    assert all(">=" in requirement for requirement in PROJECT["project"]["dependencies"])


@pytest.mark.parametrize(
    ("have", "said"),
    [
        ("0.12.0", False),
        ("0.12.9", False),
        ("0.11.2", False),
        ("0.13.0", True),
        ("1.0.0rc1", True),
        ("0.12.1.dev20261101", False),
    ],
)
def test_a_newer_minor_version_is_said(monkeypatch, caplog, have, said):
    real = versions.version
    monkeypatch.setattr(versions, "version", lambda name: have if name == "jax" else real(name))
    monkeypatch.setattr(versions, "NEWEST_TESTED", versions.NEWEST_TESTED | {"jax": "0.12.0"})
    versions.say_untested()
    assert [f"jax {have} (tested up to 0.12.0)" in message for message in caplog.messages] == [True] * said


def test_env(capsys):
    assert main(["env"]) == 0
    lines = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert lines["jaxbert"] == versions.__version__
    assert lines["jax"] == versions.version("jax")
    assert lines["devices"] == "8 x cpu"
    assert lines["tokens"].endswith("/jaxbert/tokens")


def test_a_run_says_so_at_its_start(monkeypatch, tmp_path, caplog):
    """Before anything that a newer library may break."""
    from runs import make_config

    from jaxbert.errors import UserError
    from jaxbert.train.trainer import run_training

    monkeypatch.setattr("jaxbert.versions.untested", lambda: "jax 9.0 (tested up to 0.12.0)")
    with pytest.raises(UserError):
        run_training(make_config(data__train=str(tmp_path / "nowhere.csv"), train__output_dir=str(tmp_path / "run")))
    assert (
        "these libraries are newer than the tested ones, so check that results are as before: jax 9.0 (tested up to 0.12.0)"
        in caplog.messages
    )
