"""A run folder, and what is said about it."""

from __future__ import annotations

import logging

import pytest

from jaxbert.runs.folder import RunFolder


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path / "run")


@pytest.fixture
def said(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("jaxbert"), "propagate", True)
    caplog.set_level(logging.WARNING, "jaxbert")
    return caplog
