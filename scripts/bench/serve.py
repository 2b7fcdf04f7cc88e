"""Measure servers with an open loop: requests arrive at random times, whether or not the server keeps up.

  python scripts/bench/serve.py goodput --model EXPORT --texts dev.tsv --column sentence --server jaxbert-onnx --seconds 8
  python scripts/bench/serve.py idle    --model EXPORT --texts dev.tsv --column sentence --server single
  python scripts/bench/serve.py overload --model EXPORT --texts dev.tsv --column sentence --server jaxbert-onnx

EXPORT is the folder of `jaxbert export --format onnx`. Arrivals are a Poisson process from a seed, and a latency counts from
the moment at which the request was due, so that a queue in the generator is seen. The server runs on one core and the
generator on another one. Servers:

  jaxbert-jax, jaxbert-onnx   jaxbert serve with this engine (--quantize int8: with the graph in 8 bits)
  padded                      onnxruntime behind the rules of text-embeddings-inference on CPU, made again here: a batch is
                              what waits, oldest first, at most 8 texts and 16,384 padded tokens
  single                      onnxruntime, one text after the other

Both peers use the same HTTP libraries, tokenizer and JSON as `jaxbert serve`. `goodput` raises the rate by a factor until
not 99% of the answers are within 100 ms, and prints the highest rate at which they were. Results are JSON lines.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import queue
import random
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

_PEERS = ("padded", "single")
_SERVERS = ("jaxbert-jax", "jaxbert-onnx", *_PEERS)
_MOST_TEXTS, _MOST_TOKENS = 8, 16_384
_WARM_SECONDS, _LIMIT_SECONDS = 2.0, 0.1


@dataclass
class Result:
    """What a run of the generator saw."""

    rate: float
    """Requests that were due each second."""
    latencies: list[float] = field(default_factory=list)
    """Seconds from the moment at which each answered request was due."""
    errors: int = 0
    refused: int = 0
    """Requests that were answered with 429."""
    ends: list[float] = field(default_factory=list)
    """When each was due, in seconds from the start, beside `latencies`."""

    def quantile(self, share: float) -> float:
        """Return a quantile of the latencies, in milliseconds."""
        return round(1000 * float(np.quantile(self.latencies, share)), 2) if self.latencies else float("inf")

    @property
    def good(self) -> bool:
        """Whether every request was answered, 99% of them in time."""
        return not self.errors and not self.refused and self.quantile(0.99) <= 1000 * _LIMIT_SECONDS

    def to_dict(self) -> dict[str, Any]:
        """Return the numbers of a line."""
        numbers = {"rate": round(self.rate, 2), "requests": len(self.latencies), "errors": self.errors}
        quantiles = {f"p{round(100 * share)}_ms": self.quantile(share) for share in (0.5, 0.9, 0.99)}
        return numbers | {"refused": self.refused} | quantiles


class Client:
    """Sends requests over connections that it keeps, one request at a time on each."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._idle: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []

    async def ask(self, body: bytes) -> int:
        """Return the status of the answer to a POST to /predict."""
        if self._idle:
            reader, writer = self._idle.pop()
        else:
            reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        head = f"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        header = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(header.split(b"content-length:")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        if b"connection: close" in header:
            writer.close()
        else:
            self._idle.append((reader, writer))
        return int(header[9:12])


async def run_load(port: int, bodies: list[bytes], rate: float, seconds: float, seed: int) -> Result:
    """Send requests at random times for some seconds; wait for all answers."""
    rng, client, result = random.Random(seed), Client(port), Result(rate)
    begin, due, tasks = time.perf_counter(), 0.0, list[asyncio.Task[None]]()

    async def one(body: bytes, due: float) -> None:
        try:
            status = await client.ask(body)
        except (OSError, asyncio.IncompleteReadError):
            result.errors += 1
            return
        if status == 200:
            result.latencies.append(time.perf_counter() - begin - due)
            result.ends.append(due)
        else:
            result.refused += status == 429
            result.errors += status != 429

    while (due := due + rng.expovariate(rate)) < seconds:
        wait = begin + due - time.perf_counter()
        if wait > 0:
            await asyncio.sleep(wait)
        tasks.append(asyncio.create_task(one(rng.choice(bodies), due)))
    await asyncio.gather(*tasks)
    return result


