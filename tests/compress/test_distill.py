"""A student's loss is the one that is written down, and packing, devices, slices and crashes change nothing of it."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
from runs import (
    CrashError,
    Problem,
    assert_close_params,
    crash_before,
    make_config,
    make_program,
    random_tokens,
    run_steps,
    small_config,
    weights,
    whole_losses,
    write_csv,
    write_model,
)
from scipy.special import expit, log_softmax
from tiny import random_params
from token_tasks import write_problem

from jaxbert.cli.main import main
from jaxbert.compress.answers import open_teacher
from jaxbert.compress.distill import with_teacher
from jaxbert.config import Distilling
from jaxbert.data.batches import NO_LABEL, batches
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.packing import choose_layout
from jaxbert.data.tokens import LongTexts, Reading
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.distance import binary_divergence, divergence
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.regression.task import Regression
from jaxbert.tasks.token_classification.task import PlainTags
from jaxbert.train.inference import open_trained
from jaxbert.train.pretrained import load_pretrained

pytestmark = pytest.mark.usefixtures("shared_programs")

STEPS, COUNT, NAMES = 6, 96, ("a", "b", "c")
WINDOWS = Windows.of_counts(np.resize([3, 1, 4, 1, 2, 1], 48))
TASKS: dict[str, Any] = {
    "classification": Classification(NAMES, label_smoothing=0.1),
    "documents": Classification(NAMES, reading=Reading(LongTexts("windows"), "mean", 48)),
    "multi_label": MultiLabel(NAMES),
    "regression": Regression(),
    "tags": PlainTags(NAMES),
}


def taught(task: Any) -> Examples:
    """Return examples with a teacher's answers; a third of them has no label."""
    rng, tokens = np.random.default_rng(5), random_tokens(COUNT)
    ids = tokens.ids[tokens.begins + 1]
    if isinstance(task, PlainTags):
        labels = (tokens.ids % 3).astype(np.int32)
        for place in range(0, COUNT, 3):
            labels[tokens.begins[place] : tokens.begins[place] + tokens.lengths[place]] = -1
        labels[tokens.begins] = NO_LABEL
        answers = log_softmax(rng.normal(size=(len(tokens.ids), 3)), axis=-1).astype(np.float32)
        return Examples(tokens, token_labels=labels, by_token={"token_targets": answers})
    windows = None if getattr(task.reading, "pooling", None) is None else WINDOWS
    count = COUNT if windows is None else len(WINDOWS.counts)
    known = np.arange(count) % 3 > 0
    labels: Any = (ids[:count] % 3).astype(np.int32)
    answers = rng.normal(size=(COUNT, 3)).astype(np.float32)
    if isinstance(task, MultiLabel):
        labels = ids[:, None] % np.arange(2, 5)[None] == 0
    if isinstance(task, Regression):
        labels, answers = labels.astype(np.float32), answers[:, 0]
    segments = known if windows is None else np.repeat(known, windows.counts)
    states = rng.normal(size=(COUNT, 2, 32))
    states = (states / np.linalg.norm(states, axis=-1, keepdims=True)).astype(np.float16)
    more = {} if windows is not None else {"target_states": states}
    return Examples(tokens, labels, windows=windows, by_segment={"labelled": segments, "targets": answers, **more})


def small_run(name: str, devices: int = 1, **changes: Any) -> Any:
    task, hidden = TASKS[name], 0.5 if name == "classification" else 0.0
    names = ["score"] if name == "regression" else NAMES
    labels = {"id2label": dict(enumerate(names)), "label2id": {label: i for i, label in enumerate(names)}}
    config = make_config(train__batch_size=16, optimizer__learning_rate=1e-3, **changes)
    settings = Distilling(temperature=3.0, weight=0.4, hidden=hidden)
    program = make_program(
        config, small_config(num_attention_heads=4, **labels), STEPS, devices, with_teacher(task, settings)
    )
    return run_steps(program, random_params(program.model), taught(task))


OTHER_WAYS: dict[str, dict[str, Any]] = {
    "classification": {"train__accumulation_steps": 2, "devices": 8, "mesh__fsdp": 2, "mesh__tensor": 2},
    "documents": {"devices": 4, "mesh__fsdp": 2, "train__accumulation_steps": 2},
    "multi_label": {"devices": 2},
    "regression": {"devices": 2},
    "tags": {"devices": 4, "train__accumulation_steps": 2},
}


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.long] * (n in ("multi_label", "regression"))) for n in TASKS]
)
def test_packed_on_one_device_and_padded_on_several(name):
    packed = small_run(name)
    other = small_run(name, data__packing=False, **OTHER_WAYS[name])
    assert other.example_ids == packed.example_ids
    np.testing.assert_allclose(other.losses, packed.losses, rtol=1e-5)
    assert_close_params(other.params, packed.params, atol=1e-4)


def test_the_loss_is_the_sum_of_its_parts():
    """Labels count where there are some, a teacher's answers everywhere; the divisor is the number of all examples."""
    task = TASKS["classification"]
    settings = Distilling(temperature=3.0, weight=0.4, hidden=0.5)
    examples = taught(task)
    (batch,) = batches(examples, choose_layout(examples.tokens.lengths, COUNT), COUNT, seed=None)
    rng, shape = np.random.default_rng(1), batch["example_mask"].shape
    logits, states = rng.normal(size=(*shape, 3)), rng.normal(size=(3, *batch["input_ids"].shape, 32))
    outputs = {
        "logits": jnp.asarray(logits),
        "encoded": dataclasses.make_dataclass("Encoded", ["hidden_states_NBTD"])(states),
    }
    lesson = with_teacher(task, settings)
    assert lesson.reads_states
    totals = {"examples": jnp.asarray(COUNT)}
    sums = lesson.sums(outputs, {k: jnp.asarray(v) for k, v in batch.items()}, totals, train=True)
    own = taught_part = away = 0.0
    for row, slot in np.argwhere(batch["example_mask"]):
        given, target = logits[row, slot], batch["targets"][row, slot].astype(np.float64)
        if batch["labelled"][row, slot]:
            smooth = 0.9 * np.eye(3)[batch["labels"][row, slot]] + 0.1 / 3
            own -= float((smooth * log_softmax(given)).sum())
        ours, theirs = log_softmax(given / 3), log_softmax(target / 3)
        taught_part += 9 * float((np.exp(theirs) * (theirs - ours)).sum())
        first = states[1:, row, batch["cls_positions"][row, slot]]
        cosines = (first * batch["target_states"][row, slot]).sum(-1) / np.linalg.norm(first, axis=-1)
        away += 1 - float(cosines.mean())
    assert float(sums["loss"]) == pytest.approx(0.6 * own + 0.4 * taught_part + 0.5 * away, rel=1e-5)
    assert int(sums["examples"]) == COUNT
    evaluated = lesson.sums(outputs, {k: jnp.asarray(v) for k, v in batch.items()}, totals, train=False)
    assert float(evaluated["loss"]) == pytest.approx(float(task.sums(outputs, batch, totals, train=False)["loss"]))


def test_a_teachers_answers_travel_with_their_examples():
    """Those of chosen examples, and in rows of another process nothing."""
    examples = taught(TASKS["documents"])
    chosen = examples.take(np.array([4, 1]))
    places, _ = WINDOWS.members(np.array([4, 1]))
    for name, values in chosen.by_segment.items():
        np.testing.assert_array_equal(values, examples.by_segment[name][places])
    (batch,) = batches(examples, choose_layout(examples.tokens.lengths, 48, windows=WINDOWS), 48, seed=None)
    real, ids = batch["example_mask"], batch["example_ids"]
    np.testing.assert_array_equal(batch["targets"][real], examples.by_segment["targets"][ids[real]])
    tagged = taught(TASKS["tags"])
    layout = choose_layout(tagged.tokens.lengths, COUNT)
    (whole,) = batches(tagged, layout, COUNT, seed=None)
    own = np.arange(len(whole["input_ids"])) % 2 == 0
    (part,) = batches(tagged, layout, COUNT, seed=None, own_rows=lambda _: own)
    answers, real = whole["token_targets"], whole["segment_ids"] > 0
    assert answers.shape == (*real.shape, 3)
    assert not answers[~real].any()
    np.testing.assert_array_equal(part["token_targets"], np.where(own[:, None, None], answers, 0))
    first = whole["example_ids"][0, 0]
    begin, length = tagged.tokens.begins[first], tagged.tokens.lengths[first]
    np.testing.assert_array_equal(answers[0, :length], tagged.by_token["token_targets"][begin : begin + length])


