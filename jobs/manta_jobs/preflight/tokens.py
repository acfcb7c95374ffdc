"""Text lengths of a run, in tokens of its model: a sample of the training rows, before anything is cut."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from manta.texts import token_ids
from manta.windows import num_windows

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from manta.data import Split
    from manta.labels import Targets

SAMPLED_ROWS = 2000
"""Sampled rows, evenly spread over the split. A share measured on them is accurate to about two points."""
UNLIMITED = 1_000_000
BARS = "▁▂▃▄▅▆▇█"
NUM_BARS = 12


@dataclass(frozen=True)
class TokenSample:
    """Sampled rows as the model would read them without `max_length`."""

    ids: list[list[int]]
    targets: Targets
    pad_id: int
    num_rows: int
    """Rows of the whole split."""
    num_special: int = 2
    """Special tokens of each row."""

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each sampled row, special tokens included."""
        return np.array([len(row) for row in self.ids], dtype=np.int64)

    def share_cut(self, max_length: int) -> float:
        """Return the share of rows with more than `max_length` tokens."""
        return float((self.lengths > max_length).mean())

    def windows_per_text(self, max_length: int) -> float:
        """Return how many windows a text has on average."""
        return float(num_windows(self.lengths, max_length=max_length, num_special=self.num_special).mean())

    def longest(self, max_length: int) -> int:
        """Return the number of tokens of the longest row after it is cut."""
        return int(min(self.lengths.max(), max_length))

    def padded(self, rows: npt.NDArray[np.int64], *, max_length: int) -> dict[str, npt.NDArray[np.int64]]:
        """Return some rows as the model's keyword arguments. They are simply truncated, which is good enough for timing."""
        cut = [self.ids[row][:max_length] for row in rows]
        width = max(map(len, cut))
        return {
            "input_ids": np.array([row + [self.pad_id] * (width - len(row)) for row in cut], dtype=np.int64),
            "attention_mask": np.array([[1] * len(row) + [0] * (width - len(row)) for row in cut], dtype=np.int64),
        }


def sample_tokens(split: Split, tokenizer: PreTrainedTokenizerBase, *, most: int = SAMPLED_ROWS) -> TokenSample:
    """Tokenize at most `most` rows, evenly spread over the split."""
    rows = np.unique(np.linspace(0, len(split) - 1, min(most, len(split))).astype(np.int64))
    chosen = split.take(rows)
    ids = token_ids(tokenizer, chosen.texts, max_length=UNLIMITED)["input_ids"]
    special = tokenizer.num_special_tokens_to_add()
    return TokenSample(ids, chosen.targets, int(tokenizer.pad_token_id or 0), len(split), special)


def histogram(lengths: npt.NDArray[np.int64]) -> str:
    """Return the distribution of text lengths as small bars from the shortest to the longest: `4 ▁▃█▅▂▁ 61`."""
    low, high = int(lengths.min()), int(lengths.max())
    counts, _ = np.histogram(lengths, bins=min(NUM_BARS, high - low + 1), range=(low, high + 1))
    heights = np.ceil(counts / counts.max() * (len(BARS) - 1)).astype(int)
    bars = "".join(BARS[height] if count else " " for height, count in zip(heights, counts, strict=True))
    return f"{low} {bars} {high}"
