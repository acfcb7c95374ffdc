"""The input, cut into numbered chunks. Files are read once, line by line, and no row is kept.

This one pass finds the columns and where each record begins (a quoted CSV field may span lines). It also finds files that are
broken or not UTF-8 before any worker starts. A resumed attempt uses the same chunks.
"""

from __future__ import annotations

import csv
import io
import json
from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from manta.config import nearest
from manta.errors import InputError
from manta.storage.urls import open_filesystem
from manta_jobs.batch_prediction.locate import InputFile, Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


CHUNK_ROWS = 2048
"""Rows of a chunk: enough that sorting by length leaves little padding, few enough that an interruption costs only seconds."""
CHUNK_BYTES = 16 * 2**20
"""Size at which a chunk of text ends whatever its number of rows, so that long texts do not fill the memory."""
ADDED_COLUMNS = ("label", "labels", "score", "uncertain", "model_version", "error")
"""Names in their output order; `labels` for multilabel models only."""
PREFIX = "predicted_"


class Source(BaseModel):
    """The input without its chunks: the facts that every worker needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    files: tuple[InputFile, ...]
    columns: tuple[str, ...]
    """Columns in the order of the first file. For JSON lines: every field, in the order of its first occurrence."""
    text_columns: tuple[str, ...]
    """One column, or two for text pairs."""
    prefix: str
    """Prefix of the added columns' names; empty unless the input has a column of such a name."""
    is_multilabel: bool
    """True if the model is multilabel."""

    @property
    def added_columns(self) -> dict[str, str]:
        """Output names of the added columns, by their plain names."""
        return {name: self.prefix + name for name in ADDED_COLUMNS if name != "labels" or self.is_multilabel}


class Chunk(BaseModel):
    """Consecutive rows of one file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    number: int
    """Number from 0, in the order of the rows."""
    file: int
    """Index in `Source.files`."""
    group: int = 0
    """Index of the row group; for Parquet."""
    start: int
    """For Parquet: the first row within the group. For other kinds: the first byte."""
    end: int
    """The row or byte after the last one."""
    line: int = 0
    """Line of the first row, from 1; 0 for Parquet."""
    num_rows: int


class Plan(BaseModel):
    """The input and its chunks."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: Source
    chunks: tuple[Chunk, ...]

    @property
    def num_rows(self) -> int:
        """Number of rows in the whole input."""
        return sum(chunk.num_rows for chunk in self.chunks)


@dataclass(frozen=True)
class Record:
    """One row of a text file: its byte range and its first line."""

    start: int
    end: int
    line: int


class Tape:
    """The decoded lines of a binary stream, with counts of the bytes and lines read.

    Raises:
        InputError: a line is not UTF-8; raised while iterating.
    """

    def __init__(self, stream: Iterable[bytes], *, url: str) -> None:
        self._stream, self._url = stream, url
        self.offset = 0
        """Bytes read so far."""
        self.line = 0
        """Lines read so far."""

    def __iter__(self) -> Iterator[str]:
        for raw in self._stream:
            self.offset += len(raw)
            self.line += 1
            content = raw.removeprefix(BOM_UTF8) if self.line == 1 else raw
            try:
                text = content.decode("utf-8")
            except UnicodeDecodeError as error:
                byte = content[error.start]
                raise InputError(f"{self._url}, line {self.line}: byte 0x{byte:02x} is not UTF-8; save it as UTF-8.") from None
            yield text


def make_plan(kind: Kind, files: Sequence[InputFile], *, text_columns: Sequence[str], is_multilabel: bool) -> Plan:
    """Read through the files and cut them into chunks.

    Raises:
        InputError: a file is broken, lacks a column, or has other columns than the first, or there are no rows.
    """
    columns: list[str] | None = None
    fields: list[str] = []
    chunks: list[Chunk] = []
    for index, file in enumerate(files):
        try:
            if kind == "jsonl":
                found = list(_grouped(_json_records(file, fields), index))
            else:
                names, found = (_parquet if kind == "parquet" else _delimited)(file, index, kind, text_columns)
                columns = _same_columns(names, columns, file, files[0])
            chunks += [chunk.model_copy(update={"number": len(chunks) + place}) for place, chunk in enumerate(found)]
        except OSError as error:
            raise InputError(f"{file.url}: cannot be read ({str(error).splitlines()[0]}).") from None
    names = fields if columns is None else columns
    if not chunks:
        raise InputError(f"{files[0].url}: no rows; there is nothing to predict.")
    for name in text_columns:
        if name not in names:
            raise InputError(f"{files[0].url}: no column {name!r} (--text); {nearest(name, names)}")
    source = Source(
        kind=kind,
        files=tuple(files),
        columns=tuple(names),
        text_columns=tuple(text_columns),
        prefix=_prefix(names, files[0]),
        is_multilabel=is_multilabel,
    )
    return Plan(source=source, chunks=tuple(chunks))


