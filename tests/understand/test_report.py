"""The report of a run: the same page at the end and by command, safe with any text, for every task, fast and small."""

from __future__ import annotations

import dataclasses
import json
import random
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from reports import Parsed, made_up_run, seconds_of, tokenizer_of
from runs import FILLERS, Problem, random_rows, write_csv
from sklearn.metrics import f1_score, precision_recall_curve

import jaxbert
from jaxbert.api import finetune
from jaxbert.cli.main import main
from jaxbert.config import Config, DataConfig, ReportConfig, TrainConfig
from jaxbert.errors import UserError
from jaxbert.tasks.decision import Decision
from jaxbert.understand.records import read_records
from jaxbert.understand.reopen import reopen
from jaxbert.understand.report.charts import Plane, Series, draw
from jaxbert.understand.report.held_out import HeldOut
from jaxbert.understand.report.mistakes import excerpt
from jaxbert.understand.report.page import Html, element, escaped, marked_text, table
from jaxbert.understand.report.scores import group_values, number_groups
from jaxbert.understand.report.trust import threshold_curve
from jaxbert.understand.report.whole_run import command_of
from jaxbert.understand.report.words import weights_of_words
from jaxbert.understand.report.write import report_page, write_report

pytestmark = pytest.mark.usefixtures("shared_programs")

NASTY = '<script>alert(1)</script><img src=x onerror="alert(2)">\' & \x00\x1b </td></table>'
POSITIVE = ("--positive_label", "good")
TIMES = re.compile(r'<data class="time">.*?</data>')


@pytest.fixture(scope="module")
def run(tmp_path_factory, shared_programs) -> Path:
    """A run with a validation set in two languages, whose report has slices."""
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    rows = [(*row, "zh" if i % 3 else "en") for i, row in enumerate(random_rows(37, seed=1))]
    dev = write_csv(problem.folder / "dev.csv", rows, ("text", "label", "language"))
    sets = {"data__validation": dev, "data__test": problem.folder / "train.csv"}
    assert problem.train(**sets, train__epochs=1, report__at_end=None) == 0
    return problem.folder / "run"


