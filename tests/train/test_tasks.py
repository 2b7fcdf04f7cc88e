"""For every task that labels texts: packed, padded or sliced, a run takes the same steps; neighbours see nothing."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import pytest
from runs import Trajectory, assert_close_params, make_config, make_program, random_tokens, run_steps, small_config
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples, Windows
from jaxbert.data.packing import choose_layout
from jaxbert.data.tokens import LongTexts, Reading
from jaxbert.models.functional import make_model
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.regression.task import Regression

STEPS = 20
COUNT = 144  # whole batches, so that each run compiles one program


def learnable(task: Any) -> Examples:
    """Return examples whose labels follow from their tokens."""
    tokens = random_tokens(COUNT)
    ids = tokens.ids[tokens.begins[:, None] + 1]
    windows = None
    if task.reading.pooling is not None:
        ids, windows = ids[WINDOWS.first[:-1]], WINDOWS
    if isinstance(task, Classification):
        return Examples(tokens, (ids[:, 0] % 3).astype(np.int32), windows=windows)
    if isinstance(task, Regression):
        return Examples(tokens, (ids[:, 0] % 7 / 3).astype(np.float32))
    return Examples(tokens, ids % np.arange(2, 5)[None] == 0, windows=windows)


WINDOWS = Windows.of_counts(np.resize([3, 1, 4, 1, 6, 3], 48))
"""The windows of 48 documents; 144 in all."""

TASKS: dict[str, Any] = {
    "documents": Classification(("a", "b", "c"), reading=Reading(LongTexts("windows"), "mean", 48)),
    "documents by their largest": MultiLabel(("a", "b", "c"), reading=Reading(LongTexts("windows"), "max", 48)),
    "multi_label": MultiLabel(("a", "b", "c"), positive_weights=(1.0, 2.0, 0.5), label_smoothing=0.1),
    "regression": Regression(),
}

OTHER_WAYS: dict[str, dict[str, Any]] = {
    "documents": {"devices": 4, "mesh__fsdp": 2},
    "documents by their largest": {"devices": 4, "mesh__fsdp": 2, "train__accumulation_steps": 2},
}
"""The windows of a document are pooled over devices and slices."""


def config_of(task: Any) -> Any:
    names = ["score"] if isinstance(task, Regression) else ["a", "b", "c"]
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    return small_config(num_attention_heads=4, **labels)


def small_run(task: Any, devices: int = 1, **changes: Any) -> Trajectory:
    config = make_config(train__batch_size=16, optimizer__learning_rate=1e-3, **changes)
    program = make_program(config, config_of(task), STEPS, devices, task)
    return run_steps(program, random_params(program.model), learnable(task))


@pytest.mark.parametrize("name", TASKS)
def test_packed_padded_and_sliced(name):
    """Packed in one piece against padded in slices or on several devices; `test_trajectory` takes each by itself."""
    packed = small_run(TASKS[name])
    assert len(packed.losses) == STEPS
    assert np.mean(packed.losses[-4:]) < np.mean(packed.losses[:4])
    other = small_run(TASKS[name], data__packing=False, **OTHER_WAYS.get(name, {"train__accumulation_steps": 2}))
    assert other.example_ids == packed.example_ids
    np.testing.assert_allclose(other.losses, packed.losses, rtol=1e-5)
    assert_close_params(other.params, packed.params, atol=1e-4)


@pytest.mark.parametrize("name", TASKS)
def test_no_leak_between_neighbours(name):
    """The gradient of one example's loss is zero at all words that the example does not have."""
    task = TASKS[name]
    model = make_model(task.head, config_of(task))
    params = random_params(model)
    examples = learnable(task).take(np.arange(12))
    layout = choose_layout(examples.tokens.lengths, 12, row_length=30, windows=examples.windows)
    (batch,) = batches(examples, layout, 12, seed=None)
    del batch["example_ids"]

    first = np.zeros_like(batch["example_mask"])
    first[0, 0] = True
    mine = only(batch, first)["example_mask"]
    if task.reading.pooling is not None:  # the windows of the first document, wherever they are
        mine = batch["example_mask"] & (batch["example_index"] == batch["example_index"][0, 0])
    rows, slots = np.nonzero(mine)
    own = {i for r, s in zip(rows, slots, strict=True) for i in batch["input_ids"][r][batch["segment_ids"][r] == s + 1]}
    word_loss = jax.jit(
        lambda table: task.sums(
            model.apply(with_words(params, table), batch), only(batch, mine), task.totals(batch), train=True
        )["loss"]
    )
    words = params["bert"]["embeddings"]["word_embeddings"]["embedding"]
    gradient = np.asarray(jax.grad(word_loss)(words))
    assert np.abs(gradient[sorted(own)]).max() > 0
    others = sorted(set(batch["input_ids"].ravel().tolist()) - own)
    assert np.abs(gradient[others]).max() == 0


def only(batch: dict[str, Any], chosen: np.ndarray) -> dict[str, Any]:
    """Return a batch of which some examples count."""
    return batch | {"example_mask": batch["example_mask"] & chosen}


def with_words(params: Any, table: Any) -> Any:
    """Return parameters with another table of words."""
    embeddings = params["bert"]["embeddings"] | {"word_embeddings": {"embedding": table}}
    return params | {"bert": params["bert"] | {"embeddings": embeddings}}
