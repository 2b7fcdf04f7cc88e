"""The HTTP interface in this process: paths, forms, limits, errors, reload, the page."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
import threading
import time
from typing import Any

import numpy as np
import pytest
from runs import random_rows
from served import TASKS, Question, open_service, serving, write_export
from starlette.testclient import TestClient

import jaxbert
from jaxbert.serve.http import make_app

pytestmark = pytest.mark.usefixtures("shared_programs")

TEXTS = [text for text, _ in random_rows(6, seed=5)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("models")
    return {name: write_export(place / name, TASKS[name]) for name in ("classification", "pairs")}


@pytest.fixture(scope="module")
def service(folders):
    limits = {"max_texts": 8, "max_characters": 500, "max_body": 5000, "max_tokens": 200, "body_seconds": 0.3}
    with serving(folders, explain=True, **limits) as service:
        yield service


@pytest.fixture(scope="module")
def client(service):
    with TestClient(make_app(service), raise_server_exceptions=False) as client:
        yield client


@pytest.fixture(scope="module")
def expected(folders):
    return jaxbert.load(folders["classification"]).predict(TEXTS)


def ask(client: TestClient, path: str, status: int = 200, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    return response.json()


def probabilities(prediction: list[dict[str, Any]]) -> dict[str, float]:
    return {entry["label"]: entry["score"] for entry in prediction}


def test_predict_is_that_of_text_embeddings_inference(client, expected):
    one = ask(client, "/predict", inputs=TEXTS[0])
    assert [entry.keys() for entry in one] == [{"score", "label"}] * 2
    assert one[0]["score"] >= one[1]["score"]
    many = ask(client, "/predict", inputs=TEXTS)
    batch = ask(client, "/predict", inputs=[[text] for text in TEXTS])
    for found in (many, batch):
        assert len(found) == len(TEXTS)
        for prediction, answer in zip(found, expected, strict=True):
            assert probabilities(prediction) == pytest.approx(answer["probabilities"], abs=2e-6)
    assert len(ask(client, "/predict", inputs=TEXTS[:1])) == 1
    raw = ask(client, "/predict", inputs=TEXTS[0], raw_scores=True)
    assert all(entry["score"] < 0 for entry in raw)


def test_answer_is_that_of_predict(client, expected):
    found = ask(client, "/answer", inputs=TEXTS)
    assert [answer["label"] for answer in found] == [answer["label"] for answer in expected]
    assert [list(answer) for answer in found] == [list(answer) for answer in expected]
    assert ask(client, "/answer", inputs=TEXTS[0])["label"] == expected[0]["label"]
    assert ask(client, "/answer", inputs={"text": TEXTS[0]})["label"] == expected[0]["label"]


def test_models_by_name(client, folders):
    found = ask(client, "/answer", inputs=["w1 good", "w2"], model="pairs")
    whole = jaxbert.load(folders["pairs"]).predict(("w1 good", "w2"))
    assert found["probabilities"] == pytest.approx(whole["probabilities"], abs=2e-6)
    assert (
        "no model 'other' here, but classification, pairs"
        in ask(client, "/answer", 404, inputs="a", model="other")["error"]
    )
    assert "reads pairs" in ask(client, "/predict", 422, inputs="a", model="pairs")["error"]


def test_one_bad_text_is_answered_as_such(client, expected):
    found = ask(client, "/predict", inputs=[TEXTS[0], 3, "x " * 300, TEXTS[1]])
    assert probabilities(found[0]) == pytest.approx(expected[0]["probabilities"], abs=2e-6)
    assert probabilities(found[3]) == pytest.approx(expected[1]["probabilities"], abs=2e-6)
    assert (found[1]["error_type"], found[2]["error_type"]) == ("tokenizer", "validation")
    found = ask(client, "/answer", inputs=[{"text": TEXTS[0]}, {"test": "a"}])
    assert found[0]["label"] == expected[0]["label"]
    assert "text" in found[1]["error"]
    assert "not a text but 3" in ask(client, "/predict", 422, inputs=[3])["error"]


def test_limits(client):
    too_many = ask(client, "/predict", 413, inputs=["a"] * 9)
    assert too_many == {"error": "inputs: 9 texts, but at most 8 a request", "error_type": "validation"}
    assert ask(client, "/predict", 413, inputs="x" * 501)
    assert "tokens, but at most 200" in ask(client, "/predict", 413, inputs=["w1 " * 100] * 8)["error"]
    assert client.post("/predict", content=b"x" * 6000).status_code == 413

    def parts():
        yield b'{"inputs": "'
        yield b"x" * 6000

    assert client.post("/predict", content=parts()).status_code == 413
    assert ask(client, "/predict", 413, inputs="w1 " * 100, truncate=False)
    assert ask(client, "/predict", inputs="w1 " * 100)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'"a"', b"\xff", b'{"inputs": }', b'{"input": "a"}', b"[" * 4000])
def test_what_is_no_request_is_refused(client, body):
    response = client.post("/predict", content=body)
    assert response.status_code in (400, 422)
    assert response.json().keys() == {"error", "error_type"}


def test_paths_and_methods_that_are_not_there(client):
    assert client.get("/nothing").status_code == 404
    assert client.get("/predict").status_code == 405
    assert client.get("/nothing").json()["error_type"] == "validation"


def test_info_health_and_metrics(client, service):
    info = client.get("/info").json()
    assert info["model_type"]["classifier"]["id2label"] == {"0": "bad", "1": "good"}
    assert (info["max_input_length"], info["max_client_batch_size"], info["model_dtype"]) == (48, 8, "float32")
    assert list(info["models"]) == ["classification", "pairs"]
    assert client.get("/health").status_code == 200
    before = service.metrics.value("te_request_success", method="single")
    ask(client, "/predict", inputs="a")
    assert service.metrics.value("te_request_success", method="single") == before + 1
    text = client.get("/metrics").text
    assert re.search(r'^te_queue_size\{model="pairs"\} 0$', text, re.M)
    assert re.search(r"^te_request_duration_count [1-9]", text, re.M)


def test_open_inference_protocol(client, expected):
    assert client.get("/v2").json()["name"] == "jaxbert"
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json()["ready"] is True
    assert client.get("/v2/models/classification/ready").json()["ready"] is True
    assert [t["name"] for t in client.get("/v2/models/pairs").json()["inputs"]] == ["text", "pair"]
    assert client.get("/v2/models/other").status_code == 404
    tensor = {"name": "text", "shape": [len(TEXTS)], "datatype": "BYTES", "data": TEXTS}
    found = ask(client, "/v2/models/classification/infer", id="7", inputs=[tensor])
    assert (found["model_name"], found["id"]) == ("classification", "7")
    label, score, answer = found["outputs"]
    assert label["data"] == [answer["label"] for answer in expected]
    assert score["data"] == pytest.approx([answer["score"] for answer in expected], abs=2e-6)
    assert json.loads(answer["data"][0])["label"] == expected[0]["label"]
    assert ask(client, "/v2/models/classification/infer", 422, inputs=[tensor | {"datatype": "INT64"}])


def test_the_openapi_document_names_every_path(client):
    document = client.get("/openapi.json").json()
    served = {route.path for route in client.app.whole.routes} - {"/", "/openapi.json"}
    assert set(document["paths"]) == served
    text = json.dumps(document)
    names = set(re.findall(r"#/components/schemas/(\w+)", text))
    assert names <= set(document["components"]["schemas"])


def test_explanations(client, service, expected):
    names = ("te_request_count", "te_request_success")
    before = [service.metrics.value(name, method="batch") for name in names]
    found = ask(client, "/answer", inputs=[TEXTS[0], 3], explain=True)
    assert found[0]["label"] == expected[0]["label"]
    reason = found[0]["explanation"]
    assert [word["text"] for word in reason["words"]] == TEXTS[0].split()
    assert sum(word["weight"] for word in reason["words"]) == pytest.approx(
        reason["value"] - reason["baseline_value"], rel=0.05
    )
    assert "error" in found[1]
    assert [service.metrics.value(name, method="batch") for name in names] == [count + 1 for count in before]
    assert "/answer explains" in ask(client, "/predict", 422, inputs="a", explain=True)["error"]


def test_the_page_answers_and_explains(client, expected):
    empty = client.get("/").text
    assert "<form" in empty
    assert "<select" in empty
    page = client.post("/", data={"text": f"{TEXTS[0]} <b>", "explain": "1"}).text
    assert f'<strong id="label">{expected[0]["label"]}</strong>' in page
    assert "&lt;b&gt;" in page
    assert re.search(r'<span class="w [fg]" style="--a: [\d.]+"', page)
    assert not re.search(r'(src|href)="(?!#)', page), "it loads nothing"
    pair = client.get("/", params={"text": "w1", "pair": "good", "model": "pairs"}).text
    assert pair.count("<textarea") == 2
    assert "probability" in pair
    assert "No answer" in client.get("/", params={"text": "x" * 600}).text


def test_a_page_of_another_site_must_not_ask(client):
    assert client.post("/predict", json={"inputs": "a"}, headers={"origin": "http://evil.example"}).status_code == 403
    assert client.post("/predict", json={"inputs": "a"}, headers={"origin": "http://testserver"}).status_code == 200
    assert client.post("/predict", json={"inputs": "a"}, headers={"origin": "http://[broken"}).status_code == 403


def test_a_key(folders, service, monkeypatch):
    monkeypatch.setenv("JAXBERT_API_KEY", "sécret")
    client = TestClient(make_app(service))
    assert client.get("/health").status_code == 200
    assert client.get("/info").status_code == 401
    refused = client.post("/predict", json={"inputs": "a"}, headers={"authorization": "Bearer other"})
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
    for kind in ("Bearer", "bearer"):
        headers = {b"authorization": f"{kind} sécret".encode()}
        assert client.post("/predict", json={"inputs": "a"}, headers=headers).status_code == 200


def call(service, receive) -> list[dict[str, Any]]:
    """Send one POST to /predict whose body and end `receive(number)` brings; return what is sent."""
    sent: list[dict[str, Any]] = []
    numbers = iter(range(1000))
    headers = [(b"host", b"testserver"), (b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/predict", "raw_path": b"/predict", "query_string": b""}
    scope |= {"headers": headers, "scheme": "http", "server": ("testserver", 80), "client": ("127.0.0.1", 1)}
    scope |= {"http_version": "1.1", "root_path": ""}

    async def send(message) -> None:
        sent.append(message)

    asyncio.run(make_app(service)(scope, lambda: receive(next(numbers)), send))
    return sent


def test_a_slow_body_is_given_up(service):
    async def receive(number: int) -> dict[str, Any]:
        await asyncio.sleep(0 if number == 0 else 60)
        return {"type": "http.request", "body": b'{"inputs": ', "more_body": True}

    begin = time.monotonic()
    assert call(service, receive)[0]["status"] == 408
    assert time.monotonic() - begin < 4


def test_a_client_that_left_is_dropped(service, monkeypatch):
    engine, go = service.find().engine, threading.Event()
    predictor = engine.devices[0].model.predictor
    step = predictor.step
    asked: list[int] = []

    def slow(params, batch):
        go.wait(30)
        asked.append(int(np.asarray(batch["example_mask"]).sum()))
        return step(params, batch)

    monkeypatch.setattr(predictor, "step", slow)
    first = Question(engine, ["a"])
    while engine.waiting:
        time.sleep(0.01)

    async def receive(number: int) -> dict[str, Any]:
        if number == 0:
            return {"type": "http.request", "body": json.dumps({"inputs": TEXTS}).encode(), "more_body": False}
        await asyncio.sleep(0.2)
        return {"type": "http.disconnect"}

    before = service.metrics.value("jaxbert_dropped_requests")
    call(service, receive)
    last = Question(engine, ["b"])
    go.set()
    assert first.answers()
    assert last.answers()
    assert asked == [1, 1], "its texts are not computed"
    assert service.metrics.value("jaxbert_dropped_requests") == before + 1
    assert service.find().users == 0


def test_overload_and_errors_of_the_engine(client, service, monkeypatch):
    predictor = service.find().engine.devices[0].model.predictor
    step, go = predictor.step, threading.Event()

    def slow(params, batch):
        go.wait(30)
        return step(params, batch)

    monkeypatch.setattr(predictor, "step", slow)
    monkeypatch.setattr(service.find().engine, "_options", type(service.options)(max_queue=1))
    statuses: list[int] = []
    threads = [
        threading.Thread(target=lambda: statuses.append(client.post("/predict", json={"inputs": "a"}).status_code))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.2)
    refused = client.post("/predict", json={"inputs": "a"})
    go.set()
    for thread in threads:
        thread.join()
    assert (refused.status_code, refused.headers.get("retry-after")) == (429, "1")
    assert refused.json()["error_type"] == "overloaded"
    assert statuses == [200, 200]

    def failing(params, batch):
        raise RuntimeError("secret path")

    monkeypatch.setattr(predictor, "step", failing)
    assert ask(client, "/predict", 500, inputs="a") == {
        "error": "the engine could not compute the texts",
        "error_type": "backend",
    }
    monkeypatch.setattr(predictor, "step", step)
    assert ask(client, "/predict", inputs="a")


def test_a_model_is_replaced_without_losing_a_request(tmp_path, folders):
    folder = tmp_path / "model"
    shutil.copytree(folders["classification"], folder)
    with serving({"one": folder}) as service, TestClient(make_app(service), client=("127.0.0.1", 1)) as client:
        before = ask(client, "/answer", inputs=TEXTS[0])
        write_export(tmp_path / "new", TASKS["classification"], seed=9)
        for file in (tmp_path / "new").iterdir():
            shutil.copy(file, folder / file.name)
        statuses: list[int] = []
        done = threading.Event()

        def many() -> None:
            while not done.is_set():
                statuses.append(client.post("/predict", json={"inputs": TEXTS}).status_code)

        thread = threading.Thread(target=many)
        thread.start()
        assert ask(client, "/reload") == {"reloaded": ["one"]}
        done.set()
        thread.join()
        after = ask(client, "/answer", inputs=TEXTS[0])
        assert set(statuses) == {200}
        assert after["probabilities"] != before["probabilities"]
        assert after["probabilities"] == pytest.approx(
            jaxbert.load(folder).predict(TEXTS[0])["probabilities"], abs=2e-6
        )
        (folder / "config.json").write_text("{")
        assert "stay as they are" in ask(client, "/reload", 422)["error"]
        assert ask(client, "/answer", inputs=TEXTS[0]) == after
        other = TestClient(make_app(service), client=("10.0.0.1", 1))
        assert other.post("/reload").status_code == 403


def test_before_it_is_ready_and_at_the_end(folders):
    service = open_service({"one": folders["classification"]}, warm=False)
    client = TestClient(make_app(service))
    assert (client.get("/health").status_code, client.get("/health").json()["error_type"]) == (503, "unhealthy")
    assert client.get("/v2/health/live").status_code == 200
    assert client.get("/v2/models/one/ready").status_code == 503
    assert ask(client, "/predict", 503, inputs="a")
    service.warm_up()
    assert client.get("/health").status_code == 200
    service.draining = True
    assert client.get("/health").status_code == 503
    response = client.post("/predict", json={"inputs": "a"})
    assert (response.status_code, response.headers["connection"]) == (200, "close")
    service.close()
