"""Train a student on a teacher's answers as well as on labels.

The teacher answers once for every training row, packed, by the predictor of `jaxbert predict`; `answers` keeps what it says
in the cache of tokens. Its answers travel with the examples through packing, accumulation and meshes. A student's loss for
an example is

    (1 - weight) * the task's own loss + weight * distance to the teacher's answer + hidden * (1 - cosine of the states)

and a row without a label has no first part. The task measures the distance (`Task.distance`).
"""

from __future__ import annotations

import copy
import dataclasses
import logging
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jax import Array

from jaxbert.compress.answers import Teacher, open_teacher
from jaxbert.config import Config, Distilling
from jaxbert.data.examples import Examples, content_of, join_examples
from jaxbert.tasks.base import Batch, Inputs, Sums, Task
from jaxbert.terminal import console
from jaxbert.train.pretrained import Pretrained
from jaxbert.train.run import Additions

logger = logging.getLogger("jaxbert")


class _TaughtTask(Task):
    """Inserted before the class of a task: adds a teacher's answers to the loss in training."""

    distilling: Distilling

    def sums(self, outputs: dict[str, Any], batch: Batch, totals: Sums, *, train: bool) -> Sums:
        """Return the sums of both losses over the examples; the task's own is that of the rows with labels."""
        if not train:
            return super().sums(outputs, batch, totals, train=False)
        own_batch = batch
        if "labelled" in batch:
            own_batch = batch | {"example_mask": batch["example_mask"] & batch["labelled"]}
        own = super().sums(outputs, own_batch, totals, train=True)
        settings, taught = self.distilling, self.distance(outputs, batch, totals, self.distilling.temperature)
        loss = (1 - settings.weight) * own["loss"] + settings.weight * taught["loss"]
        if self.reads_states:
            loss += settings.hidden * state_distance(outputs, batch)
        return own | taught | {"loss": loss}


def state_distance(outputs: dict[str, Any], batch: Batch) -> Array:
    """Return the sum over examples of 1 minus the cosine of the student's and the teacher's first vectors, mean over layers.

    `target_states` [B, S, N, D] are the teacher's vectors, of length 1, for each of the student's N layers.
    """
    states_NBTD = outputs["encoded"].hidden_states_NBTD[1:]  # without the embeddings
    places_BS = batch["cls_positions"]
    ours_NBSD = jnp.take_along_axis(states_NBTD, places_BS[None, :, :, None], axis=2).astype(jnp.float32)
    lengths_NBS = jnp.sqrt((ours_NBSD**2).sum(-1) + 1e-12)
    products_NBS = (ours_NBSD * jnp.moveaxis(batch["target_states"].astype(jnp.float32), 2, 0)).sum(-1)
    away_BS = 1 - (products_NBS / lengths_NBS).mean(0)
    return jnp.where(batch["example_mask"], away_BS, 0.0).sum()


def with_teacher(task: Task, distilling: Distilling) -> Task:
    """Return the task with a teacher's share in its training loss."""
    changed, kind = copy.copy(task), type(task)
    names = {
        "distilling": distilling,
        "reads_states": distilling.hidden > 0,
        "__module__": kind.__module__,
        "__doc__": kind.__doc__,
    }
    object.__setattr__(changed, "__class__", type(kind.__name__, (_TaughtTask, kind), names))
    return changed


def distilled(config: Config, additions: Additions) -> Additions:
    """Return the additions of a run with those of `train.teacher`; unchanged if it is not set."""
    if config.train.teacher is None:
        return additions
    if config.train.folds is not None:
        logger.warning(
            "train.folds with train.teacher: if the teacher has learned from these rows, it has seen what each fold holds "
            "out, and the metrics of the folds are too good"
        )
    facts: dict[str, Any] = {}
    return dataclasses.replace(
        additions,
        teach=partial(_teach, config, facts),
        facts=lambda: {**additions.facts(), "teacher": facts},
    )


def _teach(
    config: Config, facts: dict[str, Any], inputs: Inputs, pretrained: Pretrained, max_length: int
) -> tuple[Inputs, str]:
    """Add the teacher's answers to the inputs of a run; `facts` gets the entry of the summary.

    Returns:
      The inputs, and a text that changes with the teacher and the rows without labels.

    Raises:
      UserError: for a teacher that does not fit the run.
    """
    assert config.train.teacher is not None
    settings = Distilling.of(config.train.distill)
    teacher = open_teacher(config.train.teacher, inputs.task, pretrained, settings)
    train, rest, spec = inputs.train, None, config.data.unlabelled
    if spec is not None:
        rest = inputs.task.read_unlabelled(spec, config.data, pretrained.tokenizer, max_length)
    parts = [teacher.answered(part, config.data.cache_dir) for part in (train, rest) if part is not None]
    whole = parts[0] if rest is None else _joined(*parts)
    counted = f"{len(train):,} training rows" + (f" and {len(rest):,} rows without labels" if rest is not None else "")
    console.print(f"teacher: {teacher.name}, which has answered for {counted}", highlight=False, soft_wrap=True)
    facts |= {
        "name": config.train.teacher,
        "parameters": teacher.parameters,
        "unlabelled": 0 if rest is None else len(rest),
        **dataclasses.asdict(settings),
    }
    changed = dataclasses.replace(inputs, train=whole, labelled=train, task=with_teacher(inputs.task, settings))
    return changed, _identity(teacher, rest)


def _identity(teacher: Teacher, rest: Examples | None) -> str:
    return teacher.checksum if rest is None else f"{teacher.checksum} {content_of([rest]).checksum}"


def _joined(train: Examples, rest: Examples) -> Examples:
    """Return the examples of both sets; those of the second have no label, which `labelled` says for each segment."""
    if train.labels is not None:
        rest = dataclasses.replace(rest, labels=np.zeros((len(rest), *train.labels.shape[1:]), train.labels.dtype))
    known = np.repeat([True, False], [len(train.tokens), len(rest.tokens)])
    joined = join_examples(train, rest)
    return dataclasses.replace(joined, by_segment={"labelled": known, **joined.by_segment})
