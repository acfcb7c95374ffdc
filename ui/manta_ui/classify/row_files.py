"""Uploaded files of rows, and the same files with the answers in added columns: CSV, TSV, JSON and Parquet."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.errors import InputError
from manta.rows.columns import MISSING, field_of, paths_of
from manta.rows.delimited import csv_writer, delimited_records, find_heading, missing_fields
from manta.rows.json_rows import json_line, json_records
from manta.rows.parquet import column_at, path_of, paths_in, text_values
from manta.rows.text_file import GZIP, KINDS, Tape, TooLargeError, kind_of, read_text, reading_notes

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import pyarrow as pa

    from manta.rows.delimited import Heading
    from manta.rows.text_file import Kind, TextFile
    from manta_ui.clients.api import Text

ENDINGS = (*KINDS, GZIP)
MOST_ROWS = 50_000
MOST_BYTES = 256 * 2**20
"""Most bytes of a file, unpacked."""
BATCH_ROWS = 256
TEXT_NAMES = ("text", "message", "sentence", "content", "body", "review", "comment")
"""Column names that are taken for the text unless another column is chosen."""


class FileProblem(Exception):  # noqa: N818  # not an error of the program
    """Error: the file cannot be used. The message is one sentence for the person who uploaded it."""


@dataclass(frozen=True)
class RowFile:
    """The rows of one file."""

    name: str
    """Name of the file as uploaded."""
    columns: tuple[str, ...]
    rows: list[dict[str, Any]] | pa.Table
    """A table for Parquet, so that columns keep their types."""
    faults: dict[int, str] = field(default_factory=dict)
    """Reason why a row could not be read, by the row's index."""
    delimiter: str = ","
    note: str = ""
    """A sentence on a detected delimiter or encoding; empty if the file is as its name promises."""

    @property
    def kind(self) -> str:
        """Its ending, such as `.csv`, without `.gz`."""
        return Path(self.name.lower().removesuffix(GZIP)).suffix

    @property
    def stem(self) -> str:
        """Its name without the ending."""
        return Path(self.name[: -len(GZIP)] if self.name.lower().endswith(GZIP) else self.name).stem

    @property
    def num_rows(self) -> int:
        """The number of rows."""
        return len(self.rows)

    @property
    def text_columns(self) -> list[str]:
        """The columns to choose from, those inside objects as dotted paths."""
        if isinstance(self.rows, list):
            inner = (path for row in self.rows for name, value in row.items() for path in _inner_paths(name, value))
        else:
            inner = (path for path in paths_in(self.rows.schema) if path not in self.columns)
        return list(dict.fromkeys([*self.columns, *inner]))

    def texts(self, *columns: str) -> list[Text]:
        """Return the values of one column, or of the two of a pair. A missing value becomes an empty string."""
        return list(zip(*(self._texts(column) for column in columns), strict=True))

    def _texts(self, column: str) -> list[str]:
        if isinstance(self.rows, list):
            values: Iterable[Any] = (field_of(row, column) for row in self.rows)
        else:
            path = path_of(column, self.rows.schema)
            values = [None] * self.num_rows if path is None else text_values(column_at(self.rows, path))
        return ["" if value is None or value is MISSING else str(value) for value in values]

    def likely_columns(self, count: int) -> list[str]:
        """Return the columns that most likely hold the texts."""
        known = self.text_columns
        named = [name for likely in TEXT_NAMES for name in known if name.rpartition(".")[2].strip().lower() == likely]
        return [*named, *(name for name in known if name not in named)][:count]


def _inner_paths(name: str, value: Any) -> list[str]:
    return list(paths_of(value, f"{name}.")) if isinstance(value, dict) else []


def read_rows(path: Path) -> RowFile:
    """Read the rows of an uploaded file.

    Raises:
        FileProblem: the file is of another kind, empty, too large, or not what its name says; the message names the line.
    """
    kind = kind_of(path.name)
    if kind is None:
        raise FileProblem(f"{path.name} is none of {', '.join(KINDS)} (or {GZIP} after text); save it as one of them.")
    try:
        file = _read_parquet(path) if kind == "parquet" else read_text(str(path), lambda text: _read_text(text, kind))
    except InputError as error:
        raise FileProblem(str(error).replace(str(path), path.name)) from None
    except OSError as error:
        raise FileProblem(f"{path.name} cannot be read ({error}).") from None
    except TooLargeError:
        raise _too_large(path.name) from None
    if not file.num_rows:
        raise FileProblem(f"{path.name} has no rows.")
    if len(file.faults) == file.num_rows:
        raise FileProblem(f"{path.name}, {file.faults[0]}.")
    if not file.columns:
        raise FileProblem(f"{path.name} has no columns.")
    return replace(file, name=path.name, note=file.note.replace(str(path), path.name))


