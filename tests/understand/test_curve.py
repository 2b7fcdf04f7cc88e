"""The learning curve: shares that grow out of each other, programs that all share, and a sentence that follows its rule."""

from __future__ import annotations

import json

import jax
import numpy as np
import pytest
from etils import epath
from runs import Problem

import jaxbert
from jaxbert.cli.main import main
from jaxbert.data.split import make_order
from jaxbert.errors import UserError
from jaxbert.runs.folder import RunFolder
from jaxbert.train.report import print_curve
from jaxbert.understand.curve import draw_curve, read_shares, verdict


@pytest.fixture(scope="module")
def problem(tmp_path_factory) -> Problem:
    return Problem.write(tmp_path_factory.mktemp("problem"))


def arguments(problem: Problem, fractions: str, **changes: object) -> list[str]:
    words = problem.arguments(train__epochs=1, train__folds=2, train__output_dir=problem.folder / "curve", **changes)
    return ["curve", *words[1:], f"--fractions={fractions}"]


def test_shares_grow_and_the_programs_are_those_of_the_first(problem, capsys):
    jax.clear_caches()
    assert main(arguments(problem, "1/2,1")) == 0
    folder = problem.folder / "curve"
    content = json.loads((folder / "curve.json").read_text())
    assert [(point["fraction"], point["rows"]) for point in content["points"]] == [("1/2", 25), ("1", 50)]
    steps = [json.loads(path.read_text())["steps"] for path in sorted(folder.glob("shares/1-2/*/summary.json"))]
    assert steps == [2, 2]  # 25 rows in batches of 16
    assert (folder / "curve.png").read_bytes().startswith(b"\x89PNG")
    said = capsys.readouterr().err
    assert content["verdict"]["sentence"] in " ".join(said.split())
    first = content["compilations"]

    before = {path: path.stat().st_mtime_ns for path in folder.glob("*/**/summary.json")}
    assert main(arguments(problem, "1/3,1/2,1")) == 0
    more = json.loads((folder / "curve.json").read_text())
    assert more["points"][1:] == content["points"]  # they are not trained again
    assert len(before) == 4
    assert {path: path.stat().st_mtime_ns for path in before} == before
    jax.clear_caches()
    alone = arguments(problem, "1")[1:-1]
    assert main(["train", *alone, f"--train.output_dir={problem.folder / 'one'}"]) == 0
    assert first <= json.loads((problem.folder / "one" / "summary.json").read_text())["compilations"]


@pytest.mark.parametrize(
    ("fractions", "message"),
    [
        ("1/2", "at least two different shares"),
        ("0,1", "'0' must be a share"),
        ("1/2,3/2", "'3/2' must be"),
        ("1,x", "'x'"),
    ],
)
def test_fractions_that_are_none(fractions, message):
    with pytest.raises(UserError, match=message):
        read_shares(fractions)


def test_a_share_that_is_less_than_a_batch_leaves_no_folder(problem, capsys):
    assert (
        main([*arguments(problem, "1/16,1")[:-1], "--fractions=1/16,1", f"--train.output_dir={problem.folder / 'no'}"])
        == 2
    )
    assert "1/16 of the training rows is 3, less than train.batch_size (16)" in capsys.readouterr().err
    assert not (problem.folder / "no" / "config.yaml").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train.folds": "null"}, "train.folds is null, but a curve is measured in folds"),
        ({"train.best_metric": "acuracy"}, "train.best_metric is 'acuracy', but it must be one of accuracy"),
    ],
)
def test_a_curve_that_cannot_be_measured_is_refused_before_the_first_step(problem, changes, message, capsys):
    words = [f"--{key}={value}" for key, value in changes.items()]
    assert main([*arguments(problem, "1/2,1"), *words, f"--train.output_dir={problem.folder / 'no'}"]) == 2
    assert message in capsys.readouterr().err
    assert not (problem.folder / "no" / "config.yaml").exists()


def points(*values: list[float]) -> list[dict]:
    return [{"rows": 100.0 * 2**i, "each": [{"accuracy": v, "loss": 1 - v} for v in of]} for i, of in enumerate(values)]


def test_the_sentence_follows_the_rule():
    """Differences of 0.10 ± 0.01 are no chance; of 0.00 ± 0.03 they may be. A loss is better when it falls."""
    rising = points([0.60, 0.62, 0.58], [0.70, 0.71, 0.69], [0.80, 0.82, 0.78])
    for metric, forecast in (("accuracy", 0.90), ("loss", 0.10)):
        found = verdict(rising, metric)
        assert found["helps"]
        assert found["sentence"].startswith("more labels would help: from 200 to 400 rows")
        assert found["forecast"] == pytest.approx(forecast, abs=1e-6)
        assert abs(found["gain"]) == pytest.approx(0.10)
        assert found["interval"] == pytest.approx(4.3027 * 0.01 / 3**0.5, rel=1e-3)  # t of 2 degrees of freedom
    flat = verdict(points([0.6, 0.7, 0.8], [0.70, 0.72, 0.71], [0.71, 0.70, 0.74]), "accuracy")
    assert not flat["helps"]
    assert flat["sentence"].startswith("no sign that more labels would help")
    falling = verdict(points([0.9, 0.9, 0.9], [0.80, 0.80, 0.81]), "accuracy")
    assert falling["sentence"].startswith("more rows made it worse: from 100 to 200 rows")
    unknown = verdict(points([0.6, float("nan"), 0.6], [0.70, 0.72, 0.71], [0.81, 0.80, 0.84]), "accuracy")
    assert unknown["sentence"] == "the curve says nothing: accuracy is not a number in some of the trainings"


def test_a_metric_that_some_folds_leave_out_is_measured_and_shown(tmp_path, capsys):
    """`f1_macro_present` is left out where it equals `f1_macro`: in folds whose rows have every label."""
    values = {"accuracy": 0.5, "f1_macro": 0.5}
    whole = [
        {"rows": 100.0 * share, "fraction": "1/2", "each": [values | {"f1_macro_present": 0.6}, values]}
        for share in (1, 2)
    ]
    whole[1]["each"] = [values, values]
    metric = "f1_macro_present"
    result = {"metric": metric, "folds": 2, "points": whole, "verdict": verdict(whole, metric)}
    assert result["verdict"]["gain"] == pytest.approx(-0.05)
    print_curve(result, RunFolder(epath.Path(tmp_path)))
    draw_curve(result, tmp_path / "curve.png")
    assert "0.5500 ± 0.0707" in capsys.readouterr().err


def test_every_beginning_of_the_order_has_the_shares_of_the_labels():
    strata = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [800, 160, 40]))
    order = make_order(strata, seed=1)
    assert sorted(order) == list(range(1000))
    for size in (25, 50, 100, 500):
        counts = np.bincount(strata[order[:size]], minlength=3)
        assert np.abs(counts - size * np.array([0.8, 0.16, 0.04])).max() <= 2
    groups = np.arange(1000) % 50
    first = groups[make_order(strata, 1, groups)[:100]]
    assert len(set(first)) == 5


def test_in_python(problem):
    found = jaxbert.curve(
        problem.folder / "train.csv",
        problem.folder / "model",
        fractions="1/2,1",
        folds=2,
        epochs=1,
        batch_size=16,
        model__scan_layers=True,
        output_dir=problem.folder / "python",
    )
    assert [point["rows"] for point in found["points"]] == [25, 50]
