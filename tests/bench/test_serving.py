"""`jaxbert bench --mode serve`: the search for the highest rate, and a real server behind it."""

from __future__ import annotations

import json

import pytest
from served import TASKS, write_export

from jaxbert.bench.serving import LoadResult, find_goodput, request_bodies
from jaxbert.cli.main import main


def server(most: float, failures: int = 0):
    """A server that is in time up to some requests a second; its first measurements fail."""
    asked = []

    def measure(rate: float) -> LoadResult:
        asked.append(rate)
        late = rate > most or len(asked) <= failures
        return LoadResult(rate, latencies=[0.2 if late else 0.01] * 100)

    return measure, asked


@pytest.mark.parametrize("most", [20.0, 33.0, 437.0, 5000.0])
def test_the_rate_is_found_within_a_tenth(most):
    measure, asked = server(most)
    found, results = find_goodput(measure, 20.0, 100.0)
    assert most / 1.1 <= found <= most
    assert [result.rate for result in results] == asked


def test_a_rate_may_fail_once():
    assert find_goodput(server(100.0, failures=1)[0], 20.0, 100.0)[0] > 90
    assert find_goodput(server(100.0, failures=2)[0], 20.0, 100.0)[0] == 0


def test_what_is_in_time():
    most = [0.01] * 995 + [1.0] * 5
    assert LoadResult(10, latencies=most).within(100)
    assert not LoadResult(10, latencies=most + [1.0] * 10).within(100)
    assert not LoadResult(10, latencies=most, refused=1).within(100)
    assert not LoadResult(10, latencies=most, errors=1).within(100)
    assert not LoadResult(10).within(100)
    assert json.loads(request_bodies(["好"])[0]) == {"inputs": "好"}


def refused(capsys, *words):
    assert main(["bench", "--mode", "serve", *words]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error


def test_mistakes_are_one_line(tmp_path, capsys):
    assert "is not a local folder" in refused(capsys, "--model.name_or_path", "no/such-model")
    assert "leave out --tune" in refused(capsys, "--tune")
    assert "leave out --sweep" in refused(capsys, "--sweep", "train.batch_size=1,2")
    assert "--mode serve does not run" in refused(capsys, "--profile", str(tmp_path))


@pytest.mark.slow
def test_a_real_server_is_measured(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("JAXBERT_API_KEY", "secret")  # the measured server has none
    folder = write_export(tmp_path / "model", TASKS["classification"])
    words = ["--model.name_or_path", str(folder), "--lengths", "uniform:4:9", "--bench.seconds", "0.3"]
    assert main(["bench", "--mode", "serve", *words, "--bench.limit_ms", "0.001", "--output", "-"]) == 0
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert (result["goodput"], result["engine"] in ("jax", "onnx")) == (0, True)
    assert [line["rate"] for line in result["rates"]] == [5, 20, 20]
    assert all(line["errors"] == line["refused"] == 0 for line in result["rates"])
    assert result["rates"][1]["requests"] > 0
    assert result["rates"][1]["p50_ms"] > 0.1
    assert "0 requests a second, 99% of them answered within 0.001 ms" in shown.err
