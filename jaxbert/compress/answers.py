"""A teacher: a trained model that answers for the rows that a student learns from, once, packed, and kept in the cache.

An answer is what the model predicts (`Task.predictions`): log-probabilities of labels, log-odds of each label, a score.
With `hidden`, it is also the first token's vector after those layers that the student's layers stand for, of length 1 and in
float16: 2 N D bytes for each row, for a student of N layers of width D. The states of all tokens would be as many times more
as a row has tokens. The entry of the cache is named after the weights and the tokens, so that nothing else can change it.
"""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbert.bucket import fetched
from jaxbert.config import Distilling
from jaxbert.data import store
from jaxbert.data.examples import Examples, content_of
from jaxbert.data.store import StoredColumn, Writer, cache_folder
from jaxbert.errors import UserError
from jaxbert.models.families import longest_input
from jaxbert.runs.folder import RunFolder
from jaxbert.runs.identity import check_same_tokenizer
from jaxbert.tasks.base import Batch, Gathered, Task, count_predictions, list_names
from jaxbert.tasks.reading import tokenizing_shard
from jaxbert.train.evaluate import Predictor
from jaxbert.train.inference import TrainedModel, open_trained
from jaxbert.train.pretrained import Pretrained, model_folder, weights_checksums
from jaxbert.train.sharding import platform_of

_AT_ONCE = 65_536
"""Segments whose answers are in memory at once."""

logger = logging.getLogger("jaxbert")


class _WithStates(Task):
    """Inserted before the class of a teacher's task: predicts the answers and, behind them, the vectors of some layers."""

    layers: tuple[int, ...]

    def predictions(self, outputs: dict[str, Any], batch: Batch) -> Array:
        """Return the answers and the vectors in one row of numbers for each segment, [B, S, C + N * D], float32."""
        answers = super().predictions(outputs, batch)
        answers_BSC = answers if answers.ndim == 3 else answers[..., None]
        states_NBTD = outputs["encoded"].hidden_states_NBTD[np.array(self.layers) + 1]
        places_BS = batch["cls_positions"]
        first_NBSD = jnp.take_along_axis(states_NBTD, places_BS[None, :, :, None], axis=2).astype(jnp.float32)
        first_NBSD /= jnp.sqrt((first_NBSD**2).sum(-1, keepdims=True) + 1e-12)
        rows_BSM = jnp.moveaxis(first_NBSD, 0, 2).reshape(*places_BS.shape, -1)
        return jnp.concatenate([answers_BSC, rows_BSM], axis=-1)


