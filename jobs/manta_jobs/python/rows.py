"""Conversion of rows in memory to Arrow tables, from pandas, Polars, Arrow, `datasets` and lists of dicts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

from manta.errors import InputError
from manta.rows.columns import hint
from manta.rows.parquet import column_at, path_of, text_values
from manta.texts import text_fault

if TYPE_CHECKING:
    import datasets
    import pyarrow as pa

    from manta.texts import Text

Columns = str | int | Sequence[str | int]
"""A column by its name (or its position, from 0), or the two of a text pair."""
ACCEPTED = "a pandas or Polars DataFrame, an Arrow table, a Dataset of the library datasets, a list of dicts, or the path of a file"


class ArrowTable(Protocol):
    """A table that gives its columns to Arrow: `pyarrow.Table`, or a DataFrame of pandas or Polars."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return the rows as Arrow's stream (https://arrow.apache.org/docs/format/CDataInterface/PyCapsuleInterface.html)."""


if TYPE_CHECKING:
    Rows: TypeAlias = ArrowTable | datasets.Dataset | Sequence[Mapping[str, Any]]
    """Rows in memory, each with its columns by name."""


def listed(columns: Columns) -> list[str | int]:
    """Return one column, or the two of a text pair, as a list."""
    return [columns] if isinstance(columns, str | int) else list(columns)


def is_table(rows: Any) -> bool:
    """Tell whether rows have columns with names, unlike a plain sequence of texts."""
    return hasattr(rows, "columns") or hasattr(rows, "column_names") or _are_dicts(rows)


def as_table(rows: Any, *, columns: Sequence[str | int], what: str) -> pa.Table:
    """Return the rows' `columns` as an Arrow table. A message calls the rows `what`.

    Raises:
        InputError: they are no rows, lack a column, or a column holds values of several types.
    """
    import pyarrow as pa

    if isinstance(rows, Sequence) and not rows:
        raise InputError(f"{what}: there are none.")
    if not is_table(rows):
        raise InputError(f"{what}: cannot be read from a value of type {type(rows).__name__}; give {ACCEPTED}.")
    names = _names(rows)
    kept = [names[place] for place in _places(columns, names, what=what)]
    try:
        if _are_dicts(rows):
            return pa.table({name: [row.get(name) for row in rows] for name in kept})
        if hasattr(rows, "set_format"):  # of the library datasets; its own table has rows that a selection leaves out
            return rows.select_columns(kept).with_format("arrow")[:]
        if isinstance(rows, pa.Table):
            return rows.select(kept)
        return pa.table(rows[[name for name in rows.columns if str(name) in kept]]).select(kept)  # without a DataFrame's index
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"{what}: a column cannot be read ({error}); give all its values one type, such as str.") from None


def texts_of(texts: Any, *, columns: Sequence[str | int], num_texts: int) -> list[Text]:
    """Return a sequence of texts, or of pairs, as a list. Of a table, these are its text `columns`.

    Raises:
        InputError: there is a single text instead of a list, a column is missing, or a text is missing or empty.
    """
    if isinstance(texts, str):
        raise InputError("predict reads several texts; put a single one into a list: model.predict([text]).")
    if is_table(texts):
        table = as_table(texts, columns=columns, what="the rows to predict")
        paths = [path_of(name, table.schema) if isinstance(name, str) else (name,) for name in columns]
        values = [text_values(column_at(table, path or ())) for path in paths]
        found = values[0] if num_texts == 1 else list(zip(*values, strict=True))
    else:
        plain = texts.to_pylist() if hasattr(texts, "to_pylist") else texts  # a column of an Arrow table, or any other sequence
        found = [tuple(text) if isinstance(text, list) else text for text in plain]
    for number, text in enumerate(found, start=1):
        for part in text if isinstance(text, tuple) else (text,):
            if fault := text_fault(part):
                raise InputError(f"text {number} of {len(found)} {fault}.")
    return found


def _are_dicts(rows: Any) -> bool:
    return isinstance(rows, Sequence) and not isinstance(rows, str) and bool(rows) and isinstance(rows[0], Mapping)


def _names(rows: Any) -> list[str]:
    if _are_dicts(rows):
        return list(dict.fromkeys(str(name) for row in rows for name in row))
    names = rows.column_names if hasattr(rows, "column_names") else rows.columns
    return [str(name) for name in names]


def _places(columns: Sequence[str | int], names: list[str], *, what: str) -> list[int]:
    """Return the positions of the columns to keep: all of them if a column is given by its position."""
    if any(isinstance(column, int) for column in columns):
        return list(range(len(names)))
    kept: dict[int, None] = {}
    for column in map(str, columns):
        heads = {column.strip(), column.partition(".")[0].strip()}
        found = [place for place, name in enumerate(names) if name.strip() in heads]
        if not found:
            raise InputError(f"{what}: no column {column!r}; {hint(column, names)}")
        kept |= dict.fromkeys(found)
    return list(kept)
