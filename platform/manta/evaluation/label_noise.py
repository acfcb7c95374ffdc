"""Estimate how many labels are wrong, from the logits of a model on rows that it was not fitted to (`label_noise`).

Each label is assumed to be wrong with probability `rate`, and then to be any other label alike. So the probability of label `y` as
given is `(1 - rate) p[y] + rate (1 - p[y]) / (labels - 1)`, where `p` is the calibrated softmax of the logits. Maximum likelihood
fits `rate` together with the calibration: a temperature and a bias of each label (Guo et al., 2017,
https://arxiv.org/abs/1706.04599). A higher temperature explains errors on hard texts, where the logits are uncertain. It does not
explain errors where the logits are certain: those are wrong labels. docs/decisions/0027-wrong-labels.md has the measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, log_softmax, logit

if TYPE_CHECKING:
    from manta.labels import Floats, LabelSpace, Targets

MOST_RATE = 0.45
"""Largest share that the fit considers. At 0.5, the labels of two classes would tell nothing."""
BEGINNINGS = (0.01, 0.1)
"""Rates that the fit starts from; the better result counts."""
BIAS_PENALTY = 1.0
"""Weight of the penalty on the squared biases. It keeps the biases of rare labels small."""
SURE_FALL = 1.92
"""Fall of the log-likelihood at the ends of a 95% interval: half of the 95% quantile of chi-squared, one degree of freedom."""
MOST_ROWS = 4000
"""Largest number of rows in the fit; more are sampled. With so many, the rate is known to about one percentage point."""
MOST_NUMBERS = 400_000
"""Largest number of rows times labels in the fit, which then takes about a second."""
SEED = 1959
"""Seed of the sampling. It differs from the seeds of the splits, as the same permutation would not sample at random."""
HALVINGS = 8
SURE_FROM = 0.02
"""Training allows for wrong labels if the 95% interval of their share begins here or above."""


@dataclass(frozen=True)
class LabelNoise:
    """The estimated share of wrong labels."""

    rate: float
    """The most likely share, between 0 and 0.45."""
    least: float
    """Lower end of the 95% interval of the share."""

    @property
    def is_sure(self) -> bool:
        """True if the 95% interval lies above `SURE_FROM`, so that training should allow for wrong labels."""
        return self.least >= SURE_FROM

    def sentence(self) -> str:
        """Return the estimate in one sentence."""
        if not self.least:
            return "The rows give no clear sign of wrong labels."
        return f"About {self.rate:.1%} of the labels are wrong, and at least {self.least:.1%}."


def label_noise(logits: Floats, targets: Targets, labels: LabelSpace) -> LabelNoise | None:
    """Estimate the share of wrong labels from logits `(rows, outputs)` of a model that was not fitted to these rows.

    `targets` are the classes of the rows `(rows,)` as given. None for a multilabel task, where it is not defined.
    """
    if labels.task == "multilabel":
        return None
    most = min(MOST_ROWS, MOST_NUMBERS // len(labels.names))
    if len(targets) > most:
        drawn = np.random.default_rng(SEED).permutation(len(targets))[:most]
        logits, targets = logits[drawn], targets[drawn]
    by_class = np.hstack([-logits / 2, logits / 2]) if labels.num_logits == 1 else logits
    likelihood = _Likelihood(by_class - by_class.mean(axis=1, keepdims=True), targets)
    start = np.zeros(1 + by_class.shape[1])
    loss, rate, fitted = min((likelihood.best(start, rate) for rate in BEGINNINGS), key=lambda found: found[0])
    return LabelNoise(round(rate, 3), round(_least(likelihood, loss, rate, fitted), 3))


def _least(likelihood: _Likelihood, loss: float, rate: float, fitted: Floats) -> float:
    """Return the smallest rate that the rows do not rule out, by halving the range below the most likely `rate`."""
    if likelihood.at(0.0, fitted)[0] - loss < SURE_FALL:
        return 0.0
    ruled_out, possible = 0.0, rate
    for _ in range(HALVINGS):
        middle = (ruled_out + possible) / 2
        other, fitted = likelihood.at(middle, fitted)
        if other - loss > SURE_FALL:
            ruled_out = middle
        else:
            possible = middle
    return ruled_out


class _Likelihood:
    """Negative log-likelihood of the labels, in nats, summed over rows: a function of the noise rate and of the calibration.

    The calibration is an array `(1 + labels,)`: the logarithm of the inverse temperature, then the bias of each label.
    """

    def __init__(self, logits: Floats, targets: Targets) -> None:
        self._logits = logits.astype(np.float64)
        self._targets = targets
        self._rows = np.arange(len(targets))

    def best(self, start: Floats, rate: float) -> tuple[float, float, Floats]:
        """Minimize over rate and calibration, starting from those given. Return the loss, the rate and the calibration."""

        def loss_of(values: Floats) -> tuple[float, Floats]:
            share = float(expit(values[-1]))
            loss, slope, of_rate = self._loss(share * MOST_RATE, values[:-1])
            return loss, np.append(slope, of_rate * MOST_RATE * share * (1 - share))

        found = minimize(loss_of, np.append(start, logit(rate / MOST_RATE)), jac=True, method="L-BFGS-B")
        return float(found.fun), float(expit(found.x[-1])) * MOST_RATE, found.x[:-1]

    def at(self, rate: float, start: Floats) -> tuple[float, Floats]:
        """Minimize over the calibration only, at a fixed rate. Return the loss and the calibration."""

        def loss_of(values: Floats) -> tuple[float, Floats]:
            loss, slope, _ = self._loss(rate, values)
            return loss, slope

        found = minimize(loss_of, start, jac=True, method="L-BFGS-B")
        return float(found.fun), found.x

    def _loss(self, rate: float, calibration: Floats) -> tuple[float, Floats, float]:
        """Return the loss, its gradient in the calibration and its derivative in the rate."""
        factor, biases = np.exp(calibration[0]), calibration[1:]
        probabilities = np.exp(log_softmax(factor * self._logits + biases, axis=1))
        right = np.maximum(probabilities[self._rows, self._targets], np.finfo(np.float64).tiny)
        share_of_other = rate / (len(biases) - 1)
        given = share_of_other + (1 - rate - share_of_other) * right
        weight = (1 - rate - share_of_other) * right / given
        slope = -weight[:, None] * probabilities
        slope[self._rows, self._targets] += weight
        loss = -np.log(given).sum() + BIAS_PENALTY * (biases**2).sum() / 2
        of_factor = (slope * self._logits).sum() * factor
        of_rate = ((1 - right) / (len(biases) - 1) - right) / given
        return float(loss), np.append(-of_factor, BIAS_PENALTY * biases - slope.sum(axis=0)), -float(of_rate.sum())
