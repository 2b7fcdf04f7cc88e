"""Self-training: a model labels texts that have no label, and is trained again on those of which it is sure.

All trainings are in one run folder. Each but the last has a folder of its own (`RUN/rounds/0`, ...); it is calibrated on the
validation set and answers for all texts without labels. Those whose confidence is at least the threshold get its label. The
next training begins from the first parameters, with the labelled rows and these; the last one is the run itself. Training,
calibration and answers are those of any run. What a round chose is kept in its folder, so that a run that was stopped goes
on with the same rows.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from jaxbert.bucket import fetched, write_whole
from jaxbert.config import Config, SelfTraining
from jaxbert.data.examples import Examples, content_of, join_examples
from jaxbert.data.overview import TRAIN
from jaxbert.data.sources import open_source
from jaxbert.data.tokens import Seen
from jaxbert.errors import UserError
from jaxbert.interop.load import load_params
from jaxbert.plain import read_json
from jaxbert.processes import main_decides, wait_for_all
from jaxbert.runs.folder import RunFolder
from jaxbert.tasks.base import Inputs
from jaxbert.tasks.metrics import improves, value_of
from jaxbert.tasks.reading import TextTask
from jaxbert.terminal import console
from jaxbert.train.inference import Finished
from jaxbert.train.programs import training_layout
from jaxbert.train.run import NOTHING, Additions, Run, open_run
from jaxbert.train.sharding import place
from jaxbert.train.trainer import Opener, show_data, start_training
from jaxbert.understand.folds import Trainings

_AT_ONCE = 65_536
"""Texts whose answers are in memory at once."""
_DIGITS = 6

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Unlabelled:
    """The texts without labels."""

    examples: Examples
    """Those that are in no other set of the run; `rows` are their places in the source."""
    seen: Seen
    """Facts about all texts of the source."""
    left_out: dict[str, int]
    """How many texts were left out because they are also in a set, by the name of the set."""


@dataclass(frozen=True)
class Chosen:
    """The texts that a round chose, and their labels."""

    places: list[int]
    """Places among the examples of `Unlabelled`, rising."""
    labels: list[int]
    confidence: list[float]
    facts: dict[str, Any]
    """The entry of the summary: the round, its model's metric and temperature, the number of texts added, by label."""

    def add_to(self, train: Examples, unlabelled: Examples) -> Examples:
        """Return the training examples with the chosen texts behind them."""
        if not self.places:
            return train
        assert train.labels is not None
        added = unlabelled.take(np.array(self.places))
        return join_examples(train, dataclasses.replace(added, labels=np.array(self.labels, train.labels.dtype)))


def run_self_training(config: Config, additions: Additions = NOTHING) -> Finished:
    """Train as `config` says, label the texts without labels and train again, or resume where an earlier start stopped.

    Raises:
      UserError: for a mistake in configuration, data or model, before the first step.
      StoppedError: if a signal ended the run after saving.
    """
    assert config.train.self_training is not None
    settings, found = SelfTraining.of(config.train.self_training), list[Unlabelled]()

    def opened(config: Config, folder: RunFolder, known: Sequence[str], additions: Additions) -> Run:
        run = open_run(config, folder, known, additions)
        found.append(_read_unlabelled(run))
        return dataclasses.replace(run, taught=content_of([found[-1].examples]).checksum)

    as_opener: Opener = opened
    with start_training(config, additions, opened=as_opener) as started:
        run, unlabelled = started.run, found[-1]
        show_data(run)
        _say_unlabelled(unlabelled)
        trainings, train, rounds = Trainings(started, []), run.inputs.train, list[Chosen]()
        for number in range(settings.rounds):
            inputs = _with_training(run.inputs, train)
            rounds.append(chosen := _round(trainings, inputs, unlabelled, settings, number))
            train = chosen.add_to(run.inputs.train, unlabelled.examples)
        main_decides(lambda: _write_added(run, unlabelled, rounds))
        inputs, name = _with_training(run.inputs, train), f"training {settings.rounds + 1} of {settings.rounds + 1}"
        record = {
            "metric": run.best_metric,
            "threshold": settings.threshold,
            "unlabelled": len(unlabelled.examples),
            "left_out": unlabelled.left_out,
            "rounds": [chosen.facts for chosen in rounds],
        }
        whole = _with_layout(trainings.whole, inputs)
        finished = trainings.train(inputs, run.folder, name, {"self_training": record}, whole)
        _say_result(finished.summary)
        return finished


