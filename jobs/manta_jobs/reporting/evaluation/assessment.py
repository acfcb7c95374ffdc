"""`assess`: all figures of an evaluation, from the logits of its rows."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from manta.evaluation.metrics import classification_metrics, confusion_counts, per_class_metrics
from manta.inference.reliability import ReliabilityBin, brier_score, claims, expected_calibration_error, reliability_bins
from manta_jobs.reporting.evaluation.slices import Slice, slices_of, worst_slice

if TYPE_CHECKING:
    import re
    from collections.abc import Mapping

    from manta.behaviour.run import SuiteResult
    from manta.data import Split
    from manta.labels import Floats, LabelSpace, Targets
    from manta.texts import Text
    from manta_jobs.reporting.evaluation.measure import Latency, Measurement

NUM_MISTAKES = 25
NUM_CONFUSIONS = 12
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Subject:
    """The model that was evaluated, and the data."""

    model: str
    version: int | None
    """None for a model folder that is not registered."""
    artifact: str
    data: str
    created: str
    """Time when the model was made: UTC, ISO 8601."""

    @property
    def title(self) -> str:
        """The model's name, with its version if it has one."""
        return self.model if self.version is None else f"{self.model} version {self.version}"


@dataclass(frozen=True)
class Mistake:
    """A row that the model answers wrongly."""

    place: str
    """Position of the row in its file."""
    text: Text
    labels: tuple[str, ...]
    """Labels in the data."""
    answer: tuple[str, ...]
    """Labels that the model gives."""
    label: str
    """The label about which the model is wrong with the highest confidence."""
    score: float
    """Confidence in the mistake: the probability of the model's wrong decision about that label."""


@dataclass(frozen=True)
class Assessment:
    """The results of a model on labeled rows."""

    subject: Subject
    labels: LabelSpace
    probabilities: npt.NDArray[np.float64]
    """`(rows, labels)`."""
    targets: Targets
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]
    calibration: tuple[ReliabilityBin, ...]
    slices: tuple[Slice, ...]
    worst: Slice | None
    mistakes: tuple[Mistake, ...]
    """Mistakes, highest confidence first."""
    num_mistakes: int
    latency: Latency
    behaviour: SuiteResult | None

    @property
    def num_rows(self) -> int:
        """Number of rows that were evaluated."""
        return len(self.targets)

    @property
    def confusion(self) -> Counts:
        """The counts of `confusion_counts`."""
        return confusion_counts(self.probabilities, self.targets, labels=self.labels)

    @property
    def confusions(self) -> list[tuple[str, str, int]]:
        """Label, answer and number of rows of the most frequent confusions; empty for a multilabel task."""
        if self.labels.task == "multilabel":
            return []
        wrong = self.confusion.copy()
        np.fill_diagonal(wrong, 0)
        order = np.argsort(-wrong, axis=None, kind="stable")[:NUM_CONFUSIONS]
        pairs = [tuple(map(int, np.unravel_index(place, wrong.shape))) for place in order]
        names = self.labels.names
        return [(names[row], names[column], int(wrong[row, column])) for row, column in pairs if wrong[row, column]]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as `report.json` has them."""
        return {
            **asdict(self.subject),
            "task": self.labels.task,
            "labels": list(self.labels.names),
            "num_rows": self.num_rows,
            "metrics": self.metrics,
            "per_class": self.per_class,
            "confusion": self.confusion.tolist(),
            "calibration": [asdict(item) for item in self.calibration],
            "slices": [asdict(item) for item in self.slices],
            "worst_slice": None if self.worst is None else asdict(self.worst),
            "num_mistakes": self.num_mistakes,
            "mistakes": [asdict(item) for item in self.mistakes],
            "latency": asdict(self.latency),
            "behaviour": None if self.behaviour is None else self.behaviour.to_dict(),
        }


def assess(
    subject: Subject, split: Split, measured: Measurement, *, labels: LabelSpace, patterns: Mapping[str, re.Pattern[str]]
) -> Assessment:
    """Compute all figures of an evaluation from the model's logits on a split."""
    probabilities = labels.probabilities(measured.logits)
    ranking = {name: ranking_metrics(probabilities, split.targets, label=index) for index, name in enumerate(labels.names)}
    per_class = per_class_metrics(measured.logits, split.targets, labels=labels)
    confidence, correct = claims(probabilities, split.targets, labels=labels)
    agrees = labels.decide(probabilities) == split.targets
    right = agrees.all(axis=1) if agrees.ndim == 2 else agrees
    metrics = classification_metrics(measured.logits, split.targets, labels=labels) | {
        "ece": expected_calibration_error(confidence, correct),
        "brier": brier_score(probabilities, split.targets, labels=labels),
    }
    slices = slices_of(split.texts, right, columns=split.columns, patterns=patterns)
    return Assessment(
        subject=subject,
        labels=labels,
        probabilities=probabilities,
        targets=split.targets,
        metrics=metrics | overall_ranking(ranking, labels=labels),
        per_class={name: figures | ranking[name] for name, figures in per_class.items()},
        calibration=tuple(reliability_bins(confidence, correct)),
        slices=tuple(slices),
        worst=worst_slice(slices, num_rows=len(split)),
        mistakes=tuple(surest_mistakes(split, probabilities, labels=labels)),
        num_mistakes=int((~right).sum()),
        latency=measured.latency,
        behaviour=measured.behaviour,
    )


