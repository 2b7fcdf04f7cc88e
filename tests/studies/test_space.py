"""A space is read as it is written, and its values are held against the ranges of the configuration before anything runs."""

from __future__ import annotations

import re

import pytest

from jaxbert.config import Config
from jaxbert.errors import UserError
from jaxbert.studies.space import Dimension, grid, parse_space, with_values

CONFIG = Config()


def parsed(*texts):
    return parse_space(texts, CONFIG)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("optimizer.learning_rate=log:1e-5:5e-4", {"kind": "log", "low": 1e-5, "high": 5e-4}),
        ("model.dropout=lin:0:0.3", {"kind": "lin", "low": 0, "high": 0.3}),
        ("train.epochs=int:2:4", {"kind": "int", "low": 2, "high": 4, "whole": True}),
        ("train.batch_size=log:8:64", {"kind": "log", "low": 8, "high": 64, "whole": True}),
        ("train.seed=lin:0:9", {"kind": "int", "low": 0, "high": 9, "whole": True}),
        ("train.batch_size=16,32", {"kind": "values", "values": (16, 32)}),
        ("optimizer.name= adamw , lion", {"kind": "values", "values": ("adamw", "lion")}),
        ("optimizer.clip_norm=null,1.0", {"kind": "values", "values": (None, 1.0)}),
        ("data.packing=true,false", {"kind": "values", "values": (True, False)}),
        ("optimizer.learning_rate=2e-5,5e-5", {"kind": "values", "values": (2e-5, 5e-5)}),
    ],
)
def test_texts_become_dimensions(text, expected):
    (found,) = parsed(text)
    assert found == Dimension(text.partition("=")[0], **expected)
    assert parsed(str(found)) == (found,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            "optimizer.learning_rte=log:1e-5:5e-4",
            "unknown key optimizer.learning_rte; did you mean optimizer.learning_rate?",
        ),
        ("optimizer.learning_rate", "must be KEY=log:A:B"),
        ("optimizer.learning_rate=log:0:1", "ends of log must be above 0"),
        ("optimizer.learning_rate=log:1e-3:1e-5", "first number must be below the second"),
        ("optimizer.learning_rate=log:1e-5", "log needs two numbers"),
        ("optimizer.learning_rate=lin:-1:1", "optimizer.learning_rate is -1, but it must be above 0"),
        ("model.dropout=lin:0:1", "model.dropout is 1, but it must be at least 0 and below 1"),
        ("optimizer.name=adamw,adam", "optimizer.name is 'adam', but it must be one of adamw"),
        ("train.epochs=int:1.5:3", "both ends must be whole numbers"),
        ("train.batch_size=16,16", "names a value twice"),
        ("train.output_dir=a,b", "each trial has a folder of its own"),
        ("launch.num_processes=1,2", "does not change what is learned"),
        ("data.validation=a.csv,b.csv", "must be measured on the same rows"),
        ("optimizer.momentum=0.1,0.9", "optimizer.momentum is 0.1, but optimizer.name is adamw"),
    ],
)
def test_mistakes_are_said(text, said):
    with pytest.raises(UserError, match=re.escape(said)):
        parsed(text)


def test_a_key_is_named_once():
    with pytest.raises(UserError, match=r"names train\.epochs twice"):
        parsed("train.epochs=1,2", "train.epochs=int:2:3")
    with pytest.raises(UserError, match=r"search\.space is empty"):
        parsed()


def test_values_go_to_their_sections():
    changed = with_values(CONFIG, {"train.epochs": 7, "train.seed": 3, "model.dropout": 0.25})
    assert (changed.train.epochs, changed.train.seed, changed.model.dropout) == (7, 3, 0.25)
    assert changed.optimizer == CONFIG.optimizer


def test_the_grid_has_all_combinations():
    space = parsed("train.epochs=int:1:2", "optimizer.name=adamw,lion")
    names = [(point["train.epochs"], point["optimizer.name"]) for point in grid(space)]
    assert names == [(1, "adamw"), (1, "lion"), (2, "adamw"), (2, "lion")]
    with pytest.raises(UserError, match="infinitely many values"):
        grid(parsed("model.dropout=lin:0:0.1"))


def test_a_place_is_a_share_of_the_way():
    rate, size = parsed("optimizer.learning_rate=log:1e-5:1e-3", "train.batch_size=16,32,64")
    assert rate.place(1e-4) == pytest.approx(0.5)
    assert [size.place(value) for value in (16, 32, 64)] == [0, 0.5, 1]
