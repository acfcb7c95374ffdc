"""Token ids on disk: a split is tokenized once, then every worker memory-maps the same Arrow file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from manta.texts import LongTexts, token_ids

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedTokenizerBase

    from manta.data.dataset import Split
    from manta.labels import Targets
    from manta.texts import TokenLists

Rows = npt.NDArray[np.int64]
Counts = npt.NDArray[np.int32]
"""Numbers of each row; there may be many million rows."""
CHUNK_ROWS = 4096
TOKEN_COLUMNS = {"input_ids": pa.list_(pa.int32()), "token_type_ids": pa.list_(pa.int8())}
MAX_LENGTH = b"max_length"
"""Key of the file's metadata: the most tokens of a window."""
SEEN_FILE = "train.tokens.npy"
"""File next to `train.arrow` with the token ids that occur in it."""


def write_encoded(
    split: Split, path: Path, *, tokenizer: PreTrainedTokenizerBase, max_length: int, long_texts: LongTexts = "cut"
) -> None:
    """Tokenize a split with the model's own tokenizer and write it as one Arrow file, completely or not at all.

    Texts are cut at `max_length` tokens, special tokens included, or have all their windows one after another. The columns are
    `input_ids` (list of int32), `token_type_ids` (list of int8) for some models that read text pairs, and `target` (int64; for a
    multilabel task a list of int8, one per label). Each chunk of rows is written before the next is tokenized, so memory does not
    grow with the number of rows.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        with pa.OSFile(str(partial), "wb") as sink:
            writer: Any = None
            for start in range(0, len(split), CHUNK_ROWS):
                rows = slice(start, start + CHUNK_ROWS)
                tokens = token_ids(tokenizer, split.texts[rows], max_length=max_length, long_texts=long_texts)
                batch = _encoded_chunk(tokens, split.targets[rows]).replace_schema_metadata({MAX_LENGTH: str(max_length)})
                writer = writer or pa.ipc.new_file(sink, batch.schema)
                writer.write_batch(batch)
            writer.close()
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def _encoded_chunk(tokens: TokenLists, targets: Targets) -> pa.RecordBatch:
    columns = {name: pa.array(values, type=TOKEN_COLUMNS[name]) for name, values in tokens.items()}
    if targets.ndim == 2:
        flat = pa.array(targets.ravel(), type=pa.int8())
        columns["target"] = pa.FixedSizeListArray.from_arrays(flat, targets.shape[1])
    else:
        columns["target"] = pa.array(targets, type=pa.int64())
    return pa.record_batch(columns)


def write_seen_tokens(folder: Path, *, pad_id: int) -> None:
    """Write the token ids that occur in `train.arrow`, and the padding id, to a file.

    Chunks are read one after another, so memory does not grow with the number of rows.
    """
    path = folder / SEEN_FILE
    seen = np.array([pad_id], dtype=np.int64)
    with pa.OSFile(str(folder / "train.arrow")) as file:
        reader = pa.ipc.open_file(file)
        for index in range(reader.num_record_batches):
            chunk = _chunk_of(reader.get_batch(index))
            seen = np.union1d(seen, np.flatnonzero(np.bincount(chunk.tokens["input_ids"])))
    partial = path.with_name(path.name + ".partial")
    with partial.open("wb") as sink:
        np.save(sink, seen)
    partial.replace(path)


def seen_tokens(folder: Path) -> npt.NDArray[np.int64] | None:
    """Return the token ids of the training rows, `(seen,)` in order; None if they were not written."""
    path = folder / SEEN_FILE
    return np.load(path) if path.exists() else None


@dataclass(frozen=True)
class _Chunk:
    """Views into one record batch of the file."""

    offsets: npt.NDArray[np.int32]
    tokens: dict[str, npt.NDArray[np.integer[Any]]]
    """The values of each token column, all rows in one array. Row i is `offsets[i]` to `offsets[i + 1]`."""


class EncodedSplit:
    """A memory-mapped split of token ids. Opening it reads lengths and targets; token ids stay in the file until used."""

    def __init__(self, path: Path, rows: npt.NDArray[np.int64] | None = None) -> None:
        """Open all rows of the file, or only those at the indices `rows`, which are renumbered from 0."""
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._chunks = [_chunk_of(batch) for batch in batches]
        self._starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
        self._num_tokens: Counts = np.concatenate([np.diff(chunk.offsets) for chunk in self._chunks])
        self.targets: Targets = np.concatenate([_targets_of(batch) for batch in batches])
        """Class indices `(rows,)`; for a multilabel task, 0 and 1 `(rows, labels)`."""
        self._rows = rows
        if rows is not None:
            self._num_tokens, self.targets = self._num_tokens[rows], self.targets[rows]
        longest = int(self._num_tokens.max(initial=1))
        self._window_tokens = int((reader.schema.metadata or {}).get(MAX_LENGTH, longest))
        has_windows = longest > self._window_tokens
        one = np.broadcast_to(np.int32(1), self._num_tokens.shape)
        self.num_windows: Counts = np.maximum(one, -(-self._num_tokens // self._window_tokens)) if has_windows else one
        """Number of windows of each row `(rows,)`: 1, unless the text is long and was not cut."""
        self.lengths: Counts = np.minimum(self._num_tokens, self._window_tokens) if has_windows else self._num_tokens
        """Number of tokens of each row's longest window `(rows,)`."""

    def __len__(self) -> int:
        return len(self.targets)

    def lengths_of(self, indices: Rows, windows: Rows) -> Rows:
        """Return the number of tokens of one window of each of some rows."""
        lengths: Rows = np.minimum(self._num_tokens[indices] - windows * self._window_tokens, self._window_tokens)
        return lengths

    def padded(self, indices: Rows, *, pad_id: int, windows: Rows | None = None) -> dict[str, npt.NDArray[np.int64]]:
        """Return some rows as the model's keyword arguments, each `(rows, longest row)` and padded on the right.

        `windows` is the window to read of each row, by default the first. The arguments are `input_ids`, `attention_mask` and, for
        pairs whose tokenizer distinguishes the two texts, `token_type_ids`.
        """
        windows = np.zeros_like(indices) if windows is None else windows
        lengths = self.lengths_of(indices, windows)
        shape = (len(indices), int(lengths.max()))
        batch = {name: np.full(shape, pad_id if name == "input_ids" else 0, dtype=np.int64) for name in self._chunks[0].tokens}
        in_file = indices if self._rows is None else self._rows[indices]
        chunks = np.searchsorted(self._starts, in_file, side="right") - 1
        for row, (index, length, number, window) in enumerate(zip(in_file, lengths, chunks, windows, strict=True)):
            chunk = self._chunks[number]
            start = chunk.offsets[index - self._starts[number]] + window * self._window_tokens
            for name, values in chunk.tokens.items():
                batch[name][row, :length] = values[start : start + length]
        batch["attention_mask"] = (np.arange(shape[1]) < lengths[:, None]).astype(np.int64)
        return batch


