"""`YamlModel`, the base of all settings that people write in YAML: no value counts as something else than they meant.

YAML reads `yes` and `on` as true, and 2024-01-31 as a date. Python then takes true for the number 1.
"""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError, ValidationInfo, field_validator


class YamlModel(BaseModel):
    """Frozen settings without unknown keys. Their values have the type that the field names."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True)

    @field_validator("*", mode="before")
    @classmethod
    def _as_meant(cls, value: Any, info: ValidationInfo) -> Any:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = _kinds(annotation)
        holds_more = any(isinstance(kind, type) and issubclass(kind, BaseModel) for kind in kinds)
        fault = _fault(value, kinds) if not holds_more else _fault_of_names(value) if has_names(annotation) else None
        if Any not in kinds and fault:
            raise ValueError(fault)
        return value


def read_as(value: Any) -> str | None:
    """Return what YAML takes an unquoted word for, such as `the date 2024-01-31`; None for text and collections."""
    match value:
        case bool():
            return "true (yes and on, too)" if value else "false (no and off, too)"
        case int() | float():
            return f"the number {value}"
        case dt.date():  # a datetime, too
            return f"the date {value}"
        case _:
            return None


def faults(error: ValidationError) -> dict[str, str]:
    """Return what is wrong with each wrong setting of a small file, by its dotted name."""
    return {".".join(map(str, item["loc"])): item["msg"].removeprefix("Value error, ") for item in error.errors()}


def _fault(value: Any, kinds: set[Any]) -> str | None:
    """Return what is wrong with a value, or with what it holds, if YAML read it as a type that does not fit."""
    if fault := _fault_of_names(value):
        return fault
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list | tuple):
        return next((fault for item in value if (fault := _fault(item, kinds))), None)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if (bool in kinds and isinstance(value, bool | int)) or (is_number and kinds & {int, float}):
        return None
    advice = "quote it" if str in kinds else "give a number" if kinds & {int, float} else None
    said = read_as(value)
    return f"YAML reads the value as {said}; {advice}" if said and advice else None


def _fault_of_names(value: Any) -> str | None:
    """Return what is wrong with the names of a mapping, if YAML read one as another type than text."""
    wrong = next((key for key in value if not isinstance(key, str)), None) if isinstance(value, dict) else None
    return None if wrong is None else f"YAML reads the name {wrong} as {read_as(wrong) or 'nothing'}; quote it"


def has_names(annotation: Any) -> bool:
    """Tell whether a field takes values by names that people choose."""
    return get_origin(annotation) is dict or any(get_origin(part) is dict for part in get_args(annotation))


def _kinds(annotation: Any) -> set[Any]:
    """Return the types of the values that an annotation names at any depth. Words of a literal are not free text."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {type(value) for value in inner} - {str}
    if origin is Annotated or origin is dict:
        inner = inner[:1] if origin is Annotated else inner[1:]
    return {kind for part in inner if part is not Ellipsis for kind in _kinds(part)} if inner else {annotation}
