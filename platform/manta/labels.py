"""`LabelSpace`: the label names and the problem type. The only place that turns logits into decisions."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from manta.errors import InputError

Task = Literal["binary", "multiclass"]
Floats = npt.NDArray[np.floating]


@dataclass(frozen=True)
class LabelSpace:
    """The classes in the order of the model's outputs.

    A binary model is trained with one logit z for `names[1]`; its artifact stores the exact two-logit equivalent
    (0, z). Both are understood here, because sigmoid(z) is softmax((0, z))[1].
    """

    names: tuple[str, ...]
    task: Task

    def __post_init__(self) -> None:
        if self.task == "binary" and len(self.names) != 2:
            raise InputError(
                f"model.task is binary, but the data has {len(self.names)} labels ({', '.join(self.names[:5])}…); "
                "use multiclass or auto."
            )

    @classmethod
    def from_labels(cls, labels: Iterable[str], *, task: Literal["auto", "binary", "multiclass"] = "auto") -> LabelSpace:
        """The label space of a training split: names sorted, as numbers where all of them are integers."""
        names = sorted(set(labels), key=str)
        if all(_is_integer(name) for name in names):
            names.sort(key=int)
        resolved: Task = ("binary" if len(names) == 2 else "multiclass") if task == "auto" else task
        return cls(names=tuple(names), task=resolved)

    @property
    def num_logits(self) -> int:
        """Outputs of the model in training: one for a binary task, else one per label."""
        return 1 if self.task == "binary" else len(self.names)

    def encode(self, labels: Sequence[str]) -> npt.NDArray[np.int64]:
        """Label names to class indices, shape `(rows,)`.

        Raises:
            KeyError: a name is not in the label space.
        """
        index = {name: position for position, name in enumerate(self.names)}
        return np.fromiter((index[label] for label in labels), dtype=np.int64, count=len(labels))

    def probabilities(self, logits: Floats) -> npt.NDArray[np.float64]:
        """Logits `(rows, 1)` or `(rows, labels)` to probabilities `(rows, labels)` that sum to one."""
        scores = np.asarray(logits, dtype=np.float64)
        if scores.ndim != 2 or scores.shape[1] not in (self.num_logits, len(self.names)):
            raise ValueError(f"logits of shape {scores.shape} do not fit {len(self.names)} labels")
        if scores.shape[1] == 1:
            scores = np.concatenate([np.zeros_like(scores), scores], axis=1)
        exponents = np.exp(scores - scores.max(axis=1, keepdims=True))
        return np.asarray(exponents / exponents.sum(axis=1, keepdims=True), dtype=np.float64)

    def decide(self, probabilities: Floats) -> npt.NDArray[np.int64]:
        """The index of the most probable class of each row, shape `(rows,)`; a tie goes to the first."""
        return np.asarray(np.argmax(probabilities, axis=1), dtype=np.int64)


def _is_integer(name: str) -> bool:
    return re.fullmatch(r"-?[0-9]+", name) is not None
