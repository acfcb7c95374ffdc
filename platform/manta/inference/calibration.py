"""Calibration: reliable probabilities, and the confidence threshold below which an answer is uncertain.

Temperature scaling (Guo et al., 2017, https://arxiv.org/abs/1706.04599) divides all logits by one number, fitted on the validation
rows. The abstain threshold is then the lowest confidence whose answered rows reach the wanted precision. It is chosen from a smooth
curve; docs/decisions/0008-when-an-answer-is-uncertain.md says why.
"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from manta.evaluation.metrics import best_thresholds
from manta.inference.abstention import abstain_threshold
from manta.inference.guarantees import guaranteed_threshold, in_label_set, label_set_threshold
from manta.inference.reliability import Flags, Numbers, brier_score, claims, expected_calibration_error, row_decisions
from manta.labels import DEFAULT_THRESHOLD, LabelSpace, Task

if TYPE_CHECKING:
    from manta.labels import Floats, Targets

NUM_FOLDS = 5
TEMPERATURES = (0.05, 20.0)
ALL_UNCERTAIN = math.nextafter(1.0, 2.0)
"""A confidence that no answer has."""


class CalibrationFigures(BaseModel):
    """Calibration figures of some rows, and the precision and coverage of the answers."""

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
    """Share of right answers among the rows that are not uncertain; None if all are uncertain."""
    coverage: float
    """Share of rows that are not uncertain."""
    set_coverage: float | None = None
    """Share of rows whose label set holds the right label; None without label sets."""
    set_size: float | None = None
    """Mean number of labels in a label set."""


class Calibration(BaseModel):
    """Result of calibrating a model's probabilities."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperature: float
    """The number that logits are divided by; 1 if no other value is better."""
    target_precision: float | None
    """Wanted share of right answers among answers not marked as uncertain; None if no target was given."""
    abstain_below: float | None
    """The confidence below which an answer is uncertain; None if no target was given or no threshold reaches it."""
    best_precision: float | None = None
    """If no threshold reaches the target: the highest estimated precision among confident validation rows. None: too few rows."""
    guarantee: float | None = None
    """Probability with which the target precision holds; None if it is reached on average only."""
    set_coverage: float | None = None
    """Wanted share of label sets that hold the right label; None if no sets were asked for, or the task is multilabel."""
    set_above: float | None = None
    """The probability from which a label is in the label set; None without sets, or with too few validation rows."""
    validation: CalibrationFigures
    """Figures by cross-fitting: each fifth of the validation rows uses the temperature and the thresholds of the other four."""
    test: CalibrationFigures | None = None
    """Figures on the test rows, on which nothing was fitted."""

    def sentences(self, *, of_test: bool = True) -> list[str]:
        """Return sentences on the calibration error and on the share and precision of answered rows; empty without figures."""
        figures, rows = (self.test, "test rows") if of_test else (self.validation, "validation rows")
        if figures is None:
            return []
        errors = f"{figures.ece_before:.4f} before, {figures.ece_after:.4f} after"
        found = [f"Calibration: temperature {self.temperature:.2f}; expected calibration error on the {rows}: {errors}."]
        if self.target_precision is not None:
            found.append(self._of_answers(figures, rows))
        if self.set_coverage is not None:
            found.append(self._of_sets(figures, rows))
        return found

    def _of_answers(self, figures: CalibrationFigures, rows: str) -> str:
        seen = f"{self.validation.num_rows:,} validation rows"
        if self.abstain_below is None:
            best = self.best_precision
            why = f"{seen} are too few to choose one" if best is None else f"the most confident of the {seen} reach {best:.1%}"
            lower = "Lower registry.target_precision"
            if self.guarantee is not None:
                lower = f"So every answer is uncertain. {lower} or registry.guarantee"
            return f"No threshold gives {self.target_precision:.1%} right answers{self._probability}: {why}. {lower}."
        chosen = (
            f"Answers below {self.abstain_below:.1%} are uncertain: chosen on {seen}, so that {self.target_precision:.1%} of the "
            f"others are right{self._probability}."
        )
        if figures.precision is None:
            return f"{chosen} On the {rows}, all answers are uncertain."
        return f"{chosen} On the {rows}, it answers {figures.coverage:.1%}, of which {figures.precision:.1%} are right."

    @property
    def _probability(self) -> str:
        return "" if self.guarantee is None else f" with a probability of {self.guarantee:.0%}"

    def _of_sets(self, figures: CalibrationFigures, rows: str) -> str:
        if self.set_above is None or figures.set_coverage is None:
            seen = f"{self.validation.num_rows:,} validation rows"
            return f"No label sets: {seen} are too few for a coverage of {self.set_coverage:.1%}."
        return (
            f"Label sets of {figures.set_size:.2f} labels on average have the right label on {figures.set_coverage:.1%} of the "
            f"{rows} (wanted: {self.set_coverage:.1%})."
        )


