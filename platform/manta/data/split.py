"""Stratified splits by seed: every class keeps its share in each part."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


def stratified_split(targets: Indices, *, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Indices of the rows kept and of those set aside, both ascending.

    Each class gives `fraction` of its rows, rounded, at least one and never its last. The rows drawn depend on
    `seed` and the order of the rows only.
    """
    generator = np.random.default_rng(seed)
    aside: list[Indices] = []
    for target in np.unique(targets):
        rows = np.flatnonzero(targets == target)
        count = min(max(round(len(rows) * fraction), 1), len(rows) - 1)
        aside.append(generator.permutation(rows)[:count])
    chosen = np.sort(np.concatenate(aside))
    kept = np.setdiff1d(np.arange(len(targets)), chosen, assume_unique=True)
    return kept, chosen