def read_texts(path: Path, column: str, limit: int) -> list[str]:
    """Return the texts of a column of a TSV or CSV file."""
    with path.open(encoding="utf-8", newline="") as file:
        separator = "\t" if path.suffix == ".tsv" else ","
        rows = csv.DictReader(
            file, delimiter=separator, quoting=csv.QUOTE_NONE if separator == "\t" else csv.QUOTE_MINIMAL
        )
        return [row[column] for row, _ in zip(rows, range(limit), strict=False)]


def with_long_ones(texts: list[str], words: int = 380, share: float = 0.05, seed: int = 0) -> list[str]:
    """Return the texts with a share of long ones, made of others."""
    rng, found = random.Random(seed), list(texts)
    everything = " ".join(texts).split()
    for place in rng.sample(range(len(found)), int(share * len(found))):
        start = rng.randrange(len(everything) - words)
        found[place] = " ".join(everything[start : start + words])
    return found


def command_of(server: str, model: Path, quantize: str | None) -> list[str]:
    """Return the command of a server; it gets the port as its last word."""
    if server in _PEERS:
        graph = model / "onnx" / ("model.onnx" if quantize is None else f"model_{quantize}.onnx")
        return [
            sys.executable,
            __file__,
            "peer",
            "--model",
            str(model),
            "--graph",
            str(graph),
            "--server",
            server,
            "--port",
        ]
    words = [
        sys.executable,
        "-m",
        "jaxbert",
        "serve",
        "--model",
        str(model),
        "--engine",
        server.removeprefix("jaxbert-"),
    ]
    return [*words, *(["--quantize", quantize] if quantize and server == "jaxbert-onnx" else []), "--port"]


