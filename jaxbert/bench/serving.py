"""Measures a server from outside, by an open loop: requests arrive at random times, whether or not the server keeps up.

Arrivals are a Poisson process from a seed, and a latency counts from the moment at which the request was due, so that a
queue in the generator is seen too. The generator is one thread of Python, which sends some 2,000 requests a second at most.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.bench.options import BenchOptions
from jaxbert.config import Config
from jaxbert.data.sources import open_source
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import read_config
from jaxbert.interop.tokenizer import load_tokenizer
from jaxbert.plan.lengths import draw_lengths
from jaxbert.train.pretrained import model_folder

_MOST_TEXTS = 2000
_WARM_SECONDS, _START_SECONDS = 2.0, 600
_FIRST_RATE, _FINEST = 20.0, 1.1
"""The first rate in requests a second, and the ratio of two rates at which the search ends."""


@dataclass
class LoadResult:
    """What the generator saw at one rate."""

    rate: float
    """Requests that were due each second."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from the moment at which each answered request was due."""
    errors: int = 0
    refused: int = 0
    """Requests that were answered with 429."""
    dues: list[float] = field(default_factory=list)
    """When each answered request was due, in seconds from the start, beside `latencies`."""

    def quantile(self, share: float) -> float:
        """Return a quantile of the latencies, in milliseconds."""
        return round(1000 * float(np.quantile(self.latencies, share)), 2) if self.latencies else float("inf")

    def within(self, limit_ms: float) -> bool:
        """Return whether every request was answered, 99% of them within a limit."""
        return not self.errors and not self.refused and self.quantile(0.99) <= limit_ms

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of a line."""
        numbers = {"rate": round(self.rate, 2), "requests": len(self.latencies), "errors": self.errors}
        known = bool(self.latencies)
        quantiles = {f"p{round(100 * s)}_ms": self.quantile(s) if known else None for s in (0.5, 0.9, 0.99)}
        return numbers | {"refused": self.refused} | quantiles


class LoadClient:
    """Sends requests over connections that it keeps, one request at a time on each."""

    def __init__(self, port: int, path: str) -> None:
        self._port, self._path = port, path
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, body: bytes) -> int:
        """Return the status of the answer to a POST.

        Raises:
          OSError, asyncio.IncompleteReadError: if the connection ends before the answer.
        """
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST {self._path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        header = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(header.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        if b"connection: close" in header:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(header[9:12])

    def close(self) -> None:
        """Close all connections."""
        for _, writer in self._idle:
            writer.close()


def offer_load(
    port: int, bodies: Sequence[bytes], rate: float, seconds: float, seed: int, path: str = "/predict"
) -> LoadResult:
    """Send requests to a path at random times for some seconds; wait for all answers."""
    return asyncio.run(_offer(LoadClient(port, path), bodies, rate, seconds, seed))


async def _offer(client: LoadClient, bodies: Sequence[bytes], rate: float, seconds: float, seed: int) -> LoadResult:
    rng, result = random.Random(seed), LoadResult(rate)
    begin, due, tasks = time.perf_counter(), 0.0, list[asyncio.Task[None]]()

    async def one(body: bytes, due: float) -> None:
        try:
            status = await client.ask(body)
        except (OSError, asyncio.IncompleteReadError):
            result.errors += 1
            return
        if status == 200:
            result.latencies.append(time.perf_counter() - begin - due)
            result.dues.append(due)
        else:
            result.refused += status == 429
            result.errors += status != 429

    while (due := due + rng.expovariate(rate)) < seconds:
        wait = begin + due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(rng.choice(bodies), due)))
    await asyncio.gather(*tasks)
    client.close()
    return result


def find_goodput(
    measure: Callable[[float], LoadResult], first: float, limit_ms: float
) -> tuple[float, list[LoadResult]]:
    """Return the highest rate at which 99% of the answers were in time, within 10%, and all measurements.

    The rate is doubled until answers are late, then halved in between. A rate is too high if it fails twice.

    Args:
      measure: measures one rate.
      first: the first rate.
      limit_ms: the most milliseconds of an answer that is in time.
    """
    results = list[LoadResult]()

    def good(rate: float) -> bool:
        for _ in range(2):
            results.append(measure(rate))
            if results[-1].within(limit_ms):
                return True
        return False

    low, high = 0.0, first
    while good(high):
        low, high = high, 2 * high
    while low and high / low > _FINEST:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if good(middle) else (low, middle)
    return low, results


@contextmanager
def running_server(command: list[str], port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server, which asks for no key, from when its /health says that it is ready to the end of the block.

    Raises:
      UserError: if it does not start.
    """
    environment = {name: value for name, value in os.environ.items() if name != "JAXBERT_API_KEY"}
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment)
    try:
        until = time.monotonic() + _START_SECONDS
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > until:
                raise UserError(f"the server did not start: run this command to see why: {' '.join(command)}")
            time.sleep(0.2)
        yield process
    finally:
        process.terminate()
        process.wait(60)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the processor seconds of a process so far; nan where the system does not tell (it is Linux that does)."""
    try:
        fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def request_bodies(texts: Sequence[str]) -> list[bytes]:
    """Return a request for each text."""
    return [json.dumps({"inputs": text}).encode() for text in texts]


def free_port() -> int:
    """Return a port of this machine that is free now."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def bench_server(
    config: Config, lengths: str | None, options: BenchOptions, say: Callable[[str], None]
) -> dict[str, Any]:
    """Start `jaxbert serve` with a trained model, and find the highest rate at which its answers are in time.

    Args:
      config: `model.name_or_path` is the trained model; the texts are those of `data.train`, or random words.
      lengths: the lengths of random texts, as `draw_lengths` takes them.
      options: the benchmark's options.
      say: shows a line of progress.

    Raises:
      UserError: if the model cannot be served, or the texts cannot be read.
    """
    folder, port = model_folder(config.model.name_or_path), free_port()
    bodies = request_bodies(_texts(config, lengths, folder))
    command = [sys.executable, "-m", "jaxbert", "serve", "--model", config.model.name_or_path, "--port", str(port)]
    command += ["--engine", options.engine, *(["--quantize", options.quantize] if options.quantize else [])]
    lines = list[dict[str, Any]]()
    with running_server(command, port) as process:

        def measure(rate: float, seconds: float = options.seconds) -> LoadResult:
            before = cpu_seconds(process)
            result = offer_load(port, bodies, rate, seconds, config.train.seed)
            cpu = 1000 * (cpu_seconds(process) - before) / max(1, len(result.latencies))
            lines.append(result.to_dict() | {"cpu_ms": None if np.isnan(cpu) else round(cpu, 3)})
            say(
                f"{rate:,.0f} requests a second: p50 {result.quantile(0.5):,.1f} ms, p99 {result.quantile(0.99):,.1f} ms"
            )
            return result

        with urllib.request.urlopen(f"http://127.0.0.1:{port}/info", timeout=10) as response:
            engine = json.load(response)["engine"]
        measure(_FIRST_RATE / 2, _WARM_SECONDS)
        lines.clear()
        idle = measure(_FIRST_RATE / 4)
        if idle.errors and not idle.latencies:
            raise UserError(
                "--mode serve sends single texts, but this model does not read single texts: name another model"
            )
        goodput, _ = find_goodput(measure, _FIRST_RATE, options.limit_ms)
    about = {"model": config.model.name_or_path, "engine": engine, "quantize": options.quantize}
    found = {"goodput": round(goodput, 2), "limit_ms": options.limit_ms, "idle_p50_ms": idle.to_dict()["p50_ms"]}
    return about | {"texts": config.data.train or lengths} | found | {"rates": lines}


def _texts(config: Config, lengths: str | None, folder: Path) -> list[str]:
    """Return up to 2,000 texts: those of the data, or random words of the model's vocabulary."""
    if lengths is None and config.data.train is not None:
        found = list[str]()
        for part in open_source(config.data.train, config.data, role="train", labelled=False).parts():
            found += part.texts
            if len(found) >= _MOST_TEXTS:
                break
        return found[:_MOST_TEXTS]
    tokenizer = load_tokenizer(folder, read_config(folder))
    words = sorted(word for word in tokenizer.get_vocab() if word.isalnum())
    longest = config.data.max_length or 128
    drawn = draw_lengths(lengths or "sst2", _MOST_TEXTS, longest, config.train.seed)
    rng = random.Random(config.train.seed)
    return [" ".join(rng.choices(words, k=max(1, length - 2))) for length in drawn.tolist()]
