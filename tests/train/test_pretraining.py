"""Runs of `jaxbert pretrain`: packed as padded, stopped as not, and what they export is fine-tuned as it is."""

from __future__ import annotations

import dataclasses
import json
import random
from pathlib import Path

import jax
import numpy as np
import pytest
from cluster import Cluster
from runs import FILLERS, VOCAB, CrashError, Problem, crash_before, make_config, read_metrics, small_config, weights
from safetensors.numpy import load_file
from tiny import random_params
from transformers import BertTokenizer

from jaxbert.cli.main import main
from jaxbert.config import ModelConfig, PretrainConfig
from jaxbert.data.batches import batches
from jaxbert.tasks import task_class
from jaxbert.train import pretrained as starting
from jaxbert.train.pretrained import load_pretrained
from jaxbert.train.programs import Program, training_layout
from jaxbert.train.sharding import make_mesh

pytestmark = pytest.mark.usefixtures("shared_programs")


def write_text(path: Path, documents: int, seed: int = 0) -> Path:
    """Write documents, each with words of its own, so that next sentences can be told."""
    rng = random.Random(seed)
    parts = []
    for _ in range(documents):
        words = rng.sample(FILLERS, 8)
        parts.append("\n".join(" ".join(rng.choices(words, k=rng.randint(2, 9))) for _ in range(rng.randint(2, 8))))
    path.write_text("\n\n".join(parts) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def problem(tmp_path_factory):
    folder = tmp_path_factory.mktemp("problem")
    problem = Problem.write(folder)
    write_text(folder / "train.txt", 60)
    write_text(folder / "dev.txt", 20, seed=1)
    return problem


def arguments(problem: Problem, **changes) -> list[str]:
    """Return the command line of an epoch."""
    keys = {
        "data__train": problem.folder / "train.txt",
        "data__max_length": 24,
        "pretrain__sentences": "line",
        "train__epochs": 1,
    }
    return ["pretrain", *problem.arguments(**(keys | changes))[1:]]


def pretrain(problem: Problem, **changes) -> int:
    return main(arguments(problem, **changes))


def losses(run: Path) -> list[float]:
    return [line["train_loss"] for line in read_metrics(run) if "train_loss" in line]


STEPS = 20


def small_run(problem: Problem, *, next_sentence: bool = True, devices: int = 1, **changes) -> list[float]:
    """Return the loss of each step of a run without dropout, over some epochs."""
    config = make_config(train__batch_size=16, optimizer__learning_rate=1e-3, **changes)
    data = dataclasses.replace(config.data, train=str(problem.folder / "train.txt"), cache_dir=None)
    pretrain = PretrainConfig(next_sentence=next_sentence, sentences="line", mask="word")
    config = dataclasses.replace(config, task="pretraining", data=data, pretrain=pretrain)
    inputs = task_class("pretraining").read(config, BertTokenizer(vocab=str(problem.folder / "vocab.txt")), 24)
    mesh = make_mesh(config.mesh, jax.devices()[:devices])
    program = Program.of(config, mesh, small_config(), inputs.task, STEPS)
    layout = training_layout(config, inputs.train.tokens.lengths, mesh)
    state, step = program.first_state(random_params(program.model)), program.train_step()
    losses: list[float] = []
    for epoch in range(STEPS):
        for batch in batches(inputs.train, layout, config.train.batch_size, seed=0, epoch=epoch):
            if len(losses) == STEPS:
                assert epoch > 0
                return losses
            state, sums = step(state, program.put(inputs.collate(batch, epoch)), program.arguments)
            losses.append(float(sums["loss"] / sums["examples"]))
    raise AssertionError("too few steps")


def test_twenty_steps_packed_and_padded(problem):
    packed = small_run(problem)
    assert np.mean(packed[-4:]) < np.mean(packed[:4]) - 0.1
    np.testing.assert_allclose(small_run(problem, data__packing=False), packed, rtol=1e-5)


@pytest.mark.long
@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"train__accumulation_steps": 2}, {"devices": 8}, {"devices": 8, "mesh__fsdp": 2}], ids=str
)
def test_twenty_steps_however_they_are_computed(problem, changes):
    np.testing.assert_allclose(small_run(problem, **changes), small_run(problem), rtol=1e-5)


