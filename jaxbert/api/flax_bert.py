"""The public classes, by the names and with the interface that transformers 4 gave them.

Each is a head and an output; what they share is `pretrained`'s part.
"""

from __future__ import annotations

from jaxbert.api.outputs import FlaxSequenceClassifierOutput
from jaxbert.api.pretrained import FlaxBertPreTrainedModel
from jaxbert.models.heads import SequenceClassification

__all__ = ["FlaxBertForSequenceClassification", "FlaxBertPreTrainedModel"]


class FlaxBertForSequenceClassification(FlaxBertPreTrainedModel):
    """A label for each example: scores from the pooled vector of its first token."""

    head = SequenceClassification
    output = FlaxSequenceClassifierOutput
