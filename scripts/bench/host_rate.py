"""How fast processes plan and fill batches from a token cache on disk, and whether devices of a given speed would wait.

    python scripts/bench/host_rate.py --cache /tmp/host-tokens                      # lengths of SST-2, rows of 128 tokens
    python scripts/bench/host_rate.py --cache /tmp/host-tokens --lengths fixed:128  # texts of 128 tokens
    python scripts/bench/host_rate.py --cache /tmp/host-tokens --data train.tsv --model MODEL --quoting none

Needs no device and does not import JAX. Each worker is a process of its own that plays one of N processes of a run: it maps
the cache, plans every step and fills its own rows. Two measurements of each: as many batches as it can make in some
seconds, and batches through jaxbert's Prefetcher to a consumer that takes `--rate` real tokens a second, all processes
together, as the trainer does: it waits for the results of the step before each time. Of N processes only as many run at once
as the machine has cores (`--at_once`): they share no memory, so that the others would do the same on cores of their own.
Prints one JSON object for each batch size and N. Where `fastest_cpu_share` is below 1, other programs had the cores, and the
rates by the clock and the waits say little; processor times, the share of a core that is busy at `--rate` and the idle share
that is computed from them still hold. Linux only.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from input_memory import resident
from table import cpu_name

from jaxbert.config import DataConfig
from jaxbert.data.batches import Batch, Prefetcher, batch_size_of, batches, fill_rows
from jaxbert.data.examples import Examples
from jaxbert.data.packing import Layout, choose_layout, plan_epoch
from jaxbert.data.sources import open_source
from jaxbert.data.store import Stored, Writer, open_stored, prepare
from jaxbert.data.tokens import Encoded
from jaxbert.plan.lengths import draw_lengths

_PART = 100_000
"""Examples that are written to the cache at once."""
_VOCABULARY = 30_522
_LONGEST = 512


@dataclass(frozen=True)
class Work:
    """What a worker does."""

    cache: Path
    layout: Layout
    batch_size: int
    process: int
    processes: int
    seconds: float
    """Seconds of each measurement."""
    rate: float
    """Real tokens a second that the consumer takes, of all processes together."""


@dataclass
class Consumption:
    """What a consumer took."""

    steps: int = 0
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    waited: float = 0.0
    """Seconds in which the loop waited for a batch."""
    idle: float = 0.0
    """Seconds in which the device had nothing to do."""


def consume(
    source: Iterator[Batch],
    rate: float,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> Consumption:
    """Take batches through a Prefetcher for some seconds, as a device does that computes `rate` real tokens a second.

    The first step is not counted. As in the trainer, a step is dispatched while the one before runs, and then the loop
    waits until that one has ended.
    """
    taken = Consumption()
    with Prefetcher(source, batch_size_of) as loader:
        size = next(loader)
        before = clock()
        first_end = end = before + size.tokens / rate
        for size, waited in loader.timed():
            taken.steps += 1
            taken.examples += size.examples
            taken.tokens += size.tokens
            taken.waited += waited
            now = clock()
            taken.idle += max(0.0, now - end)
            before, end = end, max(end, now) + size.tokens / rate
            sleep(max(0.0, before - clock()))
            if end - first_end >= seconds:
                break
    taken.seconds = end - first_end
    return taken


def compute_waits(seconds: Sequence[float], tokens: Sequence[int], rate: float, depth: int = 3) -> tuple[float, float]:
    """Return the shares of the time in which the loop waits and the device is idle, if batches take these processor seconds.

    The same as `consume` on a core that no other program uses, computed and not measured, with a Prefetcher of this depth.
    With a single batch both are 0: there is nothing to wait for.
    """
    if len(seconds) < 2:
        return 0.0, 0.0
    taken = [seconds[0]]
    produced, waited, idle = seconds[0], 0.0, 0.0
    before, end = taken[0], taken[0] + tokens[0] / rate
    first_end = end
    for number, (needed, size) in enumerate(zip(seconds[1:], tokens[1:], strict=True), 1):
        # The batch before must have found room in the queue.
        produced = max(produced, taken[number - 1 - depth] if number > depth else 0.0) + needed
        asked = max(before, taken[-1])
        taken.append(max(produced, asked))
        waited += taken[-1] - asked
        idle += max(0.0, taken[-1] - end)
        before, end = end, max(end, taken[-1]) + size / rate
    return waited / (end - first_end), idle / (end - first_end)


def write_cache(folder: Path, lengths: np.ndarray) -> None:
    """Write tokens of these lengths as the token cache holds them."""
    rng = np.random.default_rng(0)
    with Writer(folder) as writer:
        for start in range(0, len(lengths), _PART):
            part = lengths[start : start + _PART]
            ids = rng.integers(1000, _VOCABULARY, int(part.sum())).astype(np.int32)
            writer.add(Encoded(ids, part, part, 0, np.zeros(0, np.int32)))
        writer.finish(None)


def endless(examples: Examples, work: Work) -> Iterator[Batch]:
    """Yield the worker's batches, epoch after epoch."""
    return itertools.chain.from_iterable(_epoch(examples, work, epoch) for epoch in itertools.count())


