"""Calibration: probabilities that can be believed, and the confidence from which on an answer counts as sure.

Temperature scaling (Guo et al., 2017, https://arxiv.org/abs/1706.04599) divides all logits by one number, fitted on the validation
rows. The abstain threshold is then the lowest confidence whose answered rows reach the wanted precision; why it is chosen
from a smooth curve is in docs/decisions/0008-when-an-answer-is-uncertain.md.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from manta.evaluation.metrics import best_thresholds
from manta.labels import DEFAULT_THRESHOLD, LabelSpace, Task

if TYPE_CHECKING:
    from manta.labels import Floats, Targets

NUM_BINS = 15
NUM_FOLDS = 5
TEMPERATURES = (0.05, 20.0)
PRIOR_WIDTH = 0.3
"""How far the line that corrects confidences may well be from leaving them as they are, as a standard deviation."""
NUDGE = 1e-6
"""Probabilities of exactly 0 or 1 have no log odds."""
Numbers = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]


class CalibrationFigures(BaseModel):
    """How far the probabilities of some rows can be believed, and what became of the answers."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_rows: int
    ece_before: float
    """Expected calibration error with plain probabilities, 0 to 1."""
    ece_after: float
    """The same with the temperature."""
    brier_before: float
    """Brier score with plain probabilities."""
    brier_after: float
    precision: float | None
    """Share of right answers among the rows that are not uncertain; None where all are."""
    coverage: float
    """Share of rows that are not uncertain."""


class Calibration(BaseModel):
    """How a model's probabilities were calibrated, and how well that went."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float
    """What logits are divided by; 1 where that is as good as anything."""
    target_precision: float | None
    """Share of right answers that was wanted of answers not marked as uncertain; None: no wish."""
    abstain_below: float | None
    """The confidence below which an answer is uncertain; None where no target was given or none could be found."""
    best_precision: float | None = None
    """Where none could be found: the highest precision that the surest validation rows seem to have; None for too few rows."""
    validation: CalibrationFigures
    """By cross-fitting: each fifth of the validation rows with the temperature and the thresholds of the other four."""
    test: CalibrationFigures | None = None
    """On the test rows, which chose nothing."""

    def sentences(self, *, of_test: bool = True) -> list[str]:
        """What it did for the probabilities, and how many rows are answered at what precision; nothing of rows not yet seen."""
        figures, rows = (self.test, "test rows") if of_test else (self.validation, "validation rows")
        if figures is None:
            return []
        errors = f"{figures.ece_before:.4f} before, {figures.ece_after:.4f} after"
        first = f"Calibration: temperature {self.temperature:.2f}; expected calibration error on the {rows}: {errors}."
        return [first, self._of_answers(figures, rows)] if self.target_precision is not None else [first]

    def _of_answers(self, figures: CalibrationFigures, rows: str) -> str:
        if self.abstain_below is None:
            seen = f"{self.validation.num_rows:,} validation rows"
            best = self.best_precision
            why = f"{seen} are too few to choose one" if best is None else f"the surest of the {seen} come to {best:.1%}"
            return f"No abstain threshold reaches {self.target_precision:.1%} precision: {why}. Lower registry.target_precision."
        if figures.precision is None:
            return f"It answers none of the {rows}: all come back as uncertain (wanted: {self.target_precision:.1%} precision)."
        return (
            f"It answers {figures.coverage:.1%} of the {rows} at {figures.precision:.1%} precision "
            f"(wanted: {self.target_precision:.1%}); the rest come back as uncertain."
        )


@dataclass(frozen=True)
class ReliabilityBin:
    """Decisions of like confidence."""

    num_decisions: int
    confidence: float
    """Their mean."""
    accuracy: float
    """Share of them that is right."""


def calibrate(
    logits: Floats, targets: Targets, *, labels: LabelSpace, target_precision: float | None
) -> tuple[LabelSpace, Calibration]:
    """Fit temperature, label thresholds (multilabel) and abstain threshold on validation logits `(rows, outputs)`.

    The temperature is used only where it lowers the loss of rows it was not fitted on. Everything is a function of the
    arguments alone, so doing it again gives the same.
    """
    plain = dataclasses.replace(labels, temperature=1.0, thresholds=None)
    folds = _folds(len(targets))
    parts = [np.setdiff1d(np.arange(len(targets)), fold) for fold in folds]
    temperatures = [fit_temperature(logits[rows], targets[rows], labels=plain) for rows in parts]
    margins = [_margins(logits[fold], targets[fold], plain) for fold in folds]
    plain_loss = sum(_loss(margin, 1.0) for margin in margins)
    if sum(_loss(margin, value) for margin, value in zip(margins, temperatures, strict=True)) >= plain_loss:
        temperature, temperatures = 1.0, [1.0] * len(folds)
    else:
        temperature = fit_temperature(logits, targets, labels=plain)

    after, sure, right = np.empty((len(targets), len(plain.names))), np.empty(len(targets), bool), np.empty(len(targets), bool)
    for fold, rows, value in zip(folds, parts, temperatures, strict=True):
        space = _with_thresholds(dataclasses.replace(plain, temperature=value), logits[rows], targets[rows])
        below, _ = _abstain_below(space, logits[rows], targets[rows], target=target_precision)
        after[fold] = space.probabilities(logits[fold])
        confidence, right[fold] = row_decisions(after[fold], targets[fold], labels=space)
        sure[fold] = confidence >= uncertain_below(below, task=space.task)

    fitted = _with_thresholds(dataclasses.replace(plain, temperature=temperature), logits, targets)
    below, best = _abstain_below(fitted, logits, targets, target=target_precision)
    return fitted, Calibration(
        temperature=temperature,
        target_precision=target_precision,
        abstain_below=below,
        best_precision=best,
        validation=_figures(plain.probabilities(logits), after, targets, labels=plain, sure=sure, right=right),
    )


def figures_on(calibration: Calibration, logits: Floats, targets: Targets, *, labels: LabelSpace) -> CalibrationFigures:
    """What a calibration comes to on rows that had no part in it; `labels` has its temperature and thresholds."""
    after = labels.probabilities(logits)
    before = dataclasses.replace(labels, temperature=1.0).probabilities(logits)
    confidence, right = row_decisions(after, targets, labels=labels)
    sure = confidence >= uncertain_below(calibration.abstain_below, task=labels.task)
    return _figures(before, after, targets, labels=labels, sure=sure, right=right)


def uncertain_below(abstain_below: float | None, *, task: Task) -> float:
    """The confidence below which an answer is uncertain.

    Where no threshold was chosen, that is one half, and for a multilabel task, where none may apply, never.
    """
    if abstain_below is not None:
        return abstain_below
    return 0.0 if task == "multilabel" else DEFAULT_THRESHOLD


def fit_temperature(logits: Floats, targets: Targets, *, labels: LabelSpace) -> float:
    """The temperature with the lowest cross-entropy, between 0.05 and 20.

    Its logarithm has a standard normal prior. That changes nothing with hundreds of rows, and keeps a few rows, or rows that are
    all right, from making everything certain.
    """
    from scipy.optimize import minimize_scalar

    if len(targets) == 0:
        return 1.0
    margins = _margins(logits, targets, labels)

    def cost(log_temperature: float) -> float:
        return _loss(margins, math.exp(log_temperature)) + 0.5 * log_temperature**2

    bounds = tuple(math.log(value) for value in TEMPERATURES)
    found = minimize_scalar(cost, bounds=bounds, method="bounded", options={"xatol": 1e-6})
    return float(math.exp(found.x))


def row_decisions(probabilities: Floats, targets: Targets, *, labels: LabelSpace) -> tuple[Numbers, Flags]:
    """How sure each row's decision is, and whether it is right (for a multilabel task: all its labels), each `(rows,)`."""
    agrees = labels.decide(probabilities) == targets
    return labels.confidence(probabilities), agrees.all(axis=1) if agrees.ndim == 2 else agrees