def calibrate(
    logits: Floats,
    targets: Targets,
    *,
    labels: LabelSpace,
    target_precision: float | None,
    guarantee: float | None = None,
    set_coverage: float | None = None,
) -> tuple[LabelSpace, Calibration]:
    """Fit temperature, label thresholds (multilabel), abstain and label set threshold on validation logits `(rows, outputs)`.

    `target_precision`, `guarantee` and `set_coverage` are the settings of these names. The temperature is used only if it lowers
    the loss of rows it was not fitted on. The result depends only on the arguments, so repeating the call gives the same result.
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

    set_coverage = None if labels.task == "multilabel" else set_coverage
    after, sure, right = np.empty((len(targets), len(plain.names))), np.empty(len(targets), bool), np.empty(len(targets), bool)
    in_set = np.zeros((len(targets), len(plain.names)), bool)
    for fold, rows, value in zip(folds, parts, temperatures, strict=True):
        space = _with_thresholds(dataclasses.replace(plain, temperature=value), logits[rows], targets[rows])
        below, _ = _abstain_below(space, logits[rows], targets[rows], target=target_precision, guarantee=guarantee)
        after[fold] = space.probabilities(logits[fold])
        above = _set_above(space, logits[rows], targets[rows], coverage=set_coverage)
        in_set[fold] = in_label_set(after[fold], above=above if above is not None else 0.0)
        confidence, right[fold] = row_decisions(after[fold], targets[fold], labels=space)
        sure[fold] = confidence >= uncertain_below(below, task=space.task, is_guaranteed=guarantee is not None)

    fitted = _with_thresholds(dataclasses.replace(plain, temperature=temperature), logits, targets)
    below, best = _abstain_below(fitted, logits, targets, target=target_precision, guarantee=guarantee)
    above = _set_above(fitted, logits, targets, coverage=set_coverage)
    sets = in_set if above is not None else None
    return fitted, Calibration(
        temperature=temperature,
        target_precision=target_precision,
        abstain_below=below,
        best_precision=best,
        guarantee=guarantee,
        set_coverage=set_coverage,
        set_above=above,
        validation=_figures(plain.probabilities(logits), after, targets, labels=plain, sure=sure, right=right, sets=sets),
    )


def figures_on(calibration: Calibration, logits: Floats, targets: Targets, *, labels: LabelSpace) -> CalibrationFigures:
    """Return the figures of a calibration on rows it was not fitted on. `labels` has its temperature and thresholds."""
    after = labels.probabilities(logits)
    before = dataclasses.replace(labels, temperature=1.0).probabilities(logits)
    confidence, right = row_decisions(after, targets, labels=labels)
    is_guaranteed = calibration.guarantee is not None
    sure = confidence >= uncertain_below(calibration.abstain_below, task=labels.task, is_guaranteed=is_guaranteed)
    sets = None if calibration.set_above is None else in_label_set(after, above=calibration.set_above)
    return _figures(before, after, targets, labels=labels, sure=sure, right=right, sets=sets)


def uncertain_below(abstain_below: float | None, *, task: Task, is_guaranteed: bool = False) -> float:
    """Return the confidence below which an answer is uncertain.

    If no threshold was chosen, that is 0.5; for a multilabel task it is 0, so that no answer is uncertain. Where a guarantee was
    asked for, no threshold keeps it, so every answer is uncertain.
    """
    if abstain_below is not None:
        return abstain_below
    if is_guaranteed:
        return ALL_UNCERTAIN
    return 0.0 if task == "multilabel" else DEFAULT_THRESHOLD


def fit_temperature(logits: Floats, targets: Targets, *, labels: LabelSpace) -> float:
    """Return the temperature with the lowest cross-entropy, between 0.05 and 20.

    Its logarithm has a standard normal prior. With hundreds of rows the prior changes nothing. With few rows, or rows that are all
    right, it keeps the probabilities away from 0 and 1.
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