def _epoch(examples: Examples, work: Work, epoch: int) -> Iterator[Batch]:
    return batches(examples, work.layout, work.batch_size, seed=0, epoch=epoch, own_rows=lambda rows: _own(rows, work))


def _own(rows: int, work: Work) -> np.ndarray | None:
    """Return the rows of a process: one range, as a mesh gives them to its devices."""
    if work.processes == 1:
        return None
    return np.arange(rows) * work.processes // rows == work.process


def open_examples(cache: Path) -> Examples:
    """Map the cache; every example has label 0."""
    stored = open_stored(cache, "the cache")
    return Examples(stored.tokens, np.zeros(len(stored.tokens), np.int32))


def _timed(
    items: Iterator[Any], seconds: float, tokens: Callable[[Any], tuple[int, int]], rate: float
) -> dict[str, float]:
    """Take items for some seconds; return the rates by wall clock and the processor time of an example."""
    sizes, times = [], []
    begin, cpu = time.perf_counter(), time.process_time()
    for item in items:
        sizes.append(tokens(item))
        times.append(time.process_time())
        if time.perf_counter() - begin >= seconds:
            break
    wall, used = time.perf_counter() - begin, times[-1] - cpu
    examples, real = np.sum(sizes, axis=0).tolist()
    waited, idle = compute_waits(np.diff(times, prepend=cpu), [size for _, size in sizes], rate)
    return {
        "examples_per_second": round(examples / wall),
        "real_tokens_per_second": round(real / wall),
        "cpu_microseconds_an_example": round(used / examples * 1e6, 3),
        "cpu_share": round(used / wall, 3),
        "core_share_at_rate": round(used / real * rate, 3),
        "computed_waited_share": round(waited, 5),
        "computed_idle_share": round(idle, 5),
    }


def parts(work: Work) -> dict[str, Any]:
    """Measure the planner alone and the filler alone, in one process with all rows."""
    examples = open_examples(work.cache)
    lengths = examples.tokens.lengths

    def plans() -> Iterator[Any]:
        for epoch in itertools.count():
            yield from plan_epoch(lengths, work.layout, work.batch_size, seed=0, epoch=epoch)

    def size(plan: Any) -> tuple[int, int]:
        return len(plan.example_ids), int(lengths[plan.example_ids].sum())

    few = list(itertools.islice(plans(), 64))
    filled = ((plan, fill_rows(plan, work.layout, examples)) for plan in itertools.cycle(few))
    epoch = list(plan_epoch(lengths, work.layout, work.batch_size, seed=0))
    row_tokens = sum(plan.num_rows for plan in epoch) * work.layout.row_length
    return {
        "packing_efficiency": round(int(lengths.sum(dtype=np.int64)) / row_tokens, 4),
        "row_counts": sorted({plan.num_rows for plan in epoch}),
        "plan": _timed(plans(), work.seconds, size, work.rate),
        "fill": _timed(filled, work.seconds, lambda pair: size(pair[0]), work.rate),
    }


