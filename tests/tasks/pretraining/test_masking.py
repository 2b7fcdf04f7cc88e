"""Masks are drawn per (seed, epoch, example): right in number and kind, words whole, the same however rows are laid out."""

from __future__ import annotations

import numpy as np
import pytest
from runs import VOCAB
from transformers import BertTokenizer

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import Layout, choose_layout, padded_layout
from jaxbert.data.tokens import Tokens
from jaxbert.errors import UserError
from jaxbert.tasks.pretraining.corpus import INSIDE_WORD
from jaxbert.tasks.pretraining.masking import FREQUENCIES, Masking, MaskingVocabulary, frequency_groups

CLS, SEP, MASK, UNK, FIRST, SIZE = 2, 3, 4, 1, 5, 105
"""Of a made-up vocabulary whose last 40 tokens go on with a word."""
INSIDE = 65


def vocabulary() -> MaskingVocabulary:
    ids = np.arange(SIZE)
    return MaskingVocabulary(ids >= FIRST, ids >= INSIDE, ids[FIRST:].astype(np.int32), MASK)


def masking(**changes) -> Masking:
    return Masking(
        **({"vocabulary": vocabulary(), "probability": 0.15, "whole_words": False, "specials": 3, "seed": 0} | changes),
        frequencies=frequency_groups(np.arange(SIZE)),
    )


