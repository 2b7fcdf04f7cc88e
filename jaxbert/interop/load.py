"""Fit a checkpoint to a model: check every tensor, draw new heads where allowed, and explain tensors that do not fit.

The encoder must be complete, with the right shapes. If the caller gives a key, as for training, a head and the pooler may be
drawn, and the report names them. A pooler that the model does not have is ignored. `read` reads the files; the caller places
the arrays on devices.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util
from transformers import BertConfig

from jaxbert.errors import UserError
from jaxbert.interop import names
from jaxbert.interop.formats import Tensors
from jaxbert.interop.names import join_tied
from jaxbert.interop.read import read_tensors, wrapper_of
from jaxbert.models.families import family_of
from jaxbert.models.families.base import Family
from jaxbert.models.functional import FunctionalModel, Params, init_params
from jaxbert.plain import listed


@dataclass(frozen=True)
class LoadReport:
    """The names of loaded, drawn and unused tensors, as in PyTorch."""

    loaded: tuple[str, ...]
    fresh: tuple[str, ...]
    """Tensors drawn at random: the checkpoint lacks them, or has them for another number of labels."""
    unused: tuple[str, ...]
    """Tensors of the checkpoint that this model does not have."""

    def __str__(self) -> str:
        line = f"{len(self.loaded)} tensors loaded"
        if self.fresh:
            line += f"; new, to be trained: {', '.join(self.fresh)}"
        if self.unused:
            line += f"; left unused: {', '.join(self.unused)}"
        return line


@dataclass(frozen=True)
class Misfit:
    """The tensors that do not fit; false if there are none."""

    missing: list[str]
    unexpected: list[str]
    misshapen: dict[str, str]
    """Tensor name to the text `[found] instead of [expected]`, the two shapes."""

    def __bool__(self) -> bool:
        return bool(self.missing or self.unexpected or self.misshapen)

    def __str__(self) -> str:
        shapes = [f"{name} {shapes}" for name, shapes in self.misshapen.items()]
        parts = {"missing": self.missing, "unexpected": self.unexpected, "misshapen": shapes}
        return "; ".join(f"{what}: {listed(tensors)}" for what, tensors in parts.items() if tensors)

    def reason(self, tensors: Mapping[str, np.ndarray], config: BertConfig) -> str:
        """Return the likely reason of the misfits, in brackets; empty if none is found."""
        family = family_of(config)
        sizes = _differing_sizes(tensors, config, family)
        found = [*sizes, *self._layers(tensors, config.num_hidden_layers, family), *self._names(tensors, family)]
        return f" ({'; '.join(found)})" if found else ""

    def _layers(self, tensors: Collection[str], expected: int, family: Family) -> list[str]:
        layers = {layer for name in tensors if (layer := family.layer_of(name)) is not None}
        if not layers or len(layers) == expected:
            return []
        differing = layers ^ set(range(expected))
        odd = [name for name in self.missing + self.unexpected if family.layer_of(name) in differing]
        return [
            f"{_all_of(len(odd), self)} of {'.'.join(family.layers)}.{_span(differing)}: the checkpoint has {len(layers)} "
            f"layers, its configuration num_hidden_layers {expected}"
        ]

    def _names(self, tensors: Collection[str], family: Family) -> list[str]:
        """Return a reason if the names are those of a wrapper, or of another kind of model."""
        wrapper = wrapper_of(tensors, family)
        others = [name for name in tensors if not name.startswith(wrapper)]
        if wrapper and others:
            return [
                f"the encoder's names begin with {wrapper}, but those of {len(others)} tensors do not "
                f"({listed(others[:1])}): save the encoder by itself, by its save_pretrained()"
            ]
        first = Counter(name.partition(".")[0] for name in tensors)
        if self.missing and first and not first[family.prefix]:
            most, count = first.most_common(1)[0]
            return [
                f"{count} of {len(tensors)} names begin with {most}.: this is no BERT, or one inside of another model"
            ]
        return []


def load_params(
    checkpoint: Path | str,
    model: FunctionalModel,
    *,
    key: jax.Array | None = None,
    new_head: bool = False,
    layers: Sequence[int] | None = None,
) -> tuple[Params, LoadReport]:
    """Load a checkpoint folder (or one file of weights) into `model`'s stacked tree of float32 NumPy arrays.

    With `layers`, only these layers of the checkpoint are loaded, as the model's own in their order.

    With a `key`, a head is drawn if the checkpoint lacks it or has it for another number of labels, a pooler is drawn if the
    checkpoint lacks it, and tensors of other heads are ignored; with `new_head` the head is always drawn. Without a key, as
    for prediction, every tensor must fit.

    Raises:
      UserError: with the missing, unexpected and misshapen tensors, and the likely reason.
    """
    path, family = Path(checkpoint), family_of(model.config)
    tensors = read_tensors(path, family)
    if new_head:
        tensors = {name: tensor for name, tensor in tensors.items() if not family.is_head(name)}
    if layers is not None:
        tensors = take_layers(tensors, family, layers)
    return fit_params(tensors, model, key=key, source=str(path))


def take_layers(tensors: Tensors, family: Family, layers: Sequence[int]) -> Tensors:
    """Return the tensors without those of other layers; the kept layers are numbered from 0."""
    stack, kept = ".".join((family.prefix, *family.layers)), dict[str, np.ndarray]()
    for name, tensor in tensors.items():
        layer = family.layer_of(name)
        if layer is None:
            kept[name] = tensor
        elif layer in layers:
            rest = name.removeprefix(f"{stack}.{layer}.")
            kept[f"{stack}.{layers.index(layer)}.{rest}"] = tensor
    return kept


def fit_params(
    tensors: Tensors, model: FunctionalModel, *, key: jax.Array | None, source: str
) -> tuple[Params, LoadReport]:
    """Do `load_params` for tensors that are already read; errors name `source`."""
    complete, report = fit_tensors(tensors, model, key=key, source=source)
    return names.from_torch(complete), report


def fit_tensors(
    tensors: Tensors, model: FunctionalModel, *, key: jax.Array | None, source: str
) -> tuple[Tensors, LoadReport]:
    """Return all tensors of a model under PyTorch names, with unchanged dtypes, and the report."""
    expected, family = _torch_shapes(model), family_of(model.config)
    tensors = join_tied(tensors, expected, model.config, source)
    fit = _compare(tensors, expected)
    fresh = _fresh_tensors(fit, expected, family) if key is not None else set()
    # A pooler that the model lacks is no mistake; nor is another head, if a head may be drawn.
    unused = [n for n in fit.unexpected if family.is_pooler(n) or (key is not None and family.is_head(n))]
    unused += sorted(fresh & fit.misshapen.keys())
    rest = Misfit(
        [n for n in fit.missing if n not in fresh],
        [n for n in fit.unexpected if n not in unused],
        {n: shapes for n, shapes in fit.misshapen.items() if n not in fresh},
    )
    if rest:
        reason = rest.reason(tensors, model.config) or _advice(rest, {n for n in expected if family.is_head(n)}, key)
        raise UserError(f"{source} does not fit this model: {rest}{reason}")
    kept = {n: tensors[n] for n in expected if n not in fresh}
    complete = kept | (_draw(model, fresh, key) if key is not None else {})
    report = LoadReport(tuple(kept), tuple(n for n in expected if n in fresh), tuple(unused))
    return {n: complete[n] for n in expected}, report


def replace_misshapen(
    tensors: Tensors, model: FunctionalModel, *, key: jax.Array, source: str
) -> tuple[Tensors, list[str]]:
    """Draw each tensor whose shape differs from the model's; return all tensors, and a text for each replaced one."""
    expected = _torch_shapes(model)
    tensors = join_tied(tensors, expected, model.config, source)
    misshapen = _compare(tensors, expected).misshapen
    if not misshapen:
        return tensors, []
    inside = any(names.layer_axis(names.flax_path(name)) for name in misshapen)
    drawn = names.to_torch(init_params(model, key)) if inside else _draw(model, set(misshapen), key)
    return tensors | {name: drawn[name] for name in misshapen}, [f"{n} {shapes}" for n, shapes in misshapen.items()]


def _torch_shapes(model: FunctionalModel) -> dict[str, tuple[int, ...]]:
    flat = traverse_util.flatten_dict(names.unstack_layers(model.abstract_params))
    return {
        names.torch_name(path): tuple(reversed(leaf.shape)) if path[-1] == "kernel" else tuple(leaf.shape)
        for path, leaf in flat.items()
    }


def _compare(tensors: Tensors, expected: dict[str, tuple[int, ...]]) -> Misfit:
    return Misfit(
        missing=[name for name in expected if name not in tensors],
        unexpected=[name for name in tensors if name not in expected],
        misshapen={
            name: f"{list(tensors[name].shape)} instead of {list(shape)}"
            for name, shape in expected.items()
            if name in tensors and tensors[name].shape != shape
        },
    )


def _fresh_tensors(fit: Misfit, expected: dict[str, tuple[int, ...]], family: Family) -> set[str]:
    """Return the tensors of heads that are completely missing or of another size, and of a completely missing pooler.

    Half a head means a damaged checkpoint, so it stays an error.
    """
    absent = set(fit.missing)
    unfit = {name for name in absent | fit.misshapen.keys() if family.is_head(name)}
    unfit |= {name for name in absent if family.is_pooler(name)}
    whole = {family.group_of(n) for n in unfit} - {family.group_of(n) for n in expected if n not in unfit}
    return {name for name in unfit if family.group_of(name) in whole}


def _advice(fit: Misfit, head: set[str], key: jax.Array | None) -> str:
    if key is None and head and head <= set(fit.missing):
        return " (the checkpoint has no trained head of this kind: train one first)"
    return ""


def _draw(model: FunctionalModel, fresh: set[str], key: jax.Array) -> Tensors:
    """Draw only the fresh tensors, which are outside the layer stack; the numbers are the same as in drawing all."""
    flat = traverse_util.flatten_dict(model.abstract_params)
    wanted = {path: leaf for path, leaf in flat.items() if names.torch_name(path) in fresh}
    if not wanted:
        return {}
    part = dataclasses.replace(model, abstract_params=traverse_util.unflatten_dict(wanted))
    return {name: np.asarray(tensor) for name, tensor in names.to_torch(init_params(part, key)).items()}


def _all_of(count: int, misfit: Misfit) -> str:
    whole = len(misfit.missing) + len(misfit.unexpected) + len(misfit.misshapen)
    return f"all {count} are" if count == whole else f"{count} are"


def _span(layers: set[int]) -> str:
    low, high = min(layers), max(layers)
    return str(low) if low == high else f"{low} to {high}"


def _differing_sizes(tensors: Mapping[str, np.ndarray], config: BertConfig, family: Family) -> list[str]:
    found = []
    for key, (name, axis) in family.sizes.items():
        tensor, expected = tensors.get(f"{family.prefix}.{name}"), getattr(config, key)
        if tensor is not None and tensor.ndim == 2 and tensor.shape[axis] != expected:
            found.append(f"{key} is {tensor.shape[axis]} in the checkpoint, {expected} in its configuration")
    return found
