"""Every range of a setting: the values at its ends are taken, those beyond are refused, from Python and from a file."""

from __future__ import annotations

import dataclasses
import math
import typing

import numpy as np
import pytest

import jaxbert
from jaxbert import config, options
from jaxbert.bench.options import BenchOptions
from jaxbert.errors import UserError
from jaxbert.plan.options import PlanOptions
from jaxbert.ranges import Range, range_texts
from jaxbert.settings import SECTIONS, make_config, place_keys

ONE_UP = ("at least 1", [1, 2, 10**9], [0, -3])
ZERO_UP = ("at least 0", [0, 1, 10**9], [-1])
SHARE = ("at least 0 and below 1", [0, 0.0, 0.5, 0.999], [1, 1.5, -0.1, math.nan])
ABOVE_ZERO = ("above 0", [1e-12, 1, 3.5], [0, -1, math.nan])
DEVICES = ("at least 1, or -1 for all that remain", [1, 8], [0, -2])
SECTION_RANGES = {
    "model.num_labels": ("at least 1 and at most 131072", [2, 131072], [0, 131073]),
    "model.dropout": SHARE,
    "model.attention_dropout": SHARE,
    "data.validation_fraction": SHARE,
    "data.max_length": ("at least 3", [3, 512], [2, 0, -1]),
    "data.window_stride": ZERO_UP,
    "data.limit": ONE_UP,
    "data.row_length": ONE_UP,
    "pretrain.masking_probability": ("above 0 and below 1", [0.01, 0.99], [0, 1, math.nan]),
    "pretrain.vocab_size": ("at least 100, or 0 for none", [0, 100], [99, 1, -1]),
    "train.batch_size": ONE_UP,
    "train.eval_batch_size": ONE_UP,
    "train.accumulation_steps": ONE_UP,
    "train.steps_per_dispatch": ONE_UP,
    "train.epochs": ZERO_UP,
    "train.max_steps": ONE_UP,
    "train.folds": ("at least 2", [2], [1, 0]),
    "train.seed": ZERO_UP,
    "train.log_every": ONE_UP,
    "train.eval_every": ONE_UP,
    "train.checkpoint_every": ONE_UP,
    "train.keep_checkpoints": ONE_UP,
    "train.max_bad_steps": ONE_UP,
    "train.early_stopping_patience": ONE_UP,
    "train.label_smoothing": SHARE,
    "train.ema": SHARE,
    "train.focal_gamma": ("at least 0", [0, 0.5, 5], [-0.1, math.nan]),
    "train.r_drop": ("at least 0", [0, 0.5, 5], [-0.1, math.nan]),
    "train.adversarial_epsilon": ABOVE_ZERO,
    "optimizer.learning_rate": ABOVE_ZERO,
    "optimizer.warmup_ratio": SHARE,
    "optimizer.weight_decay": ("at least 0", [0, 0.01, 5], [-0.1, math.nan]),
    "optimizer.clip_norm": ABOVE_ZERO,
    "optimizer.layer_decay": ("above 0 and at most 1", [0.01, 1], [0, 1.01, -0.5, math.nan]),
    "optimizer.b1": SHARE,
    "optimizer.b2": SHARE,
    "optimizer.eps": ABOVE_ZERO,
    "optimizer.momentum": SHARE,
    "mesh.data": DEVICES,
    "mesh.fsdp": DEVICES,
    "mesh.tensor": DEVICES,
    "launch.num_processes": ONE_UP,
    "launch.process_id": ZERO_UP,
    "launch.timeout_seconds": ONE_UP,
    "launch.heartbeat_seconds": ONE_UP,
}
WITH = {
    "optimizer.momentum": {"name": "sgd"},
    "train.adversarial_epsilon": {"adversarial": "fgm"},
    "train.epochs": {"method": "contrastive"},
    "mesh.fsdp": {"data": 1},
    "mesh.tensor": {"data": 1},
    "launch.num_processes": {"process_id": 0},
    "launch.process_id": {"num_processes": 10**10},
}
"""Other keys of the section that a value needs."""
OPTIONS = {
    (BenchOptions, "steps"): ("bench.steps", ONE_UP),
    (BenchOptions, "warmup"): ("bench.warmup", ZERO_UP),
    (BenchOptions, "seconds"): ("bench.seconds", ABOVE_ZERO),
    (BenchOptions, "limit_ms"): ("bench.limit_ms", ABOVE_ZERO),
    (BenchOptions, "peak_tflops"): ("--peak_tflops", ABOVE_ZERO),
    (BenchOptions, "peak_bandwidth"): ("--peak_bandwidth", ABOVE_ZERO),
    (BenchOptions, "cost_per_hour"): ("--cost_per_hour", ABOVE_ZERO),
    (PlanOptions, "kernels"): ("--kernels", ("at least 0", [0, 3], [-1])),
    (PlanOptions, "utilization"): ("--utilization", ("above 0 and at most 1", [0.1, 1], [0, 1.5, math.nan])),
    (PlanOptions, "cost_per_hour"): ("--cost_per_hour", ABOVE_ZERO),
    (PlanOptions, "memory_gb"): ("--memory_gb", ABOVE_ZERO),
    (PlanOptions, "peak_tflops"): ("--peak_tflops", ABOVE_ZERO),
    (PlanOptions, "peak_bandwidth"): ("--peak_bandwidth", ABOVE_ZERO),
    (PlanOptions, "link_bandwidth"): ("--link_bandwidth", ABOVE_ZERO),
    (options.InferenceOptions, "max_length"): ("max_length", ("at least 3", [3], [2, 0])),
    (options.InferenceOptions, "batch_size"): ("batch_size", ONE_UP),
    (options.InferenceOptions, "top_k"): ("top_k", ONE_UP),
    (options.InferenceOptions, "abstain_below"): ("abstain_below", ("above 0 and at most 1", [0.01, 1.0], [0, 1.01])),
    (options.InferenceOptions, "coverage"): ("coverage", ("above 0 and below 1", [0.01, 0.99], [0, 1])),
    (options.NewWordsOptions, "size"): ("size", ONE_UP),
    (options.NewWordsOptions, "min_count"): ("min_count", ONE_UP),
    (options.NewWordsOptions, "min_pieces"): ("min_pieces", ("at least 2", [2, 9], [1, 0])),
    (options.ExplainOptions, "steps"): ("steps", ("at least 1 and at most 1000", [1, 1000], [0, 1001])),
    (options.ExplainOptions, "neighbours"): ("neighbours", ("at least 0 and at most 1000", [0, 1000], [-1, 1001])),
}


