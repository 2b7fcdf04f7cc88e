"""The engine's answers are `predict`'s, whoever shares the row; every shape is compiled before the first one."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from runs import random_rows
from served import TASKS, Question, serving, write_export

from jaxbert.api.model import Model
from jaxbert.config import DataConfig
from jaxbert.data.batches import Batch
from jaxbert.errors import UserError
from jaxbert.options import InferenceOptions, ServeOptions
from jaxbert.serve.device import Device
from jaxbert.serve.engine import Engine
from jaxbert.serve.forms import RefusedError
from jaxbert.serve.metrics import Metrics
from jaxbert.serve.onnx_engine import is_onnx, open_served
from jaxbert.tasks.pretraining.task import Pretraining
from jaxbert.train.evaluate import Ensemble
from jaxbert.train.inference import open_trained
from jaxbert.train.programs import CompileLog

TEXTS = [text for text, _ in random_rows(14, seed=5, longest=30)]
INPUTS: dict[str, list[Any]] = {
    "pairs": list(zip(TEXTS[::2], TEXTS[1::2], strict=True)),
    "question_answering": list(zip(TEXTS[::2], TEXTS[1::2], strict=True)),
    "token_classification": [text.split() for text in TEXTS],
    "multiple_choice": [{"question": text, "choices": [TEXTS[i], "w1 w2", "good"]} for i, text in enumerate(TEXTS[:6])],
}
TOLERANCE = 2e-6
"""Answers have six digits; another layout adds in another order, so that the last one may differ, as in a pipe."""


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    outputs = {"regression": 1, "multiple_choice": 1}
    return {name: write_export(place / name, task, outputs.get(name, 2)) for name, task in TASKS.items()}


@pytest.fixture(scope="module")
def engine(folders):
    with serving({"one": folders["classification"]}, max_queue=100_000, max_wait=1000.0) as service:
        yield service.find().engine


def assert_same(found: Any, expected: Any) -> None:
    """Compare answers: numbers within the tolerance, everything else exactly."""
    if isinstance(expected, dict):
        assert list(found) == list(expected)
        for key in expected:
            assert_same(found[key], expected[key])
    elif isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_same(one, other)
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, abs=TOLERANCE)
    else:
        assert found == expected


def numberless(answer: dict[str, Any]) -> dict[str, Any]:
    """Leave out the number of a question without an id of its own, which is its place in the request."""
    return {key: value for key, value in answer.items() if key != "id"}


@pytest.mark.parametrize("name", TASKS)
def test_answers_are_those_of_predict(name, folders):
    """Of many texts at once and of each alone, among others that wait, also where one is divided over batches."""
    items = INPUTS.get(name, TEXTS)
    top_k = InferenceOptions(top_k=2 if name == "documents" else None)
    with serving({name: folders[name]}, top_k, batch_tokens=128) as service:
        served = service.find()
        engine = served.engine
        asked = [Question(engine, items), *(Question(engine, [item]) for item in items), Question(engine, items[::-1])]
        first, *alone, last = [[numberless(answer) for answer in question.answers()] for question in asked]
        expected = [numberless(answer) for answer in Model(served.trained, name, served.data).predict(items)]
    assert len({str(answer) for answer in expected}) > len(items) // 2, "the answers differ"
    assert_same(first, expected)
    assert_same([answer for (answer,) in alone], expected)
    assert_same(last[::-1], expected)


@pytest.mark.parametrize("name", ["classification", "documents", "token_classification", "multiple_choice"])
def test_onnxruntime_computes_little_padding_and_answers_as_predict_does(name, folders):
    """Its rows are evenly filled; nothing is compiled after the warm-up."""
    pytest.importorskip("onnxruntime")
    items = INPUTS.get(name, TEXTS)
    with serving({name: folders[name]}, InferenceOptions(engine="onnx"), batch_tokens=128) as service:
        served = service.find()
        with CompileLog() as log:
            asked = [Question(served.engine, items), *(Question(served.engine, [item]) for item in items)]
            first, *alone = [[numberless(answer) for answer in question.answers()] for question in asked]
        assert log.count == 0
        real, computed = (service.metrics.value(f"jaxbert_{kind}_tokens") for kind in ("real", "row"))
        expected = [numberless(answer) for answer in Model(served.trained, name, served.data).predict(items)]
    assert real <= computed < 1.1 * real
    assert_same(first, expected)
    assert_same([answer for (answer,) in alone], expected)


def test_a_server_on_a_cpu_takes_onnxruntime_if_it_can(folders, tmp_path, monkeypatch, caplog):
    pytest.importorskip("onnxruntime")
    caplog.set_level("INFO", "jaxbert")

    def chosen(folder: Path, **options: Any) -> str:
        serve = ServeOptions(**{key: options.pop(key) for key in ("explain", "devices") if key in options})
        trained = open_served(str(folder), InferenceOptions(**options), serve)
        return "onnx" if is_onnx(trained) else "jax"

    folder = folders["classification"]
    assert chosen(folder) == chosen(folder, quantize="int8") == "onnx"
    assert chosen(folder, engine="jax") == "jax"
    assert chosen(folder, explain=True) == chosen(folder, devices=1) == chosen(folder, precision="bfloat16") == "jax"
    assert chosen(write_export(tmp_path / "pretrained", Pretraining(next_sentence=False))) == "jax", "it has no graph"
    with pytest.raises(UserError, match="nowhere"):
        chosen(tmp_path / "nowhere")
    assert not caplog.records, "what the user asked for needs no reason"
    monkeypatch.setattr("jaxbert.serve.onnx_export.find_spec", lambda name: None)
    assert chosen(folder) == "jax", "onnxruntime is not installed"
    (record,) = caplog.records
    assert "pip install 'jaxbert[onnx]'" in record.fields["reason"]
    monkeypatch.undo()
    monkeypatch.setattr("jax.default_backend", lambda: "gpu")
    assert chosen(folder) == "jax"


def test_answers_of_onnxruntime_do_not_wait_for_the_next_batch(folders, monkeypatch):
    """It keeps the thread while it computes, so the answers of a batch are given before the next one begins."""
    pytest.importorskip("onnxruntime")
    with serving({"one": folders["classification"]}, InferenceOptions(engine="onnx"), batch_tokens=8) as service:
        engine, events = service.find().engine, list[str]()
        predictor, go = engine.devices[0].model.predictor, threading.Event()
        step = predictor.step

        def noted(params, batch):
            go.wait(30)
            events.append("computed")
            return step(params, batch)

        monkeypatch.setattr(predictor, "step", noted)
        read = engine.read(["w1 w2 w3 w4"]).examples
        assert read is not None
        for _ in range(3):
            engine.submit(read, lambda _: events.append("answered"))
        go.set()
    assert events == ["computed", "answered"] * 3


@pytest.mark.parametrize(("milliseconds", "budget"), [(0.1, 256), (0.12, 128), (0.25, 64), (9.0, 64)])
def test_a_slow_cpu_gets_smaller_batches(folders, monkeypatch, milliseconds, budget):
    """So that no request waits for a batch of more than 30 ms before its own; the user's own number stays."""
    monkeypatch.setattr(Engine, "_time_full", lambda engine: engine.budget * milliseconds / 1000)
    for given, expected in ((None, budget), (256, 256)):
        with serving({"one": folders["classification"]}, warm=False, batch_tokens=given) as service:
            engine = service.find().engine
            monkeypatch.setattr(engine, "layouts", engine.layouts[:1])
            engine.warm_up()
            assert (engine.budget, engine._scheduler.budget) == (expected, expected)


