"""Guarantees about answers: a precision that holds with a stated probability, and label sets with a stated coverage.

Both are made on rows that the model was not trained on, and hold for new rows drawn like those. docs/calibration.md says what is
promised, docs/decisions/0019-which-guarantee.md compares the rules.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from manta.labels import Floats, Targets

FIRST_SHARE = 0.3
"""The share of the rows, most confident first, with which the search for a threshold begins."""


def guaranteed_threshold(
    confidence: Floats, correct: npt.NDArray[np.bool_], *, target: float, guarantee: float
) -> tuple[float | None, float | None]:
    """Return the lowest confidence whose answers are guaranteed to have the target precision; if there is none, the lower bound.

    The precision holds with probability `guarantee` over the draw of these rows, `(rows,)` each. For the `n` most confident rows,
    an exact binomial test asks whether so few mistakes would be rare if the precision were below the target. `n` grows until the
    test first fails, which needs no correction for many tests (fixed-sequence testing, as in Angelopoulos et al., 2021,
    https://arxiv.org/abs/2110.01052, for the selective risk of Geifman and El-Yaniv, 2017, https://arxiv.org/abs/1705.08500).
    """
    from scipy.stats import beta, binom

    risk = 1 - guarantee
    order = np.argsort(-np.asarray(confidence, dtype=np.float64), kind="stable")
    ordered = np.asarray(confidence, dtype=np.float64)[order]
    counts = np.arange(1, len(order) + 1)
    mistakes = np.cumsum(~np.asarray(correct, dtype=np.bool_)[order])
    # Fewer rows cannot pass even without a mistake. Equal confidences are answered together.
    first = max(math.ceil(FIRST_SHARE * len(order)), math.ceil(math.log(risk) / math.log(target)))
    tested = np.flatnonzero((counts >= first) & np.append(ordered[1:] < ordered[:-1], True)[: len(order)])
    if len(tested) == 0:
        return None, None
    passes = binom.cdf(mistakes[tested], counts[tested], 1 - target) <= risk
    if not passes[0]:
        n, wrong = counts[tested], mistakes[tested]
        return None, float(beta.ppf(risk, n - wrong, wrong + 1)[0])
    last = tested[len(passes) - 1 if passes.all() else int(np.argmin(passes)) - 1]
    return float(ordered[last]), None


def label_set_threshold(probabilities: Floats, targets: Targets, *, coverage: float) -> float | None:
    """Return the probability from which a label is in the label set, so that the share `coverage` of sets holds the right one.

    `probabilities` are `(rows, labels)`, `targets` are class indices `(rows,)`. The threshold is a quantile of the right labels'
    probabilities (split conformal prediction with the least ambiguous sets, Sadinle et al., 2019,
    https://arxiv.org/abs/1609.00451). None if there are too few rows: 19 are needed for a coverage of 0.95.
    """
    right = np.sort(probabilities[np.arange(len(targets)), targets])[::-1]
    rank = math.ceil(round((len(right) + 1) * coverage, 9))
    return float(right[rank - 1]) if rank <= len(right) else None


def in_label_set(probabilities: Floats, *, above: float) -> npt.NDArray[np.bool_]:
    """Tell which labels are in the set of each row, `(rows, labels)`. The most probable label always is."""
    chosen = np.asarray(probabilities >= above)
    chosen[np.arange(len(chosen)), np.argmax(probabilities, axis=1)] = True
    return chosen
