"""`LabelSpace`: the label names and the task. Only this module turns logits into probabilities and decisions."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from manta.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from manta.config import TaskName

Task = Literal["binary", "multiclass", "multilabel"]
Activation = Literal["sigmoid", "softmax", "none"]
"""Functions from logits to scores, by the names that Hugging Face's clients use."""
Floats = npt.NDArray[np.floating]
Targets = npt.NDArray[np.integer[Any]]
"""Class indices `(rows,)` as int64; for a multilabel task, 0 and 1 `(rows, labels)` as int8."""
RowLabels = str | tuple[str, ...]
"""The label of one row; for a multilabel task, a tuple of labels, which may be empty."""
DEFAULT_THRESHOLD = 0.5


@dataclass(frozen=True)
class LabelSpace:
    """The labels in the order of the model's outputs.

    A binary model is trained with one logit z for `names[1]`. Its artifact stores the exact two-logit equivalent (0, z). This class
    accepts both, because sigmoid(z) is softmax((0, z))[1].
    """

    names: tuple[str, ...]
    task: Task
    thresholds: tuple[float, ...] | None = None
    """The probability from which each label of a multilabel task applies; 0.5 for each unless given."""
    temperature: float = 1.0
    """The number that divides logits before they become probabilities. Values above 1 move the probabilities closer together,
    values below 1 further apart. The most probable class of a row never changes (see `manta.inference.calibration`)."""

    def __post_init__(self) -> None:
        if self.task == "binary" and len(self.names) != 2:
            raise InputError(
                f"model.task is binary, but the data has {len(self.names)} labels ({', '.join(self.names[:5])}…); "
                "use multiclass or auto."
            )
        if self.task == "multilabel" and len(self.names) < 2:
            raise InputError(
                f"model.task is multilabel, but the data has {len(self.names)} label{'s' * (len(self.names) != 1)}; it needs "
                "at least two. For one label that applies or not, give each row one of two labels, such as yes and no."
            )
        if self.thresholds is not None and (self.task != "multilabel" or len(self.thresholds) != len(self.names)):
            raise ValueError(f"{len(self.thresholds)} thresholds do not fit a {self.task} task with {len(self.names)} labels")
        if not (math.isfinite(self.temperature) and self.temperature > 0):
            raise ValueError(f"a temperature of {self.temperature} makes no probabilities; it is above 0")

    @classmethod
    def from_labels(cls, labels: Iterable[RowLabels], *, task: TaskName = "auto") -> LabelSpace:
        """Return the label space of a training split. Names are sorted, as numbers if all of them are integers.

        `auto` is multilabel if rows hold several labels (tuples). Otherwise the number of names decides: binary for two, else
        multiclass.
        """
        rows = list(labels)
        names = sorted({name for row in rows for name in names_of(row)}, key=str)
        if all(_is_integer(name) for name in names):
            names.sort(key=int)
        if task != "auto":
            return cls(tuple(names), task)
        if any(isinstance(row, tuple) for row in rows):
            return cls(tuple(names), "multilabel")
        return cls(tuple(names), "binary" if len(names) == 2 else "multiclass")

    @property
    def num_logits(self) -> int:
        """The number of the model's outputs in training: one for a binary task, else one per label."""
        return 1 if self.task == "binary" else len(self.names)

    @property
    def applied_thresholds(self) -> tuple[float, ...]:
        """The probability from which each label of a multilabel task applies, defaults included."""
        return self.thresholds or (DEFAULT_THRESHOLD,) * len(self.names)

    def encode(self, labels: Sequence[RowLabels]) -> Targets:
        """Convert label names to class indices `(rows,)`; for a multilabel task, to 0 and 1 `(rows, labels)`.

        Raises:
            KeyError: a name is not in the label space.
        """
        index = {name: position for position, name in enumerate(self.names)}
        if self.task == "multilabel":
            hot = np.zeros((len(labels), len(self.names)), dtype=np.int8)
            for row, names in enumerate(labels):
                hot[row, [index[name] for name in names_of(names)]] = 1
            return hot
        return np.fromiter((index[str(label)] for label in labels), dtype=np.int64, count=len(labels))

    def probabilities(self, logits: Floats) -> npt.NDArray[np.float64]:
        """Convert logits `(rows, 1)` or `(rows, labels)` to probabilities `(rows, labels)`, which sum to one unless multilabel.

        The logits are divided by the temperature first.
        """
        scores = np.asarray(logits, dtype=np.float64) / self.temperature
        if scores.ndim != 2 or scores.shape[1] not in (self.num_logits, len(self.names)):
            raise ValueError(f"logits of shape {scores.shape} do not fit {len(self.names)} labels")
        if self.task == "multilabel":
            # Compute the sigmoid from tanh, which does not overflow.
            return np.asarray(0.5 + 0.5 * np.tanh(0.5 * scores), dtype=np.float64)
        if scores.shape[1] == 1:
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), dtype=np.float64)

    def scores(self, logits: Floats, *, activation: Activation) -> npt.NDArray[np.float64]:
        """Return scores `(rows, labels)` of logits `(rows, labels)`: the logits themselves, or probabilities by the activation.

        The two probabilities of a binary task are the same by either activation.
        """
        if activation == "none":
            return np.asarray(logits, dtype=np.float64)
        if self.task == "binary":
            return self.probabilities(logits)
        task: Task = "multilabel" if activation == "sigmoid" else "multiclass"
        return replace(self, task=task, thresholds=None).probabilities(logits)

    def decide(self, probabilities: Floats) -> npt.NDArray[np.int64] | npt.NDArray[np.bool_]:
        """Return the index of the most probable class of each row `(rows,)`; a tie goes to the first.

        For a multilabel task, return booleans `(rows, labels)`: True where a label's probability reaches its threshold.
        """
        if self.task == "multilabel":
            return np.asarray(probabilities >= np.asarray(self.applied_thresholds), dtype=np.bool_)
        return np.asarray(np.argmax(probabilities, axis=1), dtype=np.int64)

    def confidence(self, probabilities: Floats) -> npt.NDArray[np.float64]:
        """Return the confidence of each row's decision `(rows,)`: the probability of the most probable class.

        For a multilabel task, it is the probability that all decisions of the row are right, if they were independent. It is the
        product over the labels of p where the label applies, and of 1 - p where it does not.
        """
        if self.task == "multilabel":
            of_decisions = np.where(self.decide(probabilities), probabilities, 1.0 - probabilities)
            return np.asarray(of_decisions.prod(axis=1), dtype=np.float64)
        return np.asarray(probabilities.max(axis=1), dtype=np.float64)

    def decided_names(self, probabilities: Floats) -> list[tuple[str, ...]]:
        """Return the labels that `decide` gives each row, most probable first: exactly one unless multilabel."""
        decisions = self.decide(probabilities)
        if self.task != "multilabel":
            return [(self.names[int(index)],) for index in decisions]
        ranked = np.argsort(-probabilities, axis=1, kind="stable")
        return [
            tuple(self.names[index] for index in order if applies[index]) for order, applies in zip(ranked, decisions, strict=True)
        ]


def names_of(labels: RowLabels) -> tuple[str, ...]:
    """Return the label names of one row as a tuple."""
    return (labels,) if isinstance(labels, str) else labels


def _is_integer(name: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", name) is not None
