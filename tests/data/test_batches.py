"""The packed batch is the contract between data and everything else: each key, shape and dtype."""

from __future__ import annotations

import numpy as np
import pytest
from runs import ids_of, random_tokens

from jaxbert.data import packing
from jaxbert.data.batches import batch_size_of, batches, fill_rows
from jaxbert.data.examples import Examples
from jaxbert.data.packing import Layout, choose_layout, padded_layout, plan_epoch

COUNT, BATCH_SIZE = 75, 20


@pytest.fixture(params=["packed", "padded"])
def case(request):
    tokens = random_tokens(COUNT)
    if request.param == "packed":
        layout = choose_layout(tokens.lengths, BATCH_SIZE, row_multiple=2, seed=1)
        assert layout.slots > 1
    else:
        layout = padded_layout(tokens.lengths, BATCH_SIZE, None, 2)
    return tokens, layout


def labels_of(count: int) -> np.ndarray:
    return (np.arange(count) * 7 % 5).astype(np.int32)


def test_keys_shapes_and_dtypes(case):
    tokens, layout = case
    for batch in batches(Examples(tokens, labels_of(COUNT)), layout, BATCH_SIZE, seed=1):
        rows = batch["input_ids"].shape[0]
        assert rows in layout.row_counts
        by_token = dict.fromkeys(("input_ids", "token_type_ids", "segment_ids", "position_ids"), np.int32)
        by_slot = {"cls_positions": np.int32, "labels": np.int32, "example_mask": np.bool_, "example_ids": np.int64}
        assert batch.keys() == by_token.keys() | by_slot.keys()
        for name, dtype in by_token.items():
            assert (batch[name].dtype, batch[name].shape) == (dtype, (rows, layout.row_length)), name
        for name, dtype in by_slot.items():
            assert (batch[name].dtype, batch[name].shape) == (dtype, (rows, layout.slots)), name


def test_each_example_lies_whole_in_its_slot(case):
    tokens, layout = case
    labels = labels_of(COUNT)
    seen = []
    for batch in batches(Examples(tokens, labels), layout, BATCH_SIZE, seed=1):
        for row, slot in np.argwhere(batch["example_mask"]):
            example = batch["example_ids"][row, slot]
            seen.append(example)
            here = batch["segment_ids"][row] == slot + 1
            length = tokens.lengths[example]
            begin = batch["cls_positions"][row, slot]
            np.testing.assert_array_equal(np.flatnonzero(here), begin + np.arange(length))
            ids = ids_of(tokens, example)
            np.testing.assert_array_equal(batch["input_ids"][row, here], ids)
            np.testing.assert_array_equal(batch["position_ids"][row, here], np.arange(length))
            second = (np.arange(length) >= tokens.first_lengths[example]).astype(int)
            np.testing.assert_array_equal(batch["token_type_ids"][row, here], second)
            assert batch["labels"][row, slot] == labels[example]
    assert sorted(seen) == list(range(COUNT))


def test_what_is_unused_is_zero(case):
    tokens, layout = case
    for batch in batches(Examples(tokens, labels_of(COUNT)), layout, BATCH_SIZE, seed=1):
        padding = batch["segment_ids"] == 0
        for name in ("input_ids", "token_type_ids", "position_ids"):
            assert not batch[name][padding].any(), name
        unused = ~batch["example_mask"]
        for name in ("cls_positions", "labels", "example_ids"):
            assert not batch[name][unused].any(), name
        assert batch["segment_ids"].max() <= layout.slots
        used_slots = batch["example_mask"].sum(1)
        np.testing.assert_array_equal(batch["segment_ids"].max(1), used_slots)


def test_labels_may_have_axes_of_their_own_or_be_absent():
    tokens = random_tokens(10)
    layout = choose_layout(tokens.lengths, 10)
    plan = next(plan_epoch(tokens.lengths, layout, 10, seed=0))
    labels = np.random.default_rng(0).random((10, 3, 2))
    batch = fill_rows(plan, layout, Examples(tokens, labels))
    assert batch["labels"].shape == (plan.num_rows, layout.slots, 3, 2)
    mask = batch["example_mask"]
    np.testing.assert_array_equal(batch["labels"][mask], labels[batch["example_ids"][mask]])
    assert "labels" not in fill_rows(plan, layout, Examples(tokens))


