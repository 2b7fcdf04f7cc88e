import numpy as np
import pytest

from jaxbert.errors import UserError
from jaxbert.plan.lengths import draw_lengths


def test_sst2_has_the_lengths_of_the_data_set():
    lengths = draw_lengths("sst2", 50_000, 128, seed=0)
    assert lengths.dtype == np.int32
    assert (lengths.min(), lengths.max() <= 66) == (3, True)
    assert abs(lengths.mean() - 13.32) < 0.2
    assert np.median(lengths) == 10


def test_long_examples_are_cut():
    assert draw_lengths("sst2", 5000, 16, seed=0).max() == 16


def test_uniform_takes_in_both_bounds():
    assert set(draw_lengths("uniform:5:7", 200, 128, seed=0)) == {5, 6, 7}


def test_fixed():
    assert set(draw_lengths("fixed:128", 10, 128, seed=0)) == {128}


def test_the_seed_decides():
    first, again, other = (draw_lengths("sst2", 100, 128, seed=seed).tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_a_file_is_drawn_from_and_cut(tmp_path):
    path = tmp_path / "lengths.txt"
    path.write_text("4\n9\n\n300\n")
    assert set(draw_lengths(str(path), 200, 40, seed=0)) == {4, 9, 40}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("sst3", "is not a file, and is not understood"),
        ("", "cannot be read|not understood"),
        ("fixed", "not understood"),
        ("fixed:x", "not understood"),
        ("fixed:1:2", "not understood"),
        ("uniform:5", "not understood"),
        ("uniform:9:5", "LOW at most HIGH"),
        ("uniform:0:5", "at least 1"),
        ("fixed:129", "129 tokens are above the longest example"),
    ],
)
def test_other_specs_are_refused(spec, message):
    with pytest.raises(UserError, match=message):
        draw_lengths(spec, 10, 128, seed=0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "is empty"),
        ("4\nfour\n", "line 2: 'four' is not a length"),
        ("0\n", "line 1"),
        ("7" * 5000, "line 1"),
        ("-3\n", "line 1"),
    ],
)
def test_a_bad_file_is_named_with_its_line(tmp_path, content, message):
    path = tmp_path / "lengths.txt"
    path.write_text(content)
    with pytest.raises(UserError, match=message):
        draw_lengths(str(path), 10, 128, seed=0)


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "lengths.bin"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="cannot be read"):
        draw_lengths(str(path), 10, 128, seed=0)
