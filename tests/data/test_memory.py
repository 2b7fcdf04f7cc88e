"""Memory does not grow with the data: 500,000 rows take what 100,000 take, reading them and going through an epoch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc"),
]

# A process of its own, because a process does not give back all memory that it once had. Its tokenizer stands in for a real
# one, which would take minutes for so many rows.
_MEASURE = """
import json, sys
from pathlib import Path
from jaxbert.config import DataConfig
from jaxbert.data.batches import batches
from jaxbert.data.label_fit import fit_labels
from jaxbert.data.label_names import LabelRules
from jaxbert.data.labels import encode
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.data.prepare import prepare
from jaxbert.data.sources import open_source

def tokenizer(texts, pairs, **_):
    ids = [[1, *range(2, 2 + text.count(" ")), 3] for text in texts]
    return {"input_ids": ids, "token_type_ids": [[0] * len(row) for row in ids]}

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024

def watch(_):
    global peak
    peak = max(peak, anonymous())

path, count = sys.argv[1], int(sys.argv[2])
with open(path, "w") as file:
    file.write("text,label\\n")
    for i in range(count):
        file.write(f"text number {i} of some ten words with {'more ' * (i % 8)}or less,{i % 4}\\n")
peak = before = anonymous()
stored = prepare(open_source(path, DataConfig(), role="train", labelled=True), tokenizer, 64, on_rows=watch)
labels = encode(stored.labels, fit_labels(stored.labels, LabelRules(), None))
layout = choose_layout(stored.tokens.lengths, 256)
watch(0)
reading, quarters, steps = peak - before, [], -(-count // 256)
for step, _ in enumerate(batches(Examples(stored.tokens, labels), layout, 256, seed=0), 1):
    if step * 4 % steps < 4:
        quarters.append(anonymous() - before)
print(json.dumps({"reading": reading, "quarters": quarters}))
"""


def measure(folder: Path, count: int) -> dict:
    """Return the megabytes that reading needed at its peak, and what was held after each quarter of an epoch."""
    code = [sys.executable, "-c", _MEASURE, str(folder / "rows.csv"), str(count)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(code, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_memory_is_flat(tmp_path, capsys):
    small, large = measure(tmp_path, 100_000), measure(tmp_path, 500_000)
    with capsys.disabled():
        print(f"\n  MB held, 100,000 and 500,000 rows: {small}, {large}", end=" ")
    # Beside the label of each row (4 bytes), nothing: the texts alone are 35 MB and as strings twice that.
    assert large["reading"] < small["reading"] + 10
    assert large["quarters"][-1] < small["quarters"][-1] + 10
    assert large["quarters"][-1] - large["quarters"][0] < 5
    assert len(large["quarters"]) == 4
