"""Batches of rows of similar length, and what a forward pass gives for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from manta.windows import pooled, windows_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerBase

    from manta.labels import Floats
    from manta.model.forward import Forward
    from manta.texts import TokenLists


def run_batches(
    forward: Forward,
    tokenizer: PreTrainedTokenizerBase,
    tokens: TokenLists,
    *,
    max_length: int,
    on_rows_done: Callable[[int], None] | None = None,
) -> Floats:
    """Compute the outputs of a forward pass for the result of `manta.texts.token_ids`, in batches of similar length.

    These are logits `(rows, labels)`, or logits and features `(rows, labels + hidden)`. A row with more than `max_length` tokens is
    a text in windows: its outputs are the mean of theirs.
    """
    windows, row_of = windows_of(tokens, max_length=max_length)
    lengths = np.array([len(ids) for ids in windows["input_ids"]])
    result: Floats | None = None
    missing = np.bincount(row_of)
    for chosen in token_batches(lengths, max_tokens=forward.batch_tokens):
        batch = {name: [values[index] for index in chosen] for name, values in windows.items()}
        found = forward(dict(tokenizer.pad(batch, return_tensors="np")))
        if result is None:
            result = np.empty((len(lengths), found.shape[1]), dtype=np.float32)
        result[chosen] = found
        np.subtract.at(missing, row_of[chosen], 1)
        if on_rows_done is not None:
            on_rows_done(int((missing[np.unique(row_of[chosen])] == 0).sum()))
    return pooled(np.asarray(result), row_of)


def token_batches(lengths: npt.NDArray[np.integer[Any]], *, max_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Return row indices in batches of similar length, longest first. A padded batch has at most `max_tokens`, or one row."""
    order = np.argsort(-lengths, kind="stable")
    batches: list[npt.NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        size = max(1, max_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches
