"""JSON rows as tables of one schema. A column has a type if all its values agree on one; otherwise it is JSON text."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pyarrow as pa


class JsonTables:
    """Tables of parts that hold JSON rows. All parts are read once to find the types; none is guessed from the first part."""

    def __init__(self, parts: Sequence[Path], *, columns: Sequence[str], read: Callable[[Path], list[dict[str, Any]]]) -> None:
        import pyarrow as pa

        self._read = read
        types: dict[str, pa.DataType | None] = dict.fromkeys(columns, pa.null())
        for part in parts:
            rows = read(part)
            for name, known in types.items():
                if known is not None:
                    types[name] = _common(known, [row.get(name) for row in rows])
        self._is_text = {name for name, found in types.items() if found is None}
        self.schema: pa.Schema = pa.schema([(name, found or pa.string()) for name, found in types.items()])

    def table(self, part: Path) -> pa.Table:
        """Return the rows of one part."""
        import pyarrow as pa

        rows = self._read(part)
        columns = []
        for name, kind in zip(self.schema.names, self.schema.types, strict=True):
            values = [row.get(name) for row in rows]
            if name in self._is_text:
                values = [None if value is None else json.dumps(value) for value in values]
            elif pa.types.is_floating(kind):  # Arrow converts no integer beyond 2^53 to a float
                values = [None if value is None else float(value) for value in values]
            columns.append(pa.array(values, kind))
        return pa.table(columns, schema=self.schema)


def _common(known: pa.DataType, values: list[Any]) -> pa.DataType | None:
    """Return a type that holds the values and all that `known` holds; None if there is none or Parquet cannot store it."""
    import pyarrow as pa

    try:
        found = pa.array(values).type
        if pa.types.is_null(known) or pa.types.is_null(found) or known == found:
            common = found if pa.types.is_null(known) else known
        elif pa.types.is_nested(known) or pa.types.is_nested(found):
            return None
        else:
            schemas = [pa.schema([("column", kind)]) for kind in (known, found)]
            common = pa.unify_schemas(schemas, promote_options="permissive").field(0).type
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        return None
    return common if _is_writable(common) else None


def _is_writable(kind: pa.DataType) -> bool:
    """Tell whether Parquet can store the type: it has no structures without fields."""
    import pyarrow as pa

    if pa.types.is_struct(kind):
        return kind.num_fields > 0 and all(_is_writable(field.type) for field in kind)
    return _is_writable(kind.value_type) if pa.types.is_list(kind) else True
