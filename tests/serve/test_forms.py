"""The forms of requests: what is taken, what is refused and how; no server and no model."""

from __future__ import annotations

import json

import pytest

from jaxbert.options import ServeOptions
from jaxbert.serve.forms import (
    STATUS,
    RefusedError,
    kinds_of,
    parse_asking,
    parse_object,
    parse_tensors,
    to_bytes,
    to_predictions,
    to_tensors,
)
from jaxbert.serve.metrics import Metrics

LIMITS = ServeOptions(max_texts=4, max_characters=20)


def ask(inputs, *, pairs=False, words=False, **more):
    return parse_asking({"inputs": inputs, **more}, LIMITS, pairs=pairs, words=words)


@pytest.mark.parametrize(
    ("inputs", "items", "many"),
    [
        ("a", ["a"], False),
        ({"text": "a"}, [{"text": "a"}], False),
        (["a", "b"], ["a", "b"], True),
        (["a"], ["a"], True),
        ([["a"], ["b"]], ["a", "b"], True),
        ([["a"], "b", {"text": "c"}], ["a", "b", {"text": "c"}], True),
        ("", [""], False),
    ],
)
def test_texts(inputs, items, many):
    asking = ask(inputs)
    assert (asking.items, asking.many, asking.mistakes) == (items, many, {})


def test_pairs_are_read_as_text_embeddings_inference_reads_them():
    assert (ask(["a", "b"], pairs=True).items, ask(["a", "b"], pairs=True).many) == ([["a", "b"]], False)
    assert ask([["a", "b"], ["c", "d"]], pairs=True).items == [["a", "b"], ["c", "d"]]
    assert ask([["a", "b"], ["c"]]).mistakes[0].kind == "text"


def test_lists_of_words():
    assert ask([["a", "b", "c"], "d e"], words=True).items == [["a", "b", "c"], "d e"]


@pytest.mark.parametrize("inputs", [None, 3, [], True, 1.5])
def test_what_is_no_input_is_refused(inputs):
    with pytest.raises(RefusedError, match=r"inputs is (empty|missing or wrong): give a text") as caught:
        ask(inputs)
    assert caught.value.status == 422


@pytest.mark.parametrize("wrong", [3, None, [], [[]], [1], ["a", "b", "c"], "x" * 21])
def test_a_bad_input_among_good_ones_has_its_place(wrong):
    asking = ask(["a", wrong, "b"])
    assert (asking.items, list(asking.mistakes)) == (["a", "b"], [1])
    placed = asking.placed(["A", "B"], {})
    assert [placed[0], placed[2]] == ["A", "B"]
    assert placed[1].keys() == {"error", "error_type"}
    assert asking.placed(["A"], {1: RefusedError("no", "text")})[2] == {"error": "no", "error_type": "tokenizer"}
    with pytest.raises(RefusedError):
        asking.placed([], {0: RefusedError("no", "text"), 1: RefusedError("no", "text")})


def test_limits_and_flags():
    with pytest.raises(RefusedError, match="5 texts, but at most 4") as caught:
        ask(["a"] * 5)
    assert caught.value.status == 413
    assert ask("a", raw_scores=True).raw
    assert not ask("a", truncate=False).truncate
    assert ask("a", truncate=None).truncate
    for more in ({"truncate": 1}, {"explain": "yes"}, {"model": 3}, {"raw_scores": []}):
        with pytest.raises(RefusedError):
            ask("a", **more)


@pytest.mark.parametrize("body", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"nul", b'{"a": 1' + b"0" * 5000 + b"}"])
def test_a_body_that_is_no_json(body):
    with pytest.raises(RefusedError) as caught:
        parse_object(body)
    assert caught.value.status == 400
    assert len(str(caught.value)) <= 200


def test_a_body_must_be_an_object():
    with pytest.raises(RefusedError, match="must be an object"):
        parse_object(b"[]")


def test_predictions_are_sorted():
    answer = {"label": "b", "score": 0.7, "probabilities": {"a": 0.3, "b": 0.7}}
    assert to_predictions(answer, None, ("a", "b")) == [{"score": 0.7, "label": "b"}, {"score": 0.3, "label": "a"}]
    assert to_predictions(answer, [-0.1, -3.0], ("a", "b"))[0] == {"score": -0.1, "label": "a"}
    assert to_predictions({"score": 2.5}, None, ()) == [{"score": 2.5, "label": "score"}]
    assert to_predictions({"entities": []}, None, ("O",)) == {"entities": []}


