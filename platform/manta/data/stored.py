"""Columns of many rows as Arrow batches: in memory while they are small, else in a temporary file, gone when the process ends.

`BatchWriter` takes batches one after another. `StoredRows` reads their values again, some thousand at a time, so that the Python
objects of all rows never exist at once.
"""

from __future__ import annotations

import operator
import tempfile
from collections.abc import Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

import numpy as np

from manta.errors import RunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt
    import pyarrow as pa

    from manta.data.split import Indices

    AnyIndices = npt.NDArray[np.integer[Any]]
T = TypeVar("T")
CHUNK_ROWS = 4096
MOST_BYTES_IN_MEMORY = 2**24
"""The size of all batches from which they are written to a file: 16 MiB."""


class RowSequence(Sequence[T]):
    """Values of rows that are made when they are asked for. It is equal to any sequence of the same values."""

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or isinstance(other, str):
            return NotImplemented
        return len(self) == len(other) and all(one == another for one, another in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]


class Batches:
    """Record batches that are not empty: those of a file first, then further ones in memory. Rows are numbered through."""

    def __init__(self, in_memory: list[pa.RecordBatch], *, file: Any = None, sizes: Sequence[int] = ()) -> None:
        """Take the batches of a `file`, a `pyarrow.RecordBatchFileReader`, with their numbers of rows, and those in memory."""
        self._file, self._sizes, self._in_memory = file, sizes, in_memory
        self._starts = np.cumsum([0, *sizes, *(batch.num_rows for batch in in_memory)])
        self._last: tuple[int, pa.RecordBatch] | None = None

    @property
    def num_rows(self) -> int:
        """Number of rows of all batches."""
        return int(self._starts[-1])

    def at(self, rows: AnyIndices) -> Iterator[pa.RecordBatch]:
        """Yield the rows at the indices `rows`, in their order, in one or several batches."""
        import pyarrow as pa

        numbers = np.searchsorted(self._starts, rows, side="right") - 1
        ends = [*(np.flatnonzero(np.diff(numbers)) + 1).tolist(), len(rows)]
        for start, end in zip([0, *ends], ends, strict=False):
            if start < end:
                number = int(numbers[start])
                yield self._batch(number).take(pa.array(rows[start:end] - self._starts[number]))

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return (self._batch(number) for number in range(len(self._starts) - 1))

    def with_added(self, batch: pa.RecordBatch) -> Batches:
        """Return these batches and another one."""
        return Batches([*self._in_memory, batch], file=self._file, sizes=self._sizes)

    def _batch(self, number: int) -> pa.RecordBatch:
        if self._file is None or number >= len(self._sizes):
            return self._in_memory[number - len(self._sizes)]
        last = self._last
        if last is None or last[0] != number:
            last = self._last = number, self._file.get_batch(number)
        return last[1]


class BatchWriter:
    """Batches that are kept in memory until they are large, then in a file without a name."""

    def __init__(self) -> None:
        self._in_memory: list[pa.RecordBatch] = []
        self._sizes: list[int] = []
        self._file: Any = None
        self._writer: Any = None

    def write(self, batch: pa.RecordBatch) -> None:
        """Add a batch that has rows.

        Raises:
            RunError: the disk of the temporary files is full.
        """
        self._in_memory.append(batch)
        if self._writer is not None or sum(one.nbytes for one in self._in_memory) > MOST_BYTES_IN_MEMORY:
            with _folder_named():
                self._move_to_file()

    def finished(self) -> Batches:
        """Return all batches. Nothing can be added afterwards.

        Raises:
            RunError: the disk of the temporary files is full.
        """
        import pyarrow as pa

        if self._writer is None:
            return Batches(self._in_memory)
        with _folder_named():
            self._writer.close()
            self._file.flush()
        return Batches([], file=pa.ipc.open_file(pa.PythonFile(self._file, "r")), sizes=self._sizes)

    def _move_to_file(self) -> None:
        import pyarrow as pa

        if self._writer is None:
            self._file = tempfile.TemporaryFile(prefix="manta-rows-")  # noqa: SIM115  # open as long as its rows are read
            self._writer = pa.ipc.new_file(pa.PythonFile(self._file, "w"), self._in_memory[0].schema)
        for batch in self._in_memory:
            self._writer.write_batch(batch)
            self._sizes.append(batch.num_rows)
        self._in_memory = []