def memory(work: Work) -> list[dict[str, float]]:
    """Return the resident memory before an epoch and after each quarter of it, in MB."""
    examples = open_examples(work.cache)
    steps, held = -(-len(examples) // work.batch_size), [resident()]
    for step, _ in enumerate(_epoch(examples, work, 0), 1):
        if step * 4 % steps < 4:
            held.append(resident())
    return held


def _worker(work: Work, start: Any, results: Any) -> None:
    """Play one process: make batches as fast as possible, then for a consumer; all workers start together."""
    examples = open_examples(work.cache)
    lengths = examples.tokens.lengths

    def size(batch: Batch) -> tuple[int, int]:
        ids = batch["example_ids"][batch["example_mask"]]
        return len(ids), int(lengths[ids].sum())

    start.wait()
    fastest = _timed(endless(examples, work), work.seconds, size, work.rate)
    start.wait()
    cpu = time.process_time()
    taken = consume(endless(examples, work), work.rate, work.seconds)
    used = time.process_time() - cpu
    results.put((work.process, fastest, asdict(taken) | {"cpu_share": used / taken.seconds}))


def play(works: list[Work]) -> list[tuple[int, dict[str, float], dict[str, float]]]:
    """Run workers at once; return what each found."""
    context = multiprocessing.get_context("spawn")
    most = 60 + 10 * works[0].seconds
    start, results = context.Barrier(len(works), timeout=most), context.Queue()
    # Daemons, so that none is left over if one of them fails.
    running = [context.Process(target=_worker, args=(work, start, results), daemon=True) for work in works]
    for process in running:
        process.start()
    found = [results.get(timeout=most) for _ in running]
    for process in running:
        process.join()
    return sorted(found, key=lambda one: one[0])


def _summary(processes: int, found: list[tuple[int, dict[str, float], dict[str, float]]]) -> dict[str, Any]:
    """Return what the processes of one N found; of the rates the slowest counts, since all take the same steps."""
    consumed = [taken for *_, taken in found]
    return {
        "processes": processes,
        "running": [process for process, *_ in found],
        "fastest_real_tokens_per_second": min(fastest["real_tokens_per_second"] for _, fastest, _ in found),
        "fastest_cpu_share": min(fastest["cpu_share"] for _, fastest, _ in found),
        **{
            name: max(fastest[name] for _, fastest, _ in found)
            for name in (
                "cpu_microseconds_an_example",
                "core_share_at_rate",
                "computed_waited_share",
                "computed_idle_share",
            )
        },
        "consumed_real_tokens_per_second": round(min(taken["tokens"] / taken["seconds"] for taken in consumed)),
        "waited_share": round(max(taken["waited"] / taken["seconds"] for taken in consumed), 5),
        "idle_share": round(max(taken["idle"] / taken["seconds"] for taken in consumed), 5),
        "cpu_share": round(max(taken["cpu_share"] for taken in consumed), 3),
    }


def _stored(values: argparse.Namespace) -> Stored:
    """Return the tokens of `--data`, or drawn ones of `--lengths`, from a cache on disk."""
    values.cache.mkdir(parents=True, exist_ok=True)
    if values.data is None:
        name = f"{values.lengths.replace(':', '-').replace('/', '_')}-{values.examples}"
        folder = values.cache / name
        if not folder.is_dir():
            partial = Path(tempfile.mkdtemp(dir=values.cache))
            write_cache(partial, draw_lengths(values.lengths, values.examples, _LONGEST, 0))
            partial.rename(folder)
    else:
        from transformers import AutoTokenizer

        config = DataConfig(text=values.text, quoting=values.quoting)
        source = open_source(str(values.data), config, role="train", labelled=False)
        folder = values.cache / "data"
        stored = prepare(source, AutoTokenizer.from_pretrained(values.model), _LONGEST)
        folder.mkdir(exist_ok=True)
        write_cache(folder, np.asarray(stored.tokens.lengths))
    values.folder = folder
    return open_stored(folder, "the cache")


def main() -> None:
    """Measure every batch size with every number of processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="a folder for the token caches")
    parser.add_argument("--lengths", default="sst2", help="as for jaxbert plan")
    parser.add_argument("--examples", type=int, default=2_000_000)
    parser.add_argument("--data", type=Path, help="a file whose texts are tokenized, instead of --lengths")
    parser.add_argument("--model", help="a folder with a tokenizer, for --data")
    parser.add_argument("--text", help="the column of texts, for --data")
    parser.add_argument("--quoting", default="auto")
    parser.add_argument("--row_length", type=int, default=128)
    parser.add_argument("--devices", type=int, default=8, help="row counts are multiples of it")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1024, 4096, 16384])
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2, 8])
    parser.add_argument("--at_once", type=int, default=os.cpu_count())
    parser.add_argument("--rate", type=float, default=6e6, help="real tokens a second, all devices together")
    parser.add_argument("--seconds", type=float, default=10.0)
    values = parser.parse_args()
    if values.data is not None and values.model is None:
        parser.error("--data needs --model, a folder with a tokenizer")
    if values.at_once < 1:
        parser.error("--at_once must be at least 1")
    lengths = _stored(values).tokens.lengths
    about = {
        "processor": f"{os.cpu_count()} cores of {cpu_name()}",
        "python": platform.python_version(),
        "numpy": np.__version__,
        "examples": len(lengths),
        "mean_tokens": round(float(lengths.mean()), 2),
    }
    print(json.dumps(about))
    for batch_size in values.batch_sizes:
        layout = choose_layout(lengths, batch_size, row_length=values.row_length, row_multiple=values.devices, seed=0)
        work = Work(values.folder, layout, batch_size, 0, 1, values.seconds, values.rate)
        print(json.dumps({"batch_size": batch_size, **parts(work), "memory": memory(work)}), flush=True)
        for count in values.processes:
            chosen = np.unique(np.linspace(0, count - 1, min(count, values.at_once)).round().astype(int)).tolist()
            works = [Work(values.folder, layout, batch_size, p, count, values.seconds, values.rate) for p in chosen]
            print(json.dumps({"batch_size": batch_size, **_summary(count, play(works))}), flush=True)


if __name__ == "__main__":
    main()
