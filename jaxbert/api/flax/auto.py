"""The legacy auto classes, which choose a public class by a task; in jaxbert every configuration is a BERT's."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from transformers import BertConfig

from jaxbert.api.flax import flax_bert
from jaxbert.errors import UserOSError, UserValueError

Mapping = dict[type[BertConfig], Any]
"""Class of a configuration -> class of a model."""

FLAX_MODEL_MAPPING: Mapping = {BertConfig: flax_bert.FlaxBertModel}
FLAX_MODEL_FOR_PRETRAINING_MAPPING: Mapping = {BertConfig: flax_bert.FlaxBertForPreTraining}
FLAX_MODEL_FOR_MASKED_LM_MAPPING: Mapping = {BertConfig: flax_bert.FlaxBertForMaskedLM}
FLAX_MODEL_FOR_CAUSAL_LM_MAPPING: Mapping = {BertConfig: flax_bert.FlaxBertForCausalLM}
FLAX_MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING: Mapping = {BertConfig: flax_bert.FlaxBertForSequenceClassification}
FLAX_MODEL_FOR_QUESTION_ANSWERING_MAPPING: Mapping = {BertConfig: flax_bert.FlaxBertForQuestionAnswering}
FLAX_MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING: Mapping = {BertConfig: flax_bert.FlaxBertForTokenClassification}
FLAX_MODEL_FOR_MULTIPLE_CHOICE_MAPPING: Mapping = {BertConfig: flax_bert.FlaxBertForMultipleChoice}
FLAX_MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING: Mapping = {BertConfig: flax_bert.FlaxBertForNextSentencePrediction}


class _FlaxAuto:
    """Makes models of the class that the mapping holds for a configuration; it has no instances."""

    mapping: ClassVar[Mapping]

    def __init__(self, *_: Any, **__: Any) -> None:
        name = type(self).__name__
        raise UserOSError(f"{name} has no objects: call {name}.from_pretrained(NAME) or {name}.from_config(CONFIG)")

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | Path, *model_args: Any, **kwargs: Any) -> Any:
        """Load a model; arguments and errors are those of the public class."""
        config = kwargs.get("config")
        kind = cls._choose(config) if config is not None and not isinstance(config, str | Path) else cls._only()
        return kind.from_pretrained(pretrained_model_name_or_path, *model_args, **kwargs)

    @classmethod
    def from_config(cls, config: BertConfig, **kwargs: Any) -> Any:
        """Make a new model; `seed`, `dtype`, `input_shape` and so on are arguments of the constructor.

        Raises:
          UserValueError: if the configuration is not a BERT's.
        """
        kwargs.pop("trust_remote_code", None)
        return cls._choose(config)._from_config(config, **kwargs)

    @classmethod
    def _choose(cls, config: Any) -> Any:
        if type(config) in cls.mapping:
            return cls.mapping[type(config)]
        if isinstance(config, BertConfig):
            return cls._only()
        raise UserValueError(f"{cls.__name__} makes BERTs of a BertConfig, and this is a {type(config).__name__}")

    @classmethod
    def _only(cls) -> Any:
        return cls.mapping[BertConfig]


class FlaxAutoModel(_FlaxAuto):
    """Models without a head."""

    mapping = FLAX_MODEL_MAPPING


class FlaxAutoModelForPreTraining(_FlaxAuto):
    """Models with scores for masked words and for the next sentence."""

    mapping = FLAX_MODEL_FOR_PRETRAINING_MAPPING


class FlaxAutoModelForMaskedLM(_FlaxAuto):
    """Models with scores for masked words."""

    mapping = FLAX_MODEL_FOR_MASKED_LM_MAPPING


class FlaxAutoModelForCausalLM(_FlaxAuto):
    """Not supported, like `FlaxBertForCausalLM`: every use raises UserValueError."""

    mapping = FLAX_MODEL_FOR_CAUSAL_LM_MAPPING


class FlaxAutoModelForSequenceClassification(_FlaxAuto):
    """Models with scores of labels for each example."""

    mapping = FLAX_MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING


class FlaxAutoModelForQuestionAnswering(_FlaxAuto):
    """Models with scores of each token as the start and the end of an answer."""

    mapping = FLAX_MODEL_FOR_QUESTION_ANSWERING_MAPPING


class FlaxAutoModelForTokenClassification(_FlaxAuto):
    """Models with scores of labels for each token."""

    mapping = FLAX_MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING


class FlaxAutoModelForMultipleChoice(_FlaxAuto):
    """Models with a score for each of several choices."""

    mapping = FLAX_MODEL_FOR_MULTIPLE_CHOICE_MAPPING


class FlaxAutoModelForNextSentencePrediction(_FlaxAuto):
    """Models with scores for whether the second sentence follows the first."""

    mapping = FLAX_MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING
