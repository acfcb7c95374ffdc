"""Estimated accuracy of answers whose right labels nobody knows, from sums over them and over the answers to the validation rows.

The mean of calibrated confidences estimates the accuracy while the texts are like the validation rows. Where the labels' shares are
others (label shift), each label's own gap between accuracy and confidence is weighed by its estimated share. The shares are those
that make the counts of the answers most likely, given how often the validation rows of each label got each answer. This is the
expectation maximization of Saerens et al., 2002 (https://doi.org/10.1162/089976602753284446), from counts. Where the texts differ
in more than their labels, no such estimate can be trusted, and `Estimate.doubts` says so. docs/data.md has the figures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from manta.inference.reliability import row_decisions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.labels import Floats, LabelSpace, Targets

Numbers = npt.NDArray[np.float64]
Doubt = Literal["confidence", "out_of_scope"]
DOUBTS: tuple[Doubt, ...] = get_args(Doubt)
NUM_STEPS = 100
GAP_ROWS = 100.0
"""Validation rows that a label needs until its own gap between accuracy and confidence counts as much as that of all labels. With
few rows, its gap is mostly chance."""
CONFIDENCE_ROWS = 10.0
"""The same for its mean confidence, which varies less by chance and more from label to label."""
SHARES_PRIOR = 0.02
"""Answers, as a share of all, that are added in the labels' known shares, so that a label of few rows does not vanish by chance."""
SURE_WITHIN = 1.96
"""Standard errors of the interval of 95%."""
MOST_CONFIDENCE_CHANGE = 0.02
"""Change of the mean confidence that other shares of the labels do not explain and that is still trusted."""
MOST_OUT_OF_SCOPE = 0.02
"""Share of texts out of scope, beyond what is expected, that is still trusted."""
NUM_ERRORS = 3.0
"""Standard errors that are added to both, so that chance raises no doubt."""


class AnswerSums(BaseModel):
    """Sums over the answers to validation rows, for each right label; for a multilabel model, for all rows together."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_rows: tuple[int, ...]
    num_right: tuple[int, ...]
    confidence: tuple[float, ...]
    """Sum of the confidences."""
    squares: tuple[float, ...]
    """Sum of the squared confidences."""
    answers: tuple[tuple[int, int, int], ...]
    """Right label, answered label and number of rows, for the pairs that occur; empty for a multilabel model."""


@dataclass(frozen=True)
class Window:
    """Sums over the answers in service."""

    num_rows: int
    confidence: float
    """Sum of the confidences."""
    squares: float
    """Sum of the squared confidences."""
    labels: Sequence[int]
    """Number of answers with each label; not read for a multilabel model."""
    num_out: int = 0
    """Answers to texts out of scope."""


@dataclass(frozen=True)
class Estimate:
    """The estimated accuracy of a window's answers."""

    accuracy: float
    low: float
    high: float
    """Ends of the interval of 95%, which is right while there are no doubts."""
    shares: tuple[float, ...]
    """Estimated share of the texts of each label; empty for a multilabel model."""
    doubts: tuple[Doubt, ...]
    """Why the estimate is not to be trusted: `confidence` has changed and other shares of the labels do not explain it, or too many
    texts are `out_of_scope`."""


def answer_sums(logits: Floats, targets: Targets, *, labels: LabelSpace) -> AnswerSums:
    """Return the sums over the answers for logits `(rows, outputs)` of rows that the model was not trained on."""
    probabilities = labels.probabilities(logits)
    confidence, right = row_decisions(probabilities, targets, labels=labels)
    is_one = labels.task == "multilabel"
    of_label = np.zeros(len(confidence), dtype=np.int64) if is_one else np.asarray(targets)
    size = 1 if is_one else len(labels.names)

    def summed(values: Floats) -> list[float]:
        return [float(value) for value in np.bincount(of_label, weights=values, minlength=size)]

    counts: dict[tuple[int, int], int] = {}
    for pair in [] if is_one else zip(of_label.tolist(), labels.decide(probabilities).tolist(), strict=True):
        counts[pair] = counts.get(pair, 0) + 1
    return AnswerSums(
        num_rows=tuple(np.bincount(of_label, minlength=size).tolist()),
        num_right=tuple(round(value) for value in summed(right.astype(np.float64))),
        confidence=tuple(summed(confidence)),
        squares=tuple(summed(confidence**2)),
        answers=tuple((*pair, count) for pair, count in sorted(counts.items())),
    )


