"""The base of all public classes: holds parameters in the legacy per-layer tree, casts, loads and saves them.

A subclass names its module. `module` runs the forward pass, `interop` reads and writes files.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp
from flax import traverse_util
from flax.core import FrozenDict, freeze
from jax import Array
from transformers import BertConfig

from jaxbert.api.flax import checkpoint
from jaxbert.api.flax.module import FlaxModule
from jaxbert.api.flax.upload import Upload, upload
from jaxbert.errors import UserOSError, UserValueError, raised_as
from jaxbert.interop import names
from jaxbert.interop.bert_config import parse_config
from jaxbert.interop.write import parse_size, save_tensors
from jaxbert.models.functional import Params


class FlaxBertPreTrainedModel:
    """A model with its parameters, with the interface of the classes that transformers removed."""

    config_class = BertConfig
    base_model_prefix = "bert"
    main_input_name = "input_ids"
    framework = "flax"
    module_class: ClassVar[Callable[..., FlaxModule]]

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
        if not isinstance(config, BertConfig):
            raise UserValueError(f"config is a {type(config).__name__}, but only BertConfig is supported")
        with raised_as(UserValueError):
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
    def _from_config(cls, config: BertConfig, **kwargs: Any) -> Any:
        """Make a new model; the method has its legacy name."""
        return cls(config, **kwargs)

    @classmethod
    def can_generate(cls) -> bool:
        """Return False: an encoder writes no text."""
        return False

    def enable_gradient_checkpointing(self) -> None:
        """Recompute each layer in the backward pass instead of keeping its results: less memory, more time."""
        self._module.gradient_checkpointing = True

    @property
    def config(self) -> BertConfig:
        """The configuration."""
        return self._config

    @property
    def module(self) -> FlaxModule:
        """The pure functions, for programs that call `module.apply`."""
        return self._module

    @property
    def required_params(self) -> set[tuple[str, ...]]:
        """The paths of all tensors that `params` must hold."""
        return set(self.module.required_params)

    @property
    def params_shape_tree(self) -> Params:
        """The shapes and dtypes of the per-layer tree."""
        return self.module.params_shape_tree

    @property
    def params(self) -> Params:
        """The per-layer tree; the model holds it unless it was made with `_do_init=False`."""
        self._check_initialized()
        return self._params

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        self._check_initialized()
        flat = traverse_util.flatten_dict(params)
        missing = self.required_params - flat.keys()
        if missing:
            raise UserValueError(f"params lack {', '.join(sorted(map('/'.join, missing)))}")
        self._params = traverse_util.unflatten_dict(flat)

    def _check_initialized(self) -> None:
        if not self._is_initialized:
            raise UserValueError(
                "a model made with _do_init=False holds no params: draw them by init_weights, keep them outside and "
                "pass them as params="
            )

    def init_weights(
        self, rng: Array, input_shape: tuple[int, ...] = (1, 1), params: Mapping[str, Any] | None = None
    ) -> Params | FrozenDict:
        """Draw new parameters; with `params`, draw only the missing ones and return all in a FrozenDict."""
        drawn = self.module.init(rng)["params"]
        if params is None:
            return drawn
        flat = traverse_util.flatten_dict(drawn) | traverse_util.flatten_dict(params)
        return freeze(traverse_util.unflatten_dict(flat))

    def __call__(
        self,
        input_ids: Any,
        attention_mask: Any = None,
        token_type_ids: Any = None,
        position_ids: Any = None,
        head_mask: Any = None,
        encoder_hidden_states: Any = None,
        encoder_attention_mask: Any = None,
        params: Mapping[str, Any] | None = None,
        dropout_rng: Array | None = None,
        train: bool = False,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        past_key_values: Any = None,
        *,
        segment_ids: Any = None,
        cls_positions: Any = None,
    ) -> Any:
        """Run the model. Arguments that are None come from the configuration or a default, `params` from the model.

        Inputs are [B, T], those of choices [B, choices, T]; `head_mask` is [N, H]. No other token attends to a token whose
        `attention_mask` is 0. Such a token has values too: it attends to the tokens with mask 1, as in PyTorch.

        For packed rows, `segment_ids` [B, T] number the example of each token (0: padding), and `cls_positions` [B, S] give
        the start of each example, if the model uses first tokens. A token then attends only to its own example.

        Raises:
          UserValueError: for arrays of a wrong shape, for `params` that lack tensors, and for arguments of decoders:
            `encoder_hidden_states`, `encoder_attention_mask`, `past_key_values`.
          MissingRngError: if `train` asks for dropout and there is no `dropout_rng`.
        """
        _refuse_decoding(
            encoder_hidden_states=encoder_hidden_states,
            encoder_attention_mask=encoder_attention_mask,
            past_key_values=past_key_values,
        )
        config = self.config

        def choose(value: bool | None, key: str, default: bool) -> bool:
            return bool(getattr(config, key, default) if value is None else value)

        return self.module.apply(
            {"params": params or self.params},
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
        """Cast JAX's floating-point arrays to bfloat16; with a tree of booleans as `mask`, only where it is true."""
        return _cast(params, jnp.bfloat16, mask)

    def to_fp16(self, params: Mapping[str, Any], mask: Mapping[str, Any] | None = None) -> Params:
        """Cast JAX's floating-point arrays to float16; with a tree of booleans as `mask`, only where it is true."""
        return _cast(params, jnp.float16, mask)

    def to_fp32(self, params: Mapping[str, Any], mask: Mapping[str, Any] | None = None) -> Params:
        """Cast JAX's floating-point arrays to float32; with a tree of booleans as `mask`, only where it is true."""
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
        """Load a model from a folder, a file of weights or the Hub, in any of the known formats.

        Arguments of the Hub (`revision`, `token`, `cache_dir`, `local_files_only`, `force_download`, `subfolder`) are passed
        to it; keys of the configuration override it (`num_labels`, `id2label`, ...); the constructor gets the others.
        Parameters keep the format of the file, float32, float16 or bfloat16; `dtype` is that of the computation. With
        `_do_init=False`, returns `(model, params)`, and `params` lack the tensors that the checkpoint lacks.

        Raises:
          UserOSError: if there is no such model, or its files are damaged.
          UserValueError: if it is no BERT, or it lacks parts of the encoder, or tensors have other shapes.
        """
        found = checkpoint.locate_checkpoint(pretrained_model_name_or_path, kwargs)
        model_config = checkpoint.choose_config(found, config, kwargs)
        make: Callable[..., FlaxBertPreTrainedModel] = cls
        model = make(model_config, *model_args, dtype=dtype, _do_init=False, **kwargs)
        params, fresh = checkpoint.load_checkpoint(found, model.module, model.key, ignore_mismatched_sizes)
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

        With `safe_serialization=False`, the legacy `flax_model.msgpack` is written too. Weights of more than
        `max_shard_size` bytes (or text such as "300MB") are written as several files with an index. `params` may lack
        tensors. `push_to_hub` uploads to `repo_id`, by default the folder's name; other arguments are those of
        the method `push_to_hub`.

        Raises:
          UserOSError: if the folder cannot be written.
          UserValueError: if `max_shard_size` is no size.
        """
        repo_id, how = kwargs.pop("repo_id", None), _upload_arguments(token=token, **kwargs)
        folder = Path(save_directory)
        tree = jax.device_get(self.params if params is None else params)
        tensors = names.layers_to_torch({"bert": tree} if self.module.bare else tree)
        self.config.architectures = [type(self).__name__.removeprefix("Flax")]
        with raised_as(UserValueError):
            most = parse_size(max_shard_size)
        with raised_as(UserOSError):
            save_tensors(
                folder,
                tensors,
                self.config,
                architecture=self.config.architectures[0],
                max_shard_size=most,
                flax_tree=None if safe_serialization else tree,
            )
        if push_to_hub:
            upload(folder, repo_id or folder.resolve().name, how)

    def push_to_hub(
        self,
        repo_id: str,
        use_temp_dir: bool | None = None,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        max_shard_size: int | str = "5GB",
        create_pr: bool = False,
        safe_serialization: bool = True,
        revision: str | None = None,
        commit_description: str | None = None,
        tags: Sequence[str] | None = None,
        *,
        params: Mapping[str, Any] | None = None,
        use_auth_token: str | bool | None = None,
    ) -> str:
        """Upload the model to a Hub repository, which is made if needed; return the address of the commit.

        With `use_temp_dir=False` the files stay in a folder with the repository's name. `tags` are added to the model card.
        `max_shard_size`, `safe_serialization` and `params` are those of `save_pretrained`.
        """
        how = Upload(
            token=use_auth_token if token is None else token,
            private=private,
            commit_message=commit_message,
            commit_description=commit_description,
            revision=revision,
            create_pr=create_pr,
            tags=tags,
        )
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(repo_id.split("/")[-1]) if use_temp_dir is False else Path(scratch)
            self.save_pretrained(
                folder, params=params, max_shard_size=max_shard_size, safe_serialization=safe_serialization
            )
            return upload(folder, repo_id, how)


def _refuse_decoding(**arguments: Any) -> None:
    given = [name for name, value in arguments.items() if value is not None]
    if given:
        raise UserValueError(
            f"{', '.join(given)}: only a decoder reads that, and this BERT is an encoder; leave it out"
        )


def _upload_arguments(
    token: str | bool | None = None, use_auth_token: str | bool | None = None, **kwargs: Any
) -> Upload:
    return Upload(token=use_auth_token if token is None else token, **kwargs)


def _cast(params: Mapping[str, Any], dtype: Any, mask: Mapping[str, Any] | None) -> Any:
    """Cast JAX's floating-point arrays; NumPy arrays are unchanged, as in the legacy classes."""

    def cast(leaf: Any) -> Any:
        floating = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jnp.floating)
        return leaf.astype(dtype) if floating else leaf

    if mask is None:
        return jax.tree.map(cast, params)
    flat, chosen = traverse_util.flatten_dict(params), traverse_util.flatten_dict(mask)
    return traverse_util.unflatten_dict({path: cast(x) if chosen[path] else x for path, x in flat.items()})
