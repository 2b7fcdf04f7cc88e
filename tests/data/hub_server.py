"""A stand-in for the Hub: serves the dataset repositories of a folder on loopback, as far as `load_dataset` asks."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class _Handler(BaseHTTPRequestHandler):
    root: Path
    commit: str

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self.body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self._answer()

    def _answer(self) -> None:
        parts = unquote(urlsplit(self.path).path).strip("/").split("/")
        if parts[0] == "datasets" and "resolve" in parts:
            return self._file("/".join(parts[1:3]), "/".join(parts[5:]))
        if parts[:2] == ["api", "datasets"]:
            return self._api("/".join(parts[2:4]), parts[4:])
        self._send(404, b"{}")

    def _file(self, repo: str, name: str) -> None:
        if not (self.root / repo).is_dir():
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        path = self.root / repo / name
        if not path.is_file():
            return self._send(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": self.commit})
        content = path.read_bytes()
        etag = hashlib.sha1(content).hexdigest()
        self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": self.commit})

    def _api(self, repo: str, rest: list[str]) -> None:
        folder = self.root / repo
        if not folder.is_dir():
            return self._send(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if rest[:1] == ["tree"]:
            inside = folder / "/".join(rest[2:])
            found = inside.rglob("*") if "recursive=true" in self.path.lower() else inside.iterdir()
            return self._json([self._entry(folder, path) for path in sorted(found)])
        if rest[:1] == ["paths-info"]:
            asked = [folder / name for name in json.loads(self.body)["paths"]]
            return self._json([self._entry(folder, path) for path in asked if path.exists()])
        names = [{"rfilename": str(p.relative_to(folder))} for p in sorted(folder.rglob("*")) if p.is_file()]
        self._json({"id": repo, "sha": self.commit, "private": False, "tags": [], "siblings": names})

    def _entry(self, folder: Path, path: Path) -> dict[str, object]:
        kind, size = ("directory", 0) if path.is_dir() else ("file", path.stat().st_size)
        oid = hashlib.sha1(str(path).encode()).hexdigest()
        return {"type": kind, "path": str(path.relative_to(folder)), "size": size, "oid": oid}

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, content: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for key, value in {**(headers or {}), "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)


@contextmanager
def serve(root: Path, commit: str = COMMIT) -> Iterator[str]:
    """Serve `root/ORG/NAME` and yield the address for HF_ENDPOINT."""
    handler = type("Handler", (_Handler,), {"root": root, "commit": commit})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
