"""Read the configuration of a BERT from any program, and refuse a model that would be computed wrongly.

Google's first folders name the file `bert_config.json`, and older files do not name the kind of model. `load` checks whether
weights fit a configuration.
"""

from __future__ import annotations

import logging
import math
from pathlib import Path

from transformers import BertConfig

from jaxbert.errors import UserError, foreign_errors
from jaxbert.models.families import DEFAULT, FAMILIES
from jaxbert.models.layers import ACTIVATIONS
from jaxbert.plain import read_json, shown

CONFIGS = ("config.json", "bert_config.json")
"""The file names of a configuration; the first that exists counts."""

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
"""The largest numbers, far above every BERT: a larger one is damage, and its list of tensors or labels would fill memory."""
_DTYPES = ("float32", "float16", "bfloat16", "float64", "auto")
_SHAPE = tuple(key for key in _MOST if key != "num_labels")

logger = logging.getLogger("jaxbert")


def config_file(folder: Path) -> Path:
    """Return the path of a model's configuration; if none exists, the path of `config.json`."""
    return next((path for name in CONFIGS if (path := folder / name).is_file()), folder / CONFIGS[0])


def read_config(folder: Path | str) -> BertConfig:
    """Read the configuration of a BERT model.

    Raises:
      UserError: for broken JSON, another model type, or a variant that would be computed wrongly.
    """
    path = config_file(Path(folder))
    content = read_json(path)
    if path.name != CONFIGS[0] and "model_type" in content:
        logger.warning("%s is used, because there is no %s", path, CONFIGS[0])
    return parse_config(content, path)


def parse_config(content: dict, path: object) -> BertConfig:
    """Check the content of a `config.json` and build the configuration; `path` is named in errors."""
    model_type = content.get("model_type")
    if model_type is None:
        _check_shape(content, path)
        logger.warning("%s has no model_type: it is taken for that of a BERT", path)
    elif not (isinstance(model_type, str) and model_type in FAMILIES):
        raise UserError(
            f"{path} has model_type {shown(model_type)}, but only {', '.join(map(repr, FAMILIES))} is supported: "
            "name a BERT (by its config.json, not by its name: chinese-roberta-wwm-ext is one)"
        )
    positions = content.get("position_embedding_type", "absolute")
    if positions != "absolute":
        raise UserError(f"{path} has position_embedding_type {shown(positions)}, but only 'absolute' is supported")
    for key in ("is_decoder", "add_cross_attention"):
        if content.get(key):
            raise UserError(f"{path} has {key} true, but only encoders are supported")
    act = content.get("hidden_act", "gelu")
    if act not in tuple(ACTIVATIONS):
        raise UserError(f"{path} has hidden_act {shown(act)}, expected one of {', '.join(ACTIVATIONS)}")
    family = DEFAULT if model_type is None else FAMILIES[model_type]
    config_class = family.config_class()
    _check_keys(content, config_class, path)
    _check_labels(content, path)
    with foreign_errors(f"{path} is not a valid BERT configuration"):
        config = config_class.from_dict(content | {"model_type": family.model_type})
    return _check_numbers(config, path)


def _check_shape(content: dict, path: object) -> None:
    """Check that a configuration without a `model_type` is of the default family."""
    way = f'only BERT is supported; if it is one, add "model_type": "{DEFAULT.model_type}"'
    lacking = [key for key in _SHAPE if key not in content]
    if lacking:
        raise UserError(f"{path} has no model_type and lacks {', '.join(lacking)}: {way}")
    named = content.get("architectures") or []
    if not isinstance(named, list) or not all(str(name).startswith(DEFAULT.architecture) for name in named):
        raise UserError(f"{path} has no model_type and has architectures {shown(named)}: {way}")
    others = DEFAULT.foreign_keys.items()
    told = [(key, kind) for key, kind in others if content.get(key) not in (None, content["hidden_size"])]
    if content["type_vocab_size"] == 1:
        told.append(("type_vocab_size 1", "RoBERTa"))
    if told:
        raise UserError(f"{path} has no model_type, but has {told[0][0]} like {told[0][1]}: {way}")


def _check_keys(content: dict, config_class: type, path: object) -> None:
    """Refuse keys that would replace attributes of the library's class, and names that are no dtype of torch."""
    for key in content:
        if key.startswith("__") or callable(getattr(config_class, key, None)):
            raise UserError(f"{path} has the key {shown(key)}, which is not a setting of a model: remove it")
    for key in ("dtype", "torch_dtype"):
        if content.get(key) is not None and str(content[key]).removeprefix("torch.") not in _DTYPES:
            raise UserError(f"{path} has {key} {shown(content[key])}, expected one of {', '.join(_DTYPES)}")


def _check_labels(content: dict, path: object) -> None:
    """Check `num_labels` and `id2label`, since the library makes a label for each."""
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
