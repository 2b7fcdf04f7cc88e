"""How full packed rows are on real lengths."""

from __future__ import annotations

import numpy as np
import pytest
from transformers import BertTokenizer

from jaxbert.config import DataConfig
from jaxbert.data.packing import choose_layout, plan_epoch
from jaxbert.data.sources import open_source
from jaxbert.data.store import prepare
from jaxbert.plan.lengths import draw_lengths


@pytest.fixture(scope="module")
def sst2_lengths(shared_data):
    config = DataConfig(text="sentence", quoting="none")
    source = open_source(str(shared_data / "glue_SST-2" / "train.tsv"), config, role="train", labelled=True)
    tokenizer = BertTokenizer(vocab=str(shared_data / "vocab" / "bert-base-uncased-vocab.txt"))
    return prepare(source, tokenizer, 512).tokens.lengths


@pytest.mark.real
@pytest.mark.parametrize(("batch_size", "least"), [(32, 0.90), (256, 0.97), (1024, 0.98), (4096, 0.98), (16384, 0.98)])
def test_rows_of_sst2_are_full(sst2_lengths, batch_size, least, capsys):
    layout = choose_layout(sst2_lengths, batch_size, seed=0)
    plans = list(plan_epoch(sst2_lengths, layout, batch_size, seed=0, epoch=1))
    row_tokens = sum(plan.num_rows for plan in plans) * layout.row_length
    efficiency = sst2_lengths.sum(dtype=np.int64) / row_tokens
    shapes = {plan.num_rows for plan in plans}
    with capsys.disabled():
        print(f"\n  SST-2, batch {batch_size}: {efficiency:.2%} of row tokens are real, {layout}", end=" ")
    assert efficiency >= least
    assert len(shapes) <= len(layout.row_counts) <= 4


@pytest.mark.parametrize("batch_size", [1024, 4096, 16384, 40_000])
def test_rows_of_128_tokens_are_full_in_large_steps(batch_size):
    """16,384 examples are four groups, 40,000 are nine."""
    lengths = draw_lengths("sst2", 2 * batch_size, 128, seed=0)
    layout = choose_layout(lengths, batch_size, row_length=128, seed=0)
    rows = sum(plan.num_rows for plan in plan_epoch(lengths, layout, batch_size, seed=0))
    assert lengths.sum() >= 0.98 * rows * 128
