"""The rows of one chunk, as a worker reads them: all columns, the texts, and the faults of rows."""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manta.errors import RunError
from manta.rows.columns import MISSING, field_of
from manta.rows.delimited import missing_fields, records_between
from manta.rows.json_rows import item_records, line_records
from manta.rows.parquet import column_at, path_of, text_values
from manta.rows.text_file import BUFFER_BYTES, Tape
from manta.storage.urls import open_filesystem
from manta_jobs.batch_prediction.locate import read_range
from manta_jobs.batch_prediction.plan import CHUNK_ROWS, Chunk, Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa


@dataclass(frozen=True)
class InputRows:
    """Rows as the input has them."""

    values: pa.Table | list[dict[str, Any]]
    """All columns: a table, or a list of objects for JSON lines."""
    texts: list[Any]
    """Values of the text column, or tuples of both columns' values; of any type."""
    faults: list[str | None]
    """Reason why a row could not be read, with file and line; None for most."""


class ChunkReader:
    """Reader of chunks of one input. Read the chunks of a file in order, which is fastest.

    The row group of a Parquet file stays open, and so does text that is compressed or not UTF-8, which cannot be read in parts.
    """

    def __init__(self, source: Source) -> None:
        self._source = source
        self._group = _OpenGroup(source)
        self._text = _OpenText(source)

    def read(self, chunk: Chunk) -> InputRows:
        """Return the chunk's rows, exactly as many as planned.

        Raises:
            RunError: the file is gone, broken, or has changed; the message names it.
        """
        url = self._source.files[chunk.file].url
        try:
            if self._source.kind == "parquet":
                rows = self._of_table(self._group.take(chunk))
            elif self._source.is_json:
                rows = self._json(self._text.take(chunk), chunk)
            else:
                rows = self._delimited(self._text.take(chunk), chunk)
        except Exception as error:  # file systems, decoders and Arrow raise their own exceptions
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise RunError(f"{url}: cannot be read {_place(chunk)} ({reason}).") from error
        if len(rows.texts) != chunk.num_rows:
            raise RunError(f"{url}: {len(rows.texts)} rows {_place(chunk)} where {chunk.num_rows} were; it has changed.")
        return rows

    def _of_table(self, table: pa.Table) -> InputRows:
        paths = [path_of(name, table.schema) for name in self._source.text_columns]
        columns = [text_values(column_at(table, path)) for path in paths if path is not None]
        return InputRows(table, _one_or_pair(columns), [None] * table.num_rows)

    def _delimited(self, content: bytes, chunk: Chunk) -> InputRows:
        import pyarrow as pa

        names, url, heading = self._source.columns, self._source.files[chunk.file].url, self._source.heading(chunk.file)
        columns: list[list[str]] = [[] for _ in names]
        faults: list[str | None] = []
        tape = Tape(io.BytesIO(content), newline="", line=chunk.line - 1)
        for record in records_between(tape, tape, heading, url=url):
            fault = record.fault or missing_fields(record, heading)
            faults.append(fault and f"{url}, line {record.line}: {fault}")
            whole = record.fields + [""] * (len(names) - len(record.fields))
            for column, value in zip(columns, whole, strict=True):
                column.append(value)
        table = pa.table([pa.array(column, pa.string()) for column in columns], names=list(names))
        rows = self._of_table(table)
        return InputRows(table, rows.texts, faults)

    def _json(self, content: bytes, chunk: Chunk) -> InputRows:
        url, names = self._source.files[chunk.file].url, self._source.text_columns
        if self._source.formats[chunk.file].is_array:
            records = item_records(content, start=0, line=chunk.line)
        else:
            records = line_records(Tape(io.BytesIO(content), newline="\n", line=chunk.line - 1))
        values: list[dict[str, Any]] = []
        texts: list[list[Any]] = [[] for _ in names]
        faults: list[str | None] = []
        for record in records:
            row = record.row if isinstance(record.row, dict) else {}
            found = [field_of(row, name) for name in names]
            lacking = next((f"no field {name!r}" for name, value in zip(names, found, strict=True) if value is MISSING), None)
            fault = record.row if isinstance(record.row, str) else lacking
            faults.append(fault and f"{url}, line {record.line}: {fault}")
            values.append(row)
            for column, value in zip(texts, found, strict=True):
                column.append(None if value is MISSING else value)
        return InputRows(values, _one_or_pair(texts), faults)


class _OpenText:
    """Text files of the input, by parts of their stream of UTF-8."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._stream: io.BufferedReader | None = None
        self._file = -1
        self._position = 0

    def take(self, chunk: Chunk) -> bytes:
        """Return the bytes of a chunk. A file that cannot be read in parts stays open for the chunks behind."""
        text = self._source.text_file(chunk.file)
        if text.is_plain:
            return read_range(self._source.files[chunk.file], chunk.start, chunk.end)
        if self._stream is None or self._file != chunk.file or chunk.start < self._position:
            if self._stream is not None:
                self._stream.close()
            self._stream, self._file, self._position = text.open(), chunk.file, 0
        while self._position < chunk.start:
            skipped = self._stream.read(min(chunk.start - self._position, BUFFER_BYTES))
            if not skipped:
                raise OSError("it is shorter than before")
            self._position += len(skipped)
        content = self._stream.read(chunk.end - chunk.start)
        self._position += len(content)
        return content


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
