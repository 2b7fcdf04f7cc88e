"""Focal loss, R-Drop and FGM: the values of their definitions, in packed and padded rows, on devices and in slices."""

from __future__ import annotations

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from runs import assert_close_params, make_config, make_program, random_tokens, run_steps, small_config
from scipy.special import expit, log_softmax
from tiny import random_params

from jaxbert.data.batches import batches
from jaxbert.data.examples import Examples
from jaxbert.data.packing import choose_layout
from jaxbert.data.tokens import AS_IT_IS
from jaxbert.errors import UserError
from jaxbert.models.functional import make_model
from jaxbert.models.layers import DropRate, DropRates
from jaxbert.tasks.classification.task import Classification
from jaxbert.tasks.multi_label.task import MultiLabel
from jaxbert.tasks.token_classification.task import PlainTags
from jaxbert.train.harder import adversarial_gradient, segment_push, with_two_masks
from jaxbert.train.step import whole_gradient

pytestmark = pytest.mark.usefixtures("shared_programs")
TOKENS = random_tokens(24)
LABELS = (TOKENS.ids[TOKENS.begins + 1] % 2).astype(np.int32)
NAMES = ("bad", "good")
FGM = {"train__adversarial": "fgm", "train__adversarial_epsilon": 0.5}


def small_run(devices=1, **changes):
    config = make_config(train__batch_size=8, optimizer__learning_rate=1e-3, **changes)
    task = Classification(NAMES, focal_gamma=config.train.focal_gamma)
    program = make_program(config, small_config(num_attention_heads=4, num_hidden_layers=1), 12, devices, task)
    return run_steps(program, random_params(program.model), Examples(TOKENS, LABELS), 6)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_loss_of_labels(gamma):
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (2, 5, 3)).astype(np.float32), rng.integers(0, 3, (2, 5))
    logits[0, 0] = (200, 0, 0)  # no doubt at all: no loss, and a gradient that is a number
    labels[0, 0] = 0
    batch = {"labels": jnp.asarray(labels), "example_mask": jnp.ones((2, 5), bool)}
    task = Classification(("a", "b", "c"), focal_gamma=gamma)

    def loss(logits):
        return task.sums({"logits": logits}, batch, {}, train=True)["loss"]

    own = np.take_along_axis(log_softmax(logits.astype(np.float64), axis=-1), labels[..., None], -1)[..., 0]
    expected = (-((1 - np.exp(own)) ** gamma) * own).sum()
    assert float(loss(logits)) == pytest.approx(expected, rel=1e-5)
    assert np.isfinite(jax.grad(loss)(jnp.asarray(logits))).all()
    plain = task.sums({"logits": jnp.asarray(logits)}, batch, {}, train=False)["loss"]
    assert float(plain) == pytest.approx(-own.sum(), rel=1e-5), "evaluations have the plain loss"


def test_focal_loss_of_several_labels():
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(0, 2, (2, 4, 3)).astype(np.float32), rng.integers(0, 2, (2, 4, 3)).astype(bool)
    batch = {"labels": jnp.asarray(labels), "example_mask": jnp.ones((2, 4), bool)}
    right = expit(np.where(labels, logits, -logits).astype(np.float64))
    found = MultiLabel(("a", "b", "c"), focal_gamma=2.0).sums({"logits": jnp.asarray(logits)}, batch, {}, train=True)
    assert float(found["loss"]) == pytest.approx((-((1 - right) ** 2) * np.log(right)).mean(-1).sum(), rel=1e-5)


def test_pushed_words_packed_and_padded_on_any_devices_in_any_slices():
    changes = FGM
    packed = small_run(**changes)
    plain = small_run()
    assert abs(packed.losses[-1] - plain.losses[-1]) > 1e-4, "it changes what is learned"
    for other in (
        small_run(**changes, data__packing=False),
        small_run(8, **changes),
        small_run(**changes, train__accumulation_steps=2),
    ):
        assert other.example_ids == packed.example_ids
        np.testing.assert_allclose(other.losses, packed.losses, rtol=1e-5)
        assert_close_params(other.params, packed.params, 1e-4)


def packed_step():
    """A model, its parameters, and the gradient of its loss for some rows."""
    model = make_model(Classification(NAMES).head, small_config(num_attention_heads=4, num_hidden_layers=1))
    task = Classification(NAMES)

    def forward(params, batch, key):
        return model.apply(params, batch, key)

    def loss(outputs, batch, examples):
        sums = task.sums(outputs, batch, {}, train=True)
        return sums["loss"] / examples, sums

    return model, random_params(model), forward, loss


def rows_of(examples, row_length):
    layout = choose_layout(examples.tokens.lengths, len(examples), row_length=row_length, seed=None)
    (batch,) = batches(examples, layout, len(examples), seed=None)
    return {name: jnp.asarray(batch[name]) for name in batch if name not in ("example_ids", "documents")}


