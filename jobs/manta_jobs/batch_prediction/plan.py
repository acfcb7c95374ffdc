"""The input, cut into numbered chunks. Files are read once, line by line, and no row is kept.

This one pass finds the columns and where each record begins (a quoted CSV field may span lines). It also finds files that are
broken or not UTF-8 before any worker starts. A resumed attempt uses the same chunks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from manta.errors import InputError
from manta.rows.columns import MISSING, field_of, hint, position_of
from manta.rows.contents import check_contents
from manta.rows.delimited import Heading, Record, delimited_records, find_heading
from manta.rows.json_rows import JsonRecord, json_records, starts_array
from manta.rows.parquet import path_of, paths_in, type_at
from manta.rows.text_file import Kind, Tape, TextFile, read_text, reading_notes
from manta.storage.urls import open_filesystem
from manta_jobs.batch_prediction.locate import InputFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from manta.inference.artifact import Manifest

CHUNK_ROWS = 2048
"""Rows of a chunk: enough that sorting by length leaves little padding, few enough that an interruption costs only seconds."""
CHUNK_BYTES = 16 * 2**20
"""Size at which a chunk of text ends whatever its number of rows, so that long texts do not fill the memory."""
ADDED_COLUMNS = ("label", "labels", "label_set", "score", "uncertain", "uncertain_reason", "model_version", "error")
"""Names in their output order."""
LIST_COLUMNS = ("labels", "label_set")
"""Those with a list of labels: `labels` for multilabel models only, `label_set` for models with label sets only."""
PREFIX = "predicted_"


class Format(BaseModel):
    """Encoding and delimiter found in one file, and whether it is a JSON array."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    encoding: str = "utf-8"
    delimiter: str = ","
    is_array: bool = False
    """True if the file is one JSON array."""


class Source(BaseModel):
    """The input without its chunks: the facts that every worker needs."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: Kind
    files: tuple[InputFile, ...]
    formats: tuple[Format, ...]
    """One for each file."""
    columns: tuple[str, ...]
    """Columns in the order of the first file. For JSON lines: every field, in the order of its first occurrence."""
    text_columns: tuple[str, ...]
    """One column, or two for text pairs; in JSON and Parquet perhaps dotted paths."""
    notes: tuple[str, ...] = ()
    """Sentences on how files are read, if not as their names promise."""
    prefix: str
    """Prefix of the added columns' names; empty unless the input has a column of such a name."""
    list_columns: tuple[str, ...]
    """The columns of `LIST_COLUMNS` that the model's answers have."""

    @property
    def is_json(self) -> bool:
        """True if the rows are objects of JSON."""
        return self.kind in ("jsonl", "json")

    def text_file(self, index: int) -> TextFile:
        """Return one of the files as text."""
        return TextFile(self.files[index].url, self.formats[index].encoding)

    def heading(self, index: int) -> Heading:
        """Return the heading of one of the files of CSV or TSV."""
        return Heading(self.formats[index].delimiter, self.columns)

    @property
    def added_columns(self) -> dict[str, str]:
        """Output names of the added columns, by their plain names."""
        return {name: self.prefix + name for name in ADDED_COLUMNS if name not in LIST_COLUMNS or name in self.list_columns}


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
class _FilePlan:
    """Columns, chunks and format of one file."""

    columns: tuple[str, ...]
    text_columns: tuple[str, ...]
    """The text columns by their names in the file."""
    chunks: list[Chunk]
    format: Format
    notes: tuple[str, ...] = ()
    missing: frozenset[str] = frozenset()
    """Text columns that no row of a JSON file has."""


def list_columns_of(manifest: Manifest) -> tuple[str, ...]:
    """Return the columns of `LIST_COLUMNS` that a model's answers have."""
    has_sets = manifest.calibration is not None and manifest.calibration.set_above is not None
    return (*(["labels"] if manifest.task == "multilabel" else []), *(["label_set"] if has_sets else []))


def make_plan(kind: Kind, files: Sequence[InputFile], *, text_columns: Sequence[str], list_columns: Sequence[str]) -> Plan:
    """Read through the files and cut them into chunks.

    Raises:
        InputError: a file is broken, lacks a column, or has other columns than the first, or there are no rows.
    """
    plans: list[_FilePlan] = []
    for file in files:
        try:
            found = _file_plan(kind, file, tuple(text_columns))
        except OSError as error:
            raise InputError(f"{file.url}: cannot be read ({(str(error).splitlines() or [type(error).__name__])[0]}).") from None
        if plans and kind not in ("jsonl", "json") and found.columns != plans[0].columns:
            before = ", ".join(plans[0].columns)
            raise InputError(f"{file.url}: its columns ({', '.join(found.columns)}) are not those of {files[0].url} ({before}).")
        plans.append(found)
    columns = tuple(dict.fromkeys(name for found in plans for name in found.columns))
    numbered = [chunk.model_copy(update={"file": index}) for index, found in enumerate(plans) for chunk in found.chunks]
    if not numbered:
        raise InputError(f"{files[0].url}: no rows; give a file that has some.")
    missing = frozenset.intersection(*(found.missing for found in plans))
    if missing:
        raise _no_column(files[0].url, min(missing), columns)
    source = Source(
        kind=kind,
        files=tuple(files),
        formats=tuple(found.format for found in plans),
        columns=columns,
        text_columns=plans[0].text_columns,
        notes=tuple(note for found in plans for note in found.notes),
        prefix=_prefix(columns, files[0]),
        list_columns=tuple(list_columns),
    )
    return Plan(source=source, chunks=tuple(chunk.model_copy(update={"number": place}) for place, chunk in enumerate(numbered)))


