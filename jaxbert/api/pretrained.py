"""What all public classes share: parameters in the legacy per-layer tree, and their casting, loading and saving.

A subclass names its head and its output. The forward pass is `module`'s part, files are `interop`'s.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx, serialization, traverse_util
from jax import Array
from transformers import BertConfig

from jaxbert.api import checkpoint
from jaxbert.api.module import FlaxBertModule
from jaxbert.api.outputs import FlaxModelOutput
from jaxbert.interop.bert_config import parse_config
from jaxbert.interop.write import save_folder
from jaxbert.models.functional import Params


class FlaxBertPreTrainedModel:
    """A model with its parameters, called as the classes that transformers removed."""

    config_class = BertConfig
    base_model_prefix = "bert"
    main_input_name = "input_ids"
    framework = "flax"
    head: ClassVar[type[nnx.Module]]
    output: ClassVar[type[FlaxModelOutput]]

    def __init__(
        self,
        config: BertConfig,
        input_shape: tuple[int, ...] = (1, 1),
        seed: int = 0,
        dtype: Any = jnp.float32,
        _do_init: bool = True,
        gradient_checkpointing: bool = False,
        **kwargs: Any,
    ) -> None:
        parse_config(config.to_dict(), "the configuration")
        self._config = config
        self._module = self.module_class(config, dtype, gradient_checkpointing, **kwargs)
        self._is_initialized = _do_init
        self.key = jax.random.PRNGKey(seed)
        self.dtype = dtype
        self.input_shape = input_shape
        if _do_init:
            self.params = self.init_weights(self.key, input_shape)

    @classmethod
    def module_class(
        cls, config: BertConfig, dtype: Any = jnp.float32, gradient_checkpointing: bool = False
    ) -> FlaxBertModule:
        """Make the pure functions of a model of this class."""
        return FlaxBertModule(cls.head, cls.output, config, dtype, gradient_checkpointing)

    @classmethod
    def can_generate(cls) -> bool:
        """Say that an encoder writes no text."""
        return False

    def enable_gradient_checkpointing(self) -> None:
        """Compute each layer again in the backward pass instead of keeping what it computed: less memory, more time."""
        self._module.gradient_checkpointing = True

    @property
    def config(self) -> BertConfig:
        """The configuration."""
        return self._config

    @property
    def module(self) -> FlaxBertModule:
        """The pure functions, for programs that call `module.apply`."""
        return self._module

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The path of every tensor that `params` must hold."""
        return set(self.module.required_params)

    @property
    def params_shape_tree(self) -> Params:
        """Shapes and dtypes in the per-layer tree."""
        return self.module.params_shape_tree

    @property
    def params(self) -> Params:
        """The per-layer tree; held by the model unless it was made with `_do_init=False`."""
        self._check_initialized()
        return self._params

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        self._check_initialized()
        flat = traverse_util.flatten_dict(params)
        missing = self.required_params - flat.keys()
        if missing:
            raise ValueError(f"params lack {', '.join(sorted(map('/'.join, missing)))}")
        self._params = traverse_util.unflatten_dict(flat)

    def _check_initialized(self) -> None:
        if not self._is_initialized:
            raise ValueError(
                "a model made with _do_init=False holds no params: draw them by init_weights, keep them outside and "
                "pass them as params="
            )

    def init_weights(
        self, rng: Array, input_shape: tuple[int, ...] = (1, 1), params: Mapping[str, Any] | None = None
    ) -> Params:
        """Draw new parameters; given `params`, only those that they lack."""
        drawn = traverse_util.flatten_dict(self.module.init(rng)["params"])
        given = traverse_util.flatten_dict(params) if params is not None else {}
        return traverse_util.unflatten_dict(drawn | given)

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Array | None = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        *,
        segment_ids: Any = None,
        cls_positions: Any = None,
    ) -> Any:
        """Run the model; what is None comes from the configuration or its natural default.

        Packed rows say with `segment_ids` [B, T] which example a token belongs to (0: padding) and, where the model
        reads first tokens, with `cls_positions` [B, S] where each example starts.
        """
        config = self.config

        def choose(value: bool | None, key: str, default: bool) -> bool:
            return bool(getattr(config, key, default) if value is None else value)

        return self.module.apply(
            {"params": self.params if params is None else params},
            input_ids,
            attention_mask,
            token_type_ids,
            position_ids,
            head_mask,
            deterministic=not train,
            output_attentions=choose(output_attentions, "output_attentions", False),
            output_hidden_states=choose(output_hidden_states, "output_hidden_states", False),
            return_dict=choose(return_dict, "return_dict", True),
            rngs={} if dropout_rng is None else {"dropout": dropout_rng},
            segment_ids=segment_ids,
            cls_positions=cls_positions,
        )

    def to_bf16(self, params: Mapping[str, Any], mask: Mapping[str, Any] | None = None) -> Params:
        """Cast floating-point parameters to bfloat16; with a tree of booleans as `mask`, only where it is true."""
        return _cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Mapping[str, Any], mask: Mapping[str, Any] | None = None) -> Params:
        """Cast floating-point parameters to float16; with a tree of booleans as `mask`, only where it is true."""
        return _cast(params, jnp.float16, mask)

    def to_fp32(self, params: Mapping[str, Any], mask: Mapping[str, Any] | None = None) -> Params:
        """Cast floating-point parameters to float32; with a tree of booleans as `mask`, only where it is true."""
        return _cast(params, jnp.float32, mask)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | Path,
        dtype: Any = jnp.float32,
        *model_args: Any,
        config: BertConfig | str | Path | None = None,
        ignore_mismatched_sizes: bool = False,
        _do_init: bool = True,
        **kwargs: Any,
    ) -> Any:
        """Load a model from a folder, a file of weights or the Hub, whatever format it is in.

        Arguments of the Hub (`revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder`) go
        there; those that the configuration knows override it (`num_labels`, `id2label`, ...); the rest goes to the
        constructor. With `_do_init=False`, returns `(model, params)`, and `params` lack what the checkpoint lacks.

        Raises:
          UserError: if there is no such model, it is no BERT, or it is damaged or misses parts of the encoder.
        """
        found = checkpoint.locate(pretrained_model_name_or_path, kwargs)
        model_config = checkpoint.choose_config(found, config, kwargs)
        make: Callable[..., FlaxBertPreTrainedModel] = cls
        model = make(model_config, *model_args, dtype=dtype, _do_init=False, **kwargs)
        params, fresh = checkpoint.load(found, model.module, model.key, ignore_mismatched_sizes)
        if not _do_init:
            flat = traverse_util.flatten_dict(params)
            return model, traverse_util.unflatten_dict({path: x for path, x in flat.items() if path not in fresh})
        model._is_initialized = True
        model.params = params
        return model

    def save_pretrained(
        self,
        save_directory: str | Path,
        params: Mapping[str, Any] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str = "10GB",
        token: str | bool | None = None,
        safe_serialization: bool = True,
        **kwargs: Any,
    ) -> None:
        """Write `config.json` and `model.safetensors`, which PyTorch's classes load as well.

        With `safe_serialization=False`, the legacy `flax_model.msgpack` is written beside them. No BERT reaches
        `max_shard_size`, so there is one file. `push_to_hub` uploads to `repo_id`, by default the folder's name.
        """
        folder = Path(save_directory)
        params = self.params if params is None else params
        self.config.architectures = [type(self).__name__.removeprefix("Flax")]
        save_folder(folder, self.module.from_legacy(params), self.config, architecture=self.config.architectures[0])
        legacy = folder / "flax_model.msgpack"
        if safe_serialization:
            legacy.unlink(missing_ok=True)  # legacy readers would prefer its older weights
        else:
            legacy.write_bytes(serialization.to_bytes(jax.device_get(params)))
        if push_to_hub:
            checkpoint.upload(folder, kwargs.pop("repo_id", folder.resolve().name), token=token, **kwargs)

    def push_to_hub(
        self, repo_id: str, *, params: Mapping[str, Any] | None = None, token: str | bool | None = None, **kwargs: Any
    ) -> str:
        """Upload the model to a Hub repository, made if there is none; return the address of the commit.

        `private`, `commit_message`, `commit_description`, `revision` and `create_pr` are passed on.
        """
        with tempfile.TemporaryDirectory() as folder:
            self.save_pretrained(folder, params=params)
            return checkpoint.upload(Path(folder), repo_id, token=token, **kwargs)


def _cast(params: Mapping[str, Any], dtype: Any, mask: Mapping[str, Any] | None) -> Params:
    flat = traverse_util.flatten_dict(params)
    chosen = dict.fromkeys(flat, True) if mask is None else traverse_util.flatten_dict(mask)

    def cast(path: tuple[str, ...], leaf: Any) -> Any:
        floating = isinstance(leaf, jax.Array | np.ndarray) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if floating and chosen[path] else leaf

    return traverse_util.unflatten_dict({path: cast(path, leaf) for path, leaf in flat.items()})
