"""Stratified splits and folds by seed: every label keeps its share in each part."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from manta.labels import Targets

Indices = npt.NDArray[np.int64]

MOST_TIMES_ASKED = 2
"""A part with one row of each small class may be this many times as large as asked, or have `FEW_ROWS` rows."""
FEW_ROWS = 10


def stratified_split(targets: Targets, *, fraction: float, seed: int) -> tuple[Indices, Indices]:
    """Return the indices of the rows kept and of those set aside, both ascending.

    Each class gives `fraction` of its rows, rounded, and never its last. A class whose share rounds to none gives one row, unless
    such classes are so many that the part would be far larger than asked; then only some of them do. In a multilabel task (targets
    of shape `(rows, labels)`), so does each label, as nearly as rows with several labels allow; rows without a label count as one
    more label. The drawn rows depend only on `seed` and the order of the rows.
    """
    generator = np.random.default_rng(seed)
    chosen = (_drawn_by_label if targets.ndim == 2 else _drawn_by_class)(targets, fraction, generator)
    is_kept = np.ones(len(targets), dtype=bool)
    is_kept[chosen] = False
    return np.flatnonzero(is_kept), chosen


def stratified_folds(targets: Targets, *, num_folds: int, seed: int) -> Indices:
    """Return the fold of each row, from 0, shape `(rows,)`, for a cross-validation.

    Each label gives every fold its share of rows, as in `stratified_split`. A label with fewer rows than folds is missing in some
    folds. If all labels are that rare, there are fewer folds; with one row of each, a single one.
    """
    folds = np.full(len(targets), num_folds - 1, dtype=np.int64)
    left = np.arange(len(targets))
    for fold in range(num_folds - 1):
        kept, drawn = stratified_split(targets[left], fraction=1 / (num_folds - fold), seed=seed + fold)
        folds[left[drawn]] = fold
        left = left[kept]
    return np.unique(folds, return_inverse=True)[1].astype(np.int64)


def _drawn_by_class(targets: Targets, fraction: float, generator: np.random.Generator) -> Indices:
    totals = np.bincount(targets)
    classes = np.flatnonzero(totals)
    orders = [generator.permutation(np.flatnonzero(targets == target).astype(np.uint32)) for target in classes]
    shares = _shares(totals[classes], fraction, len(targets), generator)
    return np.sort(np.concatenate([rows[:share] for rows, share in zip(orders, shares, strict=True)])).astype(np.int64)


def _drawn_by_label(targets: Targets, fraction: float, generator: np.random.Generator) -> Indices:
    """Draw rows for the rarest label first. Common labels have enough rows left to balance the rows it took.

    The greedy order is that of Sechidis et al. (2011, On the stratification of multi-label data), but the rows of a label are drawn
    all at once instead of one by one.
    """
    held = np.concatenate([targets > 0, ~(targets > 0).any(axis=1, keepdims=True)], axis=1)
    totals = held.sum(axis=0)
    shares = _shares(totals, fraction, len(held), generator)
    left = totals.copy()
    taken = np.zeros_like(totals)
    is_open, is_aside = np.ones(len(held), dtype=bool), np.zeros(len(held), dtype=bool)
    while left.any():
        rarest = int(np.argmin(np.where(left > 0, left, len(held) + 1)))
        rows = generator.permutation(np.flatnonzero(is_open & held[:, rarest]))
        drawn = rows[: max(0, shares[rarest] - int(taken[rarest]))]
        is_open[rows], is_aside[drawn] = False, True
        left -= held[rows].sum(axis=0)
        taken += held[drawn].sum(axis=0)
    # The rows drawn for rarer labels may be all rows of a label. Give one of them back.
    for label in np.flatnonzero(totals > 0):
        if taken[label] == totals[label]:
            row = int(generator.choice(np.flatnonzero(is_aside & held[:, label])))
            is_aside[row] = False
            taken -= held[row]
    return np.flatnonzero(is_aside)


def _shares(totals: Indices, fraction: float, num_rows: int, generator: np.random.Generator) -> Indices:
    """Return how many of its `totals` rows each class gives, shape `(classes,)`."""
    shares: Indices = np.clip(np.rint(totals * fraction), 0, np.maximum(totals - 1, 0)).astype(np.int64)
    asked = fraction * num_rows
    small = np.flatnonzero((shares == 0) & (totals > 1))
    if shares.sum() + len(small) > max(MOST_TIMES_ASKED * asked, FEW_ROWS):
        small = generator.permutation(small)
        larger_first = small[np.argsort(-totals[small], kind="stable")]
        small = larger_first[: max(0, max(1, round(asked)) - int(shares.sum()))]
    shares[small] = 1
    return shares
