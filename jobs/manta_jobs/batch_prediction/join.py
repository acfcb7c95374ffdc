"""OUT, joined from the finished chunks in their order: one CSV, JSONL or Parquet file, or a folder of such files."""

from __future__ import annotations

import base64
import json
import math
import shutil
from datetime import date, time
from typing import TYPE_CHECKING, Any, Literal

from manta.rows.delimited import csv_writer
from manta.rows.json_rows import json_line
from manta.rows.parquet import text_values
from manta_jobs.batch_prediction.json_table import JsonTables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    import pyarrow as pa

    from manta_jobs.batch_prediction.partial import PartialOutput

OutKind = Literal["csv", "jsonl", "parquet"]
GROUP_CHUNKS = 32
"""Chunks in a Parquet row group, and in each file of a folder."""
LABEL_SEPARATOR = "|"


def join(partial: PartialOutput, kind: OutKind, *, as_folder: bool) -> Path:
    """Write the content of OUT inside the partial folder, and return its path. Memory use does not grow with the number of rows.

    Raises:
        OSError: it cannot be written, for example because the disk is full.
    """
    parts = [partial.part(chunk.number) for chunk in partial.plan.chunks]
    write = _writer(partial, kind, parts)
    if not as_folder:
        target = partial.path / f"joined.{kind}"
        write(parts, target)
        return target
    folder = partial.path / "joined"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for number, group in enumerate(_groups(parts)):
        write(group, folder / f"part-{number:05d}.{kind}")
    return folder


def _writer(partial: PartialOutput, kind: OutKind, parts: Sequence[Path]) -> Callable[[Sequence[Path], Path], None]:
    """Return a function that writes some of the parts to a file. All its files have the same columns and types."""
    source = partial.plan.source
    is_json = source.is_json
    rows: Callable[[Path], list[dict[str, Any]]] = _json_rows if is_json else _arrow_rows
    if kind == "csv":
        lists = [source.added_columns[name] for name in source.list_columns]
        columns = [*source.columns, *source.added_columns.values()]
        return lambda some, target: _write_csv(_rows(some, rows), target, columns=columns, label_lists=lists)
    if kind == "jsonl":
        return _copy if is_json else lambda some, target: _write_jsonl(_rows(some, rows), target)
    if is_json:
        tables = JsonTables(parts, columns=[*source.columns, *source.added_columns.values()], read=_json_rows)
        return lambda some, target: _write_parquet(map(tables.table, some), target, schema=tables.schema)
    schema = _arrow_table(parts[0]).schema
    return lambda some, target: _write_parquet(map(_arrow_table, some), target, schema=schema)


def _groups(parts: Sequence[Path]) -> Iterator[Sequence[Path]]:
    for start in range(0, len(parts), GROUP_CHUNKS):
        yield parts[start : start + GROUP_CHUNKS]


def _rows(parts: Iterable[Path], read: Callable[[Path], list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    for part in parts:
        yield from read(part)


def _arrow_table(part: Path) -> pa.Table:
    import pyarrow as pa

    with pa.OSFile(str(part)) as file, pa.ipc.open_stream(file) as reader:
        return reader.read_all()


def _arrow_rows(part: Path) -> list[dict[str, Any]]:
    table = _arrow_table(part)
    columns = [_values(column) for column in table.columns]
    return [dict(zip(table.column_names, row, strict=True)) for row in zip(*columns, strict=True)]


def _values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column. Of texts, bytes that are not UTF-8 become lone surrogates."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return text_values(column)


def _json_rows(part: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in part.read_bytes().splitlines()]


def _copy(parts: Sequence[Path], target: Path) -> None:
    with target.open("wb") as file:
        for part in parts:
            file.write(part.read_bytes())


def _write_jsonl(rows: Iterable[dict[str, Any]], target: Path) -> None:
    with target.open("wb") as file:
        file.writelines(json_line({name: _plain(value) for name, value in row.items()}) for row in rows)


def _write_csv(rows: Iterable[dict[str, Any]], target: Path, *, columns: Sequence[str], label_lists: Sequence[str]) -> None:
    with target.open("w", encoding="utf-8", errors="replace", newline="") as file:
        writer = csv_writer(file)
        writer.writerow(columns)
        for row in rows:
            for name in label_lists:
                if row.get(name) is not None:
                    row[name] = LABEL_SEPARATOR.join(row[name])
            writer.writerow([csv_cell(row.get(name)) for name in columns])


def _write_parquet(tables: Iterable[pa.Table], target: Path, *, schema: pa.Schema) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with pq.ParquetWriter(target, schema) as writer:
        group: list[pa.Table] = []
        for table in tables:
            group.append(table)
            if len(group) == GROUP_CHUNKS:
                writer.write_table(pa.concat_tables(group))
                group = []
        if group:
            writer.write_table(pa.concat_tables(group))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: binary as base64, NaN and infinity as null, and types that JSON lacks as text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    return value.isoformat() if isinstance(value, date | time) else str(value)


def csv_cell(value: Any) -> str:
    """Return a value as a CSV field: empty for null, JSON for lists and structures."""
    if isinstance(value, float):
        return repr(value)
    plain = _plain(value)
    if plain is None:
        return ""
    return plain if isinstance(plain, str) else json.dumps(plain, ensure_ascii=False)