@pytest.mark.parametrize("name", ["jax", "onnx"])
def test_a_full_batch_is_timed_with_a_full_batch(folders, monkeypatch, name):
    """Not with the filler of two tokens with which shapes are compiled."""
    computed, compute = list[int](), Device.compute

    def count(device: Device, batch: Batch) -> list[np.ndarray]:
        computed.append(int((batch["segment_ids"] > 0).sum()))
        return compute(device, batch)

    with serving({"one": folders["classification"]}, InferenceOptions(engine=name), warm=False) as service:
        engine = service.find().engine
        engine.warm_up()
        monkeypatch.setattr(Device, "compute", count)
        assert engine._time_full() > 0
        assert min(computed) > 0.7 * engine.budget


def test_an_ensemble_answers_with_the_mean(engine, tmp_path):
    """As `predict` does, with the folds of a run."""
    one = engine.trained
    two = replace(one, params=open_trained(str(write_export(tmp_path / "two", TASKS["classification"], seed=4))).params)
    trained = replace(one, params=[one.params, two.params], predictor=Ensemble.of(one.predictor))
    both = Engine(trained, DataConfig(), ServeOptions(), Metrics())
    both.start()
    found = Question(both, TEXTS).answers()
    both.close()
    answers = (Model(each, "one", DataConfig()).predict(TEXTS) for each in (one, two))
    for answer, first, second in zip(found, *answers, strict=True):
        mean = (first["probabilities"]["good"] + second["probabilities"]["good"]) / 2
        assert answer["probabilities"]["good"] == pytest.approx(mean, abs=1e-5)
        assert first["probabilities"]["good"] != pytest.approx(second["probabilities"]["good"], abs=1e-3)