def tensor(data, name="text", kind="BYTES", shape=None):
    return {"name": name, "datatype": kind, "shape": shape or [len(data)], "data": data}


def infer(*tensors, pairs=False):
    return parse_tensors({"inputs": list(tensors)}, LIMITS, pairs=pairs, words=False).items


def test_tensors():
    assert infer(tensor(["a", "b"])) == ["a", "b"]
    assert infer(tensor([["a"], ["b"]], shape=[2, 1])) == ["a", "b"]
    assert infer(tensor(["a", "b"]), tensor(["c", "d"]), pairs=True) == [["a", "c"], ["b", "d"]]
    assert infer(tensor([["a", "b"]], shape=[1, 2]), pairs=True) == [["a", "b"]]
    assert infer(tensor(['{"text": "a"}'], "json")) == [{"text": "a"}]
    for data, shape in ((["a", "b"], [3]), (["a", "b", "c"], [2, 2]), (["a"], ["1"]), (["a", "b"], [-1, -2])):
        with pytest.raises(RefusedError, match=r"the shape is \[.*, but data has"):
            infer(tensor(data, shape=shape), pairs=True)
    for pairs, shape, reads in ((False, [1, 2], "single texts"), (True, [1, 3], "pairs of texts")):
        with pytest.raises(RefusedError, match=rf"the shape is \[n, {shape[1]}\], but the model reads {reads}"):
            infer(tensor(["a", "b", "c"][: shape[1]], shape=shape), pairs=pairs)
    out = to_tensors([{"label": "a", "score": 0.5}, {"label": "b", "score": 0.25}])
    assert [(t["name"], t["datatype"], t["shape"]) for t in out] == [
        ("label", "BYTES", [2]),
        ("score", "FP32", [2]),
        ("answer", "BYTES", [2]),
    ]
    assert json.loads(out[-1]["data"][0]) == {"label": "a", "score": 0.5}
    for answer in ({"label": "a", "score": 0.5}, {"score": 0.5}, {"labels": ["a"]}, {"entities": []}):
        assert kinds_of(answer.keys()) == [(t["name"], t["datatype"]) for t in to_tensors([answer])]


@pytest.mark.parametrize(
    "tensors",
    [
        (),
        ("text",),
        (tensor([1, 2]),),
        (tensor(["a"], kind="INT64"),),
        (tensor([]),),
        (tensor("a"),),
        (tensor(["a"]), tensor(["b", "c"])),
        (tensor(["{"], "json"),),
        (tensor(["x" * 21]),),
    ],
)
def test_other_tensors_are_refused(tensors):
    with pytest.raises(RefusedError):
        infer(*tensors)


def test_text_that_utf_8_cannot_write_is_escaped():
    assert to_bytes({"a": "é"}) == '{"a": "é"}'.encode()
    assert to_bytes({"a": "\ud800"}) == b'{"a": "\\ud800"}'


def test_every_refusal_has_a_status():
    assert {400, 413, 422, 429, 500, 503} <= {status for status, _ in STATUS.values()}
    assert RefusedError("x", "overloaded", 2.0).to_dict() == {"error": "x", "error_type": "overloaded"}


def test_metrics_are_prometheus_text():
    metrics = Metrics()
    metrics.count("te_request_count", method='si"ngle')
    metrics.observe("te_request_duration", 0.003)
    metrics.observe("te_request_duration", 99.0)
    metrics.gauges["te_queue_size"] = "Waiting.", lambda: {"a": 3}
    text = metrics.text()
    assert 'te_request_count{method="si\\"ngle"} 1\n' in text
    assert 'te_request_duration_bucket{le="0.002"} 0\n' in text
    assert 'te_request_duration_bucket{le="0.005"} 1\n' in text
    assert (
        'te_request_duration_bucket{le="+Inf"} 2\nte_request_duration_sum 99.003\nte_request_duration_count 2\n' in text
    )
    assert 'te_queue_size{model="a"} 3\n' in text
    assert all(line.startswith("#") or len(line.rsplit(" ", 1)) == 2 for line in text.splitlines())