def test_a_run_writes_its_report_and_the_command_writes_the_same(run, capsys):
    path = run / "report.html"
    written = path.read_bytes()
    path.unlink()
    assert main(["report", str(run)]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert path.read_bytes() == written
    found = Parsed(written.decode())
    summary = json.loads((run / "summary.json").read_text())
    for part in ("eval", "test"):
        assert f"{summary[part]['accuracy']:.4f}" in found.text
    for title in ("Result", "Data", "Training", "Set: validation", "Set: test", "Packed rows", "The same run again"):
        assert title in found.texts
    assert "always answering" in found.text
    assert found.tags.count("svg") == 4 + 2 * 3  # curves; reliability, coverage and thresholds of each set
    assert f"--data.train {run.parent / 'train.csv'}" in found.text


def test_a_model_that_was_calibrated_later_has_its_metrics_of_now(run, tmp_path, capsys):
    """The table, the sentences and the charts are of one model."""
    copy = shutil.copytree(run, tmp_path / "run")
    dev = run.parent / "dev.csv"
    assert main(["calibrate", "--model", str(copy), "--data", str(dev), "--threshold", "cost=1:1", *POSITIVE]) == 0
    assert main(["evaluate", "--model", str(copy), "--data", str(dev), "--output", str(tmp_path / "now.json")]) == 0
    before, now = (json.loads(path.read_text()) for path in (copy / "summary.json", tmp_path / "now.json"))
    assert now["accuracy"] != before["eval"]["accuracy"]
    capsys.readouterr()
    assert main(["report", str(copy)]) == 0
    assert "export has changed since the run, so its metrics are not those in summary.json" in capsys.readouterr().err
    text = Parsed((copy / "report.html").read_text()).text
    assert re.search(rf"accuracy\W*{now['accuracy']:.4f}", text)
    assert re.search(rf"\b{now['accuracy']:.1%} are right|it reaches {now['accuracy']:.1%}", text)
    assert f"{before['eval']['loss']:.4f}" not in text.partition("Data")[0]


def test_words_of_errors_have_the_weights_of_explain(run):
    finished = reopen(run)
    for name, outcome in finished.outcomes.items():
        held_out = HeldOut(finished, name, outcome)
        chosen = [3, 0, 7]
        records = read_records(finished.config, held_out.task, name, outcome.examples, np.array(chosen))
        found = weights_of_words(held_out, chosen, records)
        texts = [record.text for record in records]
        for words, right in zip(found, jaxbert.load(run).explain(texts, method="occlusion"), strict=True):
            assert [word["text"] for word in words] == [word["text"] for word in right["words"]]
            assert [word["weight"] for word in words] == pytest.approx(
                [word["weight"] for word in right["words"]], abs=2e-6
            )
    page = (run / "report.html").read_text("utf-8")
    assert page.count('class="w f"') > 5
    assert page.count('class="w g"') > 5
    assert "explain, occlusion" in page


def test_two_runs_of_one_seed_differ_in_times_alone(run, tmp_path):
    first = (run / "report.html").read_text()
    moved = run.rename(tmp_path / "first")
    try:
        options = Problem(run.parent).arguments(
            data__validation=run.parent / "dev.csv",
            data__test=run.parent / "train.csv",
            train__epochs=1,
            report__at_end=None,
        )
        assert main(options) == 0
        again = (run / "report.html").read_text()
    finally:
        shutil.rmtree(run, ignore_errors=True)
        moved.rename(run)
    assert first != again
    assert TIMES.sub("", first) == TIMES.sub("", again)


def test_scores_by_column_are_those_of_the_rows(run, capsys):
    assert main(["report", str(run), "--slices", "[language]"]) == 0
    page = (run / "report.html").read_text()
    outcome = reopen(run).outcomes["validation"]
    right = outcome.probabilities.argmax(-1) == outcome.examples.labels
    english = np.arange(37) % 3 == 0
    for name, chosen in (("en", english), ("zh", ~english)):
        counted = f'dir="auto">{name}</td><td class="number">{chosen.sum()}</td>'
        assert f'{counted}<td class="number">{right[chosen].mean():.4f}</td>' in page
    assert "Not shown by language: " in page  # the test set has no such column
    assert main(["report", str(run), "--slices", "[langauge]"]) == 2
    assert "validation has text, label, language; test has text, label" in capsys.readouterr().err.splitlines()[-1]


def test_a_missing_column_is_told_before_the_first_step(run, capsys, tmp_path):
    options = Problem(run.parent).arguments(data__validation=run.parent / "dev.csv", train__output_dir=tmp_path / "new")
    assert main([*options, "--report.slices=[langauge]"]) == 2
    error = capsys.readouterr().err
    assert "report.slices names 'langauge', but validation has no such column: it has text, label, language" in error
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="different columns"):
        ReportConfig(slices=["a", "a"])


def test_a_report_that_fails_leaves_the_run_complete_and_says_so(run, capsys, caplog, tmp_path, monkeypatch):
    def fail(_: object) -> None:
        raise ZeroDivisionError("a bug")

    finished = reopen(shutil.copytree(run, tmp_path / "run"))
    monkeypatch.setattr(finetune, "run_training", lambda *_: finished)
    with monkeypatch.context() as patch:
        patch.setattr(finetune, "write_report", fail)
        assert finetune.start_run(finished.config) == finished.summary
    said = f"its report is not written (ZeroDivisionError: a bug): `jaxbert report {tmp_path / 'run'}` tries again"
    assert said in caplog.text
    assert "report: " not in capsys.readouterr().err
    assert finetune.start_run(finished.config) == finished.summary
    assert f"report: {tmp_path / 'run' / 'report.html'}" in capsys.readouterr().err


def test_a_run_writes_no_report_where_it_is_not_wanted(run, tmp_path, monkeypatch):
    finished = reopen(shutil.copytree(run, tmp_path / "run"))
    path = tmp_path / "run" / "report.html"
    path.unlink()
    config = dataclasses.replace(finished.config, report=ReportConfig(at_end=False))
    monkeypatch.setattr(finetune, "run_training", lambda *_: dataclasses.replace(finished, config=config))
    finetune.start_run(config)
    assert not path.exists()
    assert finetune.Result(tmp_path / "run", {}, {}).report == path
    assert "</html>" in path.read_text()


def test_a_run_without_a_held_out_set_has_a_page(run):
    finished = dataclasses.replace(reopen(run), outcomes={})
    assert "The predictions for the sets did not fit in memory" in report_page(finished)
    finished = dataclasses.replace(finished, summary=finished.summary | {"eval": {}, "test": None})
    assert "There is no validation or test set, so it is not known" in report_page(finished)


