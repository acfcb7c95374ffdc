"""The plots of an evaluation with their captions, in the order of the report."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from manta_jobs.reporting.evaluation.drawings import (
    COUNTED_LABELS,
    SMALL_LABELS,
    draw_confidence,
    draw_confusion,
    draw_label_errors,
    draw_per_class,
    draw_precision_recall,
    draw_reliability,
    draw_roc,
    draw_slices,
)
from manta_jobs.reporting.page import Plot

if TYPE_CHECKING:
    from manta_jobs.reporting.evaluation.assessment import Assessment


def evaluation_plots(assessment: Assessment) -> list[Plot]:
    """Return all plots that fit the task, not yet drawn."""
    plots = [
        _errors(assessment),
        Plot(
            "per_class_f1",
            "F1 by label",
            "The worst label is on top. Where precision is left of recall, the label is given too often; right of it, too rarely.",
            f"Bar chart of the F1 of {len(assessment.labels.names)} labels, with precision and recall.",
            partial(draw_per_class, assessment=assessment),
            height_in=_rows_height(len(assessment.labels.names)),
        ),
        Plot(
            "slices",
            "Accuracy by slice",
            "A long line means that a slice has few rows. A slice whose line ends left of the dashed line is significantly worse.",
            "Dot plot of the accuracy of each slice with its confidence interval.",
            partial(draw_slices, assessment=assessment),
            height_in=_rows_height(sum(part.num_rows > 0 for part in assessment.slices)),
        ),
        Plot(
            "reliability",
            "Can the probabilities be believed?",
            "Below the dashed line the model is surer than it is right; above it, more often right than it believes. "
            f"The mean distance is {assessment.metrics['ece']:.4f} (expected calibration error).",
            "Line plot of the share of right answers by confidence.",
            partial(draw_reliability, assessment=assessment),
        ),
        Plot(
            "confidence",
            "How sure the answers are",
            "Wrong answers at the right end are the surest mistakes, listed above.",
            "Stacked histogram of the confidence of right and wrong answers.",
            partial(draw_confidence, assessment=assessment),
        ),
    ]
    return plots + (_curves(assessment) if assessment.labels.task == "binary" else [])


def _errors(assessment: Assessment) -> Plot:
    size = len(assessment.labels.names)
    if assessment.labels.task == "multilabel":
        return Plot(
            "label_errors",
            "Found, missed and wrongly given",
            "Each label by itself: a model that gives it too freely has much orange, one that is too careful much grey.",
            "Stacked bar chart of right and wrong decisions on each label.",
            partial(draw_label_errors, assessment=assessment),
            height_in=_rows_height(size),
        )
    side = None if size <= COUNTED_LABELS else max(8.0, 2.2 + 0.155 * size)
    return Plot(
        "confusion",
        "Confusion matrix",
        "Rows are the labels in the data, columns the model's answers. Blue is right, orange wrong; the deeper, the larger the "
        "share of a label's rows.",
        f"Matrix of labels and answers for {size} labels.",
        partial(draw_confusion, assessment=assessment),
        height_in=side or (3.0 if size == 2 else 2.2 + 0.45 * size),
        width_in=side,
        scrolls=size > SMALL_LABELS,
    )


def _curves(assessment: Assessment) -> list[Plot]:
    name = assessment.labels.names[1]
    return [
        Plot(
            "roc",
            f"ROC curve of {name}",
            f"Every threshold on the probability of {name} is a point: the nearer the curve comes to the upper left, the better.",
            f"ROC curve of {name}.",
            partial(draw_roc, assessment=assessment),
        ),
        Plot(
            "precision_recall",
            f"Precision and recall of {name}",
            f"What a stricter threshold on the probability of {name} gains in precision and costs in recall.",
            f"Precision-recall curve of {name}.",
            partial(draw_precision_recall, assessment=assessment),
        ),
    ]


def _rows_height(num_rows: int) -> float:
    return 1.5 + (0.32 if num_rows <= SMALL_LABELS else 0.19) * num_rows