@contextmanager
def _folder_named() -> Iterator[None]:
    """Turn an error of the disk into one that says where it is."""
    try:
        yield
    except OSError as error:
        folder = tempfile.gettempdir()
        raise RunError(f"{folder}: no room for the rows ({error}); free some, or name another folder in TMPDIR.") from None


class StoredRows(RowSequence[T]):
    """The values of one column of some batches, or those of several columns as tuples. A slice of it is a list."""

    def __init__(self, batches: Batches, columns: Sequence[str], rows: AnyIndices | None = None) -> None:
        """Take all rows, or those at the indices `rows`, in their order."""
        self._batches, self._columns, self._rows = batches, columns, rows

    def __len__(self) -> int:
        return self._batches.num_rows if self._rows is None else len(self._rows)

    def __iter__(self) -> Iterator[T]:
        for batch in self._all():
            yield from self._values(batch)

    @overload
    def __getitem__(self, index: int) -> T: ...

    @overload
    def __getitem__(self, index: slice) -> list[T]: ...

    def __getitem__(self, index: int | slice) -> T | list[T]:
        if isinstance(index, slice):
            places = np.arange(*index.indices(len(self)))
            pieces = self._batches.at(places if self._rows is None else self._rows[places])
            return [value for piece in pieces for value in self._values(piece)]
        place = operator.index(index)
        if not -len(self) <= place < len(self):
            raise IndexError(f"row {place} of {len(self)}")
        place %= len(self)
        return self[place : place + 1][0]

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the rows themselves, as their file is of this process only."""
        return _with_rows, ([batch.select(self._columns) for batch in self._all()], self._columns)

    def take(self, indices: Indices) -> StoredRows[T]:
        """Return the rows at `indices`, in their order. Nothing is read or copied."""
        places = np.asarray(indices, dtype=np.uint32)
        return StoredRows(self._batches, self._columns, places if self._rows is None else self._rows[places])

    def with_added(self, values: Sequence[T]) -> StoredRows[T]:
        """Return these rows and some further ones, which stay in memory."""
        import pyarrow as pa

        if not values:
            return self
        columns = [values] if len(self._columns) == 1 else zip(*cast("Any", values), strict=True)
        added = pa.record_batch([pa.array(list(column), pa.large_string()) for column in columns], names=list(self._columns))
        rows = np.arange(self._batches.num_rows) if self._rows is None else self._rows
        new = np.arange(self._batches.num_rows, self._batches.num_rows + len(values))
        return StoredRows(self._batches.with_added(added), self._columns, np.concatenate([rows, new]))

    def _all(self) -> Iterator[pa.RecordBatch]:
        if self._rows is None:
            yield from self._batches
            return
        for start in range(0, len(self._rows), CHUNK_ROWS):
            yield from self._batches.at(self._rows[start : start + CHUNK_ROWS])

    def _values(self, batch: pa.RecordBatch) -> list[T]:
        columns = [batch.column(name).to_numpy(zero_copy_only=False).tolist() for name in self._columns]
        return columns[0] if len(columns) == 1 else cast("list[T]", list(zip(*columns, strict=True)))


def _with_rows(batches: list[pa.RecordBatch], columns: Sequence[str]) -> StoredRows[Any]:
    return StoredRows(Batches(batches), columns)


def taken(rows: Sequence[T], indices: Indices) -> Sequence[T]:
    """Return some rows, in the order of `indices`: stored ones without reading them."""
    return rows.take(indices) if isinstance(rows, StoredRows) else [rows[index] for index in indices]


def with_added(rows: Sequence[T], further: Sequence[T]) -> Sequence[T]:
    """Return rows of text and some further ones."""
    return rows.with_added(further) if isinstance(rows, StoredRows) else [*rows, *further]
