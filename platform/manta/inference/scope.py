"""Scope: which texts are unlike all training rows, so that none of the labels may fit them.

The measure is the distance to the third nearest training row (k-nearest neighbors; Sun et al., 2022, https://arxiv.org/abs/2204.06507)
in the features that the linear head reads. Validation rows choose the distance from which a text is out of scope.
docs/decisions/0025-texts-that-are-none-of-the-labels.md compares other measures.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict

from manta.inference.golden import spread_rows

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from manta.labels import Floats

UncertainReason = Literal["unsure", "out_of_scope"]
SCOPE_FILE = "scope.safetensors"
NEIGHBOR = 3
"""The nearest row alone may be an odd one; with more than a few, a label of few rows has none of its own left."""
FEWEST_REFERENCES, MOST_REFERENCES, REFERENCES_PER_LABEL = 500, 2000, 40
"""Training rows whose features are kept: 40 a label, at least 500 and at most 2,000. In float16 with 384 numbers a row, 2,000 rows
have 1.5 MB."""
PART_ROWS = 1024
"""Texts whose distances are computed at a time."""


class Scope(BaseModel):
    """The distance from which a text is out of scope, and how often that happens to rows that are in scope."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: float
    """Share of in-scope texts that may be marked, as `registry.scope_loss` says."""
    beyond: float
    """Distance above which a text is out of scope: one minus the cosine to the third nearest training row, 0 to 2."""
    num_rows: int
    """Number of validation rows that chose it."""
    num_references: int
    """Number of training rows whose features are kept."""
    test_loss: float | None = None
    """Share of the test rows that are marked."""

    def is_out(self, distances: Floats) -> npt.NDArray[np.bool_]:
        """Tell which texts are out of scope, from their distances `(rows,)`."""
        return np.asarray(distances > self.beyond, dtype=np.bool_)

    def sentence(self) -> str:
        """Return a sentence on what is marked, and how often it happens to test rows."""
        rows = f"at most {self.loss:.1%} of such rows are, as {self.num_rows:,} validation rows say"
        found = "" if self.test_loss is None else f" Of the test rows, {self.test_loss:.1%} are."
        return f"Texts unlike all training rows are uncertain, as out of scope: {rows}.{found}"


@dataclass(frozen=True)
class References:
    """The features of training rows, `(references, hidden)`, each of length 1."""

    features: npt.NDArray[np.float32]

    @classmethod
    def of(cls, features: Floats) -> References:
        """Take the features `(rows, hidden)` of training rows, rounded as they are stored."""
        return cls(_unit(features).astype(np.float16).astype(np.float32))

    @classmethod
    def load(cls, folder: Path) -> References:
        """Read the references of a model folder."""
        from safetensors.numpy import load_file

        return cls(load_file(folder / SCOPE_FILE)["features"].astype(np.float32))

    def save(self, folder: Path) -> None:
        """Write the references into a model folder."""
        from safetensors.numpy import save_file

        save_file({"features": self.features.astype(np.float16)}, folder / SCOPE_FILE)

    def distances(self, features: Floats) -> npt.NDArray[np.float32]:
        """Return how far the features `(rows, hidden)` are from the third nearest reference `(rows,)`, 0 to 2."""
        return self._distances(_unit(features), place=NEIGHBOR)

    def own_distances(self) -> npt.NDArray[np.float32]:
        """Return how far each reference is from the third nearest of the others `(references,)`."""
        return self._distances(self.features, place=NEIGHBOR + 1)

    def _distances(self, features: npt.NDArray[np.float32], *, place: int) -> npt.NDArray[np.float32]:
        place = min(place, len(self.features))
        parts = [features[start : start + PART_ROWS] for start in range(0, len(features), PART_ROWS)]
        cosines = [np.partition(part @ self.features.T, -place, axis=1)[:, -place] for part in parts]
        return np.asarray(1 - np.concatenate(cosines), dtype=np.float32)


def chosen_scope(distances: Floats, *, loss: float, num_references: int) -> Scope | None:
    """Return the scope for the distances of validation rows `(rows,)`.

    Of new rows like these, at most the share `loss` is marked on the average over draws of them (split conformal prediction). None
    if there are too few rows: 49 are needed for 0.02.
    """
    rank = math.ceil(round((len(distances) + 1) * (1 - loss), 9))
    if rank > len(distances):
        return None
    beyond = float(np.sort(distances)[rank - 1])
    return Scope(loss=loss, beyond=beyond, num_rows=len(distances), num_references=num_references)


def num_references(num_labels: int) -> int:
    """Return how many training rows are kept, if there are as many."""
    return min(max(REFERENCES_PER_LABEL * num_labels, FEWEST_REFERENCES), MOST_REFERENCES)


def reference_rows(targets: npt.NDArray[np.integer], *, most: int) -> list[int]:
    """Return the training rows to keep, taken in turn from the rows of each label, so that rare labels are included.

    `targets` are class indices `(rows,)`, or 0 and 1 `(rows, labels)`, whose combinations count as labels.
    """
    decided: Sequence[object] = [tuple(row) for row in targets.tolist()] if targets.ndim == 2 else targets.tolist()
    return spread_rows(decided, count=most)


def _unit(features: Floats) -> npt.NDArray[np.float32]:
    lengths = np.maximum(np.linalg.norm(features, axis=1, keepdims=True), 1e-12)
    return np.asarray(features / lengths, dtype=np.float32)