def test_divergences():
    """0 where both agree, whatever a row of logits is shifted by; else the sums of p (log p - log q)."""
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(2, 5, 4))
    assert np.abs(divergence(ours, ours + 3, 2.0)).max() < 1e-5
    assert np.abs(binary_divergence(ours, ours, 2.0)).max() < 1e-6
    p, q = expit(theirs / 2), expit(ours / 2)
    expected = 4 * (p * np.log(p / q) + (1 - p) * np.log((1 - p) / (1 - q)))
    np.testing.assert_allclose(binary_divergence(ours, theirs, 2.0), expected, rtol=1e-4, atol=1e-5)


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    """A teacher of another seed, and rows of which only some have labels."""
    problem = Problem.write(tmp_path_factory.mktemp("problem"))
    folder = problem.folder
    write_csv(folder / "more.csv", [(f"w{i} good w{i + 1}",) for i in range(30)], header=("text",))
    assert problem.train(train__output_dir=folder / "teacher", data__validation=folder / "dev.csv") == 0
    return problem


def keys(problem: Problem, run: str, **changes: Any) -> dict[str, Any]:
    folder = problem.folder
    common = {
        "model__name_or_path": folder / "teacher",
        "model__layers": 1,
        "train__teacher": folder / "teacher",
        "train__distill": "{weight: 0.8, hidden: 0.1}",
        "data__unlabelled": folder / "more.csv",
        "data__validation": folder / "dev.csv",
        "train__checkpoint_every": 3,
        "train__epochs": 1,
    }
    return common | {"train__output_dir": folder / run} | changes


def test_a_crash_changes_no_bit_and_the_teacher_answers_once(problem, monkeypatch, capsys):
    whole, run = problem.folder / "whole", problem.folder / "stopped"
    assert problem.train(**keys(problem, "whole")) == 0
    said = capsys.readouterr().err
    assert said.count("answers for") == 2
    assert "which has answered for 100 training rows and 30 rows without labels" in said
    with monkeypatch.context() as patch:
        crash_before(patch, 5)
        with pytest.raises(CrashError):
            problem.train(**keys(problem, "stopped"))
    assert problem.train(**keys(problem, "stopped")) == 0
    assert "answers for" not in capsys.readouterr().err.replace("has answered for", "")
    assert weights(run) == weights(whole)
    assert whole_losses(run) == whole_losses(whole)
    summary = json.loads((run / "summary.json").read_text())
    assert summary["steps"] == 9
    assert summary["teacher"]["unlabelled"] == 30
    assert json.loads((run / "export" / "config.json").read_text())["num_hidden_layers"] == 1


def test_another_teacher_in_the_middle_is_refused(problem, monkeypatch, capsys):
    """Its path may change, its weights may not."""
    folder = problem.folder
    with monkeypatch.context() as patch:
        crash_before(patch, 5)
        with pytest.raises(CrashError):
            problem.train(**keys(problem, "other-teacher"))
    write_model(folder / "untrained")
    assert problem.train(**keys(problem, "other-teacher", train__teacher=folder / "untrained")) == 2
    assert "another teacher, or other rows without labels" in capsys.readouterr().err


def test_the_report_shows_it_beside_its_teacher(problem):
    if not (problem.folder / "whole" / "summary.json").exists():
        assert problem.train(**keys(problem, "whole")) == 0
    assert main(["report", str(problem.folder / "whole")]) == 0
    page = (problem.folder / "whole" / "report.html").read_text()
    for said in ("Beside the larger model", "calibration_error", "parameters", "answers a second", "Different answers"):
        assert said in page


