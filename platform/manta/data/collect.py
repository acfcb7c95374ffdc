"""`Rows`, and the `Collector` that takes them one after another from a file: texts and places as Arrow, labels as codes.

So memory hardly grows with the number of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, overload

from manta.data.coded import Coder
from manta.data.stored import CHUNK_ROWS, BatchWriter, RowSequence, StoredRows, taken
from manta.rows.text_file import reading_notes
from manta.texts import has_lone_surrogate

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pyarrow as pa

    from manta.config import DataConfig
    from manta.data.split import Indices

CHUNK_CHARACTERS = 2**22
"""Most characters of texts that are gathered before they are stored."""


@dataclass(frozen=True)
class Rows:
    """Unchecked texts and labels, with the place of each row."""

    source: str
    """The file's name in messages."""
    unit: str
    """The unit of `positions`: "line" (from 1, the header included) or "row" (from 1)."""
    texts: Sequence[Any]
    """One value per row, or a tuple of two if `pair_columns` names two columns."""
    labels: Sequence[Any]
    positions: Sequence[int]
    pair_columns: tuple[str | int, ...] = ()
    """The two text columns of text pairs; empty for single texts."""
    columns: dict[str | int, list[Any]] = field(default_factory=dict)
    """The requested further columns, by name; None if a JSONL row lacks the field."""
    notes: tuple[str, ...] = ()
    """Sentences on how the file is read, if not as its name promises."""
    wrong: tuple[int, Any] | None = None
    """The first row with a text that is no string, or no Unicode, and what it has. Such a text is None in `texts`."""

    @property
    def places(self) -> Places:
        """The places of all rows."""
        return Places(self.source, self.unit, self.positions)

    def take(self, indices: Indices) -> Rows:
        """Return the rows at `indices`, in their order."""
        columns = {name: [values[index] for index in indices] for name, values in self.columns.items()}
        texts, labels, positions = (taken(values, indices) for values in (self.texts, self.labels, self.positions))
        return replace(self, texts=texts, labels=labels, positions=positions, columns=columns)

    def where(self, index: int) -> str:
        """Return the place of one row, such as `dev.csv, line 17`."""
        return f"{self.source}, {self.unit} {self.positions[index]}"


class Places(RowSequence[str]):
    """The place of each row in its file, such as `line 17`."""

    def __init__(self, source: str, unit: str, positions: Sequence[int]) -> None:
        """Take the fields of `Rows` with these names."""
        self.source, self.unit, self.positions = source, unit, positions

    def take(self, indices: Indices) -> Places:
        """Return the places of the rows at `indices`, in their order."""
        return Places(self.source, self.unit, taken(self.positions, indices))

    def __len__(self) -> int:
        return len(self.positions)

    @overload
    def __getitem__(self, index: int) -> str: ...

    @overload
    def __getitem__(self, index: slice) -> list[str]: ...

    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [f"{self.unit} {position}" for position in self.positions[index]]
        return f"{self.unit} {self.positions[index]}"


class Collector:
    """Rows that grow one by one: texts and places as Arrow, labels as codes."""

    def __init__(
        self, source: str, unit: str, config: DataConfig, extra: Sequence[str | int], *, remarks: Sequence[str] = ()
    ) -> None:
        self.source, self.unit = source, unit
        self._pair_columns = config.text_columns if len(config.text_columns) == 2 else ()
        self._names = ["first", "second"] if self._pair_columns else ["text"]
        self._notes = reading_notes(source, *remarks)
        self._writer, self._labels = BatchWriter(), Coder[Any]()
        self._num_texts, self._num_stored, self._num_characters = len(self._names), 0, 0
        self._rows: list[Sequence[Any]] = []
        self._positions: list[int] = []
        self._wrong: tuple[int, Any] | None = None
        self._columns: dict[str | int, list[Any]] = {column: [] for column in extra}

    @property
    def num_rows(self) -> int:
        """Number of rows so far."""
        return self._num_stored + len(self._rows)

    def add(self, values: Sequence[Any], position: int) -> None:
        """Add a row: its text or two texts, its label, and its values of the further columns."""
        self._rows.append(values)
        self._positions.append(position)
        for text in values[: self._num_texts]:
            if isinstance(text, str):
                self._num_characters += len(text)
        if len(self._rows) == CHUNK_ROWS or self._num_characters > CHUNK_CHARACTERS:
            self._store()

    def add_columns(self, columns: Sequence[Sequence[Any]]) -> None:
        """Add rows that come as columns, in the same order. Their places are counted from 1."""
        start = 1 + self.num_rows
        for position, values in enumerate(zip(*columns, strict=True), start=start):
            self.add(values, position)

    def finished(self) -> Rows:
        """Return all rows."""
        self._store()
        batches, labels = self._writer.finished(), self._labels.coded()
        return Rows(
            self.source,
            self.unit,
            StoredRows(batches, self._names),
            labels,
            StoredRows(batches, ["position"]),
            self._pair_columns,
            self._columns,
            self._notes,
            self._wrong,
        )

    def _store(self) -> None:
        """Write the rows that were added last."""
        import pyarrow as pa

        if not self._rows:
            return
        columns = list(zip(*self._rows, strict=True))
        texts, labels, further = columns[: self._num_texts], columns[self._num_texts], columns[self._num_texts + 1 :]
        stored = [_stored(column) for column in texts]
        if self._wrong is None and any(column.null_count for column in stored):
            row = min(column.is_valid().index(False).as_py() for column in stored if column.null_count)
            self._wrong = self._num_stored + row, texts[0][row] if self._num_texts == 1 else tuple(text[row] for text in texts)
        self._labels.extend(labels)
        for column, values in zip(self._columns.values(), further, strict=True):
            column.extend(values)
        self._writer.write(pa.record_batch([*stored, pa.array(self._positions, pa.int64())], names=[*self._names, "position"]))
        self._num_stored += len(self._rows)
        self._rows, self._positions, self._num_characters = [], [], 0


def _stored(texts: Sequence[Any]) -> pa.Array:
    """Return texts as Arrow; what is no string, or no Unicode, as null."""
    import pyarrow as pa

    try:
        if all(isinstance(text, str) for text in texts):
            return pa.array(texts, pa.large_string())
    except UnicodeEncodeError:
        pass
    return pa.array([text if isinstance(text, str) and not has_lone_surrogate(text) else None for text in texts], pa.large_string())