def _too_large(name: str) -> FileProblem:
    return FileProblem(f"{name} has more than {MOST_BYTES // 2**20} MB of content; use manta predict.")


def _check_rows(name: str, num_rows: int, *, is_exact: bool) -> None:
    if num_rows > MOST_ROWS:
        found = f"{num_rows:,}" if is_exact else f"more than {MOST_ROWS:,}"
        raise FileProblem(f"{name} has {found} rows; up to {MOST_ROWS:,} can be classified here, more by manta predict.")


def _read_text(file: TextFile, kind: Kind) -> RowFile:
    if kind in ("jsonl", "json"):
        return _read_json(file, kind)
    # The text column is not chosen yet. So another delimiter must give several columns, and the first row must have them.
    heading = find_heading(file, kind, fits=lambda names: len(names) > 1)
    found = _read_delimited(file, heading)
    if heading.is_found and not heading.has_separator_line and 0 in found.faults:
        found = _read_delimited(file, find_heading(file, kind, fits=bool))
    return found


def _read_delimited(file: TextFile, heading: Heading) -> RowFile:
    rows: list[dict[str, Any]] = []
    faults: dict[int, str] = {}
    with file.open(most_bytes=MOST_BYTES) as stream:
        for record in delimited_records(Tape(stream, newline=""), heading, url=file.url):
            fault = record.fault or missing_fields(record, heading)
            if fault:
                faults[len(rows)] = f"line {record.line}: {fault}"
            rows.append(dict(zip(heading.names, record.fields, strict=False)))
            _check_rows(Path(file.url).name, len(rows), is_exact=False)
    note = " ".join(reading_notes(file.url, file.remark, heading.remark))
    return RowFile(file.url, heading.names, rows, faults, heading.delimiter, note)


def _read_json(file: TextFile, kind: Kind) -> RowFile:
    columns: dict[str, None] = {}
    rows: list[dict[str, Any]] = []
    faults: dict[int, str] = {}
    for record in json_records(file, kind, most_bytes=MOST_BYTES):
        row = record.row
        if isinstance(row, str):
            faults[len(rows)] = f"line {record.line}: {row}"
            row = {}
        columns |= dict.fromkeys(row)
        rows.append(row)
        _check_rows(Path(file.url).name, len(rows), is_exact=False)
    return RowFile(file.url, tuple(columns), rows, faults, note=" ".join(reading_notes(file.url, file.remark)))


def _read_parquet(path: Path) -> RowFile:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path) as file:
            _check_rows(path.name, file.metadata.num_rows, is_exact=True)
            names = file.schema_arrow.names
            if len(set(names)) < len(names):
                raise FileProblem(f"{path.name} has two columns of the same name; rename one.")
            batches: list[pa.RecordBatch] = []
            left = MOST_BYTES
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                left -= batch.nbytes
                if left < 0:
                    raise _too_large(path.name)
                batches.append(batch)
            table = pa.Table.from_batches(batches, schema=file.schema_arrow)
    except (pa.ArrowException, OSError):
        raise FileProblem(f"{path.name} is not a Parquet file that can be read.") from None
    return RowFile(path.name, tuple(names), table)


def write_rows(file: RowFile, path: Path, *, added: Sequence[dict[str, Any]]) -> None:
    """Write the file again in the same format, with added columns. `added` has an entry for each row."""
    names = list(added[0]) if added else []
    # A column of the file with the same name keeps it.
    renamed = {name: next(new for new in (name, f"manta_{name}", f"manta_{name}_") if new not in file.columns) for name in names}
    if not isinstance(file.rows, list):
        _write_parquet(file.rows, path, added={renamed[name]: [extra[name] for extra in added] for name in names})
        return
    rows = [row | {renamed[name]: value for name, value in extra.items()} for row, extra in zip(file.rows, added, strict=True)]
    if file.kind in (".csv", ".tsv"):
        with path.open("w", encoding="utf-8", newline="") as target:
            columns = [*file.columns, *renamed.values()]
            writer = csv_writer(target, delimiter=file.delimiter)
            writer.writerow(columns)
            writer.writerows([row.get(column, "") for column in columns] for row in rows)
    elif file.kind == ".json":
        path.write_bytes(b"[\n" + b",\n".join(json_line(row).rstrip(b"\n") for row in rows) + b"\n]\n")
    else:
        path.write_bytes(b"".join(map(json_line, rows)))


def _write_parquet(table: pa.Table, path: Path, *, added: dict[str, list[Any]]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for name, values in added.items():
        column = pa.array(values)
        table = table.append_column(name, column.cast(pa.string()) if pa.types.is_null(column.type) else column)
    pq.write_table(table, path)
