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
  transformers                PyTorch with transformers' model, one text after the other
  infinity                    infinity_emb with PyTorch, from the environment that infinity_env.sh makes (--infinity)

The peers use the same HTTP libraries, tokenizer and JSON as `jaxbert serve`. `goodput` searches, within 10%, the highest
rate at which 99% of the answers are within 100 ms. Results are JSON lines; `cpu_ms` is the server's time of a
processor for a request, and `main_ms` that of its main thread.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import json
import os
import queue
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np

from jaxbert.bench.serving import LoadResult, cpu_seconds, find_goodput, offer_load, request_bodies, running_server

_PEERS = ("padded", "single", "transformers")
_SERVERS = ("jaxbert-jax", "jaxbert-onnx", *_PEERS, "infinity")
_MOST_TEXTS, _MOST_TOKENS = 8, 16_384
_WARM_SECONDS, _LIMIT_MS = 2.0, 100.0


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


def infinity_command(arguments: argparse.Namespace) -> list[str]:
    """Return the command of infinity_emb; it gets the port as its last word."""
    words = [arguments.infinity, "v2", "--model-id", str(arguments.model), "--served-model-name", "one"]
    return [*words, "--engine", "torch", "--device", "cpu", "--log-level", "error", "--port"]


def bodies_of(server: str, texts: list[str]) -> tuple[str, list[bytes]]:
    """Return the path of a server and a request for each text."""
    if server == "infinity":
        return "/classify", [json.dumps({"model": "one", "input": [text]}).encode() for text in texts]
    return "/predict", request_bodies(texts)


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


def main_seconds(process: subprocess.Popen[bytes]) -> float:
    """Return the processor seconds of a process's main thread, which reads requests and writes answers."""
    return int(Path(f"/proc/{process.pid}/task/{process.pid}/schedstat").read_text().split()[0]) / 1e9


def memory(process: subprocess.Popen[bytes]) -> int:
    """Return the resident bytes of a process."""
    return int(Path(f"/proc/{process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def tell(**values: Any) -> None:
    """Print a line of results."""
    print(json.dumps(values), flush=True)


def load(arguments: argparse.Namespace, bodies: list[bytes], rate: float, seconds: float, seed: int) -> LoadResult:
    """Offer a load to the server's path."""
    return offer_load(arguments.port, bodies, rate, seconds, seed, arguments.path)


def measured(
    arguments: argparse.Namespace, bodies: list[bytes], process: subprocess.Popen[bytes], rate: float
) -> LoadResult:
    """Measure one rate, and print it."""
    before = np.array([cpu_seconds(process), main_seconds(process)])
    result = load(arguments, bodies, rate, arguments.seconds, arguments.seed)
    spent = np.array([cpu_seconds(process), main_seconds(process)]) - before
    cpu, main = (1000 * spent / max(1, len(result.latencies))).round(3).tolist()
    tell(server=arguments.server, quantize=arguments.quantize, cpu_ms=cpu, main_ms=main, **result.to_dict())
    return result


def measure_goodput(arguments: argparse.Namespace, bodies: list[bytes], process: subprocess.Popen[bytes]) -> None:
    """Print the goodput, and each rate on the way."""
    load(arguments, bodies, arguments.rate / 2, _WARM_SECONDS, 99)
    best, _ = find_goodput(lambda rate: measured(arguments, bodies, process, rate), arguments.rate, _LIMIT_MS)
    tell(server=arguments.server, quantize=arguments.quantize, goodput=round(best, 2))


def measure_idle(arguments: argparse.Namespace, bodies: list[bytes], process: subprocess.Popen[bytes]) -> None:
    """Measure requests that hardly ever meet."""
    load(arguments, bodies, arguments.rate, _WARM_SECONDS, 99)
    measured(arguments, bodies, process, arguments.rate)


def measure_overload(arguments: argparse.Namespace, bodies: list[bytes], process: subprocess.Popen[bytes]) -> None:
    """Send twice `rate` for 20 seconds, then half of it; tell when the answers are in time again."""
    load(arguments, bodies, arguments.rate / 2, _WARM_SECONDS, 99)
    before = memory(process)
    heavy = load(arguments, bodies, 2 * arguments.rate, 20, arguments.seed)
    middle = memory(process)
    light = load(arguments, bodies, arguments.rate / 2, 10, arguments.seed + 1)
    late = [due for due, seconds in zip(light.dues, light.latencies, strict=True) if 1000 * seconds > _LIMIT_MS]
    sizes = {"megabytes": [round(size / 2**20, 1) for size in (before, middle, memory(process))]}
    found = {"overload": heavy.to_dict(), "then": light.to_dict(), "last_late": max(late, default=0.0)}
    tell(server=arguments.server, **found, **sizes)


# The peers.


class Padded:
    """onnxruntime on padded batches: of all that waits up to `most` texts, oldest first."""

    def __init__(self, model: Path, graph: Path, most: int) -> None:
        import onnxruntime

        settings = onnxruntime.SessionOptions()
        settings.intra_op_num_threads = settings.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(graph), settings, providers=["CPUExecutionProvider"])
        self._open(model, most)

    def _open(self, model: Path, most: int) -> None:
        from transformers import AutoTokenizer

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
        logits = self._logits(inputs)
        shares = np.exp(logits - logits.max(-1, keepdims=True))
        shares /= shares.sum(-1, keepdims=True)
        order = np.argsort(-shares, axis=-1)
        return [
            [{"score": float(share[place]), "label": self._labels[place]} for place in places]
            for share, places in zip(shares, order, strict=True)
        ]

    def _logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        return self._session.run(None, inputs)[0]


class Transformers(Padded):
    """PyTorch on one text after the other."""

    def __init__(self, model: Path) -> None:
        import torch
        from transformers import AutoModelForSequenceClassification

        torch.set_num_threads(1)
        self._model = AutoModelForSequenceClassification.from_pretrained(model).eval()
        self._open(model, 1)

    def _logits(self, inputs: dict[str, np.ndarray]) -> np.ndarray:
        import torch

        with torch.inference_mode():
            return self._model(**{name: torch.from_numpy(values) for name, values in inputs.items()}).logits.numpy()


def serve_peer(arguments: argparse.Namespace) -> None:
    """Serve a peer."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

    if arguments.server == "transformers":
        engine: Padded = Transformers(arguments.model)
    else:
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
    parser.add_argument("--batch_tokens", type=int, help="of jaxbert serve")
    parser.add_argument("--infinity", default=".venv-infinity/bin/infinity_emb", help="the program infinity_emb")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--column", default="text")
    parser.add_argument("--long", action="store_true", help="5%% of the texts have about 500 tokens")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second: the first one, or the only one")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--port", type=int, default=18_080)
    arguments = parser.parse_args()
    if arguments.what == "peer":
        serve_peer(arguments)
        return
    os.sched_setaffinity(0, {1})
    texts = read_texts(arguments.texts, arguments.column, 2000)
    arguments.path, bodies = bodies_of(arguments.server, with_long_ones(texts) if arguments.long else texts)
    measure = {"goodput": measure_goodput, "idle": measure_idle, "overload": measure_overload}[arguments.what]
    if arguments.server == "infinity":
        command = infinity_command(arguments)
    else:
        command = command_of(arguments.server, arguments.model, arguments.quantize)
    if arguments.batch_tokens and arguments.server.startswith("jaxbert"):
        command[-1:-1] = ["--batch_tokens", str(arguments.batch_tokens)]
    with running_server(["taskset", "-c", "0", *command, str(arguments.port)], arguments.port) as process:
        measure(arguments, bodies, process)


if __name__ == "__main__":
    main()
