"""Fine-tune and pretrain BERT in JAX on packed sequences, and export the weights for PyTorch.

Importing the package is fast: JAX is imported when a public name is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxbert.api.audit import audit
    from jaxbert.api.compare import compare
    from jaxbert.api.finetune import Result, curve, finetune, pretrain
    from jaxbert.api.flax.auto import (
        FLAX_MODEL_FOR_CAUSAL_LM_MAPPING,
        FLAX_MODEL_FOR_MASKED_LM_MAPPING,
        FLAX_MODEL_FOR_MULTIPLE_CHOICE_MAPPING,
        FLAX_MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING,
        FLAX_MODEL_FOR_PRETRAINING_MAPPING,
        FLAX_MODEL_FOR_QUESTION_ANSWERING_MAPPING,
        FLAX_MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        FLAX_MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING,
        FLAX_MODEL_MAPPING,
        FlaxAutoModel,
        FlaxAutoModelForCausalLM,
        FlaxAutoModelForMaskedLM,
        FlaxAutoModelForMultipleChoice,
        FlaxAutoModelForNextSentencePrediction,
        FlaxAutoModelForPreTraining,
        FlaxAutoModelForQuestionAnswering,
        FlaxAutoModelForSequenceClassification,
        FlaxAutoModelForTokenClassification,
    )
    from jaxbert.api.flax.flax_bert import (
        FlaxBertForCausalLM,
        FlaxBertForMaskedLM,
        FlaxBertForMultipleChoice,
        FlaxBertForNextSentencePrediction,
        FlaxBertForPreTraining,
        FlaxBertForQuestionAnswering,
        FlaxBertForSequenceClassification,
        FlaxBertForTokenClassification,
        FlaxBertModel,
        FlaxBertPreTrainedModel,
    )
    from jaxbert.api.model import Model, load
    from jaxbert.api.own import Metric
    from jaxbert.api.search import search
    from jaxbert.api.vocabulary import extend_vocabulary, prune_vocabulary
    from jaxbert.config import Config
    from jaxbert.errors import StoppedError, UserError
    from jaxbert.train.run import STOP, Callback
    from jaxbert.understand.audit import Audit

__version__ = "0.1.0.dev0"

__all__ = [
    "FLAX_MODEL_FOR_CAUSAL_LM_MAPPING",
    "FLAX_MODEL_FOR_MASKED_LM_MAPPING",
    "FLAX_MODEL_FOR_MULTIPLE_CHOICE_MAPPING",
    "FLAX_MODEL_FOR_NEXT_SENTENCE_PREDICTION_MAPPING",
    "FLAX_MODEL_FOR_PRETRAINING_MAPPING",
    "FLAX_MODEL_FOR_QUESTION_ANSWERING_MAPPING",
    "FLAX_MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING",
    "FLAX_MODEL_FOR_TOKEN_CLASSIFICATION_MAPPING",
    "FLAX_MODEL_MAPPING",
    "STOP",
    "Audit",
    "Callback",
    "Config",
    "FlaxAutoModel",
    "FlaxAutoModelForCausalLM",
    "FlaxAutoModelForMaskedLM",
    "FlaxAutoModelForMultipleChoice",
    "FlaxAutoModelForNextSentencePrediction",
    "FlaxAutoModelForPreTraining",
    "FlaxAutoModelForQuestionAnswering",
    "FlaxAutoModelForSequenceClassification",
    "FlaxAutoModelForTokenClassification",
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
    "Metric",
    "Model",
    "Result",
    "StoppedError",
    "UserError",
    "__version__",
    "audit",
    "compare",
    "curve",
    "extend_vocabulary",
    "finetune",
    "load",
    "pretrain",
    "prune_vocabulary",
    "search",
]
_HOMES = {
    "STOP": "jaxbert.train.run",
    "Audit": "jaxbert.understand.audit",
    "Callback": "jaxbert.train.run",
    "Config": "jaxbert.config",
    "Metric": "jaxbert.api.own",
    "Model": "jaxbert.api.model",
    "Result": "jaxbert.api.finetune",
    "StoppedError": "jaxbert.errors",
    "UserError": "jaxbert.errors",
    "curve": "jaxbert.api.finetune",
    "audit": "jaxbert.api.audit",
    "compare": "jaxbert.api.compare",
    "finetune": "jaxbert.api.finetune",
    "load": "jaxbert.api.model",
    "pretrain": "jaxbert.api.finetune",
    "search": "jaxbert.api.search",
    "extend_vocabulary": "jaxbert.api.vocabulary",
    "prune_vocabulary": "jaxbert.api.vocabulary",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'jaxbert' has no attribute {name!r}")
    auto = name.startswith(("FLAX", "FlaxAuto"))
    home = _HOMES.get(name) or ("jaxbert.api.flax.auto" if auto else "jaxbert.api.flax.flax_bert")
    return getattr(importlib.import_module(home), name)


def __dir__() -> list[str]:
    return sorted(__all__)
