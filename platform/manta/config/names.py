"""Settings by their dotted names, such as `train.learning_rate`."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any, get_args

from manta.config.sections.section import Section

if TYPE_CHECKING:
    from pydantic import BaseModel

MOST_NAMES = 50
LONGEST_NAME = 80
"""Names and characters of a name that a hint has at most."""


def field_names(section: type[BaseModel], prefix: str = "") -> list[str]:
    """Return every setting's dotted name, in the order of the YAML."""
    names: list[str] = []
    for name, field in section.model_fields.items():
        inner = section_type(field.annotation)
        if inner is None or inner is not field.annotation:
            names.append(prefix + name)
        if inner is not None:
            names += field_names(inner, f"{prefix}{name}.")
    return names


def section_type(annotation: Any) -> type[Section] | None:
    """Return the section of a field's type, also if the section is optional; None if the type holds no section."""
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, Section):
            return kind
    return None


def set_by_name(document: dict[str, Any], name: str, value: Any, *, section: type[BaseModel]) -> None:
    """Set one field of a config document in place, by its dotted name. `section` is the config's class.

    Raises:
        ValueError: there is no such setting; the message names the nearest ones.
    """
    names = field_names(section)
    if name not in names and not name.startswith("tune.space"):
        raise ValueError(f"{name} is not a setting; {nearest(name, names)}")
    head, *rest = name.split(".", 2 if name.startswith("tune.space.") else -1)
    target = document
    for part in rest:
        inner = target.setdefault(head, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{name}: {head} is a value, not a section")
        target, head = inner, part
    target[head] = copy.deepcopy(value)


def nearest(name: str, allowed: list[str]) -> str:
    """Return the hint after an unknown name: the closest allowed name, or all of them."""
    import difflib

    leaf = name.rsplit(".", 1)[-1]
    close = [full for full in allowed if full.rsplit(".", 1)[-1] == leaf] or difflib.get_close_matches(name, allowed, n=1)
    if close:
        return f"did you mean {_shown(close[0])}?"
    more = f" and {len(allowed) - MOST_NAMES:,} more" if len(allowed) > MOST_NAMES else ""
    return f"known ones are {', '.join(map(_shown, allowed[:MOST_NAMES]))}{more}" if allowed else "there are none"


def _shown(name: str) -> str:
    """Return a name for a sentence: quoted if one would not see all of it, and cut if it is long."""
    short = name if len(name) <= LONGEST_NAME else f"{name[:LONGEST_NAME]}…"
    return short if short.isprintable() and short == short.strip() else repr(short)
