"""Logistic regression of any task on given features: of the TF-IDF baseline and of a linear model's embeddings."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from manta.labels import LabelSpace, Targets

Matrix = npt.NDArray[np.float64]

MAX_ITERATIONS = 3000
CERTAIN = 20.0
"""The logit of a label that all training rows have; its negative is the logit of a label that none has."""


@dataclass(frozen=True)
class Regression:
    """A fitted regression: one output for a binary task, else one for each label."""

    weights: Matrix
    """Shape `(outputs, features)`."""
    bias: npt.NDArray[np.float64]
    """Shape `(outputs,)`."""

    def scaled(self, factor: float) -> Regression:
        """Return the regression whose logits are `factor` times these."""
        return Regression(self.weights * factor, self.bias * factor)

    def logits(self, features: Any) -> Matrix:
        """Return logits `(rows, outputs)` of features `(rows, features)`, which may be a sparse matrix."""
        return np.asarray(features @ self.weights.T + self.bias)


def fit_regression(
    features: Any,
    targets: Targets,
    *,
    labels: LabelSpace,
    strength: float,
    class_weights: npt.NDArray[np.float64] | None = None,
    max_iterations: int = MAX_ITERATIONS,
) -> Regression:
    """Fit on features `(rows, features)`, which may be a sparse matrix, and their targets.

    `strength` is scikit-learn's C, the inverse of the weight of the L2 penalty. `class_weights` are as in
    `manta.model.loss.resolve_class_weights`. A multilabel task has one regression for each label. Rows with a single label, as a
    sample of a rare label's rows may be, give that label. After `max_iterations` of L-BFGS the fit ends, converged or not.
    """
    fit = partial(_fitted, features, strength=strength, max_iterations=max_iterations)
    num_features = features.shape[1]
    if labels.task == "multilabel":
        weights = np.ones(len(labels.names)) if class_weights is None else class_weights
        pairs = [fit(column, np.where(column > 0, weight, 1.0)) for column, weight in zip(targets.T, weights, strict=True)]
        parts = [_as_one(classes, rows, bias, num_features) for classes, rows, bias in pairs]
        return Regression(np.stack([part[0] for part in parts]), np.array([part[1] for part in parts]))
    row_weights = None if class_weights is None else class_weights[targets]
    classes, rows, bias = fit(targets, row_weights)
    if labels.task == "binary":
        row, offset = _as_one(classes, rows, bias, num_features)
        return Regression(row[None, :], np.array([offset]))
    all_rows, all_bias = np.zeros((len(labels.names), num_features)), np.full(len(labels.names), -CERTAIN)
    if len(classes) == 1:
        all_bias[classes] = CERTAIN
    elif len(classes) == 2:  # scikit-learn has one logit for two classes
        all_rows[classes[1]], all_bias[classes[0]], all_bias[classes[1]] = rows[0], 0.0, bias[0]
    else:
        all_rows[classes], all_bias[classes] = rows, bias
    return Regression(all_rows, all_bias)


def _fitted(
    features: Any, targets: Targets, row_weights: Any, *, strength: float, max_iterations: int
) -> tuple[Targets, Matrix, Matrix]:
    """Return the classes among the targets, and scikit-learn's weights and bias, which are empty for a single class."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from threadpoolctl import threadpool_limits

    classes = np.unique(targets)
    if len(classes) < 2:
        return classes, np.empty((0, features.shape[1])), np.empty(0)
    model = LogisticRegression(C=strength, max_iter=max_iterations)
    with threadpool_limits(1), warnings.catch_warnings():  # several threads wait for each other ten times longer than one computes
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(features, targets, sample_weight=row_weights)
    return classes, model.coef_, model.intercept_


def _as_one(classes: Targets, rows: Matrix, bias: Matrix, num_features: int) -> tuple[Matrix, float]:
    """Return the weights `(features,)` and the bias of one logit: of the second of two classes, or of yes."""
    if len(classes) == 1:
        return np.zeros(num_features), CERTAIN if classes[0] > 0 else -CERTAIN
    return rows[0], float(bias[0])