def _abstain_below(
    labels: LabelSpace, logits: Floats, targets: Targets, *, target: float | None, guarantee: float | None
) -> tuple[float | None, float | None]:
    if target is None:
        return None, None
    confidence, correct = row_decisions(labels.probabilities(logits), targets, labels=labels)
    if guarantee is not None:
        return guaranteed_threshold(confidence, correct, target=target, guarantee=guarantee)
    return abstain_threshold(confidence, correct, target=target)


def _set_above(labels: LabelSpace, logits: Floats, targets: Targets, *, coverage: float | None) -> float | None:
    return None if coverage is None else label_set_threshold(labels.probabilities(logits), targets, coverage=coverage)


def _with_thresholds(labels: LabelSpace, logits: Floats, targets: Targets) -> LabelSpace:
    if labels.task != "multilabel":
        return labels
    return dataclasses.replace(labels, thresholds=tuple(best_thresholds(labels.probabilities(logits), targets).tolist()))


def _figures(
    before: Floats, after: Floats, targets: Targets, *, labels: LabelSpace, sure: Flags, right: Flags, sets: Flags | None
) -> CalibrationFigures:
    return CalibrationFigures(
        num_rows=len(targets),
        ece_before=expected_calibration_error(*claims(before, targets, labels=labels)),
        ece_after=expected_calibration_error(*claims(after, targets, labels=labels)),
        brier_before=brier_score(before, targets, labels=labels),
        brier_after=brier_score(after, targets, labels=labels),
        precision=float(right[sure].mean()) if sure.any() else None,
        coverage=float(sure.mean()),
        set_coverage=None if sets is None else float(sets[np.arange(len(targets)), targets].mean()),
        set_size=None if sets is None else float(sets.sum(axis=1).mean()),
    )


def _folds(num_rows: int) -> list[npt.NDArray[np.int64]]:
    """Return row indices in up to `NUM_FOLDS` parts. They are drawn at random, because files are often sorted by class."""
    return np.array_split(np.random.default_rng(0).permutation(num_rows), min(NUM_FOLDS, num_rows))


def _margins(logits: Floats, targets: Targets, labels: LabelSpace) -> Numbers:
    """Return how far each outcome's logit is above the true one's: `(rows, classes)`; for multilabel, `(rows x labels, 2)`."""
    scores = np.asarray(logits, dtype=np.float64)
    if labels.task == "multilabel":
        false = np.where(targets > 0, -scores, scores).ravel()
        return np.stack([np.zeros_like(false), false], axis=1)
    if scores.shape[1] == 1:
        scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
    return scores - scores[np.arange(len(targets)), targets][:, None]


def _loss(margins: Numbers, temperature: float) -> float:
    """Return the summed cross-entropy in nats."""
    from scipy.special import logsumexp

    return float(np.sum(logsumexp(margins / temperature, axis=1)))
