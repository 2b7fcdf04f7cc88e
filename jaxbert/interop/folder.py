"""Find a model's folder and read its configuration.

A name is a local folder or a Hub name. From the Hub come only the files that are needed, with one format of weights,
and what is in its cache serves without a network. The tensors themselves are `read`'s part.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from transformers import BertConfig

from jaxbert.errors import UserError, foreign_errors, one_line
from jaxbert.interop.read import WEIGHT_FILES, find_weights
from jaxbert.models.activations import ACTIVATIONS
from jaxbert.plain import read_json, shown

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_SMALL_FILES = (
    "config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_MOST = {
    "vocab_size": 2**24,
    "hidden_size": 2**16,
    "num_hidden_layers": 2**10,
    "num_attention_heads": 2**16,
    "intermediate_size": 2**18,
    "max_position_embeddings": 2**20,
    "type_vocab_size": 2**16,
    "num_labels": 2**17,
}
"""Far above every BERT: a larger number is damage, and the mere list of its tensors or labels would fill the memory."""
_DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")


@dataclass(frozen=True)
class Hub:
    """How the Hub is asked; the endpoint, and what is left out here, come from the library's own environment."""

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""


def resolve(name_or_path: str | Path, hub: Hub = Hub()) -> Path:
    """Return the local folder of a model, downloaded first if it is a Hub name that is not cached.

    An existing folder is local, and so is any name that only a path can have (`./x`, `/x`, `~/x`, `a/b/c`).

    Raises:
      UserError: for a missing folder, a folder that is no model, an unknown Hub name, or no network.
    """
    name = str(name_or_path)
    path = Path(name).expanduser()
    if path.is_dir():
        return _check_model(path / hub.subfolder, f"the folder {path / hub.subfolder}")
    if path.exists():
        raise UserError(f"{name} is a file: give the folder that holds it, with its config.json")
    if isinstance(name_or_path, Path) or not _HUB_NAME.fullmatch(name):
        raise UserError(f"{name!r} is no folder: give an existing model folder or a Hub name (NAME or ORG/NAME)")
    return _check_model(_download(name, hub), f"the Hub model {name}")


def _check_model(folder: Path, what: str) -> Path:
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    lacking += [] if find_weights(folder) else [f"weights ({', '.join(WEIGHT_FILES)})"]
    if lacking:
        raise UserError(f"{what} is no model: it has no {' and no '.join(lacking)}")
    return folder


def _download(name: str, hub: Hub) -> Path:
    """Fetch the small files and the first format of weights that the repository has."""
    folder, failure = None, None
    for weights in WEIGHT_FILES:
        stem, suffix = weights.split(".")
        patterns = [*_SMALL_FILES, weights, f"{weights}.index.json", f"{stem}-*-of-*.{suffix}"]
        if hub.subfolder:
            patterns = [f"{hub.subfolder}/{pattern}" for pattern in patterns]
        try:
            folder = _snapshot(name, hub, patterns) / hub.subfolder
        except LocalEntryNotFoundError as error:  # offline, and this format is not cached: another may be
            failure = error
            continue
        if find_weights(folder):
            return folder
    if folder is None:
        raise UserError(
            f"{name!r} is no local folder, is not in the Hub's cache, and the Hub cannot be reached "
            f"({one_line(failure.__cause__ or failure) if failure else 'offline'}): check the name and the network"
        ) from failure
    return folder


def _snapshot(name: str, hub: Hub, patterns: list[str]) -> Path:
    try:
        folder = snapshot_download(
            name,
            revision=hub.revision,
            token=hub.token,
            cache_dir=hub.cache_dir,
            local_files_only=hub.local_files_only,
            force_download=hub.force_download,
            allow_patterns=patterns,
        )
    except LocalEntryNotFoundError:
        raise
    except GatedRepoError as error:
        raise UserError(
            f"the Hub model {name!r} is gated: ask for access on its page and log in (`hf auth login`)"
        ) from error
    except RevisionNotFoundError as error:
        raise UserError(f"the Hub model {name!r} has no revision {hub.revision!r}") from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise UserError(
            f"{name!r} is no local folder and no model on the Hub: check the name; a private one needs `hf auth login`"
        ) from error
    except Exception as error:  # the library lets its HTTP client's own exceptions through
        raise UserError(f"the Hub model {name!r} cannot be downloaded: {one_line(error)}") from error
    return Path(folder)


