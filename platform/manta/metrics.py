"""Accuracy, precision, recall and F1 of a split, by scikit-learn, from logits."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from manta.labels import Floats, LabelSpace

METRIC_NAMES = (
    "accuracy",
    "loss",
    *(f"{kind}_{average}" for average in ("macro", "weighted") for kind in ("precision", "recall", "f1")),
)


def classification_metrics(logits: Floats, targets: npt.NDArray[np.int64], *, labels: LabelSpace) -> dict[str, float]:
    """Metrics of `(rows, outputs)` logits against `(rows,)` class indices.

    Macro averages count each class alike, weighted ones by its rows; a class that was never predicted has precision 0.
    `loss` is the mean cross-entropy in nats.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    probabilities = labels.probabilities(logits)
    predicted = labels.decide(probabilities)
    result = {
        "accuracy": float(accuracy_score(targets, predicted)),
        "loss": float(-np.log(np.clip(probabilities[np.arange(len(targets)), targets], 1e-12, None)).mean()),
    }
    for average in ("macro", "weighted"):
        precision, recall, f1, _ = precision_recall_fscore_support(
            targets, predicted, labels=np.arange(len(labels.names)), average=average, zero_division=0.0
        )
        result |= {f"precision_{average}": float(precision), f"recall_{average}": float(recall), f"f1_{average}": float(f1)}
    return result


def per_class_metrics(logits: Floats, targets: npt.NDArray[np.int64], *, labels: LabelSpace) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of rows of each class, by label name."""
    from sklearn.metrics import precision_recall_fscore_support

    predicted = labels.decide(labels.probabilities(logits))
    columns = precision_recall_fscore_support(
        targets, predicted, labels=np.arange(len(labels.names)), average=None, zero_division=0.0
    )
    return {
        name: {key: float(column[index]) for key, column in zip(("precision", "recall", "f1", "rows"), columns, strict=True)}
        for index, name in enumerate(labels.names)
    }
