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

MOST_RATE = 0.5
BEGINNINGS = (0.01, 0.1)
"""Rates that the fit starts from; the better result counts."""
BIAS_PENALTY = 1.0
"""Factor of half the squared biases in the loss, which keeps those of rare labels small."""
SURE_FALL = 1.92
"""Fall of the log-likelihood at the ends of a 95% interval: half of the 95% quantile of chi-squared, one degree of freedom."""
MOST_ROWS = 4000
"""Rows of the fit, drawn at random if there are more. They give the rate to about a point."""
MOST_NUMBERS = 400_000
"""Rows times labels of the fit, which takes about a second for so many."""
SEED = 1959
"""Of that drawing. Rows that another drawing from seed 0 has chosen would not be typical of all."""
HALVINGS = 8
SURE_FROM = 0.02
"""Least lower end of the interval at which training allows for wrong labels."""


@dataclass(frozen=True)
class LabelNoise:
    """The share of the labels that are wrong."""

    rate: float
    """The most likely share, between 0 and 0.5."""
    least: float
    """Lower end of the 95% interval of the share."""

    @property
    def is_sure(self) -> bool:
        """True if it is certain that more than a few labels are wrong."""
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
    """The negative log-likelihood of labels, in nats over all rows, by the rate of wrong ones and the calibration of the logits.

    The calibration is an array `(1 + labels,)`: the logarithm of the factor of the logits, and the labels' biases.
    """

    def __init__(self, logits: Floats, targets: Targets) -> None:
        self._logits = logits.astype(np.float64)
        self._targets = targets
        self._rows = np.arange(len(targets))

    def best(self, start: Floats, rate: float) -> tuple[float, float, Floats]:
        """Return the least loss, its rate and its calibration, looked for from a calibration and a rate."""

        def loss_of(values: Floats) -> tuple[float, Floats]:
            share = float(expit(values[-1]))
            loss, slope, of_rate = self._loss(share * MOST_RATE, values[:-1])
            return loss, np.append(slope, of_rate * MOST_RATE * share * (1 - share))

        found = minimize(loss_of, np.append(start, logit(rate / MOST_RATE)), jac=True, method="L-BFGS-B")
        return float(found.fun), float(expit(found.x[-1])) * MOST_RATE, found.x[:-1]

    def at(self, rate: float, start: Floats) -> tuple[float, Floats]:
        """Return the least loss at a rate and its calibration, looked for from a calibration."""

        def loss_of(values: Floats) -> tuple[float, Floats]:
            loss, slope, _ = self._loss(rate, values)
            return loss, slope

        found = minimize(loss_of, start, jac=True, method="L-BFGS-B")
        return float(found.fun), found.x

    def _loss(self, rate: float, calibration: Floats) -> tuple[float, Floats, float]:
        """Return the loss with its slopes by the calibration and by the rate."""
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
