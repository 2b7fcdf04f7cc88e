"""The script that times the Flax classes packs the very examples that it pads."""

from __future__ import annotations

import flax_speed
import numpy as np


def test_packed_batches_hold_the_padded_examples():
    rng = np.random.default_rng(0)
    padded = []
    for _ in range(2):
        shown = (np.arange(flax_speed.LENGTH) < rng.integers(3, 60, (flax_speed.SIZE, 1))).astype(np.int32)
        ids = rng.integers(1, 99, shown.shape).astype(np.int32) * shown
        labels = rng.integers(0, 2, len(ids)).astype(np.int32)
        padded.append({"input_ids": ids, "attention_mask": shown, "token_type_ids": 0 * ids, "labels": labels})
    packed = flax_speed.packed_batches(padded)
    assert {batch["input_ids"].shape[1] for batch in packed} == {flax_speed.LENGTH}
    assert all(len(batch["input_ids"]) < flax_speed.SIZE / 2 for batch in packed)
    for batch, rows in zip(packed, padded, strict=True):
        found = []
        for r, slot in zip(*np.nonzero(batch["weights"]), strict=True):
            mine = batch["segment_ids"][r] == slot + 1
            assert mine.argmax() == batch["cls_positions"][r, slot]
            found.append((*batch["input_ids"][r][mine], batch["labels"][r, slot]))
        lengths = rows["attention_mask"].sum(1)
        expected = [(*rows["input_ids"][i, :n], rows["labels"][i]) for i, n in enumerate(lengths)]
        assert sorted(found) == sorted(expected)
