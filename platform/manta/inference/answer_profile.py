"""Profile of a model's answers: counts of labels and confidences. It is stored with the model and compared in service."""

from __future__ import annotations

from math import log
from typing import TYPE_CHECKING

import numpy as np
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.labels import Floats, LabelSpace

NUM_CONFIDENCE_BINS = 10
"""The bins have equal width from 0 to 1. Deciles would split the last hundredth of a good model's confidences, so that the small
differences between its inference formats would move answers from bin to bin."""
UNSEEN = 0.5
"""The number of rows of the smaller side whose share is added to every bin of a stability index. Without it, a bin that is empty on
one side would make the index infinite."""


class AnswerProfile(BaseModel):
    """Counts over the answers to some rows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_rows: int
    labels: tuple[int, ...]
    """Number of rows with each label, in the order of the model's labels. For a multilabel model, rows without a label come
    last."""
    confidence: tuple[int, ...]
    """Number of rows in each tenth of the confidence (`LabelSpace.confidence`)."""


def profile_of(logits: Floats, *, labels: LabelSpace) -> AnswerProfile:
    """Return the profile of the answers for logits `(rows, outputs)`."""
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
    """Return the index of the bin of a confidence, 0 to 1."""
    return min(int(confidence * NUM_CONFIDENCE_BINS), NUM_CONFIDENCE_BINS - 1)


def stability_index(expected: Sequence[int], found: Sequence[int]) -> float:
    """Return the population stability index of two counts over the same bins: 0 for equal shares; 0.25 is a great change.

    It is the sum over the bins of (q - p) log(q / p), with p and q the shares of `expected` and `found`.
    """
    if len(expected) != len(found):
        raise ValueError(f"{len(expected)} and {len(found)} bins cannot be compared")
    num_expected, num_found = sum(expected), sum(found)
    if not (num_expected and num_found):
        return 0.0
    unseen = UNSEEN / min(num_expected, num_found)
    shares = [(before / num_expected + unseen, now / num_found + unseen) for before, now in zip(expected, found, strict=True)]
    return sum((now - before) * log(now / before) for before, now in shares) / (1 + unseen * len(shares))


def stability_by_chance(expected: Sequence[int], found: Sequence[int]) -> float:
    """Return the approximate mean index of two samples of these sizes from one distribution (Yurdakul, 2018).

    With many labels and few rows, the index looks like a change although there is none.
    """
    num_expected, num_found = sum(expected), sum(found)
    num_bins = sum(before > 0 or now > 0 for before, now in zip(expected, found, strict=True))
    return (num_bins - 1) * (1 / num_expected + 1 / num_found) if num_expected and num_found else 0.0