def test_no_bit_depends_on_what_the_neighbours_say(engine):
    """With neighbours of the same lengths and of other words, the same row gives the same bits."""
    rng = np.random.default_rng(0)

    def beside(word: str) -> np.ndarray:
        texts = [TEXTS[0], *(" ".join([word] * int(length)) for length in lengths)]
        raw = Question(engine, texts, raw=True).computed().raw
        assert raw is not None
        return raw[0]

    for _ in range(5):
        lengths = rng.integers(1, 20, 6)
        first, second = beside("w3"), beside("awful")
        assert first.tobytes() == second.tobytes()


def test_answers_differ_in_the_last_digit_at_most_whoever_shares_the_row(engine):
    rng = np.random.default_rng(1)
    expected = Question(engine, [TEXTS[0]]).answers()[0]
    for _ in range(40):
        neighbours = [TEXTS[i] for i in rng.integers(0, len(TEXTS), rng.integers(1, 12))]
        place = int(rng.integers(0, len(neighbours) + 1))
        found = Question(engine, [*neighbours[:place], TEXTS[0], *neighbours[place:]]).answers()[place]
        assert_same(found, expected)


def test_nothing_is_compiled_after_the_warm_up(engine):
    """For texts of all lengths, alone and in crowds."""
    with CompileLog() as log:
        asked = [
            Question(engine, [" ".join(["w1"] * length)] * count) for length in (1, 12, 45, 90) for count in (1, 3, 40)
        ]
        assert all(question.answers() for question in asked)
    assert log.count == 0
    assert engine.programs == sum(len(layout.row_counts) for layout in engine.layouts)


def test_raw_scores_are_logarithms_of_the_probabilities(engine):
    computed = Question(engine, TEXTS, raw=True).computed()
    assert computed.raw is not None
    for row, answer in zip(np.exp(computed.raw), computed.answers, strict=True):
        assert row.tolist() == pytest.approx(list(answer["probabilities"].values()), abs=1e-6)


def test_one_bad_text_of_many_is_found(engine):
    read = engine.read(["w1", {"tokens": 3}, "good"])
    assert (list(read.mistakes), read.mistakes[1].kind) == ([1], "text")
    assert read.examples is not None
    assert len(read.examples) == 2
    assert list(engine.read(["good", "w1 \ud800"]).mistakes) == [1], "no Unicode"
    assert str(engine.read(["good", " ", "w1"]).mistakes[1]).startswith("inputs, row 2: column 'text' is empty")
    assert engine.read([{"text": None}]).examples is None


def test_a_text_may_keep_its_end(engine):
    long = "w1 " * 60
    assert engine.read([long]).mistakes == {}
    assert engine.read([long], truncate=False).mistakes[0].kind == "too_large"
    assert list(engine.read(["w1", long], truncate=False).mistakes) == [1]


def test_short_texts_are_read_at_once(engine):
    """With the same result; long ones, rows, and texts that come while another thread reads go to that thread."""
    short = ["good w1", "w1 \ud800"]
    now, later = engine.read_short(short), engine.read(short)
    assert now is not None
    assert list(now.mistakes) == list(later.mistakes) == [1]
    assert now.examples.tokens.ids.tolist() == later.examples.tokens.ids.tolist()
    assert engine.read_short(["w1 " * 60], truncate=False).mistakes[0].kind == "too_large"
    assert engine.read_short(["w1 " * 1000]) is None
    assert engine.read_short([{"text": "w1"}]) is None
    with engine._reads:
        assert engine.read_short(["w1"]) is None
    assert engine.read_short(["w1"]) is not None, "the lock is free again"