def test_each_segment_is_pushed_by_its_own_gradient():
    """The gradient of packed rows is the mean of those of texts that are alone."""
    model, params, forward, loss = packed_step()
    examples = Examples(TOKENS, LABELS).take(np.arange(7))
    gradient = adversarial_gradient(whole_gradient, model.config.hidden_size, 0.5)
    key = None  # no dropout

    @partial(jax.jit, static_argnums=1)
    def of(batch, count):
        return gradient(forward, partial(loss, examples=count), params, batch, key)[0]

    together = of(rows_of(examples, 40), 7)
    alone = [of(rows_of(examples.take(np.array([i])), 16), 1) for i in range(7)]
    mean = jax.tree.map(lambda *parts: sum(parts) / 7, *alone)
    plain = jax.jit(lambda batch: whole_gradient(forward, partial(loss, examples=7), params, batch, key)[0])(
        rows_of(examples, 40)
    )
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(mean))
    gap = jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), together, mean)
    assert max(jax.tree.leaves(gap)) < 1e-5 * largest
    assert (
        max(jax.tree.leaves(jax.tree.map(lambda a, b: float(jnp.abs(a - b).max()), together, plain))) > 1e-2 * largest
    )


def test_a_push_makes_the_loss_grow():
    model, params, forward, loss = packed_step()
    batch = rows_of(Examples(TOKENS, LABELS), 40)
    width = model.config.hidden_size

    @jax.jit
    def pushed_loss(push):
        return loss(forward(params, batch | {"word_push": push}, None), batch, 1)[0]

    nothing = jnp.zeros((*batch["input_ids"].shape, width))
    direction = jax.jit(jax.grad(pushed_loss))(nothing)
    push = segment_push(direction, batch["segment_ids"], batch["example_mask"].shape[1], 0.1)
    assert pushed_loss(push) > pushed_loss(nothing) > pushed_loss(-push)
    lengths = [
        float(jnp.sqrt((push[row][batch["segment_ids"][row] == slot + 1] ** 2).sum()))
        for row, slot in zip(*np.nonzero(np.asarray(batch["example_mask"])), strict=True)
    ]
    assert lengths == pytest.approx([0.1] * len(TOKENS), rel=1e-4)
    assert not push[batch["segment_ids"] == 0].any()


def test_two_masks_are_compared():
    """The mean loss, plus the mean of both divergences; the other mask's answers get a gradient too."""
    rng = np.random.default_rng(0)
    both, labels = rng.normal(size=(2, 1, 6, 2)).astype(np.float32), rng.integers(0, 2, (1, 6))
    batch = {"labels": jnp.asarray(labels), "example_mask": jnp.asarray([[True] * 5 + [False]])}
    totals = {"examples": jnp.asarray(5)}
    answers = iter(range(2))
    forward = lambda part, batch, key: {"logits": part[next(answers)]}  # noqa: E731
    twice, loss = with_two_masks(forward, Classification(NAMES), totals, 0.7, DropRates(hidden=DropRate.of(0.1)))
    value, sums = loss(twice(jnp.asarray(both), batch, jax.random.key(0)), batch)
    one, other = (log_softmax(x.astype(np.float64), axis=-1)[0, :5] for x in both)
    own = [np.take_along_axis(x, labels[0, :5, None], -1).mean() for x in (one, other)]
    apart = [(np.exp(a) * (a - b)).sum(-1).mean() for a, b in ((one, other), (other, one))]
    assert float(value) == pytest.approx(-np.mean(own) + 0.7 * np.mean(apart), rel=1e-5)
    assert float(sums["loss"]) == pytest.approx(5 * float(value), rel=1e-6)


def test_r_drop_trains():
    """With dropout: other losses than without it, also in slices and with FGM."""
    config = {"model__dropout": 0.2}
    plain, harder = small_run(**config), small_run(**config, train__r_drop=1.0)
    assert harder.example_ids == plain.example_ids
    assert not np.allclose(harder.losses, plain.losses, rtol=1e-3)
    for changes in ({"train__accumulation_steps": 2}, FGM):
        assert np.isfinite(small_run(**config, train__r_drop=1.0, **changes).losses).all()


def tagging_run(**changes):
    tags = Examples(TOKENS, token_labels=(TOKENS.ids % 3).astype(np.int32))
    config = make_config("token_classification", train__batch_size=8, model__dropout=0.2, **changes)
    labels = dict(enumerate(("A", "B", "O")))
    sizes = small_config(
        num_attention_heads=4, num_hidden_layers=1, id2label=labels, label2id={v: k for k, v in labels.items()}
    )
    program = make_program(config, sizes, 12, 1, PlainTags(("A", "B", "O"), "word", None, AS_IT_IS))
    return run_steps(program, random_params(program.model), tags, 3).losses


def test_masks_of_taggers_are_compared():
    assert not np.allclose(tagging_run(), tagging_run(train__r_drop=1.0), rtol=1e-3)


def test_what_cannot_be_done():
    with pytest.raises(UserError, match="adversarial is not: set it to fgm"):
        make_config(train__adversarial_epsilon=0.5)
    with pytest.raises(UserError, match="dropout is 0: raise it, or leave r_drop out"):
        small_run(train__r_drop=1.0)
    with pytest.raises(UserError, match="focal_gamma is -1"):
        make_config(train__focal_gamma=-1.0)
    with pytest.raises(UserError, match="adversarial is 'pgd'"):
        make_config(train__adversarial="pgd")
    assert dataclasses.replace(Classification(NAMES), focal_gamma=1.0).smoothed(None).focal_gamma == 1.0