def estimated(expected: AnswerSums, window: Window, *, expected_out: float = 0.0) -> Estimate:
    """Return the estimated accuracy of the answers in a window of at least one row.

    `expected_out` is the share of texts out of scope among rows that are in scope.
    """
    num_rows = np.array(expected.num_rows, dtype=np.float64)
    shares = label_shares(expected, window) if expected.answers else np.ones(1)
    right, confidence = np.array(expected.num_right), np.array(expected.confidence)
    gap = (right.sum() - confidence.sum()) / num_rows.sum()
    gaps = (right - confidence + GAP_ROWS * gap) / (num_rows + GAP_ROWS)
    mean = window.confidence / window.num_rows
    accuracy = min(1.0, max(0.0, mean + float(shares @ gaps)))
    overall = right.sum() / num_rows.sum()
    known = overall * (1 - overall) * (1 / num_rows.sum() + float((shares**2 / (num_rows + GAP_ROWS)).sum()))
    error = math.sqrt(accuracy * (1 - accuracy) / window.num_rows + known)
    return Estimate(
        accuracy,
        max(0.0, accuracy - SURE_WITHIN * error),
        min(1.0, accuracy + SURE_WITHIN * error),
        tuple(shares.tolist()) if expected.answers else (),
        tuple(_doubts(expected, window, shares, mean=mean, expected_out=expected_out)),
    )


def label_shares(expected: AnswerSums, window: Window) -> Numbers:
    """Return the estimated share of the texts of each label `(labels,)`."""
    size = len(expected.num_rows)
    given = np.zeros((size, size))
    for right, answered, count in expected.answers:
        given[right, answered] = count
    known = given.sum(axis=1)
    usual = known / known.sum()
    accuracy = np.trace(given) / known.sum()
    # One row of the whole model's accuracy is added to each label, its errors spread over the labels as the answers are.
    spread = np.full((size, size), (1 - accuracy) / max(1, size - 1))
    np.fill_diagonal(spread, accuracy)
    likely = (given + spread) / (known + 1)[:, None]
    counts = np.asarray(window.labels[:size], dtype=np.float64)
    counts = counts / max(1.0, counts.sum())
    shares = np.maximum(usual, 1e-9)
    for _ in range(NUM_STEPS):
        joint = shares[:, None] * likely
        found = (joint / np.maximum(joint.sum(axis=0), 1e-12)) @ counts
        shares = (found + SHARES_PRIOR * usual) / (1 + SHARES_PRIOR)
    return np.asarray(shares / shares.sum())


def _doubts(expected: AnswerSums, window: Window, shares: Numbers, *, mean: float, expected_out: float) -> list[Doubt]:
    """Return what differs by more than other shares of the labels and chance explain."""
    num_rows = np.array(expected.num_rows, dtype=np.float64)
    total, squares = np.array(expected.confidence), np.array(expected.squares)
    usual = total.sum() / num_rows.sum()
    of_label = (total + CONFIDENCE_ROWS * usual) / (num_rows + CONFIDENCE_ROWS)
    spread = max(0.0, squares.sum() / num_rows.sum() - usual**2)
    error = math.sqrt(spread / window.num_rows + spread * float((shares**2 / (num_rows + CONFIDENCE_ROWS)).sum()))
    doubts: list[Doubt] = []
    if abs(mean - float(shares @ of_label)) > MOST_CONFIDENCE_CHANGE + NUM_ERRORS * error:
        doubts.append("confidence")
    out = window.num_out / window.num_rows
    chance = NUM_ERRORS * math.sqrt(max(expected_out, 1e-3) / window.num_rows)
    if out - expected_out > MOST_OUT_OF_SCOPE + chance:
        doubts.append("out_of_scope")
    return doubts