def test_a_folder_that_is_no_complete_run_is_refused(tmp_path, capsys):
    assert main(["report", str(tmp_path)]) == 2
    assert "is not a run folder" in capsys.readouterr().err


ROWS = {
    "classification": [{"text": f"good w{i} 很好", "label": "好" if i % 2 else NASTY} for i in range(12)],
    "multi_label": [{"text": f"w{i} {NASTY}", "label": ["a", NASTY][: i % 3]} for i in range(12)],
    "regression": [{"text": f"w{i} {NASTY}", "label": i / 2} for i in range(12)],
    "multiple_choice": [
        {"question": f"w{i} 什么", "choices": ["good", NASTY, "w2"][: 2 + i % 2], "label": "A" if i % 2 else "B"}
        for i in range(12)
    ],
    "token_classification": [
        {"tokens": ["good", f"w{i}", NASTY, "北", "京"], "tags": ["B-x", "O", "O", "B-城", "I-城"]} for i in range(12)
    ],
    "plain_tags": [{"tokens": ["good", f"w{i}", NASTY], "tags": ["ADJ", "NOUN", "X"]} for i in range(12)],
    "question_answering": [
        {
            "question": NASTY,
            "context": f"w{i} 北京很好 {NASTY}",
            "answers": {"text": ["北京"], "answer_start": [2 + len(str(i))]},
        }
        for i in range(12)
    ],
    "pretraining": [{"text": f"good w{i}. w2 w3.\nw4 w5."} for i in range(12)],
}
SHOWN = {
    "classification": ["The most confident errors", "What is taken for what", "Reliability", "Coverage", "Thresholds"],
    "multi_label": ["The most confident errors", "Each label", "Reliability", "Thresholds", "micro F1"],
    "regression": ["The largest errors", "Scores", "always answering the mean", "Mean absolute error of parts"],
    "multiple_choice": ["The most confident errors", "choosing by chance", "Coverage"],
    "token_classification": ["The texts with the most errors", "F1 of entities", "Reliability"],
    "plain_tags": ["The texts with the most errors", "of 3 words wrong", "Each label"],
    "question_answering": ["The worst answers", "exactly as expected", "Coverage"],
    "pretraining": ["perplexity is", "Loss by the frequency of tokens", "1,000 to 9,999"],
}
EVERYWHERE = ["Learning rate", "Packed rows", "3.0 MiB", "The same run again", "Texts that are in two sets"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return tokenizer_of(
        tmp_path_factory.mktemp("words"), ["good", *FILLERS, *"很好什么北京城", "script", "<", ">", "##x"]
    )


@pytest.mark.parametrize("task", ROWS)
def test_every_task_has_a_page_that_shows_any_text_as_it_is(task, tokenizer, tmp_path):
    name = "token_classification" if task == "plain_tags" else task
    slices = {"report__slices": ["group"]} if task != "pretraining" else {}
    rows = [row | {"group": NASTY if i % 2 else "第一"} for i, row in enumerate(ROWS[task])]
    with made_up_run(tmp_path / "run", name, rows, tokenizer, **slices) as finished:
        content = write_report(finished).read_text("utf-8")
    found = Parsed(content)
    assert not found.open, "all elements are closed"
    assert found.tags.count("script") == 1
    assert {"img", "iframe", "link", "object"}.isdisjoint(found.tags)
    assert not [name for name, _ in found.attributes if name.startswith("on") or name in ("src", "srcset", "action")]
    linked = [value for name, value in found.attributes if name.endswith("href")]
    assert all(value.startswith("#") for value in linked)
    assert "url(http" not in content
    for text in [*SHOWN[task], *EVERYWHERE][: None if task != "pretraining" else -1]:
        assert text in found.text, text
    if task not in ("pretraining",):
        assert "第一" in found.texts
        assert "<script>alert(1)</script>" in found.text
        assert "Not shown" not in found.text


def test_hostile_texts_stay_texts():
    rng = random.Random(0)
    pieces = [
        "<",
        ">",
        "&",
        '"',
        "'",
        "<!--",
        "]]>",
        "</td>",
        "<b>",
        "&lt;",
        "\x00",
        "\ud8ff",
        "好",
        " ",
        "a",
        "<svg/onload=1>",
    ]
    for _ in range(300):
        text = "".join(rng.choices(pieces, k=rng.randint(1, 12)))
        clean = "".join("\ufffd" if c in "\x00\ud8ff" else c for c in text)
        found = Parsed(element("p", text, title=text, data_of=text))
        assert (found.tags, found.text) == (["p"], clean)
        assert set(dict(found.attributes).values()) == {clean.replace("\ufffd", "")}
        found = Parsed(table([text], [[text], [text]], sortable=True, caption=text))
        assert found.text == clean * 4
        marks = [(s := rng.randrange(len(text)), rng.randint(s + 1, len(text)), "wrong", text) for _ in range(2)]
        assert set(Parsed(marked_text(text, marks)).tags) <= {"mark", "b", "br"}
    assert escaped(Html("<b>")) == "<b>"


def test_marks_keep_the_text():
    text = "In Berlin und 北京."
    content = marked_text(text, [(14, 16, "true", ""), (3, 9, "missed", "")])
    assert Parsed(content).text == text
    assert content == 'In <mark class="missed">Berlin</mark> und <mark class="true">北京</mark>.'
    both = marked_text(text, [(3, 9, "missed", "city"), (6, 9, "wrong", "x")])
    assert Parsed(both).text.startswith("In Berlincity und 北京.also: ")


def test_a_long_text_shows_every_error_whole_and_begins_and_ends_between_words():
    words = [f"word{i:03}" for i in range(400)]
    text = " ".join(words)
    found = Parsed(
        excerpt(text, [(*_place(text, "word100", "word101"), "missed", ""), (*_place(text, "word300"), "wrong", "")])
    )
    shown = found.text.replace("…", " ").split()
    assert set(shown) <= set(words), "no word is cut"
    assert found.text.startswith("… ")
    assert found.text.endswith(" …")
    assert {"word100", "word101", "word299", "word300", "word301"} <= set(shown)
    assert "word250" not in shown
    end = _place(text, "word100")[0] + 440  # where the first piece would end
    across = Parsed(excerpt(text, [(*_place(text, "word100"), "missed", ""), (end - 9, end + 60, "wrong", "")]))
    assert text[end - 9 : end + 60] in across.text
    assert len(Parsed(excerpt(text, [(i * 8, i * 8 + 7, "wrong", "") for i in range(0, 400, 20)])).text) < 1300
    han = "很" * 2000
    assert Parsed(excerpt(han, [(1000, 1002, "wrong", "")])).text == f"… {'很' * 600} …"
    assert Parsed(excerpt(text[:600], [])).text == text[:600]


def _place(text: str, first: str, last: str = "") -> tuple[int, int]:
    return text.index(first), text.index(last or first) + len(last or first)


def test_the_name_of_an_axis_has_room_beside_long_numbers():
    """Near-equal values have long numbers: 0.05475; the middle of the name's letters, 9 points high, is in the picture."""
    for values in ([0.05471, 0.05532], [-0.001234, -0.001233], [0.0, 1.0], [3e-9, 4e-9]):
        drawing = draw([Series(np.arange(2.0), np.array(values))], Plane("step", "loss"))
        (place,) = re.findall(r"rotate\(-90 ([\d.-]+) ", drawing)
        assert float(place) > 9, values


def test_a_caption_stays_where_a_wide_table_scrolls():
    assert table(["a"], [[1]], caption="<").startswith('<p class="note">&lt;</p><div class="scroll"><table>')


def test_the_page_of_10_000_rows_takes_two_seconds_and_less_than_1_mb(tokenizer, tmp_path):
    rng = random.Random(0)
    labels = [f"label {i}" for i in range(14)]
    rows = [(" ".join(rng.choices(FILLERS, k=30)), rng.choice(labels), rng.choice("abc")) for _ in range(10_000)]
    path = write_csv(tmp_path / "dev.csv", rows, ("text", "label", "source"))
    train = [{"text": "w1", "label": label, "source": "a"} for label in labels]
    settings = {"data__validation": str(path), "report__slices": ["source"]}
    with made_up_run(tmp_path / "run", "classification", train, tokenizer, **settings) as finished:
        pages = []
        seconds = seconds_of(lambda: pages.append(report_page(finished)))
    assert len(pages[0].encode()) < 1_000_000
    assert "10,000" in pages[0]
    assert seconds < 2, f"{seconds:.2f} s"


def test_many_labels_have_their_largest_confusions(tokenizer, tmp_path):
    rows = [{"text": f"w{i % 50}", "label": f"label {i}"} for i in range(240)]
    with made_up_run(tmp_path / "run", "classification", rows, tokenizer) as finished:
        text = Parsed(report_page(finished)).text
    assert "The 200 labels with the lowest F1; 40 others are in summary.json." in text
    assert "The 30 most frequent of" in text
    assert "true \\ predicted" not in text


@pytest.mark.parametrize("task", [task for task in ROWS if task != "pretraining"])
def test_a_diverged_model_has_a_page(task, tokenizer, tmp_path):
    name = "token_classification" if task == "plain_tags" else task
    with made_up_run(tmp_path / "run", name, ROWS[task], tokenizer) as finished:
        outcome = finished.outcomes["validation"]
        broken = dataclasses.replace(outcome, predictions=np.full_like(outcome.predictions, np.nan))
        text = Parsed(report_page(dataclasses.replace(finished, outcomes={"validation": broken}))).text
    assert "Reliability" not in text
    assert SHOWN[task][0] in text
    judged = task in ("classification", "multi_label", "regression", "multiple_choice")
    assert ("Not shown: some predictions are not finite numbers" in text) == judged


def test_a_tuned_threshold_decides_the_answers_that_the_page_counts(tokenizer, tmp_path):
    with made_up_run(tmp_path / "run", "classification", ROWS["classification"], tokenizer) as finished:
        outcome = finished.outcomes["validation"]
        sure, labels = outcome.probabilities[:, 0], outcome.examples.labels
        task = dataclasses.replace(outcome.task, decision=Decision(positive=0, threshold=float(np.sort(sure)[2])))
        tuned = dataclasses.replace(outcome, task=task)
        found = Parsed(report_page(dataclasses.replace(finished, outcomes={"validation": tuned})))
    names = [re.sub("[\x00\x1b]", "\ufffd", name) for name in task.label_names]
    given = np.where(sure >= task.decision.threshold, 0, 1)
    right = (given == labels).mean()
    assert right != (outcome.probabilities.argmax(-1) == labels).mean()
    assert re.search(rf"\b{right:.1%} are right|it reaches {right:.1%}", found.text)
    assert f"In use: {task.decision.threshold:.4f} (dotted)" in found.text
    assert f"F1 of label {names[0]} if" in found.text
    cells = [[int(((labels == i) & (given == j)).sum()) for j in range(2)] for i in range(2)]
    matrix = "".join(f"{names[i]}{''.join(str(n or '') for n in cells[i])}" for i in range(2))
    assert matrix in found.text
    assert f"; all: {right:.4f}." in found.text


FOLDS = {"count": 5, "mean": {"accuracy": 0.8125}, "std": {"accuracy": 0.0625}, "out_of_fold": {"accuracy": 0.8046875}}


def test_a_run_in_folds_shows_what_they_measured(tokenizer, tmp_path):
    with made_up_run(tmp_path / "run", "classification", ROWS["classification"], tokenizer) as finished:
        ensemble = dataclasses.replace(finished, summary=finished.summary | {"folds": FOLDS, "exported_step": None})
        text = Parsed(report_page(ensemble)).text
        assert "Metrics of the models of all folds together" in text
        assert "accuracy0.81250.06250.8047" in text
        assert "Packed rows" not in text
        alone = {"eval": {}, "test": None}
        text = Parsed(report_page(dataclasses.replace(ensemble, outcomes={}, summary=ensemble.summary | alone))).text
        assert "the metrics of the folds show how good such a model is" in text
        assert "accuracy0.81250.06250.8047" in text


def test_labels_that_may_be_wrong_are_shown_with_their_texts(tokenizer, tmp_path):
    rows = [{"text": f"good w{i}", "label": "好" if i % 2 else NASTY} for i in range(40)]
    with made_up_run(tmp_path / "run", "classification", rows, tokenizer) as finished:
        outcome = finished.outcomes["validation"]
        right = np.array(outcome.examples.labels)
        right[[7, 20]] = 1 - right[[7, 20]]  # the labels that the model contradicts
        logs = np.log(np.where(np.eye(2)[right] > 0, 0.95, 0.05)).astype(np.float32)
        sure = dataclasses.replace(outcome, predictions=logs)
        found = Parsed(report_page(dataclasses.replace(finished, outcomes={"validation": sure})))
    whole = found.text[found.text.index("Of 40 labels, 2 are probably wrong") :]
    for i in (7, 20):
        assert f"good w{i}" in whole
    assert "labelled 好, suggested <script>alert(1)</script>" in whole
    assert f"jaxbert audit {tmp_path / 'run'} --output labels.csv" in whole
    assert "more often wrong than they are" not in whole
    with made_up_run(tmp_path / "weak", "classification", rows, tokenizer) as finished:  # its answers are random
        assert "the model is more often wrong than they are" in Parsed(report_page(finished)).text


def test_a_diverged_pretraining_has_a_page(tokenizer, tmp_path):
    with made_up_run(tmp_path / "run", "pretraining", ROWS["pretraining"], tokenizer) as finished:
        diverged = {"0": {"masked_tokens": 3, "loss": None}}
        evaluation = finished.summary["eval"] | {"perplexity": None, "by_frequency": diverged}  # as summary.json has it
        text = Parsed(report_page(dataclasses.replace(finished, summary=finished.summary | {"eval": evaluation}))).text
    assert "perplexity is not finite: the model has diverged" in text


def test_data_that_are_gone_leave_a_page_without_texts(tokenizer, tmp_path):
    with made_up_run(tmp_path / "run", "classification", ROWS["classification"], tokenizer) as finished:
        pass
    text = Parsed(report_page(finished)).text
    assert "Without texts: memory:train stands for rows in the memory" in text


def test_several_sets_have_their_own_scores(tokenizer, tmp_path):
    rows = ROWS["regression"]
    with made_up_run(
        tmp_path / "run", "regression", rows, tokenizer, data__validation={"en": "memory:train", "zh": "memory:train"}
    ) as finished:
        sets = [HeldOut(finished, name, outcome) for name, outcome in finished.outcomes.items()]
        assert [one.metrics["mae"] for one in sets] == [one.score.of() for one in sets]
        found = Parsed(report_page(finished))
    assert {"Set: validation.en", "Set: validation.zh"} <= set(found.texts)


def test_judgements_add_up_to_the_metrics(tokenizer, tmp_path):
    names = {
        "multi_label": "f1_micro",
        "token_classification": "f1",
        "plain_tags": "accuracy",
        "question_answering": "f1",
    }
    for task, metric in names.items():
        name = "token_classification" if task == "plain_tags" else task
        with made_up_run(tmp_path / task, name, ROWS[task], tokenizer) as finished:
            held_out = HeldOut(finished, "validation", finished.outcomes["validation"])
            score = held_out.score.of()
        assert score == pytest.approx(held_out.metrics[metric], rel=1e-9), task


def test_the_threshold_curve_is_that_of_scikit_learn():
    rng = np.random.default_rng(0)
    sure, right = rng.random(200).round(2), rng.random(200) < 0.3
    least, precision, recall, f1 = threshold_curve(sure, right)
    expected = precision_recall_curve(right, sure)
    np.testing.assert_allclose(least, expected[2])
    np.testing.assert_allclose(precision, expected[0][:-1])
    np.testing.assert_allclose(recall, expected[1][:-1])
    best = int(f1.argmax())
    assert f1[best] == pytest.approx(f1_score(right, sure >= least[best]))


def test_groups_of_numbers_and_of_values_are_all_rows_once():
    values = np.array([1, 1, 1, 1, 2, 3, 50, 60, 70, 1000], float)
    groups = number_groups(values, 4)
    assert sorted(np.concatenate([chosen for _, chosen in groups]).tolist()) == [*range(10)]
    assert groups[0][0] == "1"
    assert groups[-1][0].endswith("1,000")
    written = [str(i) for i in range(100)]
    assert group_values(written)[0][0] == "0 to 16"
    many = [f"v{i % 30}" for i in range(61)]
    grouped = group_values(many)
    assert (grouped[0][0], len(grouped[0][1]), grouped[-1][0]) == ("v0", 3, "10 other values")
    assert sum(len(chosen) for _, chosen in grouped) == 61
    assert group_values([None, "", 3])[0][0] == "(empty)"


def test_the_command_has_every_key_that_is_not_the_default():
    config = Config(
        task="regression",
        data=DataConfig(train="my rows.csv", validation={"en": "a.csv"}, packing=False),
        train=TrainConfig(epochs=5),
    )
    assert command_of(config).replace(" \\\n ", "") == (
        "jaxbert train --task regression --data.train 'my rows.csv' --data.validation '{\"en\": \"a.csv\"}' "
        "--data.packing false --train.epochs 5"
    )
