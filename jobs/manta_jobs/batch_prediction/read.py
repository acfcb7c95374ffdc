"""The rows of one chunk, as a worker reads them: all columns, the texts, and the faults of rows."""

from __future__ import annotations

import io
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manta.errors import RunError
from manta.storage.urls import open_filesystem
from manta_jobs.batch_prediction.locate import read_range
from manta_jobs.batch_prediction.plan import CHUNK_ROWS, Chunk, Source, delimited_reader, json_row

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa


@dataclass(frozen=True)
class Rows:
    """Rows as the input has them."""

    values: pa.Table | list[dict[str, Any]]
    """All columns: a table, or a list of objects for JSON lines."""
    texts: list[Any]
    """Values of the text column, or tuples of both columns' values; of any type."""
    faults: list[str | None]
    """Reason why a row could not be read, with file and line; None for most."""


class ChunkReader:
    """Reader of chunks of one input. Read the chunks of a Parquet row group in order: the group stays open, so this is fastest."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._group = _OpenGroup(source)

    def read(self, chunk: Chunk) -> Rows:
        """Return the chunk's rows, exactly as many as planned.

        Raises:
            RunError: the file is gone, broken, or has changed; the message names it.
        """
        url = self._source.files[chunk.file].url
        try:
            if self._source.kind == "parquet":
                rows = self._of_table(self._group.take(chunk))
            else:
                content = read_range(self._source.files[chunk.file], chunk.start, chunk.end)
                text = (content.removeprefix(BOM_UTF8) if chunk.start == 0 else content).decode("utf-8")
                rows = (self._json if self._source.kind == "jsonl" else self._delimited)(text, chunk)
        except Exception as error:  # file systems, decoders and Arrow raise their own exceptions
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RunError(f"{url}: cannot be read {_place(chunk)} ({reason}).") from error
        if len(rows.texts) != chunk.num_rows:
            raise RunError(f"{url}: {len(rows.texts)} rows {_place(chunk)} where {chunk.num_rows} were; it has changed.")
        return rows

    def _of_table(self, table: pa.Table) -> Rows:
        columns = [table.column(name).to_pylist() for name in self._source.text_columns]
        return Rows(table, _one_or_pair(columns), [None] * table.num_rows)

    def _delimited(self, text: str, chunk: Chunk) -> Rows:
        import pyarrow as pa

        names, url = self._source.columns, self._source.files[chunk.file].url
        reader = delimited_reader(io.StringIO(text, newline="\n"), self._source.kind)
        columns: list[list[str]] = [[] for _ in names]
        faults: list[str | None] = []
        line = chunk.line
        for fields in reader:
            if fields:
                fault = f"{len(fields)} fields where the header has {len(names)}" if len(fields) != len(names) else None
                faults.append(fault and f"{url}, line {line}: {fault}")
                whole = fields + [""] * (len(names) - len(fields))
                for column, value in zip(columns, whole, strict=False):
                    column.append(value)
            line = chunk.line + reader.line_num
        table = pa.table([pa.array(column, pa.string()) for column in columns], names=list(names))
        rows = self._of_table(table)
        return Rows(table, rows.texts, faults)

    def _json(self, text: str, chunk: Chunk) -> Rows:
        url, names = self._source.files[chunk.file].url, self._source.text_columns
        values: list[dict[str, Any]] = []
        faults: list[str | None] = []
        for line, content in enumerate(text.split("\n"), start=chunk.line):
            if not content.strip():
                continue
            row = json_row(content)
            fault = row if isinstance(row, str) else next((f"no field {name!r}" for name in names if name not in row), None)
            values.append({} if isinstance(row, str) else row)
            faults.append(fault and f"{url}, line {line}: {fault}")
        return Rows(values, _one_or_pair([[row.get(name) for row in values] for name in names]), faults)


class _OpenGroup:
    """A Parquet row group that stays open, so that the next chunk continues where the last one ended."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._key: tuple[int, int] | None = None
        self._position = 0
        self._batches: Iterator[pa.RecordBatch] = iter(())
        self._rest: pa.Table | None = None
        self._stream: Any = None

    def take(self, chunk: Chunk) -> pa.Table:
        """Return the rows `start` to `end` of the chunk's group."""
        if self._key != (chunk.file, chunk.group) or chunk.start < self._position:
            self._open(chunk)
        self._next(chunk.start - self._position)
        return self._next(chunk.end - chunk.start)

    def _open(self, chunk: Chunk) -> None:
        import pyarrow.parquet as pq

        if self._stream is not None:
            self._stream.close()
        filesystem, path = open_filesystem(self._source.files[chunk.file].url)
        self._stream = filesystem.open(path, "rb")
        file = pq.ParquetFile(self._stream, buffer_size=2**20)
        self._batches = file.iter_batches(batch_size=CHUNK_ROWS, row_groups=[chunk.group], use_threads=False)
        self._key, self._position, self._rest = (chunk.file, chunk.group), 0, file.schema_arrow.empty_table()

    def _next(self, num_rows: int) -> pa.Table:
        """Return the next `num_rows` rows, or fewer at the end of the group."""
        import pyarrow as pa

        found: pa.Table = self._rest
        while found.num_rows < num_rows:
            batch = next(self._batches, None)
            if batch is None:
                break
            found = pa.concat_tables([found, pa.Table.from_batches([batch], schema=found.schema)])
        taken, self._rest = found.slice(0, num_rows), found.slice(num_rows)
        self._position += taken.num_rows
        return taken


def _one_or_pair(columns: list[list[Any]]) -> list[Any]:
    return columns[0] if len(columns) == 1 else list(zip(*columns, strict=True))


def _place(chunk: Chunk) -> str:
    return f"from line {chunk.line}" if chunk.line else f"in row group {chunk.group + 1}"
