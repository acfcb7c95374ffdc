"""Accuracy, precision, recall, F1 and confusion counts of a split, and the thresholds of a multilabel task."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from manta.labels import DEFAULT_THRESHOLD, Floats, LabelSpace, Targets

AVERAGES = ("macro", "weighted", "micro")
METRIC_NAMES = (
    "accuracy",
    "loss",
    *(f"{kind}_{average}" for average in AVERAGES for kind in ("precision", "recall", "f1")),
)


def classification_metrics(logits: Floats, targets: Targets, *, labels: LabelSpace) -> dict[str, float]:
    """Return the metrics of `(rows, outputs)` logits against targets in the format of `LabelSpace.encode`.

    Macro averages weigh each label alike, weighted averages by its rows, and micro averages weigh each decision alike. A label that
    was never predicted has precision 0. With one label per row, micro averages equal accuracy. `loss` is the mean cross-entropy in
    nats of the probabilities of `labels`, which are calibrated if it has a temperature.

    For a multilabel task, `accuracy` is the share of rows with exactly the right labels, and `loss` is the mean binary
    cross-entropy over rows and labels.
    """
    from sklearn.metrics import accuracy_score, precision_recall_fscore_support

    probabilities = labels.probabilities(logits)
    predicted = labels.decide(probabilities)
    result = {"accuracy": float(accuracy_score(targets, predicted)), "loss": float(row_losses(probabilities, targets).mean())}
    for average in AVERAGES:
        precision, recall, f1, _ = precision_recall_fscore_support(
            targets, predicted, labels=np.arange(len(labels.names)), average=average, zero_division=0.0
        )
        result |= {f"precision_{average}": float(precision), f"recall_{average}": float(recall), f"f1_{average}": float(f1)}
    return result


def per_class_metrics(logits: Floats, targets: Targets, *, labels: LabelSpace) -> dict[str, dict[str, float]]:
    """Return the precision, recall, F1 and number of rows of each label, by its name."""
    from sklearn.metrics import precision_recall_fscore_support

    predicted = labels.decide(labels.probabilities(logits))
    columns = precision_recall_fscore_support(
        targets, predicted, labels=np.arange(len(labels.names)), average=None, zero_division=0.0
    )
    return {
        name: {key: float(column[index]) for key, column in zip(("precision", "recall", "f1", "rows"), columns, strict=True)}
        for index, name in enumerate(labels.names)
    }


def confusion_counts(probabilities: Floats, targets: Targets, *, labels: LabelSpace) -> npt.NDArray[np.int64]:
    """Count the rows by label and answer `(labels, labels)`, from `(rows, labels)` probabilities.

    For a multilabel task, count each label's true positives, false negatives, false positives and true negatives `(labels, 4)`.
    """
    num_labels = len(labels.names)
    decided = labels.decide(probabilities)
    if labels.task == "multilabel":
        has, says = targets > 0, decided > 0
        kinds = [has & says, has & ~says, ~has & says, ~has & ~says]
        return np.stack([kind.sum(axis=0) for kind in kinds], axis=1).astype(np.int64)
    return np.bincount(targets * num_labels + decided, minlength=num_labels**2).reshape(num_labels, num_labels)


def best_thresholds(probabilities: Floats, targets: Targets) -> npt.NDArray[np.float64]:
    """Return the threshold of each label with the best F1 on `(rows, labels)` probabilities, shape `(labels,)`.

    F1 changes only where a threshold passes a row. So one threshold is tried in each gap between neighboring probabilities: 0.5 if
    it lies in the gap, else the middle. Of thresholds with equal F1, the nearest to 0.5 wins. A label without rows keeps 0.5.
    """
    columns = zip(np.asarray(probabilities, dtype=np.float64).T, targets.T, strict=True)
    return np.array([_best_threshold(column, truth > 0) for column, truth in columns], dtype=np.float64)


def _best_threshold(probabilities: npt.NDArray[np.float64], truth: npt.NDArray[np.bool_]) -> float:
    if not truth.any():
        return DEFAULT_THRESHOLD
    order = np.argsort(-probabilities, kind="stable")
    ordered = probabilities[order]
    found = np.cumsum(truth[order])
    # Thresholds above `lower` and up to `upper` select the first `selected` rows; equal probabilities go together.
    last = np.flatnonzero(np.append(ordered[1:] < ordered[:-1], True))
    selected, upper, lower = last + 1, ordered[last], np.append(ordered[last[1:]], 0.0)
    f1 = 2 * found[last] / (selected + truth.sum())
    middle = (lower + upper) / 2
    middle = np.where(middle > lower, middle, upper)  # adjacent floats have no middle
    candidates = np.where((lower < DEFAULT_THRESHOLD) & (upper >= DEFAULT_THRESHOLD), DEFAULT_THRESHOLD, middle)
    best = np.flatnonzero(f1 == f1.max())
    return float(candidates[best[np.argmin(np.abs(candidates[best] - DEFAULT_THRESHOLD))]])


def row_losses(probabilities: npt.NDArray[np.float64], targets: Targets) -> npt.NDArray[np.float64]:
    """Return the cross-entropy of each row in nats `(rows,)`; for a multilabel task, the mean over its labels."""
    if targets.ndim == 2:
        of_truth = np.where(targets > 0, probabilities, 1.0 - probabilities)
    else:
        of_truth = probabilities[np.arange(len(targets)), targets]
    losses = -np.log(np.clip(of_truth, 1e-12, None))
    return np.asarray(losses.reshape(len(targets), -1).mean(axis=1))
