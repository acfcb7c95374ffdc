"""Columns of Arrow tables by name, also those inside structures, and the names of Hugging Face's class labels."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from manta.rows.columns import position_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import pyarrow as pa

Path = tuple[int, ...]
"""Positions that lead to a column: that of a top-level column, and those of the fields inside structures."""


def path_of(name: str, schema: pa.Schema) -> Path | None:
    """Return the path of a column (`body`, or `data.body` inside a structure); None if there is none."""
    import pyarrow as pa

    whole = position_of(name, schema.names)
    if whole is not None:
        return (whole,)
    found: list[int] = []
    fields: Any = list(schema)
    for part in name.split("."):
        place = position_of(part, [field.name for field in fields])
        if place is None:
            return None
        found.append(place)
        inner = fields[place].type
        fields = [inner.field(index) for index in range(inner.num_fields)] if pa.types.is_struct(inner) else []
    return tuple(found)


def paths_in(fields: Sequence[pa.Field] | pa.Schema, prefix: str = "") -> Iterator[str]:
    """Yield the names of all columns, those inside structures as dotted paths."""
    import pyarrow as pa

    for field in fields:
        if pa.types.is_struct(field.type) and field.type.num_fields:
            yield from paths_in([field.type.field(index) for index in range(field.type.num_fields)], f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def column_at(table: pa.Table, path: Path) -> pa.ChunkedArray:
    """Return the column at a path."""
    import pyarrow.compute as pc

    column = table.column(path[0])
    return pc.struct_field(column, list(path[1:])) if len(path) > 1 else column


def type_at(schema: pa.Schema, path: Path) -> pa.DataType:
    """Return the type of the column at a path."""
    kind = schema.field(path[0]).type
    for index in path[1:]:
        kind = kind.field(index).type
    return kind


def text_values(column: pa.ChunkedArray) -> list[Any]:
    """Return the values of a column as texts. Bytes that are not UTF-8 become lone surrogates: only their rows are at fault.

    Rows with the same value of a dictionary share one text.
    """
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        found: list[Any] = []
        for chunk in column.chunks:
            words = text_values(pa.chunked_array([chunk.dictionary]))
            found += [None if index is None else words[index] for index in chunk.indices.to_pylist()]
        return found
    try:
        return list(column.cast(pa.large_string()).to_pylist())
    except UnicodeDecodeError:
        encoded = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in encoded]
    except pa.ArrowException:  # such as a list or a map
        return list(column.to_pylist())


def class_feature(schema: pa.Schema, path: Path) -> Any:
    """Return the description of a column that the library `datasets` wrote to a Parquet file; None if there is none."""
    try:
        feature: Any = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        fields: Any = schema
        for place in path:
            field = fields.field(place)
            feature, fields = feature[field.name], field.type
    except (KeyError, TypeError, ValueError):
        return None
    return feature


def named_labels(values: list[Any], feature: Any) -> list[Any]:
    """Return class labels by name where `feature`, as `datasets` describes a column, has names. -1 counts as missing."""
    if isinstance(feature, list) and feature:
        feature = {"feature": feature[0]}
    if not isinstance(feature, dict):
        return values
    names = feature.get("names")
    if feature.get("_type") == "ClassLabel" and names:
        known = range(len(names))
        return [names[value] if value in known else None if value is None or value == -1 else value for value in values]
    if "feature" not in feature:
        return values
    return [None if value is None else named_labels(value, feature["feature"]) for value in values]


def first_unnamed(values: list[Any], feature: Any) -> tuple[int, Any] | None:
    """Return the first of some labels, after `named_labels`, whose number has no name, with its index; None if each has one."""
    inner = feature.get("feature") if isinstance(feature, dict) else feature[0] if isinstance(feature, list) and feature else None
    if not (isinstance(feature, dict) and feature.get("_type") == "ClassLabel" and feature.get("names")):
        rows = (
            (index, first_unnamed(row, inner)) for index, row in enumerate(values) if inner is not None and isinstance(row, list)
        )
        return next(((index, found[1]) for index, found in rows if found), None)
    return next(((index, value) for index, value in enumerate(values) if isinstance(value, int)), None)
