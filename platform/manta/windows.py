"""Windows of long texts: overlapping parts of `max_length` tokens, each computed as a sequence of its own.

A row of token ids that is longer than `max_length` holds its windows one after another, as `manta.texts.token_ids` makes them. All
but the last have exactly `max_length` tokens. The logits of a text are the mean of those of its windows.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from manta.texts import window_overlap

if TYPE_CHECKING:
    from manta.labels import Floats
    from manta.texts import TokenLists

Rows = npt.NDArray[np.int64]


def windows_of(tokens: TokenLists, *, max_length: int) -> tuple[TokenLists, Rows]:
    """Return each window as a row of its own, and the row `(windows,)` of the text that it belongs to."""
    counts = [-(-len(ids) // max_length) for ids in tokens["input_ids"]]
    rows = np.repeat(np.arange(len(counts)), counts)
    if len(rows) == len(counts):
        return tokens, rows
    parts = [slice(number * max_length, (number + 1) * max_length) for count in counts for number in range(count)]
    return {name: [values[row][part] for row, part in zip(rows, parts, strict=True)] for name, values in tokens.items()}, rows


def pooled(values: Floats, rows: Rows) -> Floats:
    """Return the mean `(rows, …)` of the values `(windows, …)` of each row. `rows` says which row a window is of, in order."""
    starts = np.flatnonzero(np.diff(rows, prepend=-1))
    if len(starts) == len(rows):
        return values
    sums = np.add.reduceat(values.astype(np.float64), starts, axis=0)
    counts = np.diff(starts, append=len(rows))
    return np.asarray(sums / counts[:, None], dtype=values.dtype)


def num_windows(num_tokens: npt.NDArray[np.int64], *, max_length: int, num_special: int) -> npt.NDArray[np.int64]:
    """Return how many windows texts have, from the tokens of each `(texts,)` with its special tokens, before anything is cut."""
    step = max(1, max_length - num_special - window_overlap(max_length, num_special=num_special))
    return np.array([1 + max(0, math.ceil((count - max_length) / step)) for count in num_tokens.tolist()], dtype=np.int64)