def test_counts_of_a_batch(case):
    tokens, layout = case
    for batch in batches(Examples(tokens), layout, BATCH_SIZE, seed=1):
        ids = batch["example_ids"][batch["example_mask"]]
        size = batch_size_of(batch)
        assert size.examples == ids.size
        assert size.tokens == tokens.lengths[ids].sum()
        assert size.row_tokens == batch["input_ids"].size
        assert size.attended_pairs == (tokens.lengths[ids].astype(int) ** 2).sum()
        assert size.computed_pairs == size.row_tokens * layout.row_length


@pytest.mark.parametrize("tile", [1, 4, 16])
def test_pairs_of_the_tiles_that_touch_a_segment(case, tile):
    """Tiles of one token are the squares of the segments, padding being one; others skip padding off the diagonal."""
    tokens, layout = case
    for batch in batches(Examples(tokens), layout, BATCH_SIZE, seed=1):
        pairs = 0
        for row in batch["segment_ids"]:
            tiles = [
                set(row[start : start + tile].tolist()) - ({0} if tile > 1 else set())
                for start in range(0, len(row), tile)
            ]
            pairs += sum(
                tile**2 for i, one in enumerate(tiles) for j, other in enumerate(tiles) if one & other or i == j
            )
        size = batch_size_of(batch, tile)
        assert size.computed_pairs == pairs
        if tile == 1:
            assert pairs > size.attended_pairs


def test_going_on_gives_the_tail(case):
    tokens, layout = case
    whole = list(batches(Examples(tokens), layout, BATCH_SIZE, seed=1, epoch=3))
    tail = list(batches(Examples(tokens), layout, BATCH_SIZE, seed=1, epoch=3, first_step=2))
    assert len(whole) == 4
    for batch, expected in zip(tail, whole[2:], strict=True):
        for name, array in expected.items():
            np.testing.assert_array_equal(batch[name], array, err_msg=name)


def test_an_example_that_fills_a_row_to_its_end():
    tokens = random_tokens(6, longest=3)
    layout = Layout(row_length=3, row_counts=(6,), slots=1)
    (batch,) = batches(Examples(tokens), layout, 6, seed=0)
    assert batch["segment_ids"].all()


@pytest.mark.parametrize("processes", [1, 2, 4, 8])
def test_the_rows_of_all_processes_are_the_batch(monkeypatch, processes):
    """In steps of several groups; the place of every example is the same in each process."""
    monkeypatch.setattr(packing, "GROUP", 50)
    tokens = random_tokens(1100)
    examples = Examples(tokens, labels_of(1100))
    layout = choose_layout(tokens.lengths, 400, row_multiple=8, seed=1)

    def steps(number: int | None):
        own = None if number is None else lambda rows: np.arange(rows) * processes // rows == number
        return batches(examples, layout, 400, seed=1, **({} if own is None else {"own_rows": own}))

    for whole, *shares in zip(steps(None), *map(steps, range(processes)), strict=True):
        for name, array in whole.items():
            if name in ("input_ids", "token_type_ids", "position_ids", "segment_ids"):
                joined = sum(share[name] for share in shares)
                np.testing.assert_array_equal(joined, array, err_msg=name)
            else:
                for share in shares:
                    np.testing.assert_array_equal(share[name], array, err_msg=name)


def test_a_process_without_segments_fills_nothing(case):
    tokens, layout = case
    batch = next(batches(Examples(tokens), layout, BATCH_SIZE, seed=1, own_rows=lambda rows: np.zeros(rows, bool)))
    assert not batch["segment_ids"].any()
    assert batch["example_mask"].sum() == BATCH_SIZE


def test_rows_of_others_are_left_empty(case):
    """What says where examples lie is whole in every process; the tokens are only where they are wanted."""
    tokens, layout = case

    def odd(num_rows):
        return np.arange(num_rows) % 2 == 1

    whole = batches(Examples(tokens, labels_of(COUNT)), layout, BATCH_SIZE, seed=1)
    share = batches(Examples(tokens, labels_of(COUNT)), layout, BATCH_SIZE, seed=1, own_rows=odd)
    for batch, part in zip(whole, share, strict=True):
        own = odd(len(batch["input_ids"]))
        for name, array in batch.items():
            if name in ("input_ids", "token_type_ids", "position_ids", "segment_ids"):
                np.testing.assert_array_equal(part[name][own], array[own], err_msg=name)
                assert not part[name][~own].any(), name
            else:
                np.testing.assert_array_equal(part[name], array, err_msg=name)
        assert batch_size_of(part) == batch_size_of(batch)
