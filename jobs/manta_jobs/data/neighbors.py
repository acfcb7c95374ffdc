"""Neighbors of rows by the cosine of their embeddings: near-duplicates with different labels, and outliers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from manta.data.split import Indices

if TYPE_CHECKING:
    from manta.labels import Floats, Targets

NUM_NEIGHBORS, NUM_SHOWN = 10, 5
"""Neighbors that are looked at, and those that people are shown."""
BLOCK_ROWS = 1024
NEAR = 0.13
"""Two rows are near-duplicates if they are nearer than this share of the median distance to the nearest row. It is the default of
cleanlab's Datalab. The distance is that of the vectors themselves, which have length 1."""
SAME = 0.01
"""Least distance at which rows are near-duplicates; rounding alone gives equal texts up to a fifth of it."""
FAR_OUT = 3.0
"""A row is an outlier if it is this many interquartile ranges above the third quartile: Tukey's "far out" (1977, Exploratory Data
Analysis)."""
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Neighbors:
    """The nearest rows of each row, nearest first."""

    rows: Indices
    """Shape `(rows, neighbors)`."""
    similarity: Floats
    """Cosines `(rows, neighbors)`."""

    @property
    def distance(self) -> Floats:
        """Distances `(rows, neighbors)` of the embeddings, from 0 to 2."""
        return np.sqrt(np.maximum(2 - 2 * self.similarity, 0))

    @property
    def near(self) -> float:
        """The distance up to which two rows are near-duplicates."""
        return max(NEAR * float(np.median(self.distance[:, 0])), SAME)


def nearest(vectors: Floats, *, num_neighbors: int = NUM_NEIGHBORS) -> Neighbors:
    """Return the neighbors of embeddings `(rows, hidden)` of length 1. All pairs are compared, block by block."""
    count = min(num_neighbors, len(vectors) - 1)
    rows = np.empty((len(vectors), count), dtype=np.int64)
    similarity = np.empty((len(vectors), count), dtype=np.float32)
    for start in range(0, len(vectors), BLOCK_ROWS):
        cosines = vectors[start : start + BLOCK_ROWS] @ vectors.T
        own = np.arange(len(cosines))
        cosines[own, start + own] = -np.inf
        best = np.argpartition(-cosines, count - 1, axis=1)[:, :count]
        order = np.argsort(-np.take_along_axis(cosines, best, axis=1), axis=1, kind="stable")
        best = np.take_along_axis(best, order, axis=1)
        rows[start : start + len(own)] = best
        similarity[start : start + len(own)] = np.take_along_axis(cosines, best, axis=1)
    return Neighbors(rows, similarity)


def nearest_of(vectors: Floats, others: Floats, *, num_neighbors: int = NUM_SHOWN) -> Neighbors:
    """Return which of the embeddings `others` `(others, hidden)` are nearest to each of `vectors` `(rows, hidden)`."""
    cosines = vectors @ others.T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :num_neighbors]
    return Neighbors(best, np.take_along_axis(cosines, best, axis=1))


def contradicted(neighbors: Neighbors, targets: Targets) -> Flags:
    """Return which rows `(rows,)` have a near-duplicate with another label."""
    near = neighbors.distance <= neighbors.near
    others = targets[neighbors.rows]
    differs = others != targets[:, None] if targets.ndim == 1 else (others != targets[:, None, :]).any(axis=2)
    return np.asarray((near & differs).any(axis=1))


def without_near_copies(vectors: Floats, *, most: int) -> Indices:
    """Return the first `most` rows of embeddings `(rows, hidden)` that are near-duplicates of no earlier row among them."""
    if len(vectors) < 2:
        return np.arange(len(vectors))
    least = 1 - nearest(vectors[: 2 * most], num_neighbors=1).near ** 2 / 2
    kept: list[int] = []
    rows = np.empty((min(most, len(vectors)), vectors.shape[1]), dtype=vectors.dtype)
    for index, vector in enumerate(vectors):
        if not kept or float((rows[: len(kept)] @ vector).max()) < least:
            rows[len(kept)] = vector
            kept.append(index)
        if len(kept) == most:
            break
    return np.array(kept)


def outliers(neighbors: Neighbors) -> Flags:
    """Return which rows `(rows,)` are far from their neighbors, compared with the other rows."""
    mean = neighbors.distance.mean(axis=1)
    low, high = np.quantile(mean, [0.25, 0.75])
    return np.asarray(mean > high + FAR_OUT * (high - low))
