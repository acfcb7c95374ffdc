"""Rules of `data.labels`, the new names of labels, which hold for names as they are written and as they are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

NewNames = dict[str, str | None]
"""New names of labels by old name; None leaves their rows out."""


def fault_of(names: NewNames, key: Callable[[str], str] = str) -> str | None:
    """Return why new names cannot be applied, as a sentence; None if they can. Names with the same key are one label."""
    new_names: dict[str, tuple[str, str | None]] = {}
    for old, new in names.items():
        if new is not None and not new.strip():
            return f"data.labels gives {old!r} an empty name; null leaves the rows of a label out"
        first, before = new_names.setdefault(key(old), (old, new))
        if before != new:
            return f"data.labels has {first!r} and {old!r}, which are one label; remove one of them"
    for old, new in names.items():
        _, then = new_names.get(key(new or ""), (new, new))
        if new is not None and then != new:
            done = f"renames {new!r} to {then!r}" if then is not None else f"leaves {new!r} out"
            return (
                f"data.labels renames {old!r} to {new!r} and {done}; rows may already have their new names, so no new name can be "
                "an old one, too: choose another"
            )
    return None