def examples(count: int = 300, seed: int = 0, longest: int = 60, inside: float = 0.4) -> Tokens:
    """Pairs of random words, some of several tokens."""
    rng = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        body = np.where(
            rng.random(rng.integers(2, longest)) < inside, rng.integers(INSIDE, SIZE), rng.integers(FIRST, INSIDE)
        )
        cut = rng.integers(1, len(body))
        rows.append(np.concatenate([[CLS], body[:cut], [SEP], body[cut:], [SEP]]).astype(np.int32))
    lengths = np.array([len(row) for row in rows], np.int32)
    return Tokens.from_lengths(np.concatenate(rows), lengths, lengths // 2)


def dressed(
    tokens: Tokens, how: Masking, layout: Layout | None = None, epoch: int = 0, batch_size: int = 32, first: int = 0
):
    layout = layout or choose_layout(tokens.lengths, batch_size, row_length=128)
    for batch in batches(Examples(tokens), layout, batch_size, seed=0, epoch=epoch, first_step=first):
        yield batch, how.collate(batch, epoch)


def by_example(pairs) -> dict[int, list[tuple[int, int, int]]]:
    """Return what each example predicts: (position in the example, label, token shown)."""
    found: dict[int, list[tuple[int, int, int]]] = {}
    for _, batch in pairs:
        for row, example_ids in enumerate(batch["example_ids"]):
            for slot in np.flatnonzero(batch["example_mask"][row]):
                found[int(example_ids[slot])] = []
            for at, label, weight in zip(
                *(batch[f"masked_{n}"][row] for n in ("positions", "labels", "weights")), strict=True
            ):
                if weight:
                    example = int(example_ids[batch["segment_ids"][row, at] - 1])
                    shown = int(batch["input_ids"][row, at])
                    found[example].append((int(batch["position_ids"][row, at]), int(label), shown))
    return found


def test_shares_of_kinds():
    labels, shown, tokens = [], [], 0
    data = examples(inside=0.0)
    for epoch in range(4):
        for before, batch in dressed(data, masking(), epoch=epoch):
            real = batch["masked_weights"] > 0
            rows = np.nonzero(real)[0]
            labels.append(batch["masked_labels"][real])
            shown.append(batch["input_ids"][rows, batch["masked_positions"][real]])
            tokens += (before["input_ids"] >= FIRST).sum()
    label, seen = np.concatenate(labels), np.concatenate(shown)
    count = len(label)
    # Four standard deviations.
    assert abs(count / tokens - 0.15) < 0.004
    assert abs((seen == MASK).mean() - 0.8) < 4 * np.sqrt(0.16 / count)
    kept = 0.1 + 0.1 / (SIZE - FIRST)
    assert abs((seen == label).mean() - kept) < 4 * np.sqrt(0.09 / count)
    other = seen[(seen != MASK) & (seen != label)]
    assert set(other.tolist()) == set(range(FIRST, SIZE))
    assert (label >= FIRST).all()


def test_what_is_predicted_was_there():
    for before, batch in dressed(examples(), masking()):
        real = batch["masked_weights"] > 0
        rows, at = np.nonzero(real)[0], batch["masked_positions"][real]
        assert (before["input_ids"][rows, at] == batch["masked_labels"][real]).all()
        restored = batch["input_ids"].copy()
        restored[rows, at] = batch["masked_labels"][real]
        assert (restored == before["input_ids"]).all()  # nothing else changed, special tokens least of all
        assert len(set(zip(rows.tolist(), at.tolist(), strict=True))) == len(at)
        assert not batch["masked_positions"][~real].any()
        assert {n: a.dtype.name for n, a in batch.items() if n.startswith("masked")} == {
            "masked_positions": "int32", "masked_labels": "int32", "masked_weights": "float32"
        }  # fmt: skip


def test_words_are_masked_whole():
    data, chosen, long = examples(), 0, 0
    for example, masked in by_example(dressed(data, masking(whole_words=True))).items():
        ids = data.ids[data.begins[example] :][: data.lengths[example]]
        positions = {position for position, _, _ in masked}
        starts = [i for i in range(len(ids)) if ids[i] >= FIRST and (ids[i] < INSIDE or ids[i - 1] < FIRST)]
        for start in starts:
            end = next(j for j in range(start + 1, len(ids)) if not ids[j] >= INSIDE)
            inside = {p in positions for p in range(start, end)}
            assert len(inside) == 1
            chosen += inside == {True}
            long += inside == {True} and end - start > 1
    assert chosen > 300
    assert long > 50


def test_tokens_alone_break_words():
    """The check above can fail."""
    data = examples()
    broken = 0
    for example, masked in by_example(dressed(data, masking())).items():
        ids = data.ids[data.begins[example] :][: data.lengths[example]]
        positions = {position for position, _, _ in masked}
        broken += any(ids[p] < INSIDE <= ids[p + 1] and p + 1 not in positions for p in positions)
    assert broken > 50


def test_marked_tokens_belong_to_the_word_before():
    words = np.array([CLS, 10, 11, 12, 13, 14, 15, SEP], np.int32)
    words[[2, 5]] += INSIDE_WORD
    data = Tokens.from_lengths(np.tile(words, 200), np.full(200, 8, np.int32), np.full(200, 8, np.int32))
    found = by_example(dressed(data, masking(whole_words=True, specials=2, probability=0.4)))
    assert sum(map(len, found.values())) > 200
    for masked in found.values():
        positions = {position for position, _, _ in masked}
        assert ((1 in positions), (4 in positions)) == ((2 in positions), (5 in positions))
        assert all(label < INSIDE_WORD for _, label, _ in masked)
    for _, batch in dressed(data, masking()):
        assert batch["input_ids"].max() < INSIDE_WORD


@pytest.mark.parametrize("whole_words", [False, True])
def test_layout_changes_nothing(whole_words):
    data, how = examples(), masking(whole_words=whole_words)
    packed = by_example(dressed(data, how))
    assert len(packed) == len(data)
    assert sum(map(len, packed.values())) > 500
    assert by_example(dressed(data, how, padded_layout(data.lengths, 32, None, 1))) == packed
    assert by_example(dressed(data, how, choose_layout(data.lengths, 7, row_length=256), batch_size=7)) == packed


def test_taken_up_in_the_middle():
    data, how = examples(), masking()
    whole = [batch for _, batch in dressed(data, how, epoch=3)]
    for batch, expected in zip((batch for _, batch in dressed(data, how, epoch=3, first=4)), whole[4:], strict=True):
        for name in expected:
            np.testing.assert_array_equal(batch[name], expected[name])


def test_epochs_seeds_and_examples_differ():
    data = examples()
    runs = [by_example(dressed(data, masking(seed=seed), epoch=epoch)) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    for one, other in ((0, 1), (0, 2), (1, 2)):
        same = sum(runs[one][example] == runs[other][example] != [] for example in runs[one])
        assert same < len(data) / 20
    same_text = Tokens(
        data.ids, data.begins[:1].repeat(50), data.lengths[:1].repeat(50), data.first_lengths[:1].repeat(50)
    )
    different = {tuple(p for p, _, _ in masked) for masked in by_example(dressed(same_text, masking())).values()}
    assert len(different) > 10


def test_masks_of_evaluation_are_those_of_no_epoch():
    data, how = examples(), masking()
    layout = choose_layout(data.lengths, 32, row_length=128)
    (batch, *_) = batches(Examples(data), layout, 32, seed=None)
    fixed = how.collate(batch, None)["masked_positions"]
    np.testing.assert_array_equal(how.collate(batch, None)["masked_positions"], fixed)
    assert not any(np.array_equal(how.collate(batch, epoch)["masked_positions"], fixed) for epoch in range(5))


def test_only_own_rows_are_filled_and_their_masks_are_the_same():
    """Each of several hosts has the tokens of its rows alone, and all agree on the shapes."""
    data, how = examples(), masking()
    layout = choose_layout(data.lengths, 32, row_length=128)
    for half in (0, 1):

        def own(rows, half=half):
            return np.arange(rows) % 2 == half

        mine = batches(Examples(data), layout, 32, seed=0, own_rows=own)
        for batch, (_, expected) in zip(mine, dressed(data, how, layout), strict=True):
            found = how.collate(batch, 0)
            for name in ("input_ids", "masked_positions", "masked_labels", "masked_weights"):
                assert found[name].shape == expected[name].shape
                np.testing.assert_array_equal(found[name][half::2], expected[name][half::2])


def test_rows_of_many_short_examples_never_overflow():
    """Every example rounds up now and then: the worst row is that of the shortest examples."""
    for longest, probability in ((3, 0.15), (3, 0.9), (8, 0.5)):
        data = examples(2000, longest=longest, inside=0.0)
        widths = set()
        for epoch in range(3):
            for _, batch in dressed(data, masking(probability=probability), epoch=epoch, batch_size=256):
                real = batch["masked_weights"].sum(1)
                widths.add(batch["masked_positions"].shape[1])
                assert real.max() <= batch["masked_positions"].shape[1]
                assert real.sum() > 0
        assert len(widths) <= 2


def test_the_rare_width_holds_what_the_usual_one_does_not():
    how = masking(probability=0.15)
    budget = np.full((2, 40), 1)
    budget[1, :10] = 2
    usual, worst = how._width(np.zeros(80), 2, 40, 128), how._width(budget.ravel(), 2, 40, 128)
    assert usual < 50 <= worst


def test_a_tokenizers_vocabulary(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join([*VOCAB, "##ing"]) + "\n")
    tokenizer = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
    found = MaskingVocabulary.of(tokenizer)
    assert found.maskable.tolist() == [False] * 5 + [True] * (len(VOCAB) - 4)
    assert np.flatnonzero(found.inside).tolist() == [len(VOCAB)]
    assert found.mask_id == 4
    assert found.replacements.tolist() == list(range(5, len(VOCAB) + 1))


def test_a_vocabulary_without_mask_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(VOCAB) + "\n")
    for mask in (None, "[UNK]"):
        tokenizer = BertTokenizer(vocab=str(tmp_path / "vocab.txt"))
        tokenizer.mask_token = mask
        with pytest.raises(UserError, match=r"lacks \[MASK\]"):
            MaskingVocabulary.of(tokenizer)


def test_groups_of_frequency_are_named_by_their_counts_and_go_with_evaluation_alone():
    counts = [0, 1, 9, 10, 99, 100, 999, 1000, 9999, 10_000, 10**8]
    names = ["0", *("1 to 9",) * 2, *("10 to 99",) * 2, *("100 to 999",) * 2, *("1,000 to 9,999",) * 2]
    assert [FREQUENCIES[i] for i in frequency_groups(np.array(counts))] == [*names, *("10,000 or more",) * 2]
    (batch,) = batches(Examples(examples(8)), Layout(128, (8,), 4), 8, seed=None)
    assert "masked_frequencies" not in masking().collate(batch, 0)
    evaluated = masking().collate(batch, None)
    chosen = evaluated["masked_weights"] > 0
    assert (evaluated["masked_frequencies"] == frequency_groups(evaluated["masked_labels"]))[chosen].all()
