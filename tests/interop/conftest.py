"""A tiny checkpoint on disk, and its tensors."""

import pytest
from tiny import write_tiny


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "model"


@pytest.fixture
def tensors(folder):
    return write_tiny(folder)
