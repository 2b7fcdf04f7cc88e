"""The `.module` of a public class: the forward pass over the legacy per-layer tree, compiled once per shape.

Models of one head, configuration and number format share compiled functions, so a second model compiles nothing. `inputs`
interprets the arguments; `pretrained` holds, reads and writes parameters.
"""

from __future__ import annotations

import copy
import functools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util
from flax.errors import InvalidRngError
from jax import Array
from transformers import BertConfig

from jaxbert.api.flax.inputs import Batch, join_choices, make_batch, make_packed_batch
from jaxbert.api.flax.outputs import FlaxModelOutput
from jaxbert.errors import UserError, UserValueError
from jaxbert.interop.names import stack_layers, unstack_layers
from jaxbert.models.encoder import ForwardOptions
from jaxbert.models.functional import FunctionalModel, Params, init_params, make_model
from jaxbert.models.heads import BertModel, MultipleChoiceHead

_RATES = ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout")
_NAMES = ("_name_or_path", "id2label", "label2id", "architectures", "transformers_version", "dtype", "torch_dtype")
"""The keys of a configuration that do not change a model's numbers."""


class MissingRngError(UserError, InvalidRngError, ValueError):
    """A call with dropout has no key; it replaces Flax's InvalidRngError in the legacy classes."""

    def __init__(self, message: str) -> None:
        Exception.__init__(self, message)  # Flax's own message would add a link that does not describe this class


@dataclass(frozen=True)
class _Settings:
    """A configuration as it was when a model was made from it, compared by the keys that change the model."""

    text: str
    config: BertConfig = field(compare=False)

    @classmethod
    def of(cls, config: BertConfig) -> _Settings:
        content = {key: value for key, value in config.to_dict().items() if key not in _NAMES}
        text = json.dumps(content | {"num_labels": config.num_labels}, sort_keys=True, default=str)
        return cls(text, config)


class _Programs:
    """The shapes and compiled functions that all modules of one head, configuration and number format share."""

    def __init__(self, head: type[nnx.Module], output: type[FlaxModelOutput], config: BertConfig, dtype: Any) -> None:
        self.bare = issubclass(head, BertModel)
        self.joins_choices = issubclass(head, MultipleChoiceHead)
        self.slot_fields = output.slot_fields
        self.model = make_model(head, config, dtype)
        self.shapes = self.to_legacy(self.model.abstract_params)
        self.required = frozenset(traverse_util.flatten_dict(self.shapes))
        self.draw = jax.jit(lambda key: self.to_legacy(init_params(self.model, key)))
        self.forward = jax.jit(self._run, static_argnames=("call", "packed", "choices"))

    def to_legacy(self, stacked: Params) -> Params:
        """Convert our tree to the legacy one: layer by layer, and without the name `bert` for the model without a head."""
        params = unstack_layers(stacked)
        return params["bert"] if self.bare else params

    def from_legacy(self, params: Mapping[str, Any]) -> Params:
        """Convert the legacy tree to ours; the inverse of `to_legacy`."""
        return stack_layers({"bert": params} if self.bare else params)

    def _run(
        self,
        params: Params,
        batch: Batch,
        *,
        key: Array | None,
        head_mask: Array | None,
        call: ForwardOptions,
        packed: bool,
        choices: int | None,
    ) -> dict[str, Any]:
        fields = self.model.apply(self.from_legacy(params), batch, key, call, head_mask)
        encoded = fields.pop("encoded")
        fields.pop("pooled", None)  # no output of the legacy classes
        if not packed:
            fields |= {name: fields[name][:, 0] for name in self.slot_fields if name in fields}
        if self.joins_choices:
            fields["logits"] = fields["logits"][..., 0] if choices is None else fields["logits"].reshape(-1, choices)
        states = {"hidden_states": encoded.hidden_states_NBTD, "attentions": encoded.attentions_NBHTT}
        return fields | {name: tuple(stack) for name, stack in states.items() if stack is not None}


@functools.lru_cache(maxsize=32)
def _make_programs(
    head: type[nnx.Module], output: type[FlaxModelOutput], settings: _Settings, dtype_name: str
) -> _Programs:
    return _Programs(head, output, copy.deepcopy(settings.config), jnp.dtype(dtype_name))


