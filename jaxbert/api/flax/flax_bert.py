"""The public classes, by the names and with the interface that transformers 4 gave them.

Each is a module, which is a head and an output; what they share is `pretrained`'s part.
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
            self.head = heads.BertModelWithoutPooler  # of this module alone
        super().__init__(config, dtype, gradient_checkpointing)


class FlaxBertModel(FlaxBertPreTrainedModel):
    """No head: hidden vectors of all tokens, and a pooled one of each example unless `add_pooling_layer=False`."""

    module_class = FlaxBertModule


class FlaxBertForPreTrainingModule(FlaxModule):
    """The module of `FlaxBertForPreTraining`."""

    head = heads.PreTraining
    output = outputs.FlaxBertForPreTrainingOutput


class FlaxBertForPreTraining(FlaxBertPreTrainedModel):
    """The words behind the masks, and whether the second sentence follows the first."""

    module_class = FlaxBertForPreTrainingModule


class FlaxBertForMaskedLMModule(FlaxModule):
    """The module of `FlaxBertForMaskedLM`."""

    head = heads.MaskedLM
    output = outputs.FlaxMaskedLMOutput


class FlaxBertForMaskedLM(FlaxBertPreTrainedModel):
    """The words behind the masks: scores of the whole vocabulary at each token."""

    module_class = FlaxBertForMaskedLMModule


class FlaxBertForNextSentencePredictionModule(FlaxModule):
    """The module of `FlaxBertForNextSentencePrediction`."""

    head = heads.NextSentencePrediction
    output = outputs.FlaxNextSentencePredictorOutput


class FlaxBertForNextSentencePrediction(FlaxBertPreTrainedModel):
    """Whether the second sentence of each example follows the first."""

    module_class = FlaxBertForNextSentencePredictionModule


class FlaxBertForSequenceClassificationModule(FlaxModule):
    """The module of `FlaxBertForSequenceClassification`."""

    head = heads.SequenceClassificationHead
    output = outputs.FlaxSequenceClassifierOutput


class FlaxBertForSequenceClassification(FlaxBertPreTrainedModel):
    """A label for each example: scores from the pooled vector of its first token."""

    module_class = FlaxBertForSequenceClassificationModule


class FlaxBertForMultipleChoiceModule(FlaxModule):
    """The module of `FlaxBertForMultipleChoice`."""

    head = heads.MultipleChoiceHead
    output = outputs.FlaxMultipleChoiceModelOutput


class FlaxBertForMultipleChoice(FlaxBertPreTrainedModel):
    """The best of several choices; input is [examples, choices, tokens], in packed rows every choice is an example."""

    module_class = FlaxBertForMultipleChoiceModule


class FlaxBertForTokenClassificationModule(FlaxModule):
    """The module of `FlaxBertForTokenClassification`."""

    head = heads.TokenClassificationHead
    output = outputs.FlaxTokenClassifierOutput


class FlaxBertForTokenClassification(FlaxBertPreTrainedModel):
    """A label for each token."""

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
    """Where an answer starts and ends in the text."""

    module_class = FlaxBertForQuestionAnsweringModule


class FlaxBertForCausalLM:
    """BERT as a decoder, which jaxbert does not have: every use raises UserValueError and says where there is one."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._refuse()

    @classmethod
    def from_pretrained(cls, *_: Any, **__: Any) -> NoReturn:
        """Refuse to load.

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