def json_row(line: str) -> dict[str, Any] | str:
    """Return the object in a line of JSON, or a phrase that says what is wrong with the line."""
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        return f"not valid JSON ({error.msg}, column {error.colno})"
    except (ValueError, RecursionError) as error:  # such as thousands of digits or of brackets
        return f"not valid JSON ({error})"
    return record if isinstance(record, dict) else "JSON, but no object with fields"


def delimited_reader(lines: Iterable[str], kind: Kind) -> Any:
    """Return a `csv.reader` for the kind. CSV has quoted fields; TSV has none, as its registered media type says."""
    csv.field_size_limit(2**31 - 1)
    return csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if kind == "tsv" else csv.reader(lines, strict=True)


def _delimited(file: InputFile, index: int, kind: Kind, _: Sequence[str]) -> tuple[list[str], list[Chunk]]:
    filesystem, path = open_filesystem(file.url)
    with io.BufferedReader(filesystem.open(path, "rb"), 2**20) as stream:
        tape = Tape(stream, url=file.url)
        records = _delimited_records(delimited_reader(tape, kind), tape, url=file.url)
        names = next(records, None)
        if not isinstance(names, list):
            raise InputError(f"{file.url}: empty; its first line must name the columns.")
        if len(set(names)) < len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError(f"{file.url}: two columns are named {twice!r}; rename one.")
        return names, list(_grouped((record for record in records if isinstance(record, Record)), index))


def _delimited_records(reader: Any, tape: Tape, *, url: str) -> Iterator[list[str] | Record]:
    """Yield the fields of the first record, which names the columns, then the position of each other record."""
    start, line, is_first = 0, 1, True
    try:
        for fields in reader:
            if fields:
                yield fields if is_first else Record(start, tape.offset, line)
                is_first = False
            start, line = tape.offset, tape.line + 1
    except csv.Error as error:
        raise InputError(f"{url}, line {line}: not valid CSV ({error}); check the quotes.") from None


def _json_records(file: InputFile, columns: list[str]) -> Iterator[Record]:
    """Yield the position of each row, and add new fields to `columns`."""
    known = set(columns)
    filesystem, path = open_filesystem(file.url)
    with io.BufferedReader(filesystem.open(path, "rb"), 2**20) as stream:
        tape = Tape(stream, url=file.url)
        start = 0
        for line in tape:
            if line.strip():
                yield Record(start, tape.offset, tape.line)
                row = json_row(line)
                if isinstance(row, dict) and not known.issuperset(row):
                    columns += [name for name in row if name not in known]
                    known.update(row)
            start = tape.offset


def _grouped(records: Iterable[Record], file: int) -> Iterator[Chunk]:
    start, line, num_rows, end = 0, 0, 0, 0
    for record in records:
        if num_rows == 0:
            start, line = record.start, record.line
        num_rows, end = num_rows + 1, record.end
        if num_rows == CHUNK_ROWS or end - start >= CHUNK_BYTES:
            yield Chunk(number=0, file=file, start=start, end=end, line=line, num_rows=num_rows)
            num_rows = 0
    if num_rows:
        yield Chunk(number=0, file=file, start=start, end=end, line=line, num_rows=num_rows)


def _parquet(file: InputFile, index: int, _: Kind, text_columns: Sequence[str]) -> tuple[list[str], list[Chunk]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, path = open_filesystem(file.url)
    try:
        with filesystem.open(path, "rb") as stream:
            opened = pq.ParquetFile(stream)
            schema, sizes = opened.schema_arrow, [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"{file.url}: not a readable Parquet file ({str(error).splitlines()[0]}).") from None
    names = list(schema.names)
    if len(set(names)) < len(names):
        raise InputError(f"{file.url}: two columns have the same name; rename one.")
    for name in text_columns:
        if name in names and not _is_text(schema.field(name).type):
            kind = schema.field(name).type
            raise InputError(f"{file.url}: the column {name!r} is of type {kind}, not text; choose another --text.")
    chunks: list[Chunk] = []
    for group, size in enumerate(sizes):
        for start in range(0, size, CHUNK_ROWS):
            end = min(start + CHUNK_ROWS, size)
            chunks.append(Chunk(number=0, file=index, group=group, start=start, end=end, num_rows=end - start))
    return names, chunks


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value) or pa.types.is_null(value)
    )


def _same_columns(names: list[str], before: list[str] | None, file: InputFile, first: InputFile) -> list[str]:
    if before is not None and names != before:
        raise InputError(f"{file.url}: its columns ({', '.join(names)}) are not those of {first.url} ({', '.join(before)}).")
    return names


def _prefix(columns: list[str], first: InputFile) -> str:
    """Return the prefix that keeps the added columns apart from the input's; empty if their plain names are free."""
    taken = set(columns)
    for prefix in ("", PREFIX):
        if taken.isdisjoint(prefix + name for name in ADDED_COLUMNS):
            return prefix
    both = next(name for name in columns if name.startswith(PREFIX) and name.removeprefix(PREFIX) in ADDED_COLUMNS)
    raise InputError(f"{first.url}: has a column {both!r}, which manta predict would add; rename it.")
