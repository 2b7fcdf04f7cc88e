"""Where a public class finds its configuration and parameters, and where it uploads them.

Sorts the many arguments that `from_pretrained` had; reading and writing files is `interop`'s part.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from huggingface_hub import HfApi
from jax import Array
from transformers import BertConfig

from jaxbert.api.module import FlaxBertModule
from jaxbert.errors import UserError
from jaxbert.interop.bert_config import config_file, parse_config
from jaxbert.interop.folder import Hub, resolve
from jaxbert.interop.load import fit_params, replace_misshapen
from jaxbert.interop.names import flax_path
from jaxbert.interop.read import read_tensors
from jaxbert.models.functional import Params
from jaxbert.plain import read_json

_logger = logging.getLogger(__name__)

_HUB_ARGUMENTS = ("revision", "token", "cache_dir", "local_files_only", "force_download", "subfolder")
_WITHOUT_MEANING = (
    "from_pt",  # the format is read off the files
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
class Found:
    """A checkpoint on this machine."""

    weights: Path
    """A folder, or one file of weights."""
    config: Path
    hub: Hub


def locate(name_or_path: str | Path, kwargs: dict[str, Any]) -> Found:
    """Find a checkpoint, taking out of `kwargs` what says how."""
    for key in _WITHOUT_MEANING:
        kwargs.pop(key, None)
    if "use_auth_token" in kwargs:
        kwargs.setdefault("token", kwargs.pop("use_auth_token"))
    hub = Hub(**{key: kwargs.pop(key) for key in _HUB_ARGUMENTS if key in kwargs})
    path = Path(name_or_path).expanduser()
    if path.is_file():
        return Found(path, config_file(path.parent), hub)
    folder = resolve(name_or_path, hub)
    return Found(folder, config_file(folder), hub)


def choose_config(found: Found, config: BertConfig | str | Path | None, kwargs: dict[str, Any]) -> BertConfig:
    """Return the given configuration, or read one and let `kwargs` override it (they are taken out)."""
    if isinstance(config, BertConfig):
        return config
    path = found.config
    if config is not None:
        given = Path(config).expanduser()
        path = given if given.is_file() else config_file(resolve(config, found.hub))
    content = read_json(path)
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


def load(
    found: Found, module: FlaxBertModule, key: Array, ignore_mismatched_sizes: bool
) -> tuple[Params, set[tuple[str, ...]]]:
    """Return the per-layer parameters and the paths of those that are new; say what is new or left unused."""
    tensors = read_tensors(found.weights)
    resized: list[str] = []
    if ignore_mismatched_sizes:
        tensors, resized = replace_misshapen(tensors, module.model, key=key, source=str(found.weights))
    stacked, report = fit_params(tensors, module.model, key=key, source=str(found.weights))
    misfits = [name for name in report.fresh if name in report.unused]
    if misfits:
        raise UserError(
            f"{found.weights} has {', '.join(misfits)} for another number of labels than this model's: "
            "set num_labels, or start a fresh head by ignore_mismatched_sizes=True"
        )
    if report.fresh or report.unused or resized:
        new = f"; new for their size: {', '.join(resized)}" if resized else ""
        _logger.warning("%s: %s%s", found.weights, report, new)
    params = jax.tree.map(jnp.asarray, module.to_legacy(stacked))
    return params, {flax_path(name.removeprefix("bert.") if module.bare else name) for name in report.fresh}


def upload(
    folder: Path,
    repo_id: str,
    *,
    token: str | bool | None = None,
    private: bool | None = None,
    **kwargs: Any,
) -> str:
    """Upload a saved model; `kwargs` are those of the Hub's `upload_folder`."""
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    kwargs.setdefault("commit_message", "Upload model")
    files = ["config.json", "model.safetensors", "flax_model.msgpack"]
    return api.upload_folder(folder_path=folder, repo_id=repo_id, allow_patterns=files, **kwargs)
