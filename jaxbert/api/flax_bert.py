"""The public classes, by the names and with the interface that transformers 4 gave them.

Each is a head and an output; what they share is `pretrained`'s part.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from transformers import BertConfig

from jaxbert.api import outputs
from jaxbert.api.module import FlaxBertModule
from jaxbert.api.pretrained import FlaxBertPreTrainedModel
from jaxbert.errors import UserError
from jaxbert.models import heads

__all__ = [
    "FlaxBertForMaskedLM",
    "FlaxBertForMultipleChoice",
    "FlaxBertForNextSentencePrediction",
    "FlaxBertForPreTraining",
    "FlaxBertForQuestionAnswering",
    "FlaxBertForSequenceClassification",
    "FlaxBertForTokenClassification",
    "FlaxBertModel",
    "FlaxBertPreTrainedModel",
]


class FlaxBertModel(FlaxBertPreTrainedModel):
    """No head: hidden vectors of all tokens, and a pooled one of each example unless `add_pooling_layer=False`."""

    head = heads.BertModel
    output = outputs.FlaxBaseModelOutputWithPoolingAndCrossAttentions

    @classmethod
    def module_class(
        cls,
        config: BertConfig,
        dtype: Any = jnp.float32,
        gradient_checkpointing: bool = False,
        add_pooling_layer: bool = True,
    ) -> FlaxBertModule:
        """Make the pure functions, with a pooler or without."""
        head = cls.head if add_pooling_layer else heads.BertModelWithoutPooler
        return FlaxBertModule(head, cls.output, config, dtype, gradient_checkpointing)


class FlaxBertForPreTraining(FlaxBertPreTrainedModel):
    """The words behind the masks, and whether the second sentence follows the first."""

    head = heads.PreTraining
    output = outputs.FlaxBertForPreTrainingOutput


class FlaxBertForMaskedLM(FlaxBertPreTrainedModel):
    """The words behind the masks: scores of the whole vocabulary at each token."""

    head = heads.MaskedLM
    output = outputs.FlaxMaskedLMOutput


class FlaxBertForNextSentencePrediction(FlaxBertPreTrainedModel):
    """Whether the second sentence of each example follows the first."""

    head = heads.NextSentencePrediction
    output = outputs.FlaxNextSentencePredictorOutput


class FlaxBertForSequenceClassification(FlaxBertPreTrainedModel):
    """A label for each example: scores from the pooled vector of its first token."""

    head = heads.SequenceClassification
    output = outputs.FlaxSequenceClassifierOutput


class FlaxBertForMultipleChoice(FlaxBertPreTrainedModel):
    """The best of several choices; input is [examples, choices, tokens], in packed rows every choice is an example."""

    head = heads.MultipleChoice
    output = outputs.FlaxMultipleChoiceModelOutput


class FlaxBertForTokenClassification(FlaxBertPreTrainedModel):
    """A label for each token."""

    head = heads.TokenClassification
    output = outputs.FlaxTokenClassifierOutput


class FlaxBertForQuestionAnswering(FlaxBertPreTrainedModel):
    """Where an answer starts and ends in the text."""

    head = heads.QuestionAnswering
    output = outputs.FlaxQuestionAnsweringModelOutput

    @classmethod
    def module_class(
        cls, config: BertConfig, dtype: Any = jnp.float32, gradient_checkpointing: bool = False
    ) -> FlaxBertModule:
        """Make the pure functions.

        Raises:
          UserError: if the configuration speaks of another number of scores than a start and an end.
        """
        if config.num_labels != 2:
            raise UserError(
                f"{cls.__name__} scores each token twice, as start and as end, but the configuration has "
                f"{config.num_labels} labels: set num_labels=2"
            )
        return super().module_class(config, dtype, gradient_checkpointing)