class FlaxModule:
    """A head as a pair of pure functions, `init` and `apply`, with the call signature of the legacy Linen module."""

    head: type[nnx.Module]
    output: ClassVar[type[FlaxModelOutput]]

    def __init__(self, config: BertConfig, dtype: Any = jnp.float32, gradient_checkpointing: bool = False) -> None:
        self.config = config
        self.dtype = dtype
        self.gradient_checkpointing = gradient_checkpointing
        self._programs = self._shared_programs()

    def _shared_programs(self) -> _Programs:
        return _make_programs(self.head, self.output, _Settings.of(self.config), jnp.dtype(self.dtype).name)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "_programs"}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        self._programs = self._shared_programs()

    @property
    def model(self) -> FunctionalModel:
        """The head as a pure model of jaxbert, with stacked layers."""
        return self._programs.model

    @property
    def bare(self) -> bool:
        """Whether the model has no head, so that its names lack `bert`."""
        return self._programs.bare

    @property
    def params_shape_tree(self) -> Params:
        """The shapes and dtypes of the per-layer tree."""
        return jax.tree.map(lambda leaf: leaf, self._programs.shapes)

    @property
    def required_params(self) -> frozenset[tuple[str, ...]]:
        """The paths of all tensors."""
        return self._programs.required

    def init(self, rngs: Array | Mapping[str, Array], *_: Any, **__: Any) -> dict[str, Params]:
        """Draw new parameters, `{"params": per-layer tree}`; Linen's input arguments are accepted and ignored."""
        key = rngs["params"] if isinstance(rngs, Mapping) else rngs
        return {"params": self._programs.draw(key)}

    def apply(
        self,
        variables: Mapping[str, Any],
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        deterministic: bool = True,
        output_attentions: bool = False,
        output_hidden_states: bool = False,
        return_dict: bool = True,
        *,
        rngs: Mapping[str, Array] | None = None,
        segment_ids: Any = None,
        cls_positions: Any = None,
    ) -> FlaxModelOutput | tuple:
        """Run the forward pass with `variables["params"]`; unless `deterministic`, dropout uses the key `rngs["dropout"]`.

        Raises:
          UserValueError: for arrays of a wrong shape, or if `params` lack tensors.
          MissingRngError: if there is dropout but no key for it.
        """
        packed = segment_ids is not None or cls_positions is not None
        inputs, choices = [input_ids, attention_mask, token_type_ids, position_ids], None
        if packed:
            self._check_packed(attention_mask, segment_ids, cls_positions)
            batch = make_packed_batch(input_ids, segment_ids, cls_positions, token_type_ids, position_ids)
        else:
            if self._programs.joins_choices:
                choices = _count_choices(input_ids)
                inputs = join_choices(*inputs)
            batch = make_batch(*inputs, max_positions=self.config.max_position_embeddings)
        # Unrolled: XLA then reads the per-layer parameters in place instead of stacking a copy of them.
        call = ForwardOptions(
            scan_layers=False,
            remat="full" if self.gradient_checkpointing else "none",
            padding_reads=not packed,
            output_hidden_states=bool(output_hidden_states),
            output_attentions=bool(output_attentions),
        )
        key = None if deterministic else self._dropout_key(rngs or {})
        params = self._select(variables["params"])
        head_mask = self._head_mask(head_mask)
        run = self._programs.forward
        fields = run(params, batch, key=key, head_mask=head_mask, call=call, packed=packed, choices=choices)
        output = self.output(**fields)
        return output if return_dict else output.to_tuple()

    def _check_packed(self, attention_mask: Any, segment_ids: Any, cls_positions: Any) -> None:
        if segment_ids is None or attention_mask is not None or (self.output.slot_fields and cls_positions is None):
            needed = "segment_ids and cls_positions" if self.output.slot_fields else "segment_ids"
            raise UserValueError(f"packed rows need {needed}, and no attention_mask")

    def _select(self, params: Mapping[str, Any]) -> Params:
        """Return the tensors that the model has, in a plain dictionary."""
        flat = traverse_util.flatten_dict(params)
        missing = self.required_params - flat.keys()
        if missing:
            raise UserValueError(f"params lack {', '.join(sorted(map('/'.join, missing)))}")
        return traverse_util.unflatten_dict({path: flat[path] for path in self.required_params})

    def _dropout_key(self, rngs: Mapping[str, Array]) -> Array | None:
        if "dropout" in rngs:
            return rngs["dropout"]
        if any(getattr(self.config, rate, None) for rate in _RATES):
            raise MissingRngError("dropout is on: give a key as dropout_rng (or rngs={'dropout': key})")
        return None

    def _head_mask(self, head_mask: Any) -> Array | None:
        if head_mask is None:
            return None
        shape = (self.config.num_hidden_layers, self.config.num_attention_heads)
        if jnp.shape(head_mask) != shape:
            raise UserValueError(f"head_mask has shape {jnp.shape(head_mask)}, expected {shape}")
        return jnp.asarray(head_mask, self.dtype)


def _count_choices(input_ids: Any) -> int:
    shape = jnp.shape(input_ids)
    if len(shape) != 3:
        raise UserValueError(f"input_ids has shape {shape}, expected [examples, choices, tokens]")
    return shape[1]