@pytest.mark.long
@pytest.mark.slow
def test_twenty_steps_without_pairs(problem):
    packed = small_run(problem, next_sentence=False)
    np.testing.assert_allclose(small_run(problem, next_sentence=False, data__packing=False), packed, rtol=1e-5)


def test_a_run_that_crashed_in_an_epoch_ends_the_same(problem, tmp_path, monkeypatch, capsys):
    """Also its vocabulary: it is trained once, and another start takes what is there."""
    keys = {
        "model__name_or_path": "tiny",
        "pretrain__vocab_size": 100,
        "pretrain__next_sentence": False,
        "pretrain__mask": "word",
        "data__validation_fraction": 0.2,
        "train__checkpoint_every": 3,
        "train__epochs": 2,
    }
    assert pretrain(problem, train__output_dir=tmp_path / "whole", **keys) == 0
    assert "masked words" in capsys.readouterr().err
    with monkeypatch.context() as patch:
        crash_before(patch, 4)
        with pytest.raises(CrashError):
            pretrain(problem, train__output_dir=tmp_path / "crashed", **keys)
    with monkeypatch.context() as patch:
        patch.setattr(starting, "train_vocabulary", None)
        assert pretrain(problem, train__output_dir=tmp_path / "crashed", **keys) == 0
    assert losses(tmp_path / "crashed") == losses(tmp_path / "whole")
    assert weights(tmp_path / "crashed") == weights(tmp_path / "whole")
    tokens = (tmp_path / "whole" / "vocab.txt").read_text("utf-8").splitlines()
    assert 60 < len(tokens) <= 100
    assert tokens[:5] == list(VOCAB[:5])
    settings = json.loads((tmp_path / "whole" / "export" / "config.json").read_text())
    assert settings["vocab_size"] == len(tokens)
    assert settings["architectures"] == ["BertForMaskedLM"]


@pytest.mark.long
@pytest.mark.slow
def test_two_processes_pretrain_as_one(problem, tmp_path):
    """Each tokenizes its share of the documents; one trains the vocabulary."""
    keys = {
        "model__name_or_path": "tiny",
        "model__dropout": 0.0,
        "pretrain__vocab_size": 100,
        "pretrain__mask": "word",
        "data__validation": problem.folder / "dev.txt",
    }
    folders = {cluster: tmp_path / f"{cluster.processes}" for cluster in (Cluster(1, 1), Cluster(2, 2))}
    for cluster, folder in folders.items():
        mesh = {"mesh__fsdp": cluster.processes}
        cluster.run(
            arguments(problem, train__output_dir=folder / "run", data__cache_dir=folder / "cache", **keys, **mesh)
        )
    one, two = (folder / "run" for folder in folders.values())
    assert (one / "vocab.txt").read_text() == (two / "vocab.txt").read_text()
    assert len(losses(one)) > 5
    np.testing.assert_allclose(losses(two), losses(one), rtol=1e-5)
    evaluated = [json.loads((run / "summary.json").read_text())["eval"] for run in (one, two)]
    first, second = (found.pop("by_frequency") for found in evaluated)
    assert evaluated[1] == pytest.approx(evaluated[0], rel=1e-5)
    assert second.keys() == first.keys()
    assert all(second[name] == pytest.approx(first[name], rel=1e-5) for name in first)


@pytest.fixture(scope="module")
def pretrained(problem):
    """A run that has evaluated."""
    more = {
        "data__validation": problem.folder / "dev.txt",
        "train__epochs": 4,
        "optimizer__learning_rate": 3e-3,
        "train__output_dir": problem.folder / "pre",
    }
    assert pretrain(problem, **more) == 0
    return problem.folder / "pre"


def test_it_learns(pretrained):
    evaluations = [line for line in read_metrics(pretrained) if "eval_loss" in line]
    assert len(evaluations) == 4
    assert evaluations[-1]["eval_loss"] < evaluations[0]["eval_loss"]
    assert {line["eval_masked_tokens"] for line in evaluations} == {evaluations[0]["eval_masked_tokens"]}
    summary = json.loads((pretrained / "summary.json").read_text())
    assert summary["eval"]["loss"] == min(line["eval_loss"] for line in evaluations)
    assert {"masked_accuracy", "perplexity", "nsp_accuracy"} <= summary["eval"].keys()