def test_no_range_is_without_a_row_here():
    keys = {f"{name}.{key}": text for name, section in SECTIONS.items() for key, text in range_texts(section).items()}
    assert keys == {key: text for key, (text, *_) in SECTION_RANGES.items()}
    classes = {options for options, _ in OPTIONS}
    found = {(options, key): text for options in classes for key, text in range_texts(options).items()}
    assert found == {key: text for key, (_, (text, *_)) in OPTIONS.items()}


CHECKED_BY_ITSELF = {"ModelConfig.layers"}
"""Fields that are a number or a list, whose section checks both."""


def test_every_number_has_a_range():
    """One without bounds is finite at least."""
    for section in (*SECTIONS.values(), BenchOptions, PlanOptions, options.InferenceOptions, options.ExplainOptions):
        hints = typing.get_type_hints(section, include_extras=True)
        for field in dataclasses.fields(section):
            hint = hints[field.name]
            parts = () if typing.get_origin(hint) is typing.Annotated else typing.get_args(hint)
            if {int, float} & {hint, *parts} and f"{section.__name__}.{field.name}" not in CHECKED_BY_ITSELF:
                pytest.fail(f"{section.__name__}.{field.name}")


@pytest.mark.parametrize("layers", [0, -1, 2.5, True, [], [1, 0], [-1], [0, 0]])
def test_layers_are_a_number_or_a_rising_list(layers):
    with pytest.raises(UserError, match=r"model\.layers"):
        config.ModelConfig(layers=layers)
    assert config.ModelConfig(layers=[0, 3]).layers == [0, 3]
    assert config.ModelConfig(layers=1).layers == 1


def refusal(make, *arguments, **keys) -> str:
    with pytest.raises(UserError) as caught:
        make(*arguments, **keys)
    return str(caught.value)


@pytest.mark.parametrize("key", SECTION_RANGES)
def test_sections(key):
    text, taken, refused = SECTION_RANGES[key]
    section, _, name = key.partition(".")
    for value in taken:
        made = SECTIONS[section](**{name: value}, **WITH.get(key, {}))
        assert getattr(made, name) == value
    for value in refused:
        line = refusal(SECTIONS[section], **{name: value}, **WITH.get(key, {}))
        assert line.startswith(f"{key} is {value}, but it must be ")
        assert line.endswith(text)
    line = refusal(make_config, None, {section: {name: refused[0]}})
    assert line == f"{key} is {refused[0]}, but it must be {text}"
    whole = isinstance(taken[-1], int) and isinstance(refused[0], int)
    for value in ("2", [1], True, *([1.5] if whole and math.nan not in refused else [])):
        assert f"{key} is {value!r}, but it must be a " in refusal(SECTIONS[section], **{name: value})


@pytest.mark.parametrize(("options", "name"), OPTIONS)
def test_options(options, name):
    spelled, (text, taken, refused) = OPTIONS[options, name]
    assert [getattr(options(**{name: value}), name) for value in taken] == taken
    for value in refused:
        line = refusal(options, **{name: value})
        assert line.startswith(f"{spelled} is {value}, but it must be ")
        assert line.endswith(text)


FINITE = {
    "optimizer.learning_rate": "finite and above 0",
    "optimizer.weight_decay": "finite and at least 0",
    "data.no_answer_threshold": "finite",
    "train.class_weights": "none, balanced or a list of finite weights, at least 0, not all 0",
}


@pytest.mark.parametrize("key", FINITE)
def test_infinite_numbers_are_refused(key):
    section, _, name = key.partition(".")
    value = [1.0, math.inf] if name == "class_weights" else math.inf
    assert refusal(SECTIONS[section], **{name: value}) == f"{key} is {value}, but it must be {FINITE[key]}"


