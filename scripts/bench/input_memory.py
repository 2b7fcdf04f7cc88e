"""Time and memory of the input side alone: read and tokenize a file, then go through the batches of one epoch. Linux only.

    python scripts/bench/make_rows.py /tmp/rows.csv 1000000
    python scripts/bench/input_memory.py /tmp/rows.csv MODEL --cache_dir /tmp/tokens    # twice: cold, then from the cache

Resident memory is what the process itself holds (`anonymous`) and the pages of the token files that it has looked at
(`file`), which the kernel takes back when it needs them. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from pathlib import Path

from jaxbert.config import DataConfig
from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.label_column import LabelRules
from jaxbert.data.labels import encode, fit_labels
from jaxbert.data.packing import choose_layout
from jaxbert.data.sources import open_source
from jaxbert.data.store import prepare


def resident() -> dict[str, float]:
    """Return resident memory now, in MB."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {
        name: round(int(status[key].split()[0]) / 1024, 1)
        for name, key in (("anonymous", "RssAnon"), ("file", "RssFile"))
    }


def highest(peak: dict[str, float]) -> dict[str, float]:
    """Return the element-wise maximum of a peak and the current memory, in MB."""
    now = resident()
    return {name: max(peak[name], now[name]) for name in now}


def main() -> None:
    """Measure one start."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("model", help="a folder with a tokenizer")
    parser.add_argument("--cache_dir", type=Path)
    parser.add_argument("--batch_size", type=int, default=256)
    values = parser.parse_args()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(values.model)
    config = DataConfig()
    before = peak = resident()

    def watch(_: int) -> None:
        nonlocal peak
        peak = highest(peak)

    begin, cpu = time.perf_counter(), time.process_time()
    source = open_source(values.data, config, role="train", labelled=True)
    stored = prepare(source, tokenizer, 128, folder=values.cache_dir, on_rows=watch)
    assert stored.labels is not None
    labels = encode(stored.labels, fit_labels(stored.labels, LabelRules.of(config), None))
    layout = choose_layout(stored.tokens.lengths, values.batch_size)
    watch(0)
    prepared, prepared_cpu = time.perf_counter() - begin, time.process_time() - cpu
    begin, cpu, first = time.perf_counter(), time.process_time(), None
    quarters, steps = [], -(-len(labels) // values.batch_size)
    for step, _ in enumerate(batches(Examples(stored.tokens, labels), layout, values.batch_size, seed=0), 1):
        first = first or time.perf_counter() - begin
        if step * 4 % steps < 4:
            quarters.append(resident())
    result = {
        "rows": len(labels),
        "tokens": int(stored.tokens.lengths.sum(dtype="int64")),
        "before": before,
        "prepare_seconds": round(prepared, 2),
        "prepare_cpu_seconds": round(prepared_cpu, 2),
        "prepare_peak": peak,
        "first_batch_seconds": round(first or 0.0, 4),
        "epoch_seconds": round(time.perf_counter() - begin, 2),
        "epoch_cpu_seconds": round(time.process_time() - cpu, 2),
        "after_each_quarter": quarters,
    }
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