def claims(probabilities: Floats, targets: Targets, *, labels: LabelSpace) -> tuple[Numbers, Flags]:
    """What the probabilities claim and whether it is so, each `(claims,)`: what calibration is measured on.

    One a row: that the most probable class is right. For a multilabel task one for every row and label: that the label applies.
    """
    if labels.task == "multilabel":
        return np.asarray(probabilities, dtype=np.float64).ravel(), targets.ravel() > 0
    return row_decisions(probabilities, targets, labels=labels)


def reliability_bins(confidence: Floats, correct: Flags, *, num_bins: int = NUM_BINS) -> list[ReliabilityBin]:
    """Decisions `(decisions,)` in at most `num_bins` bins of rising confidence, each of about as many decisions.

    Bins of equal width would put nearly all rows of a good model into the last and a few into each other one, where
    chance rules. Equal confidences share a bin, so that the order of rows does not matter.
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
    """Mean gap between confidence and accuracy over `reliability_bins`, by their decisions, 0 to 1.

    Naeini et al., 2015, https://ojs.aaai.org/index.php/AAAI/article/view/9602; with bins of equal mass it is less biased
    (Roelofs et al., 2022, https://arxiv.org/abs/2012.08668).
    """
    bins = reliability_bins(confidence, correct, num_bins=num_bins)
    gaps = sum(item.num_decisions * abs(item.confidence - item.accuracy) for item in bins)
    return gaps / max(1, len(confidence))


def brier_score(probabilities: Floats, targets: Targets, *, labels: LabelSpace) -> float:
    """Mean squared difference between probabilities and what is so; lower is better.

    Multiclass: summed over the classes as in Brier, 1950, 0 to 2. Binary: of one class's probability, 0 to 1, which is half of
    that sum, and multilabel: the mean of that over all labels. All three as scikit-learn's `brier_score_loss` has it.
    """
    if labels.task == "multilabel":
        return float(np.square(probabilities - targets).mean())
    truth = np.zeros_like(probabilities, dtype=np.float64)
    truth[np.arange(len(targets)), targets] = 1.0
    return float(np.square(probabilities - truth).sum(axis=1).mean()) / (2.0 if labels.task == "binary" else 1.0)


def abstain_threshold(confidence: Floats, correct: Flags, *, target: float) -> tuple[float | None, float | None]:
    """The lowest confidence whose answered rows have the target precision, and the best precision where there is none.

    The precision of the rows above a threshold is the mean of a smooth curve (`_chance_of_being_right`) over them, which falls
    steadily with the threshold; their share of right answers itself is at the mercy of a few rows near the edge. At least
    as many rows must be answered as one mistake in the target's share takes: 20 for 0.95.
    """
    least = round(1 / (1 - target))
    if len(confidence) < least:
        return None, None
    ordered = np.sort(np.asarray(confidence, dtype=np.float64))[::-1]
    chances = np.sort(_chance_of_being_right(confidence, correct))[::-1]
    precision = np.cumsum(chances) / np.arange(1, len(chances) + 1)
    # Equal confidences are answered together.
    is_last = np.append(ordered[1:] < ordered[:-1], True)
    is_last[: least - 1] = False
    reaching = np.flatnonzero(is_last & (precision >= target))
    if len(reaching) == 0:
        return None, float(precision[is_last].max())
    last = int(reaching[-1])
    if last == len(ordered) - 1:  # nothing speaks for more than one half
        return min(float(ordered[-1]), DEFAULT_THRESHOLD), None
    return float((ordered[last] + ordered[last + 1]) / 2), None


def _chance_of_being_right(confidence: Floats, correct: Flags) -> Numbers:
    """The probability that each row is right `(rows,)`: its confidence, corrected by what the rows say of it.

    The correction is a logistic regression on the log odds of the confidence that never falls. A normal prior keeps it near
    "as it says" (0 and 1), for the temperature has learnt from all classes of all rows, and this learns from a few mistakes.
    """
    from scipy.optimize import minimize
    from scipy.special import expit

    clipped = np.clip(np.asarray(confidence, dtype=np.float64), NUDGE, 1 - NUDGE)
    odds = np.log(clipped / (1 - clipped))
    as_it_says = np.array([0.0, 1.0])

    def cost(line: Numbers) -> tuple[float, Numbers]:
        height = line[0] + line[1] * odds
        away = (line - as_it_says) / PRIOR_WIDTH
        slopes = expit(height) - correct
        loss = np.sum(np.logaddexp(0.0, height) - correct * height) + 0.5 * np.sum(away**2)
        return float(loss), np.array([slopes.sum(), (slopes * odds).sum()]) + away / PRIOR_WIDTH

    found = minimize(cost, as_it_says, jac=True, method="L-BFGS-B", bounds=[(None, None), (0.0, None)])
    return np.asarray(expit(found.x[0] + found.x[1] * odds), dtype=np.float64)


def _abstain_below(
    labels: LabelSpace, logits: Floats, targets: Targets, *, target: float | None
) -> tuple[float | None, float | None]:
    if target is None:
        return None, None
    confidence, correct = row_decisions(labels.probabilities(logits), targets, labels=labels)
    return abstain_threshold(confidence, correct, target=target)


def _with_thresholds(labels: LabelSpace, logits: Floats, targets: Targets) -> LabelSpace:
    if labels.task != "multilabel":
        return labels
    return dataclasses.replace(labels, thresholds=tuple(best_thresholds(labels.probabilities(logits), targets).tolist()))


def _figures(
    before: Floats, after: Floats, targets: Targets, *, labels: LabelSpace, sure: Flags, right: Flags
) -> CalibrationFigures:
    return CalibrationFigures(
        num_rows=len(targets),
        ece_before=expected_calibration_error(*claims(before, targets, labels=labels)),
        ece_after=expected_calibration_error(*claims(after, targets, labels=labels)),
        brier_before=brier_score(before, targets, labels=labels),
        brier_after=brier_score(after, targets, labels=labels),
        precision=float(right[sure].mean()) if sure.any() else None,
        coverage=float(sure.mean()),
    )


def _folds(num_rows: int) -> list[npt.NDArray[np.int64]]:
    """Row indices in up to `NUM_FOLDS` parts, drawn, because files are often sorted by class."""
    return np.array_split(np.random.default_rng(0).permutation(num_rows), min(NUM_FOLDS, num_rows))


def _margins(logits: Floats, targets: Targets, labels: LabelSpace) -> Numbers:
    """How far each outcome's logit is above the true one's: `(rows, classes)`, or `(rows x labels, 2)` for a multilabel task."""
    scores = np.asarray(logits, dtype=np.float64)
    if labels.task == "multilabel":
        false = np.where(targets > 0, -scores, scores).ravel()
        return np.stack([np.zeros_like(false), false], axis=1)
    if scores.shape[1] == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    return scores - scores[np.arange(len(targets)), targets][:, None]


def _loss(margins: Numbers, temperature: float) -> float:
    """Cross-entropy in nats, summed."""
    from scipy.special import logsumexp

    return float(np.sum(logsumexp(margins / temperature, axis=1)))