@contextmanager
def started(server: str, model: Path, quantize: str | None, port: int, core: int) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server on one core, from when it is ready to the end of the block."""
    command = ["taskset", "-c", str(core), *command_of(server, model, quantize), str(port)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 300
        while not _healthy(port):
            if process.poll() is not None or time.monotonic() > until:
                raise SystemExit(f"{server} does not start: {' '.join(command)}")
            time.sleep(0.2)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2) as response:
            return response.status == 200
    except OSError:
        return False


def cpu_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the processor seconds of a process so far."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory(process: subprocess.Popen[bytes]) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def load(port: int, bodies: list[bytes], rate: float, seconds: float, seed: int) -> Result:
    """Run the generator."""
    return asyncio.run(run_load(port, bodies, rate, seconds, seed))


def tell(**values: Any) -> None:
    """Print a line of results."""
    print(json.dumps(values), flush=True)


def find_goodput(arguments: argparse.Namespace, bodies: list[bytes], process: subprocess.Popen[bytes]) -> None:
    """Raise the rate until the answers are late."""
    best, rate = 0.0, arguments.rate
    load(arguments.port, bodies, rate / 2, _WARM_SECONDS, 99)
    while True:
        before = cpu_seconds(process)
        result = load(arguments.port, bodies, rate, arguments.seconds, arguments.seed)
        cpu = 1000 * (cpu_seconds(process) - before) / max(1, len(result.latencies))
        tell(server=arguments.server, quantize=arguments.quantize, cpu_ms=round(cpu, 3), **result.to_dict())
        if not result.good:
            break
        best, rate = rate, rate * arguments.factor
    tell(server=arguments.server, quantize=arguments.quantize, goodput=round(best, 2))


def measure_idle(arguments: argparse.Namespace, bodies: list[bytes], process: subprocess.Popen[bytes]) -> None:
    """Measure requests that hardly ever meet."""
    load(arguments.port, bodies, arguments.rate, _WARM_SECONDS, 99)
    before = cpu_seconds(process)
    result = load(arguments.port, bodies, arguments.rate, arguments.seconds, arguments.seed)
    cpu = 1000 * (cpu_seconds(process) - before) / max(1, len(result.latencies))
    tell(server=arguments.server, quantize=arguments.quantize, idle=True, cpu_ms=round(cpu, 3), **result.to_dict())


def measure_overload(arguments: argparse.Namespace, bodies: list[bytes], process: subprocess.Popen[bytes]) -> None:
    """Send twice `rate` for 20 seconds, then half of it; tell when the answers are in time again."""
    load(arguments.port, bodies, arguments.rate / 2, _WARM_SECONDS, 99)
    before = memory(process)
    heavy = load(arguments.port, bodies, 2 * arguments.rate, 20, arguments.seed)
    middle = memory(process)
    light = load(arguments.port, bodies, arguments.rate / 2, 10, arguments.seed + 1)
    late = [due for due, seconds in zip(light.ends, light.latencies, strict=True) if seconds > _LIMIT_SECONDS]
    sizes = {"megabytes": [round(size / 2**20, 1) for size in (before, middle, memory(process))]}
    tell(
        server=arguments.server,
        overload=heavy.to_dict(),
        then=light.to_dict(),
        last_late=max(late, default=0.0),
        **sizes,
    )


# The peers.


class Padded:
    """onnxruntime on padded batches: of all that waits up to `most` texts, oldest first."""

    def __init__(self, model: Path, graph: Path, most: int) -> None:
        import onnxruntime
        from transformers import AutoTokenizer

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])
        self._tokenizer = AutoTokenizer.from_pretrained(model).backend_tokenizer
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(512)
        labels = json.loads((model / "config.json").read_text())["id2label"]
        self._labels = [labels[str(place)] for place in range(len(labels))]
        self._most = most
        self._waiting: queue.Queue[tuple[list[int], Any]] = queue.Queue()
        threading.Thread(target=self._run, daemon=True).start()

    def submit(self, text: str, done: Any) -> None:
        """Tokenize a text, and let it wait; `done` gets its probabilities."""
        self._waiting.put((self._tokenizer.encode(text).ids, done))

    def _run(self) -> None:
        held: tuple[list[int], Any] | None = None
        while True:
            batch, held = [held or self._waiting.get()], None
            longest = len(batch[0][0])
            while len(batch) < self._most and not self._waiting.empty():
                held = self._waiting.get()
                longest = max(longest, len(held[0]))
                if longest * (len(batch) + 1) > _MOST_TOKENS:
                    break
                batch.append(held)
                held = None
            for (_, done), row in zip(batch, self._compute([ids for ids, _ in batch]), strict=True):
                done(row)

    def _compute(self, rows: list[list[int]]) -> list[list[dict[str, Any]]]:
        ids = np.zeros((len(rows), max(map(len, rows))), np.int64)
        mask = np.zeros_like(ids)
        for place, row in enumerate(rows):
            ids[place, : len(row)] = row
            mask[place, : len(row)] = 1
        inputs = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        (logits,) = self._session.run(None, inputs)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        order = np.argsort(-shares, axis=-1)
        return [
            [{"score": float(share[place]), "label": self._labels[place]} for place in places]
            for share, places in zip(shares, order, strict=True)
        ]


def serve_peer(arguments: argparse.Namespace) -> None:
    """Serve a peer."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    engine = Padded(arguments.model, arguments.graph, _MOST_TEXTS if arguments.server == "padded" else 1)

    async def predict(request: Request) -> Response:
        body, loop = json.loads(await request.body()), asyncio.get_running_loop()
        outcome = loop.create_future()
        engine.submit(body["inputs"], lambda row: loop.call_soon_threadsafe(outcome.set_result, row))
        return Response(json.dumps(await outcome), media_type="application/json")

    async def health(request: Request) -> Response:
        return Response()

    app = Starlette(routes=[Route("/predict", predict, methods=["POST"]), Route("/health", health)])
    uvicorn.run(app, port=arguments.port, log_level="error", access_log=False)


def main() -> None:
    """Run one measurement, or a peer."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("goodput", "idle", "overload", "peer"))
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--graph", type=Path)
    parser.add_argument("--server", choices=_SERVERS, required=True)
    parser.add_argument("--quantize", choices=("int8",))
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--column", default="text")
    parser.add_argument("--long", action="store_true", help="5%% of the texts have about 500 tokens")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second: the first one, or the only one")
    parser.add_argument("--factor", type=float, default=1.25)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=18_080)
    arguments = parser.parse_args()
    if arguments.what == "peer":
        serve_peer(arguments)
        return
    os.sched_setaffinity(0, {1})
    texts = read_texts(arguments.texts, arguments.column, 2000)
    bodies = [json.dumps({"inputs": text}).encode() for text in (with_long_ones(texts) if arguments.long else texts)]
    measure = {"goodput": find_goodput, "idle": measure_idle, "overload": measure_overload}[arguments.what]
    with started(arguments.server, arguments.model, arguments.quantize, arguments.port, core=0) as process:
        measure(arguments, bodies, process)


if __name__ == "__main__":
    main()