class AllWindows:
    """Every window of a split's rows, to compute all of them."""

    def __init__(self, split: EncodedSplit) -> None:
        self._split = split
        self.rows: Rows = np.repeat(np.arange(len(split)), split.num_windows)
        """The row of each window `(windows,)`, in order."""
        first = np.cumsum(split.num_windows) - split.num_windows
        self._windows: Rows = np.arange(len(self.rows)) - first[self.rows]
        self.lengths = split.lengths_of(self.rows, self._windows)
        """Number of tokens of each window `(windows,)`."""

    def padded(self, indices: Rows, *, pad_id: int) -> dict[str, npt.NDArray[np.int64]]:
        """Return some windows as `EncodedSplit.padded` returns rows."""
        return self._split.padded(self.rows[indices], pad_id=pad_id, windows=self._windows[indices])


def _chunk_of(batch: pa.RecordBatch) -> _Chunk:
    columns = {name: batch.column(name) for name in TOKEN_COLUMNS if name in batch.schema.names}
    tokens = {name: column.values.to_numpy() for name, column in columns.items()}
    return _Chunk(columns["input_ids"].offsets.to_numpy(), tokens)


def _targets_of(batch: pa.RecordBatch) -> Targets:
    column = batch.column("target")
    if isinstance(column, pa.FixedSizeListArray):
        return np.asarray(column.values.to_numpy().reshape(batch.num_rows, -1))
    return np.asarray(column.to_numpy())
