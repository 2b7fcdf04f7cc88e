"""What a TPU VM learns of its slice, from a metadata server of the test's own."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import ClassVar

import pytest

from jaxbert.launch.detect import detect
from jaxbert.launch.metadata import tpu_metadata

ATTRIBUTES = {
    "worker-network-endpoints": "unknown:unknown:10.0.0.1,unknown:unknown:10.0.0.2",
    "agent-worker-number": "1",
    "tpu-env": "ACCELERATOR_TYPE: 'v5litepod-8'\nMEGASCALE_NUM_SLICES: '2'\nMEGASCALE_SLICE_ID: '0'\n"
    "MEGASCALE_COORDINATOR_ADDRESS: '10.0.0.1:8080'\n",
}


@contextlib.contextmanager
def server(attributes: dict[str, str], code: int = 404) -> Iterator[str]:
    """Serve attributes as the metadata server does, and `code` for all others; yield HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        values: ClassVar = attributes

        def do_GET(self) -> None:
            name = self.path.removeprefix("/computeMetadata/v1/instance/attributes/")
            known = name in self.values and self.headers["Metadata-Flavor"] == "Google"
            self.send_response(200 if known else code)
            self.end_headers()
            self.wfile.write(self.values[name].encode() if known else b"no")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        yield f"127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


def test_a_host_of_one_slice():
    with server({name: ATTRIBUTES[name] for name in ("worker-network-endpoints", "agent-worker-number")}) as address:
        place = detect(tpu_metadata({"GCE_METADATA_IP": address}))
    assert place is not None
    assert (place.processes, place.process) == (2, 1)


def test_a_host_of_several_slices_behind_a_proxy(monkeypatch):
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    with server(ATTRIBUTES) as address:
        place = detect(tpu_metadata({"GCE_METADATA_IP": address}))
    assert place is not None
    assert (place.processes, place.process) == (4, 1)


@pytest.mark.parametrize(
    "said",
    [
        {"TPU_WORKER_HOSTNAMES": "a,b"},
        {"TPU_PROCESS_ADDRESSES": "a:1"},
        {"TPU_SKIP_MDS_QUERY": "1"},
        {"JAX_PLATFORMS": "cpu"},
    ],
    ids=lambda said: next(iter(said)),
)
def test_nothing_is_asked_where_all_is_said(said):
    with server(ATTRIBUTES) as address:
        assert tpu_metadata({"GCE_METADATA_IP": address, **said}) == {}


def test_a_machine_without_the_attributes():
    with server({}) as address:
        assert tpu_metadata({"GCE_METADATA_IP": address}) == {}


@pytest.mark.parametrize("how", ["no server", "a broken server"])
def test_a_server_that_does_not_answer_is_remarked(how, caplog):
    with server({}, code=503) as address:
        asked = address if how == "a broken server" else "127.0.0.1:1"
        with caplog.at_level(logging.INFO, "jaxbert"):
            assert tpu_metadata({"GCE_METADATA_IP": asked}) == {}
    assert "this process runs as if it were the only TPU host" in caplog.text
