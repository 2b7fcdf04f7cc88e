"""Downloading from a Hub: a small server on this machine stands for it, since the library reads HF_ENDPOINT at import."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import quick
from tiny import write_tiny

pytestmark = pytest.mark.slow  # each program imports the libraries anew

COMMIT = "b" * 40
PROGRAM = """
import sys
from jaxbert.errors import UserError
from jaxbert.interop.folder import resolve
try:
    print(resolve(sys.argv[1]))
except UserError as error:
    sys.exit(f"error: {error}")
"""


class Handler(BaseHTTPRequestHandler):
    """The four requests that a download makes."""

    def answer(self, body: bytes, status: int = 200, **headers: str) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self) -> None:
        hub = self.server
        path = self.path.split("?")[0]
        hub.tokens.add(self.headers.get("Authorization"))
        files = {file.name: file.read_bytes() for file in hub.folder.iterdir()}
        if path.startswith("/api/models/org/tiny/revision/"):
            self.answer(json.dumps({"_id": "1", "id": "org/tiny", "sha": COMMIT, "siblings": []}).encode())
        elif path.startswith("/api/models/org/tiny/tree/"):
            tree = [
                {"type": "file", "path": n, "size": len(b), "oid": f"{i:040x}"}
                for i, (n, b) in enumerate(files.items())
            ]
            self.answer(json.dumps(tree).encode(), Content_Type="application/json")
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/") and path.split("/")[-1] in files:
            name = path.split("/")[-1]
            if self.command == "GET":
                hub.fetched.append(name)
            self.answer(files[name], ETag=f'"{name}"', X_Repo_Commit=COMMIT)
        else:
            self.answer(b"{}", 404, X_Error_Code="RepoNotFound")

    do_HEAD = do_GET

    def log_message(self, *_) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def hub(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.folder, server.fetched, server.tokens = tmp_path / "repo", [], set()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def run_resolve(name, tmp_path, port, **environment):
    settings = {
        **quick.variables(),
        "HF_ENDPOINT": f"http://127.0.0.1:{port}",
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        "NO_PROXY": "127.0.0.1",
        "JAX_PLATFORMS": "cpu",
        **environment,
    }
    command = [sys.executable, "-c", PROGRAM, name]
    return subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)


def test_only_what_is_needed_is_downloaded_and_then_cached(hub, tmp_path):
    write_tiny(hub.folder)
    for name in ("pytorch_model.bin", "flax_model.msgpack", "tf_model.h5", "vocab.txt", "README.md", "model.onnx"):
        (hub.folder / name).write_text(name)
    done = run_resolve("org/tiny", tmp_path, hub.server_port, HF_TOKEN="hf_secret")
    assert done.returncode == 0, done.stderr
    assert sorted(hub.fetched) == ["config.json", "model.safetensors", "vocab.txt"]
    assert hub.tokens == {"Bearer hf_secret"}
    offline = run_resolve("org/tiny", tmp_path, hub.server_port, HF_HUB_OFFLINE="1")
    assert offline.stdout == done.stdout
    unreachable = run_resolve("org/tiny", tmp_path, 9)
    assert unreachable.stdout == done.stdout


def test_another_format_is_fetched_where_there_is_no_safetensors(hub, tmp_path):
    write_tiny(hub.folder)
    (hub.folder / "model.safetensors").rename(hub.folder / "flax_model.msgpack")
    done = run_resolve("org/tiny", tmp_path, hub.server_port)
    assert done.returncode == 0, done.stderr
    assert sorted(hub.fetched) == ["config.json", "flax_model.msgpack"]


@pytest.mark.long
def test_an_unknown_name_and_no_network_are_one_line(hub, tmp_path):
    hub.folder.mkdir()
    unknown = run_resolve("org/unknown", tmp_path, hub.server_port)
    assert "nor a model on the Hub" in unknown.stderr.splitlines()[-1]
    no_network = run_resolve("org/tiny", tmp_path, 9)
    assert "cannot be reached" in no_network.stderr.splitlines()[-1]
    empty = run_resolve("org/tiny", tmp_path, hub.server_port)
    assert "org/tiny is not a model" in empty.stderr.splitlines()[-1]
    assert all(done.returncode == 1 and "Traceback" not in done.stderr for done in (unknown, no_network, empty))
