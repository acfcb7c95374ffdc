"""`Answer`: the answer to a request, computed by one version."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manta.inference.predictor import Prediction
    from manta.labels import Floats
    from manta_serve.versions.served_model import ServedModel


@dataclass(frozen=True)
class Answer:
    """The answer to one request, computed by one version."""

    model: ServedModel
    predictions: list[Prediction]
    """One for each text, in order."""
    logits: Floats
    """`(texts, labels)`, from which the predictions are."""
    num_computed: int
    """Number of its texts that were computed. The others were in the cache."""
    queued_s: float
    """Seconds from the request's arrival until computing of its first text starts."""
    computed_s: float
    """Seconds from then until its last text is computed."""
