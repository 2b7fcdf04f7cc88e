"""Fine-tune BERT in JAX on packed sequences, and hand the weights to PyTorch.

Importing the package costs nothing: the public names bring in JAX when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jaxbert.api.flax_bert import (
        FlaxBertForMaskedLM,
        FlaxBertForMultipleChoice,
        FlaxBertForNextSentencePrediction,
        FlaxBertForPreTraining,
        FlaxBertForQuestionAnswering,
        FlaxBertForSequenceClassification,
        FlaxBertForTokenClassification,
        FlaxBertModel,
    )
    from jaxbert.errors import UserError

__version__ = "0.1.0.dev0"

_PUBLIC = {
    "FlaxBertForMaskedLM": "jaxbert.api.flax_bert",
    "FlaxBertForMultipleChoice": "jaxbert.api.flax_bert",
    "FlaxBertForNextSentencePrediction": "jaxbert.api.flax_bert",
    "FlaxBertForPreTraining": "jaxbert.api.flax_bert",
    "FlaxBertForQuestionAnswering": "jaxbert.api.flax_bert",
    "FlaxBertForSequenceClassification": "jaxbert.api.flax_bert",
    "FlaxBertForTokenClassification": "jaxbert.api.flax_bert",
    "FlaxBertModel": "jaxbert.api.flax_bert",
    "UserError": "jaxbert.errors",
}

__all__ = [
    "FlaxBertForMaskedLM",
    "FlaxBertForMultipleChoice",
    "FlaxBertForNextSentencePrediction",
    "FlaxBertForPreTraining",
    "FlaxBertForQuestionAnswering",
    "FlaxBertForSequenceClassification",
    "FlaxBertForTokenClassification",
    "FlaxBertModel",
    "UserError",
    "__version__",
]


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'jaxbert' has no attribute {name!r}")
    return getattr(importlib.import_module(_PUBLIC[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
