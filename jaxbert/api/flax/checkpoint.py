"""Finds the configuration and the parameters of a public class.

It sorts the many arguments of `from_pretrained`; `interop` reads and writes files.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from transformers import BertConfig, PreTrainedConfig

from jaxbert.api.flax.module import FlaxModule
from jaxbert.errors import UserError, UserOSError, UserValueError, raised_as
from jaxbert.interop import names
from jaxbert.interop.bert_config import config_file, parse_config
from jaxbert.interop.folder import Hub, resolve
from jaxbert.interop.formats import Tensors
from jaxbert.interop.load import LoadReport, fit_tensors, replace_misshapen
from jaxbert.interop.read import read_tensors
from jaxbert.models.families import family_of
from jaxbert.models.functional import Params
from jaxbert.plain import read_json

_logger = logging.getLogger(__name__)

_HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
_WITHOUT_MEANING = (
    "from_pt",  # the files show the format
    "resume_download",
    "proxies",
    "trust_remote_code",
    "mirror",
    "adapter_kwargs",
    "_from_auto",
    "_from_pipeline",
    "_commit_hash",
)


@dataclass(frozen=True)
class FoundCheckpoint:
    """A checkpoint on this machine."""

    weights: Path
    """A folder, or a single file of weights."""
    config: Path
    hub: Hub


def locate_checkpoint(name_or_path: str | Path, kwargs: dict[str, Any]) -> FoundCheckpoint:
    """Find a checkpoint; remove the arguments for that from `kwargs`.

    Raises:
      UserOSError: if there is none.
    """
    for key in _WITHOUT_MEANING:
        kwargs.pop(key, None)
    if "use_auth_token" in kwargs:
        kwargs.setdefault("token", kwargs.pop("use_auth_token"))
    hub = Hub(**{key: kwargs.pop(key) for key in _HUB_ARGUMENTS if key in kwargs})
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return FoundCheckpoint(path, config_file(path.parent), hub)
    with raised_as(UserOSError):
        folder = resolve(name_or_path, hub)
    return FoundCheckpoint(folder, config_file(folder), hub)


def choose_config(found: FoundCheckpoint, config: BertConfig | str | Path | None, kwargs: dict[str, Any]) -> BertConfig:
    """Return the given configuration, or read one and override it with keys of `kwargs`, which are removed there.

    Raises:
      UserOSError: if it cannot be read.
      UserValueError: if it is not a BERT's, or of a kind that would be computed wrongly.
    """
    if isinstance(config, PreTrainedConfig) and not isinstance(config, BertConfig):
        raise UserValueError(f"config is a {type(config).__name__}, but only BertConfig is supported")
    if isinstance(config, BertConfig):
        return config
    path = found.config
    with raised_as(UserOSError):
        if config is not None:
            given = Path(config).expanduser()
            path = given if given.is_file() else config_file(resolve(config, found.hub))
        content = read_json(path)
    with raised_as(UserValueError):
        return _override(content, path, kwargs)


def _override(content: dict[str, Any], path: Path, kwargs: dict[str, Any]) -> BertConfig:
    known = parse_config(content, path)
    overrides = {key: kwargs.pop(key) for key in list(kwargs) if hasattr(known, key)}
    if not overrides:
        return known
    if "id2label" in overrides:
        content.pop("label2id", None)
    elif overrides.get("num_labels", known.num_labels) != known.num_labels:
        content.pop("id2label", None)
        content.pop("label2id", None)
    return parse_config(content | overrides, path)


def load_checkpoint(
    found: FoundCheckpoint, module: FlaxModule, key: Array, ignore_mismatched_sizes: bool
) -> tuple[Params, set[tuple[str, ...]]]:
    """Return the per-layer parameters and the paths of new ones; log new, unused and half-precision tensors.

    Tensors keep the format that they have in the file.
    """
    with raised_as(UserOSError):
        tensors = read_tensors(found.weights, family_of(module.config), keep_half=True)
    with raised_as(UserValueError):
        tensors, report, resized = _fit(tensors, found, module, key, ignore_mismatched_sizes)
    if report.fresh or report.unused or resized:
        new = f"; new, as the shapes did not match: {', '.join(resized)}" if resized else ""
        _logger.warning("%s: %s%s", found.weights, report, new)
    for name in ("float16", "bfloat16"):
        halves = [tensor for tensor in tensors.values() if tensor.dtype.name == name]
        if halves:
            _logger.warning(
                "%s: %d of %d tensors are %s, and so are the parameters made of them: to have or to train float32 "
                "parameters, convert them with `to_fp32`",
                *(found.weights, len(halves), len(tensors), name),
            )
    params = jax.tree.map(jnp.asarray, names.layers_from_torch(tensors))
    fresh = {names.flax_path(name.removeprefix("bert.") if module.bare else name) for name in report.fresh}
    return params["bert"] if module.bare else params, fresh


def _fit(
    tensors: Tensors, found: FoundCheckpoint, module: FlaxModule, key: Array, ignore_mismatched_sizes: bool
) -> tuple[Tensors, LoadReport, list[str]]:
    resized: list[str] = []
    if ignore_mismatched_sizes:
        tensors, resized = replace_misshapen(tensors, module.model, key=key, source=str(found.weights))
    tensors, report = fit_tensors(tensors, module.model, key=key, source=str(found.weights))
    misfits = [name for name in report.fresh if name in report.unused]
    if misfits:
        raise UserError(
            f"{found.weights} has {', '.join(misfits)} for another number of labels than this model's: "
            "set num_labels, or start a fresh head by ignore_mismatched_sizes=True"
        )
    return tensors, report, resized
