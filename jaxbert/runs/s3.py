"""Checkpoints in S3, which Orbax does not write by itself.

Orbax asks one function where TensorStore finds a folder, and the function knows local folders and Google's buckets.
TensorStore knows S3 as well, so the answer for a folder of S3 is the one for a bucket of Google with another driver. Orbax's
own commit file says that a checkpoint is whole, as in every bucket: there is no renaming.
"""

from __future__ import annotations

import functools
import os
from pathlib import Path
from typing import Any

import orbax.checkpoint as ocp

from jaxbert.bucket import S3
from jaxbert.errors import UserError

_DRIVERS = ("gcs", "gcs_grpc")


def atomicity(folder: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the arguments by which Orbax knows the committed checkpoints of a folder; none but for S3.

    Raises:
      UserError: if Orbax is too old, or so new that it has changed there.
    """
    if not os.fspath(folder).startswith(S3):
        return {}
    try:
        _teach_orbax()
        return {"atomicity_options": ocp.options.AtomicityOptions(mode=ocp.options.AtomicityMode.COMMIT_FILE)}
    except (ImportError, AttributeError) as error:
        raise UserError(f"{folder}: not with Orbax {ocp.__version__} ({error}): install jaxbert[s3]") from error


def _teach_orbax() -> None:
    """Let Orbax find folders of S3, once in a process."""
    from orbax.checkpoint._src.serialization import tensorstore_utils

    known = tensorstore_utils.build_kvstore_tspec
    if hasattr(known, "__wrapped__"):
        return

    @functools.wraps(known)
    def build_kvstore_tspec(directory: str, *args: Any, **options: Any) -> Any:
        if not directory.startswith(S3):
            return known(directory, *args, **options)
        return _in_s3(known(f"gs://{directory.removeprefix(S3)}", *args, **options))

    tensorstore_utils.build_kvstore_tspec = build_kvstore_tspec


def _in_s3(spec: Any) -> Any:
    """Return TensorStore's description of a place with S3 for each of Google's buckets in it."""
    if isinstance(spec, list):
        return [_in_s3(part) for part in spec]
    if not isinstance(spec, dict):
        return spec
    changed = {name: _in_s3(part) for name, part in spec.items()}
    return changed | {"driver": "s3", **_service()} if spec.get("driver") in _DRIVERS else changed


def _service() -> dict[str, Any]:
    """Return what the environment says of the service, by the names of Amazon's own tools, in TensorStore's words."""
    found: dict[str, Any] = {}
    if endpoint := os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL"):
        found["endpoint"] = endpoint
    if region := os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION"):
        found["aws_region"] = region
    if (kind := _credentials()) is not None:
        found["aws_credentials"] = {"type": kind}
    return found


def _credentials() -> str | None:
    """Say where the credentials come from; None is TensorStore's own search, which reports all that it does not find."""
    if "AWS_ACCESS_KEY_ID" in os.environ:
        return "environment"
    files = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
    profile = any(Path(os.environ.get(name, usual)).expanduser().exists() for name, usual in files.items())
    if profile or "AWS_WEB_IDENTITY_TOKEN_FILE" in os.environ:
        return None
    container = any(f"AWS_CONTAINER_CREDENTIALS_{end}" in os.environ for end in ("RELATIVE_URI", "FULL_URI"))
    return "ecs" if container else "imds"
