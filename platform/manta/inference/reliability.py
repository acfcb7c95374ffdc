"""How far probabilities can be relied on: their claims, reliability bins, expected calibration error and Brier score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from manta.labels import LabelSpace

if TYPE_CHECKING:
    from manta.labels import Floats, Targets

NUM_BINS = 15
Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ReliabilityBin:
    """A bin of decisions with similar confidence."""

    num_decisions: int
    confidence: float
    """Mean confidence of the decisions."""
    accuracy: float
    """Share of right decisions."""


def row_decisions(probabilities: Floats, targets: Targets, *, labels: LabelSpace) -> tuple[Numbers, Flags]:
    """Return each row's confidence and whether its decision is right (for a multilabel task: all its labels), each `(rows,)`."""
    agrees = labels.decide(probabilities) == targets
    return labels.confidence(probabilities), agrees.all(axis=1) if agrees.ndim == 2 else agrees


def claims(probabilities: Floats, targets: Targets, *, labels: LabelSpace) -> tuple[Numbers, Flags]:
    """Return the claims on which calibration is measured: their probabilities and whether they are true, each `(claims,)`.

    Each row makes one claim: that the most probable class is right. In a multilabel task, each row and label make one: that the
    label applies.
    """
    if labels.task == "multilabel":
        return np.asarray(probabilities, dtype=np.float64).ravel(), targets.ravel() > 0
    return row_decisions(probabilities, targets, labels=labels)


def reliability_bins(confidence: Floats, correct: Flags, *, num_bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """Group decisions `(decisions,)` into at most `num_bins` bins of rising confidence and about equal size.

    Bins of equal width would put nearly all rows of a good model into the last bin. The few rows in each other bin would be noise.
    Equal confidences share a bin, so that the order of rows does not matter.
    """
    if len(confidence) == 0:
        return []
    order = np.argsort(confidence, kind="stable")
    ordered, right = np.asarray(confidence, dtype=np.float64)[order], np.asarray(correct, dtype=np.float64)[order]
    cuts = (np.arange(1, num_bins) * len(ordered)) // num_bins
    edges = np.unique(np.searchsorted(ordered, ordered[cuts], side="left"))
    parts = zip(np.split(ordered, edges), np.split(right, edges), strict=True)
    return [ReliabilityBin(len(part), float(part.mean()), float(hits.mean())) for part, hits in parts if len(part)]


def expected_calibration_error(confidence: Floats, correct: Flags, *, num_bins: int = NUM_BINS) -> float:
    """Return the mean gap between confidence and accuracy over `reliability_bins`, weighted by their decisions, 0 to 1.

    The measure is that of Naeini et al., 2015, https://ojs.aaai.org/index.php/AAAI/article/view/9602. Bins of equal mass make it
    less biased (Roelofs et al., 2022, https://arxiv.org/abs/2012.08668).
    """
    bins = reliability_bins(confidence, correct, num_bins=num_bins)
    gaps = sum(item.num_decisions * abs(item.confidence - item.accuracy) for item in bins)
    return gaps / max(1, len(confidence))


def brier_score(probabilities: Floats, targets: Targets, *, labels: LabelSpace) -> float:
    """Return the mean squared difference between probabilities and outcomes; lower is better.

    Multiclass: summed over the classes as in Brier, 1950, 0 to 2. Binary: of one class's probability, 0 to 1, which is half of that
    sum. Multilabel: the mean of the binary score over all labels. All three match scikit-learn's `brier_score_loss`.
    """
    if labels.task == "multilabel":
        return float(np.square(probabilities - targets).mean())
    truth = np.zeros_like(probabilities, dtype=np.float64)
    truth[np.arange(len(targets)), targets] = 1.0
    return float(np.square(probabilities - truth).sum(axis=1).mean()) / (2.0 if labels.task == "binary" else 1.0)
