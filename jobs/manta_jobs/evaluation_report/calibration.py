"""How far probabilities can be believed: reliability bins, expected calibration error and Brier score."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from manta.labels import Floats, LabelSpace, Targets

NUM_BINS = 15
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class ReliabilityBin:
    """Decisions of like confidence."""

    num_decisions: int
    confidence: float
    """Their mean."""
    accuracy: float
    """Share of them that is right."""


def claims(probabilities: Floats, targets: Targets, *, labels: LabelSpace) -> tuple[Floats, Flags]:
    """What the probabilities claim and whether it is so, each `(claims,)`.

    One a row: that the most probable class is right. For a multilabel task one for every row and label: that the label applies.
    """
    if labels.task == "multilabel":
        return np.asarray(probabilities, dtype=np.float64).ravel(), targets.ravel() > 0
    return np.asarray(probabilities.max(axis=1), dtype=np.float64), labels.decide(probabilities) == targets


def reliability_bins(confidence: Floats, correct: Flags, *, num_bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """At most `num_bins` bins of rising confidence with about as many decisions each; equal confidences share a bin."""
    if not len(confidence):
        return []
    ordered = np.sort(confidence)
    lowest = np.unique(ordered[(np.arange(num_bins) * len(ordered)) // num_bins])  # of each bin
    number = np.searchsorted(lowest, confidence, side="right") - 1
    groups = [number == bin_ for bin_ in range(len(lowest))]
    return [ReliabilityBin(int(group.sum()), float(confidence[group].mean()), float(correct[group].mean())) for group in groups]


def expected_calibration_error(confidence: Floats, correct: Flags, *, num_bins: int = NUM_BINS) -> float:
    """Mean gap between confidence and accuracy over `reliability_bins`, by their decisions, 0 to 1."""
    bins = reliability_bins(confidence, correct, num_bins=num_bins)
    return sum(item.num_decisions * abs(item.confidence - item.accuracy) for item in bins) / max(1, len(confidence))


def brier_score(probabilities: Floats, targets: Targets, *, labels: LabelSpace) -> float:
    """Mean squared difference between probabilities and what is so; lower is better.

    Multiclass: summed over the classes, 0 to 2. Binary: of one class, 0 to 1. Multilabel: the mean of that over all labels.
    """
    truth = targets if labels.task == "multilabel" else np.eye(len(labels.names))[targets]
    squares = np.square(probabilities - truth)
    return float(squares.sum(axis=1).mean() if labels.task == "multiclass" else squares.mean())