def test_an_error_of_the_engine_fails_its_batch_alone(engine, monkeypatch):
    predictor = engine.devices[0].model.predictor
    step = predictor.step

    def failing(params, batch):
        if (np.asarray(batch["input_ids"]) == 7).sum() > 20:
            raise MemoryError("RESOURCE_EXHAUSTED")
        return step(params, batch)

    monkeypatch.setattr(predictor, "step", failing)
    before = engine._metrics.value("jaxbert_engine_errors")
    bad = Question(engine, ["w2 " * 30])  # id 7
    with pytest.raises(MemoryError):
        bad.answers()
    assert engine._metrics.value("jaxbert_engine_errors") == before + 1
    assert Question(engine, ["good"]).answers()[0]["label"]


def test_a_full_queue_refuses_with_a_time(folders, monkeypatch):
    with serving({"one": folders["classification"]}, max_queue=3) as service:
        engine = service.find().engine
        go, predictor = threading.Event(), engine.devices[0].model.predictor
        step = predictor.step

        def slow(params, batch):
            go.wait(30)
            return step(params, batch)

        monkeypatch.setattr(predictor, "step", slow)
        asked = [Question(engine, ["good"])]
        while engine.waiting:
            pass
        asked += [Question(engine, ["good"]) for _ in range(3)]
        with pytest.raises(RefusedError) as caught:
            Question(engine, ["good"])
        assert (caught.value.kind, caught.value.status) == ("overloaded", 429)
        assert caught.value.retry_after is not None
        go.set()
        assert all(question.answers() for question in asked)


def test_closing_answers_all_that_wait(folders):
    with serving({"one": folders["classification"]}) as service:
        engine = service.find().engine
        asked = [Question(engine, TEXTS) for _ in range(10)]
    assert all(len(question.answers()) == len(TEXTS) for question in asked)
    with pytest.raises(RefusedError, match="not ready"):
        engine.submit(asked[0].read.examples, print)


@pytest.mark.parametrize("name", ["documents", "token_classification"])
def test_several_devices_answer_from_one_queue(name, folders, monkeypatch):
    """Each with its own copy of the model, also when the segments of one request lie on different devices."""
    items = INPUTS.get(name, TEXTS)
    with serving({name: folders[name]}, devices=3, batch_tokens=32) as service:
        served = service.find()
        engine, used = served.engine, dict[int, int]()
        for number, device in enumerate(engine.devices):
            step = device.model.predictor.step

            def counted(params, batch, number=number, step=step):
                used[number] = used.get(number, 0) + 1
                time.sleep(0.01)  # so that the others take batches too
                found = step(params, batch)
                assert found.devices() == {jax.devices()[number]}
                return found

            monkeypatch.setattr(device.model.predictor, "step", counted)
        with CompileLog() as log:
            asked = [Question(engine, items) for _ in range(4)]
            found = [[numberless(answer) for answer in question.answers()] for question in asked]
        expected = [numberless(answer) for answer in Model(served.trained, name, served.data).predict(items)]
    assert log.count == 0, "all shapes are compiled on every device before"
    assert set(used) == {0, 1, 2}
    for answers in found:
        assert_same(answers, expected)


def test_a_request_fails_once_if_two_devices_fail(folders, monkeypatch):
    with serving({"one": folders["classification"]}, devices=2, batch_tokens=32) as service:
        engine, together = service.find().engine, threading.Barrier(2)
        for device in engine.devices:

            def broken(params, batch):
                together.wait(30)
                raise RuntimeError("no memory")

            monkeypatch.setattr(device.model.predictor, "step", broken)
        told = list[Any]()
        engine.submit(engine.read(TEXTS).examples, told.append)
        while not told or engine.waiting:
            time.sleep(0.01)
    assert [type(error) for error in told] == [RuntimeError]


def test_more_devices_than_there_are_are_refused(folders):
    with pytest.raises(UserError, match="--devices is 9, but this process has 8"), serving(folders, devices=9):
        pass
