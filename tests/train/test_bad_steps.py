"""A step whose loss or gradient is not finite changes nothing but the count of steps."""

from __future__ import annotations

import jax
import numpy as np
import pytest
from flax import traverse_util
from runs import VOCAB, feed, make_config, make_program, random_tokens, small_config
from tiny import random_params

from jaxbert.data.examples import Examples
from jaxbert.train.programs import training_layout

POISONED = len(VOCAB) - 1
"""A token whose embedding is not finite."""


RUNS = {
    "1-slices": {"train__ema": 0.9},
    "2-slices": {"train__accumulation_steps": 2},
    "frozen": {"optimizer__freeze": ["embeddings", "layer/0/"], "optimizer__layer_decay": 0.5},
}


@pytest.fixture(scope="module", params=RUNS)
def bench(request):
    """A program of eight steps on two devices and its step, parameters with one poisoned token, and batches without it."""
    config = make_config(train__batch_size=8, **RUNS[request.param])
    program = make_program(config, small_config(), 8, devices=2)
    params = random_params(program.model)
    params["bert"]["embeddings"]["word_embeddings"]["embedding"] = np.array(
        params["bert"]["embeddings"]["word_embeddings"]["embedding"]
    ).copy()
    params["bert"]["embeddings"]["word_embeddings"]["embedding"][POISONED, 3] = np.inf
    tokens = random_tokens(64, vocab=POISONED)
    layout = training_layout(config, tokens.lengths, program.mesh)
    batches = list(feed(program, layout, Examples(tokens, np.arange(64) % 2)))
    return program, program.train_step(), params, batches


def poison(batch):
    input_ids = batch["input_ids"].copy()
    input_ids[batch["segment_ids"] == 1] = POISONED
    return batch | {"input_ids": input_ids}


def take(program, step, params, batches):
    state, all_sums = program.first_state(params), []
    for batch in batches:
        state, sums = step(state, program.put(batch), program.arguments)
        all_sums.append(jax.device_get(sums))
    return jax.device_get(state), all_sums


def assert_same_bits(found, expected):
    expected = dict(jax.tree.leaves_with_path(expected))
    for path, leaf in jax.tree.leaves_with_path(found):
        np.testing.assert_array_equal(leaf, expected[path], err_msg=str(path))


def test_it_changes_nothing_but_the_count_of_steps(bench):
    *program, params, batches = bench
    before, good = take(*program, params, batches[:3])
    after, sums = take(*program, params, [*batches[:3], poison(batches[3])])
    assert [bool(s["bad"]) for s in (*good, *sums)] == [False] * 6 + [True]
    assert (int(before["step"]), int(after["step"])) == (3, 4)
    assert_same_bits(after["params"], before["params"])
    assert_same_bits(after["opt_state"], before["opt_state"])
    assert_same_bits(after.get("ema"), before.get("ema"))


def test_the_steps_after_it_are_those_of_a_run_without_it(bench):
    """Moments, their correction and the learning rate included: the optimizer never saw it."""
    *program, params, batches = bench
    with_it, sums = take(*program, params, [batches[0], poison(batches[3]), *batches[1:3]])
    without, expected = take(*program, params, batches[:3])
    assert [float(s["learning_rate"]) for s in sums[2:]] == [float(s["learning_rate"]) for s in expected[1:]]
    assert_same_bits(with_it["params"], without["params"])
    assert_same_bits(with_it["opt_state"], without["opt_state"])
    assert_same_bits(with_it.get("ema"), without.get("ema"))
    changed = traverse_util.flatten_dict(with_it["params"], sep="/")["classifier/kernel"]
    assert (changed != params["classifier"]["kernel"]).any()
