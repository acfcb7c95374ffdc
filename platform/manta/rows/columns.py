"""Columns and fields by their names, which may have blanks around them, or be a dotted path into objects."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any

from manta.config import nearest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

MISSING = object()
"""The value of a field that an object does not have."""


def position_of(name: str, names: Sequence[str]) -> int | None:
    """Return the position of a column: the one of this name, or the only one of this name but for blanks and invisible signs."""
    if name in names:
        return names.index(name)
    alike = [position for position, known in enumerate(names) if _plain(known) == _plain(name)]
    return alike[0] if len(alike) == 1 else None


def field_of(record: Mapping[str, Any], name: str) -> Any:
    """Return a field of an object: `body`, or `data.body` for one of an inner object, which may be null as a whole.

    `MISSING` if there is none.
    """
    if name in record:
        return record[name]
    value: Any = record
    for part in name.split("."):
        if value is None:
            return None
        place = position_of(part, keys) if isinstance(value, dict) and (keys := list(value)) else None
        if place is None:
            return MISSING
        value = value[keys[place]]
    return value


def paths_of(record: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the names of an object's fields, those of inner objects as dotted paths."""
    for name, value in record.items():
        if isinstance(value, dict) and value:
            yield from paths_of(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def hint(name: str, names: Iterable[str]) -> str:
    """Return the hint after an unknown column: the closest name, or all of them."""
    return nearest(name, list(names))


def twice_named(names: Sequence[str]) -> str | None:
    """Return the first name that two columns have, but for blanks and invisible signs; None if each has its own."""
    seen: set[str] = set()
    for name in map(_plain, names):
        if name in seen:
            return name
        seen.add(name)
    return None


def _plain(name: str) -> str:
    """Return a name without blanks around it and without invisible signs, such as a second byte-order mark."""
    if name.isascii():
        return name.strip()
    return "".join(sign for sign in name if unicodedata.category(sign) != "Cf").strip()
