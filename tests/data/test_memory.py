"""Memory does not grow with the data: 500,000 rows take what 100,000 take, reading them and going through an epoch."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from runs import finish, python

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
from jaxbert.data.labels import fit_labels
from jaxbert.data.label_column import LabelRules
from jaxbert.data.labels import encode
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.data.store import prepare
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


_MEASURE_TAGS = """
import json, random, sys
from pathlib import Path
from transformers import BertTokenizer
from jaxbert.config import Config, DataConfig
from jaxbert.data import items
from jaxbert.data.batches import batches
from jaxbert.data.packing import choose_layout
from jaxbert.tasks import task_class
from jaxbert.tasks.reading import ReadingProgress

def anonymous():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("RssAnon:")[2].split()[0]) / 1024

def watch(*_):
    global peak
    peak = max(peak, anonymous())

path, count, kind = Path(sys.argv[1]).with_suffix(".jsonl"), int(sys.argv[2]), sys.argv[3]
items.PART_CHARACTERS = 2**17  # what is held of a part does not hide what is held of all
words = "one two three four five six seven eight nine ten".split()
vocab = path.with_suffix(".vocab")
vocab.write_text("\\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\\n")
rng = random.Random(0)
with open(path, "w") as file:
    for i in range(count):
        tokens = rng.choices(words, k=8)
        row = {"tokens": tokens, "tags": rng.choices(["O", "B-X"], k=8)}
        if kind == "question_answering":
            answers = [{"text": tokens[0], "answer_start": 0}]
            row = {"question": words[i % 9], "context": " ".join(tokens), "answers": answers}
        file.write(json.dumps(row) + "\\n")
ReadingProgress.add = watch
tokenizer = BertTokenizer(vocab=str(vocab))
data = DataConfig(train=str(path), cache_dir=str(path.parent / f"cache-{count}"))
peaks = []
for _ in range(2):
    peak = before = anonymous()
    inputs = task_class(kind).read(Config(kind, data=data), tokenizer, 32)
    watch()
    for step, _ in enumerate(batches(inputs.train, choose_layout(inputs.train.tokens.lengths, 256), 256, seed=0)):
        step % 50 or watch()
    peaks.append(peak - before)
print(json.dumps(peaks))
"""


def measure(folder: Path, count: int, code: str = _MEASURE, *more: str) -> Any:
    """Return the megabytes that reading needed at its peak, and what was held after each quarter of an epoch."""
    code, out, err = finish(python("-c", code, str(folder / "rows.csv"), str(count), *more))
    assert code == 0, err
    return json.loads(out)


def test_memory_is_flat(tmp_path, capsys):
    small, large = measure(tmp_path, 100_000), measure(tmp_path, 500_000)
    with capsys.disabled():
        print(f"\n  MB held, 100,000 and 500,000 rows: {small}, {large}", end=" ")
    # Beside the label of each row (4 bytes), nothing: the texts alone are 35 MB and as strings twice that.
    assert large["reading"] < small["reading"] + 10
    assert large["quarters"][-1] < small["quarters"][-1] + 10
    assert large["quarters"][-1] - large["quarters"][0] < 5
    assert len(large["quarters"]) == 4


@pytest.mark.parametrize("kind", ["token_classification", "question_answering"])
def test_memory_of_items_is_flat(tmp_path, capsys, kind):
    """At the first start and from the cache."""
    small, large = (measure(tmp_path, count, _MEASURE_TAGS, kind) for count in (10_000, 40_000))
    with capsys.disabled():
        print(f"\n  MB held, 10,000 and 40,000 items: {small}, {large}", end=" ")
    # 30,000 items as Python objects would be 30 MB; their tokens 1 MB, and what each example has in memory, 64 bytes, 2 MB.
    assert large[0] < small[0] + 8
    assert large[1] < small[1] + 8