def test_kept_answers_are_the_teachers(problem, tmp_path):
    """Log-probabilities in the order of rows, from the cache as from the model, in the order of the student's labels."""
    config = make_config(model__name_or_path=str(problem.folder / "teacher"))
    pretrained, model = load_pretrained(config.model), open_trained(str(problem.folder / "teacher"))
    examples = Examples(random_tokens(20))
    expected = model.predictor(model.params, examples)
    for task in (model.task, dataclasses.replace(model.task, label_names=model.task.label_names[::-1])):
        teacher = open_teacher(str(problem.folder / "teacher"), task, pretrained, Distilling())
        for _ in range(2):
            found = teacher.answered(examples, str(tmp_path)).by_segment["targets"]
            np.testing.assert_array_equal(found, expected if task is model.task else expected[:, ::-1])
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"train__teacher": None}, "train.distill is set, but train.teacher is not"),
        ({"train__teacher": None, "train__distill": None}, "data.unlabelled is set, but only a teacher"),
        ({"train__distill": "{wait: 1}"}, "train.distill has 'wait', but its settings are temperature, weight, hidden"),
        ({"train__distill": "{weight: 2}"}, "train.distill: weight is 2, but it must be at least 0 and at most 1"),
        ({"model__layers": 3}, "model.layers is 3, but the model has 2 layers"),
        (
            {"data__train": "other.csv", "data__validation": None},
            "has other labels (bad, good) than the run (bad, fair, good)",
        ),
        ({"model__name_or_path": "other", "model__layers": None}, "has another vocabulary (71 tokens there, 72 here)"),
        ({"train__teacher": "nowhere"}, "'nowhere' is not a local folder"),
        (
            {"task": "regression", "data__train": "numbers.csv", "data__validation": None},
            "is of task classification, but",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(problem, capsys, changes, said):
    folder = problem.folder
    write_csv(folder / "other.csv", [(f"w{i}", ("bad", "fair", "good")[i % 3]) for i in range(30)])
    write_csv(folder / "numbers.csv", [(f"w{i}", i / 7) for i in range(30)])
    other = write_model(folder / "other", vocab_size=72)
    files = json.loads((other / "tokenizer.json").read_text())
    files["model"]["vocab"]["new"] = 71
    (other / "tokenizer.json").write_text(json.dumps(files))
    named = {k: folder / v if v in ("other.csv", "numbers.csv", "other") else v for k, v in changes.items()}
    assert problem.train(**keys(problem, "refused", **named)) == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.strip().splitlines()[-1].startswith("error: ")
    assert not (folder / "refused" / "config.yaml").exists()


def test_a_tagger_learns_from_texts_without_tags(tmp_path, capsys):
    """In windows, from the teacher's answers for the tokens that get tags; `hidden`, which compares texts, is refused."""
    options = write_problem(tmp_path, "token_classification", count=24)
    options |= {"train.max_steps": 2, "report.at_end": False, "data.validation": None, "model.scan_layers": True}
    options = {name: value for name, value in options.items() if value is not None}
    write_csv(tmp_path / "more.csv", [(f"w1 bad w{i} good " * 6,) for i in range(5)], header=("text",))
    model = write_model(tmp_path / "model")
    flags = [f"--{name}={value}" for name, value in options.items()]
    teacher = [f"--train.output_dir={tmp_path / 'teacher'}", f"--model.name_or_path={model}", "--model.head=new"]
    assert main(["train", *flags, *teacher]) == 0
    student = [f"--train.output_dir={tmp_path / 'student'}", f"--model.name_or_path={tmp_path / 'teacher'}"]
    more = [f"--train.teacher={tmp_path / 'teacher'}", f"--data.unlabelled={tmp_path / 'more.csv'}"]
    capsys.readouterr()
    assert main(["train", *flags, *student, *more, "--train.distill={hidden: 1}"]) == 2
    assert "`hidden` compares vectors of texts: leave hidden out" in capsys.readouterr().err
    assert main(["train", *flags, *student, *more]) == 0
    summary = json.loads((tmp_path / "student" / "summary.json").read_text())
    assert summary["teacher"]["unlabelled"] > 5  # windows
    assert np.isfinite(summary["train_loss"])
