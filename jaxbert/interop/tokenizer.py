"""Load the tokenizer that lies beside a model; every one of its files is data.

`tokenizer_config.json` could name a class of any kind, code to import, other files to open and templates to run. What is
no setting of a tokenizer is refused or left out here; the rest is the libraries' part.
"""

from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoTokenizer, BertConfig, PreTrainedTokenizerBase

from jaxbert.errors import UserError, foreign_errors
from jaxbert.plain import read_json, shown

_SETTINGS = "tokenizer_config.json"
_OTHER_SOURCES = ("init_inputs", "vocab", "merges", "gguf_file", "tokenizer_object")
"""Settings by which a tokenizer would be built from something else than the files of its folder."""
_CLASS = re.compile(r"\w*Tokenizer(Fast)?|TokenizersBackend|PythonBackend")
_PROBES = ("", "a", "\u4e2d\u0416\U0001f600")


def load_tokenizer(folder: Path, bert_config: BertConfig) -> Any:
    """Load the tokenizer that lies beside a model.

    Raises:
      UserError: if there is none, it is damaged, or it makes tokens that the model lacks.
    """
    unusable = f"{folder} has no usable tokenizer (tokenizer.json or vocab.txt)"
    with foreign_errors(unusable):
        _check_settings(folder, bert_config)
    config = copy.copy(bert_config)
    config._name_or_path = ""  # the library keeps exceptions for some names
    with foreign_errors(unusable):
        # Given the configuration, it does not look for another one in the folder.
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
        size, largest = len(tokenizer), max(tokenizer.get_vocab().values(), default=-1)
    if size > bert_config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {size} tokens, but the model only {bert_config.vocab_size}: "
            "put the tokenizer there that the model was trained with"
        )
    with foreign_errors(unusable):
        _check_tokens(tokenizer, bert_config.vocab_size, largest)
    _forget_programs(tokenizer)
    return tokenizer


def _check_settings(folder: Path, bert_config: BertConfig) -> None:
    path = folder / _SETTINGS
    settings = read_json(path) if path.is_file() else {}
    for key in _OTHER_SOURCES:
        if settings.get(key):
            raise UserError(f"{path} has {key}: a tokenizer is read from the files of its folder only; remove the key")
    names = settings.get("fast_tokenizer_files")
    if names and not (isinstance(names, list) and all(Path(str(name)).name == name for name in names)):
        raise UserError(f"{path} has fast_tokenizer_files {shown(names)}: only files of its own folder are read")
    _check_class(settings.get("tokenizer_class"), path)
    _check_class(getattr(bert_config, "tokenizer_class", None), folder / "config.json")


def _check_class(name: object, path: Path) -> None:
    """Refuse the name of a class that is no tokenizer: the library would load any of its classes from the folder."""
    if name is None:
        return
    if not isinstance(name, str) or not _CLASS.fullmatch(name):  # to look a name up imports what belongs to it
        raise UserError(f"{path} has tokenizer_class {shown(name)}, which is no tokenizer")
    for variant in {name, f"{name}Fast", name.removesuffix("Fast")}:
        found = getattr(transformers, variant, None)
        if found is not None and not (isinstance(found, type) and issubclass(found, PreTrainedTokenizerBase)):
            raise UserError(f"{path} has tokenizer_class {shown(name)}, which is no tokenizer")


def _check_tokens(tokenizer: Any, vocab_size: int, largest: int) -> None:
    """Encode a few texts: what a damaged tokenizer cannot do, or makes ids of that no embedding has, shows here."""
    if largest >= vocab_size:
        raise ValueError(f"it has the token id {largest}, but the model only ids below {vocab_size}")
    for pairs in (None, list(_PROBES)):
        encoded = tokenizer(list(_PROBES), pairs, padding=False, return_token_type_ids=True, verbose=False)
        for ids, types in zip(encoded["input_ids"], encoded["token_type_ids"], strict=True):
            if not ids or max(ids) >= vocab_size or min(ids) < 0:
                raise ValueError(
                    f"a text becomes the token ids {shown(ids)}, but they must be from 0 to {vocab_size - 1}"
                )
            if len(types) != len(ids) or not set(types) <= {0, 1}:
                raise ValueError(f"a text becomes the token types {shown(types)}, but they must be 0 or 1")


def _forget_programs(tokenizer: Any) -> None:
    """Drop chat templates and the names of code, which a classifier has no use for, so that no export hands them on."""
    tokenizer.chat_template = None
    for key in ("chat_template", "auto_map"):
        tokenizer.init_kwargs.pop(key, None)
