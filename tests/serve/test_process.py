"""A server as its own process: start, answers under load, the end without a lost request, fuzzed requests, a browser."""

from __future__ import annotations

import http.client
import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from runs import command, random_rows
from served import TASKS, write_export

from jaxbert.cli.main import main
from jaxbert.tasks.pretraining.task import Pretraining

TEXTS = [text for text, _ in random_rows(40, seed=5)]
_SECONDS = 60


class Server:
    """`jaxbert serve` with a small model."""

    def __init__(self, *arguments: str) -> None:
        self.process = command("serve", *arguments, "--port", "0", stdout=subprocess.DEVNULL)
        self.log: list[dict[str, Any]] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        self.port = self._entry("sharing" if "--workers" in arguments else "listening")["port"]
        self._entry("ready")

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line) if line.startswith("{") else {"event": "text", "text": line})

    def _entry(self, event: str) -> dict[str, Any]:
        until = time.monotonic() + _SECONDS
        while time.monotonic() < until:
            for entry in list(self.log):
                if entry["event"] == event:
                    return entry
            time.sleep(0.02)
        raise AssertionError(f"no {event}: {self.log[-3:]}")

    def connect(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)

    def ask(self, method: str, path: str, body: bytes | str | None = None) -> tuple[int, bytes]:
        connection = self.connect()
        connection.request(method, path, body)
        response = connection.getresponse()
        found = response.status, response.read()
        connection.close()
        return found

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(_SECONDS)
        self._reader.join(10)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_export(tmp_path_factory.mktemp("model") / "model", TASKS["classification"])


@pytest.fixture(scope="module")
def server(folder) -> Iterator[Server]:
    started = Server("--model", str(folder), "--explain", "true", "--body_seconds", "0.5")
    yield started
    started.end(signal.SIGKILL)


def test_it_answers(server):
    assert server.ask("GET", "/health")[0] == 200
    status, body = server.ask("POST", "/predict", json.dumps({"inputs": TEXTS}))
    assert (status, len(json.loads(body))) == (200, len(TEXTS))
    entry = server._entry("request")
    assert {"time", "level", "method", "path", "status", "ms"} <= entry.keys()


def test_mistakes_are_one_line(folder, server, tmp_path, capsys):
    pretrained = write_export(tmp_path / "pretrained", Pretraining(next_sentence=False))
    for arguments, message in (
        (["--model", "nowhere"], "nowhere"),
        (["--model", str(pretrained)], f"{pretrained}: this model was pretrained and has no answers to give"),
        (["--model", str(folder), "--port", str(server.port)], f"cannot listen on 127.0.0.1:{server.port}: "),
        (["--model", str(folder), "--model", str(folder)], "two models are called model: give them names"),
        (["--model", str(folder), "--port", "70000"], "port is 70000, but it must be"),
        (["--model", f"a={folder}", "--max_queue", "0"], "max_queue is 0"),
    ):
        assert main(["serve", "--port", "0", *arguments]) == 2
        error = capsys.readouterr().err
        assert message in error
        assert error.count("\n") == 1


def test_a_connection_without_a_request_is_closed(server):
    """So that nobody holds the server's connections by sending nothing, or half a header."""
    for start in (b"", b"POST /predict HTT"):
        with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
            connection.sendall(start)
            assert connection.recv(1000) == b""


def test_sigterm_under_load_loses_no_request(folder):
    """Clients keep their connections as long as they are told to; then they find nobody, and that is all."""
    server = Server("--model", str(folder), "--drain_seconds", "0.5")
    answered, lost = [0] * 4, list[BaseException]()

    def work(place: int) -> None:
        connection = server.connect()
        while True:
            try:
                connection.connect()
            except ConnectionRefusedError:
                return
            while True:
                try:
                    # as a client that connects anew for each request, every other time
                    headers = {"connection": "close"} if answered[place] % 2 else {}
                    connection.request("POST", "/predict", json.dumps({"inputs": TEXTS[place : place + 5]}), headers)
                    response = connection.getresponse()
                    assert response.status == 200
                    assert len(json.loads(response.read())) == 5
                except BaseException as error:
                    lost.append(error)
                    return
                answered[place] += 1
                if response.getheader("connection") == "close":
                    connection.close()
                    break

    threads = [threading.Thread(target=work, args=(place,)) for place in range(len(answered))]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    code = server.end()
    for thread in threads:
        thread.join(20)
    assert (code, lost) == (0, [])
    assert min(answered) > 3
    assert [entry["event"] for entry in server.log if entry["event"] in ("draining", "ended")] == ["draining", "ended"]
    assert all(entry["event"] != "text" for entry in server.log), "the log is JSON"


def test_sighup_opens_the_model_again(folder, tmp_path):
    copied = tmp_path / "model"
    shutil.copytree(folder, copied)
    server = Server("--model", str(copied))
    before = server.ask("POST", "/answer", json.dumps({"inputs": TEXTS[0]}))
    for file in write_export(tmp_path / "new", TASKS["classification"], seed=9).iterdir():
        shutil.copy(file, copied / file.name)
    server.process.send_signal(signal.SIGHUP)
    until = time.monotonic() + _SECONDS
    while (after := server.ask("POST", "/answer", json.dumps({"inputs": TEXTS[0]}))) == before:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert (before[0], after[0]) == (200, 200)
    assert server.end() == 0


