"""An emulator of Google's storage on loopback, taught what TensorStore relies on: `python tests/storage_emulator.py PORT`.

Every download says the generation of the object, and a write happens only over the generation that it names.
"""

from __future__ import annotations

import sys
import threading
from http import HTTPStatus
from typing import Any

from gcp_storage_emulator.exceptions import NotFound
from gcp_storage_emulator.handlers import objects

_download, _insert = objects.download, objects.insert
_one_write = threading.Lock()


def generation_of(storage: Any, bucket: str, name: str) -> str:
    """Return the generation of an object, "0" where there is none."""
    try:
        return storage.get_file_obj(bucket, name)["generation"]
    except NotFound:
        return "0"


def download(request: Any, response: Any, storage: Any, *args: Any, **options: Any) -> None:
    """Answer with the generation."""
    params = request.params
    response["x-goog-generation"] = generation_of(storage, params["bucket_name"], params["object_id"])
    _download(request, response, storage, *args, **options)


def insert(request: Any, response: Any, storage: Any, *args: Any, **options: Any) -> None:
    """Refuse where another generation is there."""
    wanted, name = request.query.get("ifGenerationMatch"), request.query.get("name")
    if wanted and not name:  # it stands in the first part of a body of several
        name = [request.data["meta"]["name"]]
    with _one_write:
        if wanted and generation_of(storage, request.params["bucket_name"], name[0]) != wanted[0]:
            response.status = HTTPStatus.PRECONDITION_FAILED
            return
        _insert(request, response, storage, *args, **options)


if __name__ == "__main__":
    objects.download, objects.insert = download, insert
    from gcp_storage_emulator.server import create_server  # takes its handlers from `objects` when it is imported

    create_server("127.0.0.1", int(sys.argv[1]), in_memory=True, default_bucket="bucket").start()
    threading.Event().wait()