def _read_unlabelled(run: Run) -> Unlabelled:
    """Read the texts without labels; those that are in a set of the run are left out.

    Raises:
      UserError: if none is left.
    """
    data, task, tokenizer = run.config.data, run.inputs.task, run.pretrained.tokenizer
    assert isinstance(task, TextTask)
    assert data.unlabelled is not None
    stored = task.store_unlabelled(data.unlabelled, data, tokenizer, tokenizer.model_max_length)
    assert stored.seen is not None
    kept, left_out = np.ones(len(stored.seen), bool), {}
    views = run.inputs.overview.views
    for view in sorted(views, key=lambda view: view.name == TRAIN):  # what judges the model is said first
        known = np.isin(stored.seen.hashes, view.seen.hashes)
        if count := int((known & kept).sum()):
            left_out[view.name] = count
        kept &= ~known
    if not kept.any():
        sets = " or ".join(f"data.{name}" for name in left_out)
        raise UserError(
            f"data.unlabelled {data.unlabelled}: all {len(kept):,} texts are also in {sets}, so that none is left to learn "
            "from: name other texts, or leave train.self_training out"
        )
    examples = Examples(stored.tokens, windows=stored.windows).take(np.flatnonzero(kept))
    return Unlabelled(examples, stored.seen, left_out)


def _say_unlabelled(unlabelled: Unlabelled) -> None:
    """Print how many texts there are, and warn of those that are in other sets."""
    for name, count in unlabelled.left_out.items():
        logger.warning("data.unlabelled: %d texts are also in data.%s: they are left out", count, name)
    said = f"{len(unlabelled.examples):,} texts without labels"
    console.print(said, highlight=False, soft_wrap=True)


def _with_training(inputs: Inputs, train: Examples) -> Inputs:
    """Return inputs with other training examples, which know those that were read."""
    return inputs if train is inputs.train else dataclasses.replace(inputs, train=train, labelled=inputs.train)


def _with_layout(run: Run, inputs: Inputs) -> Run:
    """Return a run with the layout for its training examples."""
    train = inputs.train
    layout = training_layout(run.config, train.tokens.lengths, run.program.mesh, windows=train.windows)
    return dataclasses.replace(run, layout=layout)


def _round(trainings: Trainings, inputs: Inputs, unlabelled: Unlabelled, settings: SelfTraining, number: int) -> Chosen:
    """Train, calibrate and choose, unless that was done before."""
    folder = trainings.whole.folder.round(number)
    if not folder.chosen.exists():
        main_decides(folder.make)
        if not folder.summary.exists():
            _train(trainings, inputs, folder, f"training {number + 1} of {settings.rounds + 1}")
            wait_for_all("a round of self-training is complete")
        chosen = _choose(trainings.whole, folder, unlabelled.examples, settings.threshold, number + 1)
        content = json.dumps(dataclasses.asdict(chosen))
        main_decides(lambda: _write(folder, content))
    main_decides(lambda: folder.checkpoints.rmtree(missing_ok=True))
    chosen = Chosen(**read_json(folder.chosen))
    _say_round(chosen.facts, trainings.whole.best_metric, len(unlabelled.examples), settings.threshold)
    return chosen


def _write(folder: RunFolder, content: str) -> None:
    with folder.writing():
        write_whole(folder.chosen, content)


def _train(trainings: Trainings, inputs: Inputs, folder: RunFolder, name: str) -> None:
    """Train a model that is calibrated at its end; the test sets are for the last model alone."""
    whole = _with_layout(trainings.whole, inputs)
    train = dataclasses.replace(whole.config.train, calibration="temperature")
    config = dataclasses.replace(whole.config, train=train)
    inputs = dataclasses.replace(inputs, test={})
    trainings.train(inputs, folder, name, run=dataclasses.replace(whole, config=config))