@pytest.mark.long
def test_several_processes_share_the_port(folder):
    """One that is killed is started again; all end together."""
    server = Server("--model", str(folder), "--workers", "2")
    until = time.monotonic() + _SECONDS
    while sum(entry["event"] == "ready" for entry in list(server.log)) < 2:
        assert time.monotonic() < until
        time.sleep(0.05)
    body = json.dumps({"inputs": TEXTS})
    assert all(server.ask("POST", "/predict", body)[0] == 200 for _ in range(20))
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text().split()
    assert len(children) == 2
    os.kill(int(children[0]), signal.SIGKILL)
    while sum(entry["event"] == "ready" for entry in list(server.log)) < 3:
        assert time.monotonic() < until
        time.sleep(0.05)
    assert all(server.ask("POST", "/predict", body)[0] == 200 for _ in range(20))
    assert server.end() == 0


def fuzzed(rng: random.Random) -> bytes:
    """Return one request, as bytes: right, nearly right, or nothing of the kind."""
    characters = 'aé中😀\u202e\0\n"\\\u0301 w1'
    text = "".join(rng.choices(characters, k=rng.choice([0, 1, 5, 40, 400])))
    values: list[Any] = [text, [text], [[text]], [text, 3], None, {"text": text}, {"text": None}, 1e308, [[]], True, {}]
    body: dict[str, Any] = {"inputs": rng.choice(values)}
    for key in ("truncate", "raw_scores", "model", "explain", text[:3]):
        if rng.random() < 0.1:
            body[key] = rng.choice(values)
    content = json.dumps(body, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        content = content.replace(b'"inputs"', b'"inputs": "\\ud800", "x"', 1)
    if rng.random() < 0.3 and content:
        damaged = bytearray(content)
        for _ in range(rng.randint(1, 6)):
            damaged[rng.randrange(len(damaged))] = rng.randrange(256)
        content = bytes(damaged[: rng.randint(1, len(damaged))])
    if rng.random() < 0.05:
        content = rng.choice(
            [b"[" * 50_000, b"9" * 6_000, b"\xff" * 3_000_000, b'{"inputs": ["' + b'a","' * 300 + b'"]}']
        )
    method = rng.choice(["POST"] * 8 + ["GET", "PUT", "DELETE", "HEAD", "OPTIONS"])
    paths = [
        "/predict",
        "/answer",
        "/v2/models/model/infer",
        "/v2/models/x/infer",
        "/",
        "/info",
        "/openapi.json",
        "/%ff%00",
        "//",
    ]
    length = len(content) if rng.random() < 0.95 else rng.choice([0, 1, len(content) + 5, -1, 10**30])
    head = f"{method} {rng.choice(paths)} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nContent-Length: {length}\r\n"
    if rng.random() < 0.1:
        head += rng.choice(
            ["Origin: null\r\n", "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n", "X: \0\r\n", ":\r\n"]
        )
    whole = head.encode() + b"\r\n" + content
    return bytes(rng.randrange(256) for _ in range(50)) if rng.random() < 0.02 else whole


def send(server: Server, request: bytes) -> int | None:
    """Send bytes, and no more; return the status, None if the connection was closed without one."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as connection:
        found = b""
        try:
            connection.sendall(request)
            while part := connection.recv(65536):
                found += part
        except (BrokenPipeError, ConnectionResetError):
            pass
    status = re.match(rb"HTTP/1.1 (\d+)", found)
    return int(status[1]) if status else None


def fuzz(server: Server, count: int, seed: int) -> None:
    rng = random.Random(seed)
    for _ in range(count):
        request = fuzzed(rng)
        status = send(server, request)
        assert status is None or status < 500, request[:2000]
    assert server.ask("GET", "/health")[0] == 200
    assert not [entry for entry in server.log if entry.get("level") == "error"]


def test_no_request_is_an_error_of_the_server(server):
    fuzz(server, 300, seed=0)


def memory_of(server: Server) -> int:
    """Return the resident bytes of the server."""
    text = Path(f"/proc/{server.process.pid}/status").read_text()
    found = re.search(r"VmRSS:\s+(\d+) kB", text)
    assert found is not None
    return 1024 * int(found[1])


@pytest.mark.long
def test_ten_thousand_requests(server):
    fuzz(server, 10_000, seed=1)


@pytest.mark.long
def test_ten_minutes_take_no_memory(server):
    rng, sizes = random.Random(2), list[int]()
    end = time.monotonic() + 600
    while time.monotonic() < end:
        for _ in range(200):
            body = json.dumps({"inputs": rng.choices(TEXTS, k=rng.randint(1, 30))})
            assert server.ask("POST", "/predict", body)[0] == 200
        server.log.clear()
        sizes.append(memory_of(server))
    half = sizes[len(sizes) // 2 :]
    assert max(half) < 1.03 * half[0]


@pytest.mark.slow
def test_a_browser_shows_the_answer(server, tmp_path):
    found = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("no Chromium is installed, which shows the page")
    shown = subprocess.run(
        [
            found,
            *("--headless", "--no-sandbox", "--disable-gpu", "--dump-dom", f"--user-data-dir={tmp_path / 'profile'}"),
            f"http://127.0.0.1:{server.port}/?text=w1+good+w2&explain=1",
        ],
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    ).stdout
    answer = json.loads(server.ask("POST", "/answer", json.dumps({"inputs": "w1 good w2"}))[1])
    assert f'<strong id="label">{answer["label"]}</strong>' in shown
    assert re.search(r'class="w [fg]"[^>]*>good</span>', shown)
    assert ">w1 good w2</textarea>" in shown