CONTRADICTIONS = {
    "model.num_labels is 1": {"model": {"num_labels": 1}},
    "pretrain.vocab_size and model.vocab are both set": {"model": {"vocab": "v"}, "pretrain": {"vocab_size": 100}},
    "data.label names 2 columns, which only task: multi_label allows": {"data": {"label": ["a", "b"]}},
    "data.label is ['a', 'a'], but": {"task": "multi_label", "data": {"label": ["a", "a"]}},
    "data.label_format is multi_hot, which only": {"data": {"label_format": "multi_hot"}},
    "data.label_format is names, but several": {
        "task": "multi_label",
        "data": {"label": ["a", "b"], "label_format": "names"},
    },
    "task regression learns numbers, not labels": {"task": "regression", "data": {"label_map": "m.yaml"}},
    "model.head is for tasks with labels": {"task": "pretraining", "model": {"head": "new"}},
    "data.long_texts is windows, which does not work with pairs (data.text_pair)": {
        "data": {"long_texts": "windows", "text_pair": "b"}
    },
    "data.max_length (9) is above data.row_length (8)": {"data": {"max_length": 9, "row_length": 8}},
    "data.window_stride is 7, but it must be from 0": {"data": {"max_length": 9, "window_stride": 7}},
    "data.validation and data.validation_fraction": {"data": {"validation": "v", "validation_fraction": 0.1}},
    "data.quoting is none, but data.quote is set": {"data": {"quoting": "none", "quote": "'"}},
    "data.separator and data.quote are both '\"'": {"data": {"separator": '"'}},
    "data.separator is 'ab', but it must be one character": {"data": {"separator": "ab"}},
    "data.encoding is 'utf-99', but": {"data": {"encoding": "utf-99"}},
    "pretrain.segmented says where words end": {"pretrain": {"segmented": True}},
    "mesh.data and mesh.fsdp are all -1": {"mesh": {"fsdp": -1}},
    "optimizer.momentum is 0.9, but optimizer.name is adamw": {"optimizer": {"momentum": 0.9}},
    "optimizer.freeze: '[' is not a regular expression": {"optimizer": {"freeze": ["["]}},
    "optimizer.schedule is 'square', but it must be one of": {"optimizer": {"schedule": "square"}},
    "train.epochs is null, but it must have a value": {"train": {"epochs": None}},
    "precision.compute is 'float16', in which small gradients vanish": {"precision": {"compute": "float16"}},
}


@pytest.mark.parametrize("message", CONTRADICTIONS)
def test_no_configuration_exists_that_contradicts_itself(message):
    def make() -> jaxbert.Config:
        given = CONTRADICTIONS[message]
        return jaxbert.Config(**{k: SECTIONS[k](**v) if k in SECTIONS else v for k, v in given.items()})

    assert refusal(make).startswith(message)


def test_a_section_is_an_object():
    message = "train is {'epochs': 3}, but it must be of type TrainConfig"
    assert refusal(jaxbert.Config, train={"epochs": 3}) == message


def test_types_of_fields_without_a_range():
    message = "data.encoding is 3, but it must be of type str"
    assert refusal(config.DataConfig, encoding=3) == message
    assert refusal(config.OptimizerConfig, freeze="head").endswith("but it must be of type list")
    assert refusal(config.OptimizerConfig, freeze=[1]).startswith("optimizer.freeze: 1 is not a regular expression")
    assert refusal(config.TrainConfig, keep_best="no").endswith("but it must be of type bool")
    assert refusal(config.TrainConfig, class_weights=["a"]).startswith("train.class_weights is ['a']")
    assert refusal(options.InferenceOptions, lower_case="no").endswith("but it must be of type bool")


def test_numpys_numbers_are_numbers():
    made = jaxbert.Config(train=config.TrainConfig(batch_size=np.int64(3)))
    assert make_config(made, {}).train.batch_size == 3


def test_a_configuration_takes_nothing_from_the_one_before():
    """One parser makes them all."""
    changed = {"task": "multi_label", "data": {"label": ["a", "b"], "limit": 3}, "optimizer": {"freeze": ["head"]}}
    assert make_config(None, changed).data.label == ["a", "b"]
    with pytest.raises(UserError):
        make_config(None, {"train": {"epochs": "many"}})
    assert make_config(None, {}) == jaxbert.Config()


def test_a_key_is_given_once():
    assert refusal(place_keys, {"train": {"epochs": 3}, "epochs": 4}) == "key train.epochs is given twice: give it once"


def test_what_one_task_refuses_another_takes():
    jaxbert.Config("regression", model=config.ModelConfig(num_labels=1))
    jaxbert.Config("multi_label", data=config.DataConfig(label=["a", "b"], label_format="multi_hot"))
    jaxbert.Config("pretraining", data=config.DataConfig(long_texts="windows", text_pair="b"))


def test_a_range_in_words():
    assert str(Range()) == ""
    assert str(Range(least=1, most=2)) == "at least 1 and at most 2"
    assert str(Range(above=0.5)) == "above 0.5"