def ranking_metrics(probabilities: Floats, targets: Targets, *, label: int) -> dict[str, float]:
    """Return the areas under the ROC and the precision-recall curve of one label against all other rows.

    They need rows with the label and rows without it; otherwise the result is empty. The second area is the average precision.
    """
    from sklearn.metrics import average_precision_score, roc_auc_score

    has = targets[:, label] > 0 if targets.ndim == 2 else targets == label
    if has.all() or not has.any():
        return {}
    scores = probabilities[:, label]
    return {"roc_auc": float(roc_auc_score(has, scores)), "pr_auc": float(average_precision_score(has, scores))}


def overall_ranking(ranking: dict[str, dict[str, float]], *, labels: LabelSpace) -> dict[str, float]:
    """Return the model's ranking areas: for a binary model those of its second label, else the mean over labels that have them."""
    if labels.task == "binary":
        return ranking[labels.names[1]]
    known = [areas for areas in ranking.values() if areas]
    return {f"{key}_macro": float(np.mean([areas[key] for areas in known])) for key in ("roc_auc", "pr_auc") if known}


def surest_mistakes(split: Split, probabilities: Floats, *, labels: LabelSpace) -> list[Mistake]:
    """Return the wrong answers with the highest confidence, highest first. Often the label in the data is the mistake."""
    decided = labels.decide(probabilities)
    if labels.task == "multilabel":
        confidence = np.where(decided, probabilities, 1.0 - probabilities)
        wrong = np.where(decided == (split.targets > 0), -1.0, confidence)
        about, scores = wrong.argmax(axis=1), wrong.max(axis=1)
    else:
        about = np.asarray(decided)
        scores = np.where(decided == split.targets, -1.0, probabilities.max(axis=1))
    names = labels.decided_names(probabilities)
    rows = [int(row) for row in np.argsort(-scores, kind="stable")[:NUM_MISTAKES] if scores[row] >= 0]
    return [
        Mistake(
            place=split.places[row] if split.places else f"row {row + 1}",
            text=split.texts[row],
            labels=_names(split.targets[row], labels),
            answer=names[row],
            label=labels.names[int(about[row])],
            score=float(scores[row]),
        )
        for row in rows
    ]


def _names(target: Any, labels: LabelSpace) -> tuple[str, ...]:
    if labels.task == "multilabel":
        return tuple(name for name, applies in zip(labels.names, target, strict=True) if applies)
    return (labels.names[int(target)],)
