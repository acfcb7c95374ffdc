"""Batches of rows of similar length, and the logits that a forward pass gives for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

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
    num_labels: int,
    on_rows_done: Callable[[int], None] | None = None,
) -> Floats:
    """Compute logits `(rows, labels)` for the result of `manta.texts.token_ids`, in batches of similar length."""
    lengths = np.array([len(row) for row in tokens["input_ids"]])
    result = np.empty((len(lengths), num_labels), dtype=np.float32)
    for rows in token_batches(lengths, max_tokens=forward.batch_tokens):
        batch = {name: [values[row] for row in rows] for name, values in tokens.items()}
        result[rows] = forward(dict(tokenizer.pad(batch, return_tensors="np")))
        if on_rows_done is not None:
            on_rows_done(len(rows))
    return result


def token_batches(lengths: npt.NDArray[np.int64], *, max_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Return row indices in batches of similar length, longest first. A padded batch has at most `max_tokens`, or one row."""
    order = np.argsort(-lengths, kind="stable")
    batches: list[npt.NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        size = max(1, max_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches
