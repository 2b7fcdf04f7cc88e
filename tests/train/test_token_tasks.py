"""Tagging and question answering train the same steps packed and padded, and leave neighbours alone."""

from __future__ import annotations

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from flax import traverse_util
from runs import Problem, assert_close_params, make_config
from tiny import random_params
from token_tasks import TASKS, write_problem

from jaxbert.data.batches import batches
from jaxbert.runs.folder import RunFolder
from jaxbert.train.programs import training_layout
from jaxbert.train.run import open_run

STEPS = 20
BATCH = 32  # on eight devices, each with its rows


@pytest.fixture(scope="module", params=TASKS)
def problem(request, tmp_path_factory):
    """A model's folder, and the settings of a task."""
    folder = tmp_path_factory.mktemp(request.param)
    Problem.write(folder)
    return folder, write_problem(folder, request.param)


def open_task(problem, **changes):
    folder, settings = problem
    keys = {name.replace(".", "__"): str(v) if "." in name and "_" not in name else v for name, v in settings.items()}
    task = keys.pop("task")
    keys |= {"model__name_or_path": str(folder / "model"), "train__max_steps": STEPS, "train__batch_size": BATCH}
    keys |= {"optimizer__learning_rate": 1e-3, "train__seed": 3}
    config = dataclasses.replace(make_config(**(keys | changes)), task=task)
    return open_run(config, RunFolder(folder / "unused"))


def losses_of(session, most=STEPS):
    program, config = session.program, session.config
    params = random_params(session.program.model)
    layout = training_layout(
        config, session.inputs.train.tokens.lengths, session.program.mesh, windows=session.inputs.train.windows
    )
    state, step = program.first_state(params), program.train_step()
    epochs = (
        batches(session.inputs.train, layout, BATCH, seed=config.train.seed, epoch=epoch) for epoch in itertools.count()
    )
    losses, rows = [], []
    for batch in itertools.islice(itertools.chain.from_iterable(epochs), most):
        state, sums = step(state, program.put(batch), program.arguments)
        losses.append(float(sums["loss"] / sums["examples"]))
        rows.append(len(batch["segment_ids"]))
    return losses, rows, jax.device_get(state["params"])


def without_unfelt(problem, params):
    """Leave out what adds the same to all scores of a window: a softmax feels none of it, and AdamW enlarges rounding."""
    flat = traverse_util.flatten_dict(params, sep="/")
    if problem[1]["task"] == "question_answering":
        del flat["qa_outputs/bias"]
        (name,) = (name for name in flat if name.endswith("/output/LayerNorm/bias") and "attention" not in name)
        flat[name] = flat[name][:-1]
    return traverse_util.unflatten_dict(flat, sep="/")


def test_twenty_steps_packed_and_padded(problem):
    packed, packed_rows, params = losses_of(open_task(problem, data__row_length=48))
    padded, padded_rows, other = losses_of(open_task(problem, data__packing=False))
    assert sum(packed_rows) < sum(padded_rows)
    assert np.mean(packed[-4:]) < np.mean(packed[:4])
    np.testing.assert_allclose(packed, padded, rtol=1e-5)
    assert_close_params(*(without_unfelt(problem, tree) for tree in (params, other)), atol=1e-4)


@pytest.mark.long
@pytest.mark.slow
def test_accumulation_changes_no_step(problem):
    whole, _, _ = losses_of(open_task(problem), 4)
    sliced, _, _ = losses_of(open_task(problem, train__accumulation_steps=2), 4)
    np.testing.assert_allclose(sliced, whole, rtol=1e-5)


def test_the_loss_of_an_example_feels_no_neighbour(problem):
    """Its gradient with respect to the vectors of all other tokens is exactly zero."""
    session = open_task(problem, data__row_length=48)
    params = random_params(session.program.model)
    batch = next(batches(session.inputs.train, session.layout, BATCH, seed=0))
    table = params["bert"]["embeddings"]["word_embeddings"]["embedding"]
    own_ids = np.arange(batch["input_ids"].size, dtype=np.int32).reshape(batch["input_ids"].shape)

    @jax.jit
    def grad_of(vectors, example_mask, token_labels):
        def loss(vectors):
            embeddings = {**params["bert"]["embeddings"], "word_embeddings": {"embedding": vectors}}
            changed = {**params, "bert": {**params["bert"], "embeddings": embeddings}}
            outputs = session.program.model.apply(changed, {**batch, "input_ids": own_ids}, None, session.program.call)
            only = {**batch, "example_mask": example_mask, "token_labels": token_labels}
            return session.inputs.task.sums(outputs, only, session.inputs.task.totals(only), train=True)["loss"]

        return jax.grad(loss)(vectors)

    shared = batch["example_mask"] & (batch["example_mask"].sum(1, keepdims=True) > 1)
    assert shared.any()
    for row, slot in np.argwhere(shared)[:10]:
        mine = np.zeros(own_ids.shape, bool)
        mine[row] = batch["segment_ids"][row] == slot + 1
        mask = np.zeros_like(batch["example_mask"])
        mask[row, slot] = True
        labels = np.where(mine, batch.get("token_labels", own_ids * 0), -100)
        grad = np.asarray(grad_of(table[batch["input_ids"].ravel()], mask, labels)).reshape(*own_ids.shape, -1)
        assert np.all(grad[~mine] == 0)
        assert np.all(np.abs(grad[mine]).max(-1) > 0)