def _file_plan(kind: Kind, file: InputFile, text_columns: tuple[str, ...]) -> _FilePlan:
    if kind == "parquet":
        return _parquet(file, text_columns)
    return read_text(file.url, lambda text: (_json if kind in ("jsonl", "json") else _delimited)(text, kind, text_columns))


def _delimited(file: TextFile, kind: Kind, text_columns: tuple[str, ...]) -> _FilePlan:
    heading = find_heading(file, kind, fits=lambda names: all(position_of(name, names) is not None for name in text_columns))
    names = heading.names
    if not names:
        raise InputError(f"{file.url}: empty; its first line must name the columns.")
    places = [position_of(name, names) for name in text_columns]
    for name, place in zip(text_columns, places, strict=True):
        if place is None:
            raise _no_column(file.url, name, names)
    with file.open() as stream:
        chunks = list(_grouped(delimited_records(Tape(stream, newline=""), heading, url=file.url)))
    texts = tuple(names[place] for place in places if place is not None)
    found = Format(encoding=file.encoding, delimiter=heading.delimiter)
    return _FilePlan(names, texts, chunks, found, reading_notes(file.url, file.remark, heading.remark))


def _json(file: TextFile, kind: Kind, text_columns: tuple[str, ...]) -> _FilePlan:
    fields: dict[str, None] = {}
    faults: list[JsonRecord] = []
    missing = set(text_columns)
    with file.open() as stream:
        is_array = kind == "json" and starts_array(stream)

    def seen() -> Iterator[JsonRecord]:
        for record in json_records(file, kind):
            if isinstance(record.row, dict):
                fields.update(dict.fromkeys(record.row))
                missing.difference_update([name for name in missing if field_of(record.row, name) is not MISSING])
            elif not faults:
                faults.append(record)
            yield record

    chunks = list(_grouped(seen()))
    if faults and not fields:
        raise InputError(f"{file.url}, line {faults[0].line}: {faults[0].row}; no row of the file can be read.")
    found = Format(encoding=file.encoding, is_array=is_array)
    return _FilePlan(tuple(fields), text_columns, chunks, found, reading_notes(file.url, file.remark), frozenset(missing))


def _no_column(url: str, name: str, names: Iterable[str]) -> InputError:
    return InputError(f"{url}: no column {name!r} (--text); {hint(name, names)}")


def _grouped(records: Iterable[Record | JsonRecord]) -> Iterator[Chunk]:
    start, line, num_rows, end = 0, 0, 0, 0
    for record in records:
        if num_rows == 0:
            start, line = record.start, record.line
        num_rows, end = num_rows + 1, record.end
        if num_rows == CHUNK_ROWS or end - start >= CHUNK_BYTES:
            yield Chunk(number=0, file=0, start=start, end=end, line=line, num_rows=num_rows)
            num_rows = 0
    if num_rows:
        yield Chunk(number=0, file=0, start=start, end=end, line=line, num_rows=num_rows)


def _parquet(file: InputFile, text_columns: tuple[str, ...]) -> _FilePlan:
    import pyarrow as pa
    import pyarrow.parquet as pq

    filesystem, path = open_filesystem(file.url)
    try:
        with filesystem.open(path, "rb") as stream:
            opened = pq.ParquetFile(stream)
            schema, sizes = opened.schema_arrow, [opened.metadata.row_group(i).num_rows for i in range(opened.num_row_groups)]
    except (pa.ArrowException, OSError) as error:
        check_contents(file.url)
        raise InputError(f"{file.url}: not a readable Parquet file ({str(error).splitlines()[0].rstrip('.')}).") from None
    names = list(schema.names)
    if len(set(names)) < len(names):
        raise InputError(f"{file.url}: two columns have the same name; rename one.")
    for name in text_columns:
        place = path_of(name, schema)
        if place is None:
            raise _no_column(file.url, name, paths_in(schema))
        found = type_at(schema, place)
        if not _is_text(found):
            raise InputError(f"{file.url}: the column {name!r} is of type {found}, not text; choose another --text.")
    chunks: list[Chunk] = []
    for group, size in enumerate(sizes):
        for start in range(0, size, CHUNK_ROWS):
            end = min(start + CHUNK_ROWS, size)
            chunks.append(Chunk(number=0, file=0, group=group, start=start, end=end, num_rows=end - start))
    return _FilePlan(tuple(names), text_columns, chunks, Format())


def _is_text(kind: Any) -> bool:
    import pyarrow as pa

    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(
        pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_string_view(value) or pa.types.is_null(value)
    )


def _prefix(columns: Sequence[str], first: InputFile) -> str:
    """Return the prefix that keeps the added columns apart from the input's; empty if their plain names are free."""
    taken = set(columns)
    for prefix in ("", PREFIX):
        if taken.isdisjoint(prefix + name for name in ADDED_COLUMNS):
            return prefix
    both = next(name for name in columns if name.startswith(PREFIX) and name.removeprefix(PREFIX) in ADDED_COLUMNS)
    raise InputError(f"{first.url}: has a column {both!r}, which manta predict would add; rename it.")
