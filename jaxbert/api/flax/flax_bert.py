"""The public classes, with the names and the interface that they had in transformers 4.

Each has a module, which has a head and an output; `pretrained` is their common base.
"""

from __future__ import annotations

from typing import Any, NoReturn

import jax.numpy as jnp
from transformers import BertConfig

from jaxbert.api.flax import outputs
from jaxbert.api.flax.module import FlaxModule
from jaxbert.api.flax.pretrained import FlaxBertPreTrainedModel
from jaxbert.errors import UserValueError
from jaxbert.models import heads

__all__ = [
    "FlaxBertForCausalLM",
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


class FlaxBertModule(FlaxModule):
    """The module of `FlaxBertModel`."""

    head = heads.BertModel
    output = outputs.FlaxBaseModelOutputWithPoolingAndCrossAttentions

    def __init__(
        self,
        config: BertConfig,
        dtype: Any = jnp.float32,
        gradient_checkpointing: bool = False,
        add_pooling_layer: bool = True,
    ) -> None:
        if not add_pooling_layer:
            self.head = heads.BertModelWithoutPooler  # only for this module
        super().__init__(config, dtype, gradient_checkpointing)


class FlaxBertModel(FlaxBertPreTrainedModel):
    """BERT without a head: hidden vectors of all tokens, and a pooled one per example unless `add_pooling_layer=False`."""

    module_class = FlaxBertModule


class FlaxBertForPreTrainingModule(FlaxModule):
    """The module of `FlaxBertForPreTraining`."""

    head = heads.PreTraining
    output = outputs.FlaxBertForPreTrainingOutput


class FlaxBertForPreTraining(FlaxBertPreTrainedModel):
    """BERT with both pretraining heads: scores of the words at masked positions and of the next sentence."""

    module_class = FlaxBertForPreTrainingModule


class FlaxBertForMaskedLMModule(FlaxModule):
    """The module of `FlaxBertForMaskedLM`."""

    head = heads.MaskedLM
    output = outputs.FlaxMaskedLMOutput


class FlaxBertForMaskedLM(FlaxBertPreTrainedModel):
    """BERT with scores of the whole vocabulary at each token, for masked words."""

    module_class = FlaxBertForMaskedLMModule


class FlaxBertForNextSentencePredictionModule(FlaxModule):
    """The module of `FlaxBertForNextSentencePrediction`."""

    head = heads.NextSentencePrediction
    output = outputs.FlaxNextSentencePredictorOutput


class FlaxBertForNextSentencePrediction(FlaxBertPreTrainedModel):
    """BERT with scores for whether the second sentence of each example follows the first."""

    module_class = FlaxBertForNextSentencePredictionModule


class FlaxBertForSequenceClassificationModule(FlaxModule):
    """The module of `FlaxBertForSequenceClassification`."""

    head = heads.SequenceClassificationHead
    output = outputs.FlaxSequenceClassifierOutput


class FlaxBertForSequenceClassification(FlaxBertPreTrainedModel):
    """BERT with scores of labels for each example, from the pooled vector of its first token."""

    module_class = FlaxBertForSequenceClassificationModule


class FlaxBertForMultipleChoiceModule(FlaxModule):
    """The module of `FlaxBertForMultipleChoice`."""

    head = heads.MultipleChoiceHead
    output = outputs.FlaxMultipleChoiceModelOutput


class FlaxBertForMultipleChoice(FlaxBertPreTrainedModel):
    """BERT with a score per choice; input is [examples, choices, tokens]. In packed rows every choice is an example."""

    module_class = FlaxBertForMultipleChoiceModule


class FlaxBertForTokenClassificationModule(FlaxModule):
    """The module of `FlaxBertForTokenClassification`."""

    head = heads.TokenClassificationHead
    output = outputs.FlaxTokenClassifierOutput


class FlaxBertForTokenClassification(FlaxBertPreTrainedModel):
    """BERT with scores of labels for each token."""

    module_class = FlaxBertForTokenClassificationModule


class FlaxBertForQuestionAnsweringModule(FlaxModule):
    """The module of `FlaxBertForQuestionAnswering`."""

    head = heads.QuestionAnsweringHead
    output = outputs.FlaxQuestionAnsweringModelOutput

    def __init__(self, config: BertConfig, dtype: Any = jnp.float32, gradient_checkpointing: bool = False) -> None:
        if config.num_labels != 2:
            raise UserValueError(
                "FlaxBertForQuestionAnswering scores each token twice, as start and as end, but the configuration has "
                f"{config.num_labels} labels: set num_labels=2"
            )
        super().__init__(config, dtype, gradient_checkpointing)


class FlaxBertForQuestionAnswering(FlaxBertPreTrainedModel):
    """BERT with scores of each token as the start and the end of an answer."""

    module_class = FlaxBertForQuestionAnsweringModule


class FlaxBertForCausalLM:
    """BERT as a decoder, which jaxbert does not have: every use raises UserValueError, which names an alternative."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._refuse()

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> NoReturn:
        """Raise an error.

        Raises:
          UserValueError: always.
        """
        cls._refuse()

    _from_config = from_pretrained

    @staticmethod
    def _refuse() -> NoReturn:
        raise UserValueError(
            "jaxbert has no BERT that writes text (FlaxBertForCausalLM): use BertLMHeadModel of transformers in PyTorch, "
            "which reads what jaxbert saves, or an environment with transformers==4.57.6; for masked words there is "
            "FlaxBertForMaskedLM"
        )