def _choose(run: Run, folder: RunFolder, examples: Examples, threshold: float, number: int) -> Chosen:
    """Let the exported model of a round answer, and choose the texts of which it is sure."""
    predictor, task, summary = run.predictor, run.inputs.task, read_json(folder.summary)
    params = load_params(fetched(folder.export), predictor.model)[0]
    params = place(params, run.program.state_shardings["params"])
    labels, confidence = (np.concatenate(parts) for parts in zip(*_answers(run, params, examples), strict=True))
    places = np.flatnonzero(confidence >= threshold)
    counts = np.bincount(labels[places], minlength=len(task.output_names))
    facts = {
        "round": number,
        "value": value_of(summary["eval"], run.best_metric),
        "temperature": summary["calibration"].get("temperature"),
        "added": len(places),
        "by_label": dict(zip(task.output_names, counts.tolist(), strict=True)),
    }
    if "note" in summary["calibration"]:
        facts["note"] = summary["calibration"]["note"]
    sure = [round(float(value), _DIGITS) for value in confidence[places]]
    return Chosen(places.tolist(), labels[places].tolist(), sure, facts)


def _answers(run: Run, params: Any, examples: Examples) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the most probable label and its probability for some thousand examples after the other."""
    parts = [
        examples.take(np.arange(low, min(low + _AT_ONCE, len(examples)))) for low in range(0, len(examples), _AT_ONCE)
    ]
    if len(parts) > 1:
        run.predictor.share_layout(parts)
    for part in parts:
        probabilities = run.inputs.task.probabilities(run.predictor(params, part), part)
        assert probabilities is not None
        yield probabilities.argmax(-1), probabilities.max(-1)


def _say_round(facts: Mapping[str, Any], metric: str, count: int, threshold: float) -> None:
    """Print what a round chose."""
    by_label = ", ".join(f"{name} {number:,}" for name, number in facts["by_label"].items())
    said = (
        f"round {facts['round']}: {metric} {facts['value']:.4f} on the validation set; {facts['added']:,} of {count:,} "
        f"texts have a confidence of at least {threshold:g}"
    )
    console.print(said + (f" ({by_label})" if facts["added"] else ""), highlight=False, soft_wrap=True)
    labels = [name for name, number in facts["by_label"].items() if number]
    if len(labels) == 1:
        logger.warning("round %d: all texts that it adds have the label %s", facts["round"], labels[0])
    if not facts["added"]:
        logger.warning("round %d adds nothing: lower the threshold of train.self_training", facts["round"])


def _write_added(run: Run, unlabelled: Unlabelled, rounds: Sequence[Chosen]) -> None:
    """Write the chosen texts of all rounds as lines of JSON, unless the file is there."""
    if run.folder.added.exists():
        return
    data, names = run.config.data, run.inputs.task.output_names
    assert data.unlabelled is not None
    sources = [unlabelled.examples.source_rows(np.array(chosen.places, np.int64)).tolist() for chosen in rounds]
    texts = _texts(data, {row for rows in sources for row in rows})
    lines = [
        {
            "round": chosen.facts["round"],
            "row": unlabelled.seen.place(row),
            **texts[row],
            "label": names[label],
            "confidence": confidence,
        }
        for chosen, rows in zip(rounds, sources, strict=True)
        for row, label, confidence in zip(rows, chosen.labels, chosen.confidence, strict=True)
    ]
    with run.folder.writing():
        write_whole(run.folder.added, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def _texts(data: Any, wanted: set[int]) -> dict[int, dict[str, str]]:
    """Return the texts of some records without labels, with the second texts of pairs, by their places."""
    found, begin = dict[int, dict[str, str]](), 0
    for part in open_source(data.unlabelled, data, role="unlabelled", labelled=False).parts():
        for place_, text in enumerate(part.texts, begin):
            if place_ in wanted:
                pair = {} if part.pairs is None else {"text_pair": part.pairs[place_ - begin]}
                found[place_] = {"text": text, **pair}
        begin += len(part)
    return found


def _say_result(summary: Mapping[str, Any]) -> None:
    """Warn if the last model is worse on the validation set than the first one, which had the labelled rows alone."""
    record = summary["self_training"]
    metric, before, after = record["metric"], record["rounds"][0]["value"], value_of(summary["eval"], record["metric"])
    if improves(metric, before, after):
        said = "self-training made the model worse on the validation set: %s %.4f, and %.4f with only the labelled rows"
        logger.warning(said + "; a higher threshold may help, or leave it out", metric, after, before)
