"""Multiple choice: the loss is PyTorch's, packing changes no step, and an export answers as PyTorch does."""

from __future__ import annotations

import csv
import itertools
import json
import random

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import FILLERS, TELLING, Problem, make_config
from tiny import random_params
from transformers import AutoTokenizer, BertConfig

from jaxbert.cli.main import main
from jaxbert.data.batches import batches
from jaxbert.data.packing import choose_layout
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks import task_of_model
from jaxbert.tasks.multiple_choice.task import MultipleChoice
from jaxbert.train.programs import training_layout
from jaxbert.train.run import open_run

BATCH = 16
ENDINGS = ["a", "b", "c", "d"]


def write_questions(path, count, seed=0):
    """Write questions of two to four choices, of which one tells something good."""
    rng = random.Random(seed)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["question", *ENDINGS, "label"])
        for _ in range(count):
            choices = [rng.choice(TELLING["bad"]) for _ in range(rng.randint(1, 3))]
            place = rng.randrange(len(choices) + 1)
            choices.insert(place, rng.choice(TELLING["good"]))
            choices = [" ".join([*rng.choices(FILLERS, k=rng.randint(0, 3)), word]) for word in choices]
            writer.writerow([rng.choice(FILLERS), *choices, *[""] * (4 - len(choices)), place])
    return str(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("choices")
    Problem.write(folder)
    write_questions(folder / "questions.csv", 150)
    write_questions(folder / "dev-questions.csv", 23, seed=1)
    return folder


def open_task(folder, **changes):
    keys = {
        "model__name_or_path": str(folder / "model"),
        "data__train": str(folder / "questions.csv"),
        "data__choices": ENDINGS,
        "train__batch_size": BATCH,
        "train__max_steps": 6,
        "optimizer__learning_rate": 1e-3,
    }
    return open_run(make_config("multiple_choice", **(keys | changes)), RunFolder(folder / "unused"))


def losses_of(session):
    program, config = session.program, session.config
    layout = training_layout(
        config, session.inputs.train.tokens.lengths, session.program.mesh, windows=session.inputs.train.windows
    )
    state, step = program.first_state(random_params(session.program.model)), program.train_step()
    losses, rows = [], 0
    for batch in itertools.islice(batches(session.inputs.train, layout, BATCH, seed=config.train.seed), 6):
        state, sums = step(state, program.put(batch), program.arguments)
        assert int(sums["examples"]) == BATCH
        losses.append(float(sums["loss"] / sums["examples"]))
        rows += len(batch["segment_ids"])
    return losses, rows


def test_packed_padded_and_sliced(folder):
    """A step counts questions, whose choices lie in any rows, and in any slices: packed in one, padded in two."""
    packed, packed_rows = losses_of(open_task(folder, data__row_length=48))
    padded, padded_rows = losses_of(open_task(folder, data__packing=False, train__accumulation_steps=2))
    assert 2 * packed_rows < padded_rows
    np.testing.assert_allclose(packed, padded, rtol=1e-5)


def test_loss_metrics_and_gradient_are_those_of_a_softmax_over_choices(folder):
    session = open_task(folder)
    examples, task = session.inputs.train, session.inputs.task
    layout = choose_layout(examples.tokens.lengths, BATCH, seed=0, windows=examples.windows)
    batch = next(batches(examples, layout, BATCH, seed=0))
    scores = np.random.default_rng(0).normal(0, 3, len(examples.tokens)).astype(np.float32)
    device = {name: jnp.asarray(x) for name, x in batch.items() if name != "example_ids"}

    def loss(logits):
        return task.sums({"logits": logits[..., None]}, device, task.totals(device), train=True)["loss"]

    found, gradient = jax.value_and_grad(loss)(jnp.asarray(scores[batch["example_ids"]]))
    real, expected, towards = batch["example_mask"], 0.0, np.zeros(len(scores))
    questions = np.unique(examples.windows.examples_of(batch["example_ids"][real]))
    assert len(questions) == BATCH
    for question in questions:
        own = slice(*examples.windows.first[question : question + 2])
        shares = np.exp(scores[own]) / np.exp(scores[own]).sum()
        expected -= np.log(shares[examples.labels[question]])
        towards[own] = shares - (np.arange(len(shares)) == examples.labels[question])
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    np.testing.assert_allclose(np.asarray(gradient)[real], towards[batch["example_ids"][real]], atol=1e-5)
    assert not np.asarray(gradient)[~real].any()
    metrics = task.metrics(scores, examples)
    best = [np.argmax(scores[slice(*examples.windows.first[i : i + 2])]) for i in range(len(examples))]
    assert metrics["accuracy"] == np.mean(best == examples.labels)
    assert metrics["examples"] == len(examples)


def test_it_learns_and_answers_as_torch(folder, tmp_path, capsys):
    torch = pytest.importorskip("torch")
    from transformers import BertForMultipleChoice

    run, choices = tmp_path / "run", "[a, b, c, d]"
    files = [f"--data.train={folder / 'questions.csv'}", f"--data.validation={folder / 'dev-questions.csv'}"]
    settings = ["--train.epochs=4", "--train.batch_size=8", "--optimizer.learning_rate=3e-3", "--model.dropout=0"]
    settings += ["--model.scan_layers=true", "--train.eval_every=1000", "--train.log_every=20"]
    model = [f"--model.name_or_path={folder / 'model'}", f"--train.output_dir={run}"]
    assert main(["train", "--task=multiple_choice", f"--data.choices={choices}", *files, *settings, *model]) == 0
    summary = json.loads((run / "summary.json").read_text())
    assert summary["eval"]["accuracy"] > 0.8  # a third by chance
    assert summary["data"]["sources"]["train"]["unit"] == "questions"

    dev, out = folder / "dev-questions.csv", tmp_path / "answers.jsonl"
    asked = [f"--model={run}", f"--choices={choices}"]
    assert main(["predict", *asked, f"--input={dev}", f"--output={out}"]) == 0
    assert main(["evaluate", *asked, f"--data={dev}", f"--output={tmp_path / 'metrics.json'}"]) == 0
    metrics = json.loads((tmp_path / "metrics.json").read_text())
    assert metrics["accuracy"] == summary["eval"]["accuracy"]
    answers = [json.loads(line) for line in out.read_text().splitlines()]
    peer, tokenizer = (
        BertForMultipleChoice.from_pretrained(run / "export"),
        AutoTokenizer.from_pretrained(run / "export"),
    )
    with dev.open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = 0
    for row, answer in zip(rows, answers, strict=True):
        texts = [row[name] for name in ENDINGS if row[name]]
        encoded = tokenizer([row["question"]] * len(texts), texts, padding=True, return_tensors="pt")
        with torch.inference_mode():
            shares = peer(**{name: x[None] for name, x in encoded.items()}).logits[0].softmax(-1).numpy()
        np.testing.assert_allclose(answer["probabilities"], shares, atol=1e-5)
        assert answer["text"] == texts[answer["choice"]]
        assert answer["score"] == answer["probabilities"][answer["choice"]]
        right += answer["choice"] == int(row["label"])
    assert metrics["accuracy"] == pytest.approx(right / len(rows))


def test_what_an_export_remembers():
    task = MultipleChoice("letter", 96)
    kept = task.configure(BertConfig())
    assert task_of_model(kept) is MultipleChoice
    assert MultipleChoice.reopen(kept) == task
    foreign = BertConfig(architectures=["BertForMultipleChoice"])
    assert task_of_model(foreign) is MultipleChoice
    assert MultipleChoice.reopen(foreign) == MultipleChoice("number from 0", None)
