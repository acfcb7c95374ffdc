"""What a model's answers look like as a whole: how often each label, how sure. Kept with the model, and compared in service."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from manta.labels import Floats, LabelSpace

NUM_CONFIDENCE_BINS = 10
"""Of equal width from 0 to 1. Deciles would split the last hundredth of a good model's confidences, where the small differences
between the forms of one model are enough to move answers from bin to bin."""


class AnswerProfile(BaseModel):
    """Counts over the answers to some rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_rows: int
    labels: tuple[int, ...]
    """How often each label was decided, in the order of the model's labels; for a multilabel model with the rows that got none
    at the end."""
    confidence: tuple[int, ...]
    """Rows in each tenth of the confidence (`LabelSpace.confidence`)."""


def profile_of(logits: Floats, *, labels: LabelSpace) -> AnswerProfile:
    """The profile of the answers that logits `(rows, outputs)` come to."""
    probabilities = labels.probabilities(logits)
    decided = labels.decide(probabilities)
    if labels.task == "multilabel":
        counts = np.append(decided.sum(axis=0), (~decided.any(axis=1)).sum())
    else:
        counts = np.bincount(decided, minlength=len(labels.names))
    bins = [confidence_bin(float(value)) for value in labels.confidence(probabilities)]
    return AnswerProfile(
        num_rows=len(probabilities),
        labels=tuple(int(count) for count in counts),
        confidence=tuple(np.bincount(bins, minlength=NUM_CONFIDENCE_BINS).tolist()),
    )


def confidence_bin(confidence: float) -> int:
    """The index of the bin that a confidence, 0 to 1, falls into."""
    return min(int(confidence * NUM_CONFIDENCE_BINS), NUM_CONFIDENCE_BINS - 1)
