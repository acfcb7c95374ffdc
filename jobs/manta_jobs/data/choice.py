"""Which rows to label next: uncertain ones that differ from each other.

The method is that of Zhdanov (2019, Diverse mini-batch Active Learning, https://arxiv.org/abs/1901.05954). The rows with the
smallest margins are clustered by k-means, each weighed by its uncertainty, and the row nearest to each center is chosen.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from manta_jobs.data.neighbors import without_near_copies

if TYPE_CHECKING:
    import numpy.typing as npt

    from manta.data.split import Indices
    from manta.labels import Floats

FACTOR = 10
"""Rows that are clustered for each row that is chosen; Zhdanov has 10 and 50."""


def margins(probabilities: Floats) -> npt.NDArray[np.float64]:
    """Return by how much the most probable label of each row exceeds the second one `(rows,)`; small is uncertain."""
    top = np.partition(probabilities, -2, axis=1)[:, -2:]
    return np.asarray(top[:, 1] - top[:, 0], dtype=np.float64)


def choose(vectors: Floats, probabilities: Floats, *, count: int, seed: int) -> Indices:
    """Return the rows to label `(count,)`, or fewer if near-copies leave fewer; the most uncertain ones come first.

    `vectors` are embeddings `(rows, hidden)` of length 1, `probabilities` those of the labels `(rows, labels)`.
    """
    margin = margins(probabilities)
    order = np.argsort(margin, kind="stable")
    candidates = order[without_near_copies(vectors[order], most=FACTOR * count)]
    if len(candidates) > count:
        candidates = candidates[central(vectors[candidates], 1 - margin[candidates], count=count, seed=seed)]
    return np.asarray(candidates[np.argsort(margin[candidates], kind="stable")])


def central(vectors: Floats, weights: npt.NDArray[np.float64], *, count: int, seed: int) -> Indices:
    """Return the row nearest to each center of `count` clusters."""
    from sklearn.cluster import KMeans
    from threadpoolctl import threadpool_limits

    with threadpool_limits(1):
        clusters = KMeans(count, n_init=1, random_state=seed).fit(vectors, sample_weight=np.maximum(weights, 1e-6))
    distance = ((vectors - clusters.cluster_centers_[clusters.labels_]) ** 2).sum(axis=1)
    order = np.lexsort((distance, clusters.labels_))
    return np.asarray(order[np.unique(clusters.labels_[order], return_index=True)[1]])
