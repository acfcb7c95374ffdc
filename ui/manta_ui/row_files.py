"""Uploaded files of rows, and the same files with the answers in added columns: CSV, TSV, JSONL and Parquet."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta_ui.client import Text

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".parquet")
DELIMITERS = {".csv": ",", ".tsv": "\t"}
MOST_ROWS = 50_000
LONGEST_FIELD = 1_000_000
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
    rows: list[dict[str, Any]]

    @property
    def kind(self) -> str:
        """Its suffix, such as `.csv`."""
        return Path(self.name).suffix.lower()

    def texts(self, *columns: str) -> list[Text]:
        """Return the values of one column, or of the two of a pair. A missing value becomes an empty string."""
        return [tuple("" if row.get(column) is None else str(row[column]) for column in columns) for row in self.rows]

    def likely_columns(self, count: int) -> list[str]:
        """Return the columns that most likely hold the texts."""
        named = [name for known in TEXT_NAMES for name in self.columns if name.lower() == known]
        return [*named, *(name for name in self.columns if name not in named)][:count]


def read_rows(path: Path) -> RowFile:
    """Read the rows of an uploaded file.

    Raises:
        FileProblem: the file is of another kind, empty, too large, or not what its name says; the message names the line.
    """
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise FileProblem(f"{path.name} is none of {', '.join(KINDS)}; save it as one of them.")
    columns, rows = _read_parquet(path) if kind == ".parquet" else _read_text(path, kind)
    if not rows:
        raise FileProblem(f"{path.name} has no rows.")
    if len(rows) > MOST_ROWS:
        raise FileProblem(f"{path.name} has {len(rows):,} rows; up to {MOST_ROWS:,} can be classified here, more by manta predict.")
    return RowFile(path.name, columns, rows)


def write_rows(file: RowFile, path: Path, *, added: Sequence[dict[str, Any]]) -> None:
    """Write the file again in the same format, with added columns. `added` has an entry for each row."""
    names = list(added[0]) if added else []
    # A column of the file with the same name keeps it.
    renamed = {name: next(new for new in (name, f"manta_{name}", f"manta_{name}_") if new not in file.columns) for name in names}
    rows = [row | {renamed[name]: value for name, value in extra.items()} for row, extra in zip(file.rows, added, strict=True)]
    columns = [*file.columns, *renamed.values()]
    if file.kind in DELIMITERS:
        with path.open("w", encoding="utf-8", newline="") as target:
            writer = csv.DictWriter(target, columns, delimiter=DELIMITERS[file.kind], lineterminator="\n", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(rows)
    elif file.kind == ".parquet":
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.Table.from_pylist(rows).select(columns), path)
    else:
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


def _read_text(path: Path, kind: str) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise FileProblem(f"{path.name}, line {line}: not UTF-8; save the file as UTF-8.") from None
    return _read_delimited(path.name, text, DELIMITERS[kind]) if kind in DELIMITERS else _read_json_lines(path.name, text)


def _read_delimited(name: str, text: str, delimiter: str) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    csv.field_size_limit(LONGEST_FIELD)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows: list[dict[str, Any]] = []
    try:
        header = next(reader, [])
        if len(set(header)) < len(header) or not all(cell.strip() for cell in header):
            raise FileProblem(f"{name}, line 1: every column needs a name of its own; this line has {', '.join(header)!r}.")
        for fields in reader:
            if not fields:
                continue
            if len(fields) != len(header):
                raise FileProblem(
                    f"{name}, line {reader.line_num}: the first line names {len(header)} columns, this one has {len(fields)}."
                )
            rows.append(dict(zip(header, fields, strict=True)))
    except csv.Error as error:
        raise FileProblem(f"{name}, line {reader.line_num}: not valid CSV ({error}).") from None
    return tuple(header), rows


def _read_json_lines(name: str, text: str) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    columns: dict[str, None] = {}
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError:
            raise FileProblem(f"{name}, line {number}: not valid JSON; each line needs one object.") from None
        if not isinstance(row, dict):
            raise FileProblem(f"{name}, line {number}: not an object with named fields.")
        columns |= dict.fromkeys(row)
        rows.append(row)
    return tuple(columns), rows


def _read_parquet(path: Path) -> tuple[tuple[str, ...], list[dict[str, Any]]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(path)
    except (pa.ArrowException, OSError):
        raise FileProblem(f"{path.name} is not a Parquet file that can be read.") from None
    return tuple(table.column_names), table.to_pylist()
