"""Forecast of the number of labels that bring accuracy to a target: a power law through the learning curve of the linear method.

The law a - b·n^-c for n rows is that of Hestness et al. (2017, Deep Learning Scaling is Predictable, Empirically,
https://arxiv.org/abs/1712.00409). The interval comes from a bootstrap over the judged rows and over the resamples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from manta.data.split import Indices, stratified_folds, stratified_split

if TYPE_CHECKING:
    from collections.abc import Callable

    from manta.labels import Floats, LabelSpace, Targets
    from manta.model.regression import Regression

    Fit = Callable[[Floats, Targets], Regression]

NUM_FOLDS, NUM_REPEATS, NUM_SIZES = 5, 2, 6
SMALLEST_SHARE = 8
"""The largest number of rows of the curve over the smallest one."""
FEWEST_ROWS, FEWEST_PER_LABEL = 100, 10
EXPONENTS = (0.3, 0.8)
"""Bounds of the law's exponent, which a short curve hardly tells from its asymptote. A single value would cover no other law."""
NUM_DRAWS, COVERAGE = 200, 0.9
WIDEST = 10.0
"""The upper end of an interval over its lower end beyond which the curve tells too little."""
FARTHEST = 20.0
"""Rows, as a multiple of the labeled ones, beyond which no forecast goes."""


@dataclass(frozen=True)
class LearningCurve:
    """Right and wrong answers of fits to growing numbers of rows."""

    sizes: Indices
    """Rows that were fitted to, shape `(sizes,)`."""
    is_right: npt.NDArray[np.bool_]
    """Shape `(resamples, sizes, rows)`."""
    is_judged: npt.NDArray[np.bool_]
    """The rows that no fit of a resample has seen, and that are drawn as the target's rows are; shape `(resamples, rows)`."""

    def accuracy(self, row_weights: Floats | None = None, resample_weights: Floats | None = None) -> npt.NDArray[np.float64]:
        """Return the mean accuracy of each size `(sizes,)`."""
        rows = np.ones(self.is_judged.shape[1]) if row_weights is None else row_weights
        resamples = np.ones(len(self.is_judged)) if resample_weights is None else resample_weights
        right = np.einsum("rsn,rn,n->rs", self.is_right, self.is_judged, rows, optimize=True)
        return np.asarray(resamples @ right / max(float(resamples @ (self.is_judged @ rows)), 1e-12))


@dataclass(frozen=True)
class PowerLaw:
    """Accuracy of a model as a function of its rows."""

    asymptote: float
    drop: float
    """Distance of the accuracy at `unit` rows from the asymptote."""
    exponent: float
    unit: float

    def at(self, num_rows: Any) -> Any:
        """Return the accuracy with so many rows."""
        return self.asymptote - self.drop * (np.asarray(num_rows) / self.unit) ** -self.exponent

    def rows_for(self, target: float) -> float:
        """Return the rows that accuracy `target` takes; infinity if it is never reached."""
        if self.asymptote <= target:
            return math.inf
        try:
            return float(self.unit * (self.drop / (self.asymptote - target)) ** (1 / self.exponent))
        except OverflowError:
            return math.inf


@dataclass(frozen=True)
class Forecast:
    """Forecast for a target accuracy, or the reason why there is none."""

    target: float
    num_rows: int
    """Labeled rows."""
    accuracy: float
    """Accuracy with the largest size of the curve."""
    curve: tuple[tuple[int, float], ...]
    """Rows and accuracy."""
    labels: tuple[int, int, int] | None = None
    """More labels that the target takes: the forecast, and the ends of its interval; None if the curve does not tell."""
    reason: str = ""
    """Why the curve does not tell, as a sentence."""
    ends: tuple[float, float] | None = None
    """Rows at the ends of the interval, perhaps infinite, also if the curve does not tell; None without a curve."""

    def sentence(self) -> str:
        """Return the forecast in one sentence."""
        if self.labels is None:
            return self.reason
        if self.labels[2] == 0:
            return f"Accuracy is {self.accuracy:.1%} with {self.num_rows:,} labels: {percent(self.target)} is reached."
        about, low, high = self.labels
        return (
            f"About {about:,} more labels, {low:,} to {high:,} ({COVERAGE:.0%} interval), bring accuracy "
            f"from {self.accuracy:.1%} to {percent(self.target)}."
        )

    def to_dict(self) -> dict[str, Any]:
        """Return the forecast as `--json` prints it."""
        names = ("labels", "low", "high")
        return {
            "target": self.target,
            "num_rows": self.num_rows,
            "accuracy": round(self.accuracy, 6),
            **dict(zip(names, self.labels or (None, None, None), strict=True)),
            "reason": self.reason or None,
            "curve": [{"rows": rows, "accuracy": round(accuracy, 6)} for rows, accuracy in self.curve],
        }


def percent(share: float) -> str:
    """Return a share as a percentage without needless digits."""
    return f"{100 * share:.4g}%"


def too_few(num_rows: int, num_labels: int) -> str | None:
    """Return why so many rows are too few for a curve, as a sentence; None if they are enough."""
    fewest = max(FEWEST_ROWS, FEWEST_PER_LABEL * num_labels)
    if num_rows >= fewest:
        return None
    return f"{num_rows:,} labeled rows are too few for a forecast; it needs {fewest:,}."


