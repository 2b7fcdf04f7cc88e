"""Every output class goes through JAX's transformations, and is a mapping, a tuple and an object at once."""

from __future__ import annotations

import copy
import dataclasses
import pickle

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbert.api.flax import outputs

CLASSES = [
    kind
    for kind in vars(outputs).values()
    if isinstance(kind, type) and issubclass(kind, outputs.FlaxModelOutput) and kind is not outputs.FlaxModelOutput
]


@pytest.fixture(params=CLASSES, ids=lambda kind: kind.__name__)
def output(request):
    """An output with one array, and the tuple of arrays that has no axis of its own."""
    kind = request.param
    first = dataclasses.fields(kind)[0].name
    return kind(**{first: jnp.arange(8.0).reshape(8, 1), "hidden_states": (jnp.ones((8, 2)), jnp.zeros((8, 2)))})


def same(found, expected):
    assert type(found) is type(expected)
    assert list(found) == list(expected)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    jax.tree.map(np.testing.assert_array_equal, found, expected)


def test_there_are_the_outputs_of_eight_classes():
    assert len(CLASSES) == 8
    assert all(flax.struct.dataclasses.is_dataclass(kind) for kind in CLASSES)


def test_it_leaves_every_transformation(output):
    same(jax.jit(lambda x: x)(output), output)
    same(jax.vmap(lambda x: x)(output), output)
    same(jax.pmap(lambda x: x)(output), output)
    same(jax.device_get(output), output)
    same(jax.block_until_ready(jax.device_put(output)), output)
    same(jax.tree.map(lambda x: x + 0, output), output)
    same(jax.lax.scan(lambda _, x: (None, x), None, output)[1], output)


def test_shapes_gradients_and_replaced_values(output):
    shapes = jax.eval_shape(lambda: output)
    assert type(shapes) is type(output)
    assert shapes[0].shape == (8, 1)
    grads = jax.grad(lambda x: sum(jnp.sum(leaf**2) for leaf in jax.tree.leaves(x)))(output)
    same(grads, jax.tree.map(lambda x: 2 * x, output))
    first = next(iter(output))
    other = output.replace(**{first: 3})
    assert (other[0], other[first], getattr(other, first)) == (3, 3, 3)
    assert output[first].shape == (8, 1)
    none = output.replace(hidden_states=None)
    assert list(none) == [first]
    assert none.hidden_states is None
    names = [str(path[0]) for path, _ in jax.tree.leaves_with_path(output)]
    assert names == [f".{first}", ".hidden_states", ".hidden_states"]


def test_by_attribute_key_and_position(output):
    first = next(iter(output))
    assert output[first] is getattr(output, first) is output[0] is output.get(first)
    assert output["hidden_states"] is output.hidden_states is output[1] is output[-1]
    assert output.to_tuple() == output[:] == tuple(output.values())
    assert (len(output), first in output, "attentions" in output) == (2, True, False)
    assert dict(**output) == dict(output.items())
    with pytest.raises(KeyError, match="attentions"):
        output["attentions"]
    with pytest.raises(IndexError):
        output[2]


def test_fields_are_kept(output):
    output["attentions"] = (1,)
    assert output.attentions == output[2] == (1,)
    assert jax.tree.leaves(output)[-1] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        output.attentions = None
    with pytest.raises(KeyError, match="has no field 'loss'"):
        output["loss"] = 1
    for change in (lambda: output.pop("attentions"), lambda: output.update(attentions=2), output.clear):
        with pytest.raises(TypeError, match="replace"):
            change()
    with pytest.raises(TypeError, match="replace"):
        del output["attentions"]


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, dict.copy, lambda x: pickle.loads(pickle.dumps(x))])
def test_copies(output, again):
    if again is dict.copy:
        again = type(output).copy
    same(again(output), output)
