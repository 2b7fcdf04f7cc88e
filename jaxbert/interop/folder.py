"""Find a model's folder.

A name is a local folder or a Hub name. Only the needed files are downloaded from the Hub, with one format of weights, and
cached files work without a network. `bert_config`, `read` and `tokenizer` read the files.
"""

from __future__ import annotations

import fnmatch
import logging
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

from jaxbert.errors import UserError, foreign_errors, one_line
from jaxbert.interop.bert_config import CONFIGS, config_file
from jaxbert.interop.read import WEIGHT_FILES, find_weights
from jaxbert.plain import read_json, shown

_HUB_NAME = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)?")
_SMALL_FILES = (
    *CONFIGS,
    "modules.json",
    "adapter_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
    "special_tokens_map.json",
    "added_tokens.json",
)
_LISTED = 10
_ONCE = "convert them once in an environment with transformers below 5 and tensorflow"
_FOREIGN = {
    "*.ckpt.*": f"TensorFlow's weights: {_ONCE}, transformers-cli convert --model_type bert --tf_checkpoint "
    "bert_model.ckpt --config bert_config.json --pytorch_dump_output pytorch_model.bin",
    "tf_model.h5": f"TensorFlow's weights: {_ONCE}, AutoModel.from_pretrained(FOLDER, from_tf=True).save_pretrained(FOLDER)",
    "saved_model.pb": "a program of TensorFlow, which is not read: take the checkpoint that it was made of",
    "*.onnx": "an ONNX graph: take the checkpoint that it was made of, or, for one that jaxbert wrote into the folder onnx, "
    "--engine onnx",
    "*.gguf": "a GGUF file, which is not read: take the checkpoint that it was made of",
    "*.ot": "weights for Rust, which are not read: take the checkpoint that they were made of",
    "zero_to_fp32.py": "the parts of a DeepSpeed run: run zero_to_fp32.py there once",
    "*.safetensors": f"weights by another name: rename them to {WEIGHT_FILES[0]}",
    "*.bin": f"files of PyTorch: rename the one of the weights to {WEIGHT_FILES[1]}",
    "*.pt*": f"files of PyTorch: rename the one of the weights to {WEIGHT_FILES[1]}",
}
"""Files that are mistaken for a model's weights, by pattern, each with a remedy."""

logger = logging.getLogger("jaxbert")


@dataclass(frozen=True)
class Hub:
    """The options of a request to the Hub; the endpoint and other options come from the library's environment."""

    revision: str | None = None
    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False
    subfolder: str = ""


def resolve(name_or_path: str | Path, hub: Hub = Hub()) -> Path:
    """Return the local folder of a model; a Hub name that is not cached is downloaded first.

    An existing folder is local, and so is any name that can only be a path (`./x`, `/x`, `~/x`, `a/b/c`).

    Raises:
      UserError: for a missing folder, a folder that is no model, an unknown Hub name, or no network.
    """
    name = str(name_or_path)
    path = Path(name).expanduser()
    if path.is_dir():
        return _find_model(path / hub.subfolder, f"the folder {path / hub.subfolder}")
    if path.exists():
        raise UserError(f"{name} is a file: give the folder that holds it, with its config.json")
    if isinstance(name_or_path, Path) or not _HUB_NAME.fullmatch(name):
        raise UserError(f"{name!r} is not a folder: give an existing model folder or a Hub name (NAME or ORG/NAME)")
    return _find_model(_download(name, hub), f"the Hub model {name}")


def _find_model(folder: Path, what: str) -> Path:
    """Return `folder` if it holds a model, else the only folder in it that does, with a warning."""
    found = [folder] if _is_model(folder) else _models_below(folder)
    if len(found) > 1:
        names = sorted((path.name for path in found), key=_by_number)
        named = f"{', '.join(names[:_LISTED])}{', ...' if len(names) > _LISTED else ''}"
        raise UserError(f"{what} holds {len(names)} models: name one of them ({named})")
    if not found:
        raise UserError(f"{what} is not a model: {_why_none(folder)}")
    if found[0] != folder:
        logger.warning("%s is not a model itself: its subfolder %s is used", what, found[0].relative_to(folder))
    if any((path / "modules.json").is_file() for path in {folder, found[0]}):
        logger.warning("%s is a model of sentence-transformers: only its BERT is used, without the other modules", what)
    return found[0]


def _is_model(folder: Path) -> bool:
    return config_file(folder).is_file() and find_weights(folder) is not None


def _models_below(folder: Path) -> list[Path]:
    """Return the folders with a model inside `folder`; for a repository in the Hub's cache, its main snapshot."""
    try:
        main = folder / "snapshots" / (folder / "refs" / "main").read_text("utf-8").strip()
        if _is_model(main):
            return [main]
    except (OSError, ValueError):
        pass
    with foreign_errors(f"{folder} cannot be read"):
        below = [*folder.glob("*"), *folder.glob("snapshots/*")]
        return [path for path in below if path.is_dir() and _is_model(path) and not _is_dense(path)]


def _is_dense(folder: Path) -> bool:
    """Return whether a folder with weights is a module of sentence-transformers other than its BERT."""
    try:
        content = read_json(config_file(folder))
    except UserError:  # raised again when the model is read
        return False
    return not content.keys() & {"model_type", "hidden_size"}


def _by_number(name: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", name)]


def _why_none(folder: Path) -> str:
    """Return a message: the files that a folder lacks, and those that it holds instead."""
    if not folder.is_dir():
        return "there is no such folder"
    names = {path.name for path in [*folder.iterdir(), *folder.glob("*/*")]}
    if "adapter_config.json" in names:
        base = _adapted(folder / "adapter_config.json")
        return (
            f"it is an adapter (PEFT, LoRA) to {base}: merge the two once, by peft's merge_and_unload() and "
            "save_pretrained(), and name that folder"
        )
    lacking = [] if config_file(folder).is_file() else [CONFIGS[0]]
    lacking += [] if find_weights(folder) else [f"weights ({', '.join(WEIGHT_FILES)})"]
    found = next((f"; it holds {way}" for pattern, way in _FOREIGN.items() if fnmatch.filter(names, pattern)), "")
    return f"it has no {' and no '.join(lacking)}{found}"


def _adapted(path: Path) -> str:
    """Return the name of an adapter's base model."""
    try:
        return shown(read_json(path).get("base_model_name_or_path"))
    except UserError:
        return "a model"


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
        except LocalEntryNotFoundError as error:  # offline, and this format is not cached: try the next
            failure = error
            continue
        if find_weights(folder):
            return folder
    if folder is None:
        raise UserError(
            f"{name!r} is not a local folder, is not in the Hub's cache, and the Hub cannot be reached "
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
            f"{name!r} is neither a local folder nor a model on the Hub: check the name; a private one needs `hf auth login`"
        ) from error
    except Exception as error:  # the library lets its HTTP client's own exceptions through
        raise UserError(f"the Hub model {name!r} cannot be downloaded: {one_line(error)}") from error
    return Path(folder)