@dataclass(frozen=True)
class Teacher:
    """A teacher for one student."""

    name: str
    model: TrainedModel
    predictor: Predictor
    """The predictor of the answers, with the states behind them if there are `layers`."""
    checksum: str
    """A checksum of all that decides its answers."""
    order: np.ndarray | None
    """The place of each of the student's labels among the teacher's; None if the order is the same."""
    layers: tuple[int, ...] = ()
    """The layers whose states the student learns."""

    @property
    def parameters(self) -> int:
        """The number of parameters, of an ensemble those of all its models."""
        import jax

        return sum(leaf.size for leaf in jax.tree.leaves(self.model.params))

    def answered(self, examples: Examples, cache_dir: str | None) -> Examples:
        """Return the examples with the teacher's answers, from the cache if it has them.

        Raises:
          UserError: for an example that is longer than the teacher reads.
        """
        longest, most = int(examples.tokens.lengths.max()), longest_input(self.model.predictor.model.config)
        if longest > most:
            raise UserError(
                f"train.teacher {self.name} reads up to {most} tokens, but an example has {longest}: set data.max_length to "
                f"{most}"
            )
        content = [platform_of(self.predictor.mesh), content_of([Examples(examples.tokens)]).checksum]
        stored = store.cached(
            self.name,
            lambda: store.entry_of(["answers", self.checksum, *content]),
            partial(self._write, examples),
            folder=cache_folder(cache_dir),
            all_have=tokenizing_shard().all_have,
            said=False,
        )
        answers = stored.columns["answers"] if self.order is None else stored.columns["answers"][..., self.order]
        if self.model.task.per_token:
            return dataclasses.replace(examples, by_token={"token_targets": answers})
        states = {"target_states": stored.columns["states"]} if self.layers else {}
        return dataclasses.replace(examples, by_segment={"targets": answers, **states})

    def _write(self, examples: Examples, folder: Path) -> None:
        """Answer for the examples, and write the answers into an empty folder."""
        logger.info("%s answers for %d rows", self.name, len(examples))
        parts = self._parts(examples)
        first = next(parts)
        columns = {name: StoredColumn(values.dtype.str, values.shape[1:]) for name, values in first.items()}
        with Writer(folder, columns) as writer:
            writer.add_columns(first)
            for part in parts:
                writer.add_columns(part)
            writer.finish(None)

    def _parts(self, examples: Examples) -> Iterator[dict[str, np.ndarray]]:
        """Yield the answers for some thousand segments after the other, in their order; for all tokens at once."""
        task, whole = self.model.task, Examples(examples.tokens, token_labels=examples.token_labels)
        count = len(whole)
        bounds = range(0, count, count if task.per_token else _AT_ONCE)
        parts = (
            [whole] if task.per_token else [whole.take(np.arange(low, min(low + _AT_ONCE, count))) for low in bounds]
        )
        if len(parts) > 1:
            self.predictor.share_layout(parts)
        for part in parts:
            gathered = Gathered(count_predictions(task, part))
            for ids, predictions in self.predictor.pieces(self.model.params, part):
                gathered.add(ids, predictions)
            if not np.isfinite(gathered.rows).all():
                raise UserError(f"train.teacher {self.name} gives answers that are not finite: name another teacher")
            yield self._divided(gathered.rows)

    def _divided(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Divide rows of numbers into answers and states."""
        if not self.layers:
            return {"answers": rows.astype(np.float32)}
        width = self.model.predictor.model.config.hidden_size
        states = rows[:, -len(self.layers) * width :].reshape(len(rows), -1, width)
        answers = rows[:, : -len(self.layers) * width]
        answers = answers[:, 0] if self.model.task.name == "regression" else answers
        return {"answers": answers.astype(np.float32), "states": states.astype(np.float16)}


def open_teacher(name: str, task: Task, pretrained: Pretrained, settings: Distilling) -> Teacher:
    """Open a teacher and check that a student of this task can learn from it.

    Args:
      name: a run folder, an exported folder or a name on the Hub.
      task: the student's task.
      pretrained: the model that the student starts from.
      settings: how it learns.

    Raises:
      UserError: if it has another task, other labels or another tokenizer, or not the states that are asked for.
    """
    said = f"train.teacher {name}"
    model = open_trained(name)
    teacher, order = model.task, None
    if teacher.name != task.name:
        raise UserError(
            f"{said} is of task {teacher.name}, but the run's task is {task.name}: name a teacher of that task"
        )
    if type(task).distance is Task.distance:
        raise UserError(f"train.teacher does not work with task {task.name}: leave it out")
    theirs, ours = teacher.output_names, task.output_names
    if theirs != ours:
        if sorted(theirs) != sorted(ours):
            raise UserError(
                f"{said} has other labels ({list_names(theirs)}) than the run ({list_names(ours)}): train a teacher on the "
                "same labels"
            )
        order = np.array([theirs.index(label) for label in ours])
    if getattr(teacher, "by", None) != getattr(task, "by", None):
        raise UserError(
            f"{said} tags other parts of a text (words or tokens): train a teacher on texts that are written in the same way"
        )
    check_same_tokenizer(said, model.tokenizer, pretrained.tokenizer)
    layers = _layers(said, model, pretrained) if settings.hidden else ()
    predictor = model.predictor if not layers else _showing_states(model.predictor, layers)
    return Teacher(name, model, predictor, _checksum(name, model, layers), order, layers)


def _layers(said: str, model: TrainedModel, pretrained: Pretrained) -> tuple[int, ...]:
    """Return the layer of the teacher that each layer of the student stands for.

    Of N layers, the student's layer i of n stands for all up to layer N (i + 1) / n - 1 of the teacher.

    Raises:
      UserError: if their states cannot be compared.
    """
    theirs, ours, task = model.predictor.model.config, pretrained.bert_config, model.task
    whole, layers = theirs.num_hidden_layers, ours.num_hidden_layers
    for wrong, why in (
        (task.per_token, f"task {task.name} tags tokens, and `hidden` compares vectors of texts"),
        (getattr(getattr(task, "reading", None), "pooling", None), "its texts are read in windows"),
        (isinstance(model.params, list), "it is an ensemble, whose models have states of their own"),
        (
            theirs.hidden_size != ours.hidden_size,
            f"its vectors have {theirs.hidden_size} numbers, not {ours.hidden_size}",
        ),
        (layers > whole, f"it has {whole} layers, and the student {layers}"),
    ):
        if wrong:
            raise UserError(f"{said}: {why}: leave hidden out of train.distill")
    return tuple(round((layer + 1) * whole / layers) - 1 for layer in range(layers))


def _showing_states(predictor: Predictor, layers: tuple[int, ...]) -> Predictor:
    """Return a predictor like the teacher's own, whose predictions have the states behind them."""
    task, kind = copy.copy(predictor.task), type(predictor.task)
    object.__setattr__(task, "__class__", type(kind.__name__, (_WithStates, kind), {"layers": layers}))
    call = dataclasses.replace(predictor.call, output_hidden_states=True)
    return Predictor(predictor.model, task, predictor.mesh, call, predictor.batch_size)


def _checksum(name: str, model: TrainedModel, layers: tuple[int, ...]) -> str:
    """Return a checksum of the weights, of the configuration, and of the layers whose states are kept."""
    members = RunFolder(name).members()
    folders = [fetched(member) for member in members] if members else [model_folder(name)]
    weights = [checksum for folder in folders for checksum in weights_checksums(folder)]
    config = model.predictor.model.config.to_diff_dict()
    for changing in ("transformers_version", "_name_or_path"):
        config.pop(changing, None)
    return hashlib.sha256(json.dumps([weights, config, list(layers)], sort_keys=True).encode()).hexdigest()[:32]
