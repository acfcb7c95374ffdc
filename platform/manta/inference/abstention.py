"""The abstain threshold: the lowest confidence whose answered rows reach the wanted precision, chosen from a smooth curve."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from manta.inference.reliability import Flags, Numbers
from manta.labels import DEFAULT_THRESHOLD

if TYPE_CHECKING:
    from manta.labels import Floats

PRIOR_WIDTH = 0.3
"""Standard deviation of the prior for the line that corrects confidences. The prior's mean leaves confidences as they are."""
NUDGE = 1e-6
"""Distance that is kept from probabilities of exactly 0 or 1, which have no log odds."""


def abstain_threshold(confidence: Floats, correct: Flags, *, target: float) -> tuple[float | None, float | None]:
    """Return the lowest confidence whose answered rows have the target precision, and the best precision if there is none.

    The precision above a threshold is the mean of a smooth curve (`_chance_of_being_right`) over the rows, which falls steadily as
    the threshold falls. The observed share of right answers would depend on a few rows near the threshold. At least 1 / (1 -
    target) rows must be answered, so that one mistake among them still meets the target: 20 for 0.95.
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
    if last == len(ordered) - 1:  # all rows together reach the target, so one half is enough
        return min(float(ordered[-1]), DEFAULT_THRESHOLD), None
    return float((ordered[last] + ordered[last + 1]) / 2), None


def _chance_of_being_right(confidence: Floats, correct: Flags) -> Numbers:
    """Return the probability that each row is right `(rows,)`: its confidence, corrected by the observed answers.

    The correction is a logistic regression on the log odds of the confidence, with a slope that is never negative. A normal prior
    keeps it near the identity (0 and 1), because the temperature is fitted on all classes of all rows, and this correction only on
    a few mistakes.
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