def learning_curve(
    vectors: Floats,
    targets: Targets,
    *,
    labels: LabelSpace,
    fit: Fit,
    is_typical: npt.NDArray[np.bool_] | None = None,
    seed: int = 0,
    tell: Callable[[int], None] = lambda done: None,
) -> LearningCurve:
    """Fit to growing parts of the rows outside each fold, and judge the rows of the fold.

    Only rows of `is_typical` `(rows,)` are judged; rows that were chosen because they are hard are not. `tell` hears the number
    of finished fits.
    """
    largest = len(targets) * (NUM_FOLDS - 1) // NUM_FOLDS
    sizes = np.unique(np.geomspace(max(largest / SMALLEST_SHARE, 3 * len(labels.names)), largest, NUM_SIZES).astype(np.int64))
    is_judged = np.zeros((NUM_REPEATS * NUM_FOLDS, len(targets)), dtype=bool)
    is_right = np.zeros((len(is_judged), len(sizes), len(targets)), dtype=bool)
    for repeat in range(NUM_REPEATS):
        folds = stratified_folds(targets, num_folds=NUM_FOLDS, seed=seed + repeat)
        for fold in range(NUM_FOLDS):
            resample = repeat * NUM_FOLDS + fold
            judged, others = folds == fold, np.flatnonzero(folds != fold)
            is_judged[resample] = judged if is_typical is None else judged & is_typical
            for place, size in enumerate(sizes):
                part = others
                if size < len(others):
                    part = others[stratified_split(targets[others], fraction=size / len(others), seed=seed + resample)[1]]
                answers = labels.decide(labels.probabilities(fit(vectors[part], targets[part]).logits(vectors[judged])))
                is_right[resample, place, judged] = answers == targets[judged]
                tell(resample * len(sizes) + place + 1)
    return LearningCurve(sizes, is_right, is_judged)


def power_law(sizes: Floats | Indices, accuracy: Floats, *, exponents: tuple[float, float] = EXPONENTS) -> PowerLaw:
    """Fit the law to the accuracy of each size `(sizes,)` by least squares, with an exponent within bounds."""
    from scipy.optimize import curve_fit

    unit = float(sizes[-1])
    shares = np.asarray(sizes, dtype=np.float64) / unit

    def law(share: Any, asymptote: float, drop: float, exponent: float) -> Any:
        return asymptote - drop * share**-exponent

    start = (min(float(accuracy.max()) + 0.02, 1.0), max(float(accuracy.max() - accuracy.min()) / 2, 1e-3), 0.5)
    found, _ = curve_fit(law, shares, accuracy, p0=start, bounds=((0, 0, exponents[0]), (1.0, 1.0, exponents[1])), maxfev=5000)
    asymptote, drop, exponent = map(float, found)
    return PowerLaw(asymptote, drop, exponent, unit)


def forecast(
    curve: LearningCurve, *, target: float, num_rows: int, seed: int = 0, exponents: tuple[float, float] = EXPONENTS
) -> Forecast:
    """Return how many labels beyond `num_rows` bring accuracy to `target`, or why the curve does not tell."""
    accuracy = curve.accuracy()
    points = tuple(zip(curve.sizes.tolist(), accuracy.tolist(), strict=True))
    law = power_law(curve.sizes, accuracy, exponents=exponents)
    laws = bootstrap(curve, seed=seed, exponents=exponents)
    rows = np.array([drawn.rows_for(target) for drawn in laws])
    low, high = np.quantile(rows, [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2], method="nearest")
    reason = doubt(law.rows_for(target), float(low), float(high), laws, target=target, num_rows=num_rows)
    if reason:
        return Forecast(target, num_rows, float(accuracy[-1]), points, reason=reason, ends=(float(low), float(high)))
    more = [max(0, math.ceil(value - num_rows)) for value in (law.rows_for(target), low, high)]
    return Forecast(target, num_rows, float(accuracy[-1]), points, (more[0], more[1], more[2]), ends=(float(low), float(high)))


def bootstrap(curve: LearningCurve, *, seed: int, exponents: tuple[float, float] = EXPONENTS) -> list[PowerLaw]:
    """Return a law for each draw of judged rows and of resamples."""
    generator = np.random.default_rng(seed)
    num_resamples, num_rows = curve.is_judged.shape
    rows = generator.multinomial(num_rows, np.full(num_rows, 1 / num_rows), size=NUM_DRAWS).astype(np.float64)
    resamples = generator.multinomial(num_resamples, np.full(num_resamples, 1 / num_resamples), size=NUM_DRAWS).astype(np.float64)
    draws = zip(rows, resamples, strict=True)
    return [power_law(curve.sizes, curve.accuracy(*weights), exponents=exponents) for weights in draws]


def doubt(about: float, low: float, high: float, laws: list[PowerLaw], *, target: float, num_rows: int) -> str:
    """Return why an interval of rows tells nothing, as a sentence; empty if it tells something."""
    unsure = f"The learning curve does not tell how many labels bring accuracy to {percent(target)}"
    if not math.isfinite(max(about, high)):
        ends = np.quantile([law.asymptote for law in laws], [(1 - COVERAGE) / 2, (1 + COVERAGE) / 2])
        return f"{unsure}: it may level off anywhere from {ends[0]:.1%} to {ends[1]:.1%}."
    if high > FARTHEST * num_rows:
        return f"{unsure}: they may be more than {FARTHEST:g} times the {num_rows:,} labeled rows."
    if low <= num_rows < high:
        return f"{unsure}: it may be reached already, and may take {math.ceil(high - num_rows):,} more."
    if high - num_rows > WIDEST * max(low - num_rows, 0.1 * num_rows):
        return f"{unsure}: anything from {math.ceil(low - num_rows):,} to {math.ceil(high - num_rows):,} is likely."
    return ""
