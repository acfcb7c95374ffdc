"""Repeated texts: found by 64-bit hashes, which fit into memory for all rows, and then compared as texts.

Two texts with the same hash never count as the same. The texts that are compared are in memory in parts of limited size.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import numpy.typing as npt

from manta.data.stored import taken

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Sequence

    from manta.data.coded import Codes
    from manta.data.split import Indices

T = TypeVar("T", bound="Hashable")
Hashes = npt.NDArray[np.int64]
PART_ROWS = 100_000
"""Rows whose texts are compared with each other at a time."""
BLOCK_ROWS = 1_000_000


def conflicts(
    texts: Sequence[T], codes: Codes, *, most: int, form: Callable[[T], Hashable] | None = None
) -> tuple[int, list[tuple[int, int]]]:
    """Return the number of rows that have another code than the first row with the same text, and the first of them.

    These are at most `most` pairs: the first row with the text, and the row. Texts are the same if their `form` is.
    """
    hashes = _hashes(texts, form)
    rows, hashes = _rows_of(hashes, _repeated(hashes))
    if not len(rows):
        return 0, []
    among, hashes = _rows_of(hashes, _with_several_codes(hashes, codes[rows]))
    rows = rows[among]
    num_parts, num_found = 1 + len(rows) // PART_ROWS, 0
    found: list[tuple[int, int]] = []
    for part in range(num_parts):
        chosen = rows[hashes % num_parts == part]
        first: dict[Hashable, int] = {}
        for row, text in zip(chosen.tolist(), taken(texts, chosen), strict=True):
            other = first.setdefault(text if form is None else form(text), row)
            if codes[other] != codes[row]:
                num_found += 1
                found.append((other, row))
        found = sorted(found, key=lambda pair: pair[1])[:most]
    return num_found, found


def num_shared(splits: dict[str, Sequence[T]]) -> dict[tuple[str, str], int]:
    """Return the number of different texts that two splits share, for each pair of splits."""
    hashes = {name: _different(_hashes(texts)) for name, texts in splits.items()}
    pairs = itertools.combinations(splits, 2)
    common = {(left, right): hashes[left][_among(hashes[left], hashes[right])] for left, right in pairs}
    del hashes
    wanted = _different(np.concatenate([*common.values(), np.empty(0, dtype=np.int64)]))
    found = {name: _rows_of(_hashes(texts), wanted) for name, texts in splits.items() if len(wanted)}
    return {
        pair: sum(
            len(set.intersection(*(_texts_of(splits[name], *found[name], part) for name in pair)))
            for part in np.array_split(shared, 1 + len(shared) // PART_ROWS)
            if len(part)
        )
        for pair, shared in common.items()
    }


def _texts_of(texts: Sequence[T], rows: Indices, hashes: Hashes, wanted: Hashes) -> set[T]:
    """Return the texts of the rows whose hash is a wanted one. `hashes` has one hash per row."""
    return set(taken(texts, rows[_among(hashes, wanted)]))


def _hashes(texts: Sequence[T], form: Callable[[T], Hashable] | None = None) -> Hashes:
    return np.fromiter(map(hash, texts if form is None else map(form, texts)), dtype=np.int64, count=len(texts))


def _repeated(hashes: Hashes) -> Hashes:
    """Return the hashes that several rows have, in ascending order."""
    ordered = np.sort(hashes)
    return _different(ordered[1:][ordered[1:] == ordered[:-1]])


def _different(hashes: Hashes) -> Hashes:
    """Return the distinct hashes in ascending order. They are sorted in place, because `numpy.unique` would copy them."""
    hashes.sort()
    is_new = np.ones(len(hashes), dtype=bool)
    np.not_equal(hashes[1:], hashes[:-1], out=is_new[1:])
    return hashes[is_new]


def _rows_of(hashes: Hashes, wanted: Hashes) -> tuple[Indices, Hashes]:
    """Return the rows with one of the wanted hashes, which are in ascending order, and their hashes."""
    rows = np.flatnonzero(_among(hashes, wanted))
    return rows, hashes[rows]


def _among(hashes: Hashes, wanted: Hashes) -> npt.NDArray[np.bool_]:
    """Return whether each hash is one of the wanted ones, which are in ascending order."""
    found = np.zeros(len(hashes), dtype=bool)
    for start in range(0, len(hashes) if len(wanted) else 0, BLOCK_ROWS):
        block = hashes[start : start + BLOCK_ROWS]
        places = np.minimum(np.searchsorted(wanted, block), len(wanted) - 1)
        found[start : start + BLOCK_ROWS] = wanted[places] == block
    return found


def _with_several_codes(hashes: Hashes, codes: Codes) -> Hashes:
    """Return the hashes whose rows have several codes, in ascending order."""
    order = np.argsort(hashes, kind="stable")
    hashes, codes = hashes[order], codes[order]
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]]))
    differ = np.minimum.reduceat(codes, starts) != np.maximum.reduceat(codes, starts)
    return np.asarray(hashes[starts[differ]])
