"""What jaxbert tells TensorStore and Orbax of S3; whole runs are in `test_bucket.py`."""

from __future__ import annotations

import os

import orbax.checkpoint
import pytest

from jaxbert.errors import UserError
from jaxbert.runs.checkpoint import _in_s3, atomicity


@pytest.fixture(autouse=True)
def nobody(monkeypatch, tmp_path):
    """Take Amazon's variables and files away."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    return tmp_path


def test_every_place_in_a_description_is_moved(monkeypatch):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://here:9000")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-central-1")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "anyone")
    spec = {
        "driver": "ocdbt",
        "base": {
            "driver": "kvstack",
            "layers": [{"base": {"driver": "gcs_grpc", "bucket": "b", "path": "x/"}}, {"base": {"driver": "memory"}}],
        },
        "manifest": {"driver": "gcs", "bucket": "b", "path": "y/"},
    }
    service = {
        "driver": "s3",
        "endpoint": "http://here:9000",
        "aws_region": "eu-central-1",
        "aws_credentials": {"type": "environment"},
    }
    assert _in_s3(spec) == {
        "driver": "ocdbt",
        "base": {
            "driver": "kvstack",
            "layers": [{"base": {"bucket": "b", "path": "x/", **service}}, {"base": {"driver": "memory"}}],
        },
        "manifest": {"bucket": "b", "path": "y/", **service},
    }


@pytest.mark.parametrize(
    ("variable", "expected"),
    [
        ("AWS_ACCESS_KEY_ID", {"aws_credentials": {"type": "environment"}}),
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", {"aws_credentials": {"type": "ecs"}}),
        ("AWS_WEB_IDENTITY_TOKEN_FILE", {}),
        ("ANYTHING", {"aws_credentials": {"type": "imds"}}),
    ],
)
def test_the_credentials_are_where_the_environment_says(monkeypatch, variable, expected):
    monkeypatch.setenv(variable, "it")
    assert _in_s3({"driver": "gcs"}) == {"driver": "s3", **expected}


def test_a_profile_is_found_by_tensorstore(nobody):
    (nobody / ".aws").mkdir()
    (nobody / ".aws" / "credentials").touch()
    assert _in_s3({"driver": "gcs"}) == {"driver": "s3"}


def test_an_orbax_that_has_changed_is_named(monkeypatch):
    assert atomicity("gs://bucket/run") == atomicity("/run") == {}
    monkeypatch.delattr("orbax.checkpoint.options.AtomicityOptions")
    with pytest.raises(UserError, match=f"s3://bucket/run: not with Orbax {orbax.checkpoint.__version__}"):
        atomicity("s3://bucket/run")
