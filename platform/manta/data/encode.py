"""Token ids on disk: a split is tokenised once, then every worker memory-maps the same Arrow file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from manta.data.dataset import Split

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

CHUNK_ROWS = 4096


def write_encoded(split: Split, path: Path, *, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    """Tokenise a split with the model's own tokenizer and write it as one Arrow file.

    Texts are cut at `max_length` tokens, special tokens included. Columns: `input_ids` (list of int32), `target` (int64).
    """
    ids: list[pa.Array] = []
    for start in range(0, len(split), CHUNK_ROWS):
        batch = tokenizer(split.texts[start : start + CHUNK_ROWS], truncation=True, max_length=max_length)["input_ids"]
        ids.append(pa.array(batch, type=pa.large_list(pa.int32())))
    table = pa.table({"input_ids": pa.concat_arrays(ids), "target": pa.array(split.targets)}).combine_chunks()
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=max(table.num_rows, 1))


class EncodedSplit:
    """A memory-mapped split of token ids; opening it reads no rows."""

    def __init__(self, path: Path) -> None:
        table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
        column = table.column("input_ids").chunk(0)
        self._offsets = column.offsets.to_numpy()
        self._values = column.values.to_numpy()
        self.targets: npt.NDArray[np.int64] = table.column("target").chunk(0).to_numpy()

    def __len__(self) -> int:
        return len(self.targets)

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """Tokens of each row, shape `(rows,)`."""
        return np.asarray(np.diff(self._offsets), dtype=np.int64)

    def padded(self, indices: npt.NDArray[np.int64], *, pad_id: int) -> dict[str, npt.NDArray[np.int64]]:
        """`input_ids` and `attention_mask` of some rows, both `(rows, longest of them)`, padded on the right."""
        lengths = self.lengths[indices]
        ids = np.full((len(indices), int(lengths.max())), pad_id, dtype=np.int64)
        for row, (index, length) in enumerate(zip(indices, lengths, strict=True)):
            start = self._offsets[index]
            ids[row, :length] = self._values[start : start + length]
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return {"input_ids": ids, "attention_mask": mask}