def test_fine_tuning_takes_it_as_it_is(problem, pretrained, tmp_path, capsys):
    more = {"train__max_steps": 1, "optimizer__learning_rate": 1e-12, "train__output_dir": tmp_path / "run"}
    assert problem.train(model__name_or_path=pretrained, **more) == 0
    note = "new, to be trained: classifier.bias, classifier.weight; left unused: cls.predictions"
    assert note in capsys.readouterr().err
    before, after = (load_file(run / "export" / "model.safetensors") for run in (pretrained, tmp_path / "run"))
    for name, tensor in after.items():
        if name.startswith("bert."):
            np.testing.assert_allclose(before[name], tensor, atol=1e-7, err_msg=name)
    settings = json.loads((tmp_path / "run" / "export" / "config.json").read_text())
    assert settings["jaxbert"]["task"] == "classification"


def test_a_run_or_its_export(pretrained):
    for folder in (pretrained, pretrained / "export"):
        assert load_pretrained(ModelConfig(name_or_path=str(folder))).folder == pretrained / "export"


def test_pytorch_opens_the_export(pretrained):
    torch = pytest.importorskip("torch")
    import transformers

    model, info = transformers.BertForPreTraining.from_pretrained(pretrained / "export", output_loading_info=True)
    assert not any(info.values()), info
    assert isinstance(model.cls.seq_relationship.weight, torch.Tensor)


def test_any_checkpoint_is_exported(pretrained, tmp_path):
    assert main(["export", "--run", str(pretrained), "--step", "best", "--output", str(tmp_path / "out")]) == 0
    assert (tmp_path / "out" / "model.safetensors").read_bytes() == weights(pretrained)
    settings = json.loads((tmp_path / "out" / "config.json").read_text())
    assert settings["architectures"] == ["BertForPreTraining"]


def test_a_checkpoint_is_pretrained_further(problem, pretrained, tmp_path):
    assert (
        pretrain(problem, model__name_or_path=pretrained, train__max_steps=3, train__output_dir=tmp_path / "more") == 0
    )
    first = losses(pretrained)
    assert losses(tmp_path / "more")[0] < first[0] - 0.2


BAD = {
    "empty corpus": ({"data__train": "empty.txt"}, "empty.txt: no text"),
    "one document": ({"data__train": "one.txt"}, "1 document, but next-sentence prediction needs two"),
    "no column": ({"data__train": "train.csv", "data__text": "body"}, "no column 'body' (data.text)"),
    "probability 0": ({"pretrain__masking_probability": 0}, "pretrain.masking_probability is 0"),
    "probability 1": ({"pretrain__masking_probability": 1.0}, "pretrain.masking_probability is 1,"),
    "no mask token": ({"model__name_or_path": "tiny", "model__vocab": "lacking.txt"}, "lacks [MASK]"),
    "no vocabulary": ({"model__name_or_path": "tiny"}, "pretrain.vocab_size"),
    "two vocabularies": (
        {"model__name_or_path": "tiny", "model__vocab": "vocab.txt", "pretrain__vocab_size": 200},
        "pretrain.vocab_size and model.vocab are both set",
    ),
    "vocabulary of a checkpoint": ({"pretrain__vocab_size": 200}, "has its own"),
    "segmented tokens": ({"pretrain__segmented": True}, "set it to word"),
    "too short": ({"data__max_length": 4}, "data.max_length is 4, but a pair needs at least 5 tokens"),
    "fraction": ({"data__train": "one.txt", "data__validation_fraction": 0.5}, "there is only 1 document to split"),
    "metric": ({"data__validation": "dev.txt", "train__best_metric": "f1"}, "train.best_metric is 'f1'"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input(problem, tmp_path, capsys, monkeypatch, name):
    changes, message = BAD[name]
    monkeypatch.chdir(problem.folder)
    Path("empty.txt").write_text("\n\n")
    Path("one.txt").write_text("w1 w2\nw3\n")
    Path("lacking.txt").write_text("\n".join(token for token in VOCAB if token != "[MASK]") + "\n")
    assert pretrain(problem, train__output_dir=tmp_path / "run", **changes) == 2
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("error: ")]
    assert message in line
    assert not (tmp_path / "run").exists()


def test_a_pretrained_model_has_no_answers(problem, pretrained, capsys):
    assert (
        main(["predict", "--model", str(pretrained), "--input", str(problem.folder / "dev.csv"), "--output", "-"]) == 2
    )
    assert "fine-tune it with" in capsys.readouterr().err