def read_config(folder: Path | str) -> BertConfig:
    """Read the `config.json` of a BERT model.

    Raises:
      UserError: for broken JSON, another model type, or a variant that would be computed wrongly.
    """
    path = Path(folder) / "config.json"
    return parse_config(read_json(path), path)


def parse_config(content: dict, path: object) -> BertConfig:
    """Check the content of a `config.json` and build the configuration; `path` is named in errors."""
    model_type = content.get("model_type")
    if model_type != "bert":
        raise UserError(f"{path} has model_type {shown(model_type)}, but only 'bert' is supported")
    positions = content.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UserError(f"{path} has position_embedding_type {shown(positions)}, but only 'absolute' is supported")
    for key in ("is_decoder", "add_cross_attention"):
        if content.get(key):
            raise UserError(f"{path} has {key} true, but only encoders are supported")
    act = content.get("hidden_act", "gelu")
    if act not in tuple(ACTIVATIONS):
        raise UserError(f"{path} has hidden_act {shown(act)}, expected one of {', '.join(ACTIVATIONS)}")
    _check_keys(content, path)
    _check_labels(content, path)
    with foreign_errors(f"{path} is not a valid BERT configuration"):
        config = BertConfig.from_dict(dict(content))
    return _check_numbers(config, path)


def _check_keys(content: dict, path: object) -> None:
    """Refuse what the library would look up by name: every key becomes an attribute, a dtype becomes one of torch's."""
    for key in content:
        if key.startswith("__") or callable(getattr(BertConfig, key, None)):
            raise UserError(f"{path} has the key {shown(key)}, which is no setting of a model: remove it")
    for key in ("dtype", "torch_dtype"):
        if content.get(key) is not None and str(content[key]).removeprefix("torch.") not in _DTYPES:
            raise UserError(f"{path} has {key} {shown(content[key])}, expected one of {', '.join(_DTYPES)}")


def _check_labels(content: dict, path: object) -> None:
    """Check what the library would make a label of each: a number makes as many."""
    count, names, most = content.get("num_labels"), content.get("id2label"), _MOST["num_labels"]
    if count is not None and not (type(count) is int and 1 <= count <= most):
        raise UserError(f"{path} has num_labels {shown(count)}, but it must be a number from 1 to {most}")
    if names is None:
        return
    if not isinstance(names, dict) or {str(index) for index in names} != {str(i) for i in range(len(names))}:
        raise UserError(f"{path} has id2label {shown(names)}, but it must name the labels 0, 1, 2 and so on")
    if not names or not all(isinstance(name, str | int | float) for name in names.values()):
        raise UserError(f"{path} has id2label {shown(names)}, but it must hold a name for each label")


def _check_numbers(config: BertConfig, path: object) -> BertConfig:
    for key, most in _MOST.items():
        value = getattr(config, key)
        if not 1 <= value <= most:
            raise UserError(f"{path} has {key} {shown(value)}, but it must be from 1 to {most}")
    for key in ("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"):
        rate = getattr(config, key)
        if rate is not None and not 0 <= rate < 1:
            raise UserError(f"{path} has {key} {shown(rate)}, but it must be from 0 to below 1")
    for key in ("layer_norm_eps", "initializer_range"):
        if not 0 <= getattr(config, key) < math.inf:
            raise UserError(f"{path} has {key} {shown(getattr(config, key))}, but it must be a number from 0 up")
    if config.hidden_size % config.num_attention_heads:
        raise UserError(
            f"{path} has hidden_size {config.hidden_size}, which num_attention_heads "
            f"{config.num_attention_heads} does not divide"
        )
    return config
