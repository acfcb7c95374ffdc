"""The form of the tab Jobs: the most used settings with their explanations, generated from the config's schema.

The experiment's YAML is what counts. A value entered in a field is written into the YAML, and the fields follow the YAML.
"""

from __future__ import annotations

import copy
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

import yaml
from pydantic import BaseModel

from manta.config import ExperimentConfig, section_type
from manta.config.file import parse_document
from manta.config.yaml_text import read_yaml
from manta.errors import InputError

SOURCE = "experiment"
"""Name of the YAML in messages."""
MOST_CHARACTERS = 100_000
"""The longest experiment. Everyone who sees the page can type one, and reading this much takes about a second."""
GROUPS: dict[str, dict[str, str]] = {
    "Data": {
        "name": "Name of the run",
        "data.train": "Training rows",
        "data.text": "Column of the text",
        "data.label": "Column of the label",
        "data.validation": "Validation rows",
        "data.test": "Test rows",
    },
    "Model": {
        "model.pretrained": "Encoder",
        "model.task": "Kind of labels",
        "model.dropout": "Dropout",
        "model.max_length": "Longest text, in tokens",
    },
    "Training": {
        "train.learning_rate": "Learning rate",
        "train.num_epochs": "Epochs",
        "train.batch_size": "Batch size",
        "train.num_workers": "Workers",
        "train.metric": "Metric that decides",
        "train.early_stopping": "Epochs without progress before it stops",
        "train.zero_stage": "ZeRO stage",
        "train.use_gpu": "Train on GPUs",
    },
    "Search": {
        "tune.budget.num_trials": "Trials",
        "tune.budget.wall_clock_s": "Longest time, in seconds",
        "tune.search": "Settings to search",
        "tune.scheduler": "Which trials stop early",
    },
    "Registry": {
        "registry.promote": "Make it the champion if it is better",
        "registry.target_precision": "Share of sure answers that shall be right",
        "storage": "Storage folder",
    },
}
"""The settings of the form by group, each with the name that it has there."""
Kind = Literal["choice", "switch", "text"]


@dataclass(frozen=True)
class FormField:
    """One setting of the form."""

    name: str
    """Dotted name, as in the config."""
    explanation: str
    default: str
    """As YAML; empty if the setting is required or has no default."""
    kind: Kind
    choices: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """The field's name for people, and a note if it is required."""
        words = next(names[self.name] for names in GROUPS.values() if self.name in names)
        return f"{words} (required)" if self.name in {"name", "data.train"} else words


def form_field(name: str) -> FormField:
    """Return the field of a setting, from the schema."""
    section: type[BaseModel] = ExperimentConfig
    *outer, leaf = name.split(".")
    for part in outer:
        section = section_type(section.model_fields[part].annotation) or section
    field = section.model_fields[leaf]
    explanation = " ".join((field.description or "").split())
    default = "" if field.is_required() or field.default is None else _as_yaml(field.default)
    if field.annotation is bool:
        return FormField(name, explanation, default, "switch")
    choices = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
    return FormField(name, explanation, default, "choice" if choices else "text", tuple(map(str, choices)))


def document_of(text: str) -> dict[str, Any]:
    """Return an experiment's YAML as plain data.

    Raises:
        InputError: it is too long, or cannot be read.
    """
    if len(text) > MOST_CHARACTERS:
        raise InputError(f"{SOURCE}: {len(text):,} characters are too many; the page reads {MOST_CHARACTERS:,} at most.")
    return parse_document(text, source=SOURCE)


def readable(text: str) -> dict[str, Any]:
    """Return an experiment's YAML as plain data; empty if it cannot be read."""
    with suppress(InputError):
        return document_of(text)
    return {}


def value_of(document: dict[str, Any], field: FormField) -> str | bool:
    """Return a field's value in the YAML; empty if the YAML leaves it to the default. A switch then shows its default."""
    value = _at(document, field.name)
    if field.kind == "switch":
        return bool(read_yaml(field.default, source=field.name) if value is None else value)
    return "" if value is None else _as_yaml(value)


def with_value(text: str, field: FormField, value: str | bool | None) -> str:
    """Return the YAML with a field's value written into it. An empty value, or the default, removes the setting.

    Raises:
        InputError: the YAML, or the value, cannot be read.
    """
    document = document_of(text) if text.strip() else {}
    document = copy.deepcopy(document)
    words = _as_yaml(value) if isinstance(value, bool) else (value or "").strip()
    *outer, leaf = field.name.split(".")
    section = document
    for part in outer:
        inner = section.setdefault(part, {})
        if inner is None:
            inner = section[part] = {}
        if not isinstance(inner, dict):
            raise InputError(f"{SOURCE}: {part} is a value, not a section.")
        section = inner
    if not words or words == field.default:
        section.pop(leaf, None)
    else:
        section[leaf] = _read(words, field)
    return yaml.safe_dump(_without_empty(document), sort_keys=False, allow_unicode=True) if document else ""


def _read(words: str, field: FormField) -> Any:
    """Return a typed value as YAML reads it: 3 is a number, [a, b] a list."""
    if field.kind == "choice":
        return read_yaml(words, source=field.name) if words.isdecimal() else words
    if field.name == "name":
        return words
    return read_yaml(words, source=field.name)


def _at(document: dict[str, Any], name: str) -> Any:
    value: Any = document
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return value


def _without_empty(section: dict[str, Any]) -> dict[str, Any]:
    """Return the section without empty subsections."""
    kept = {key: _without_empty(value) if isinstance(value, dict) else value for key, value in section.items()}
    return {key: value for key, value in kept.items() if value != {}}


def _as_yaml(value: Any) -> str:
    if isinstance(value, str):
        return value
    text = yaml.safe_dump(
        list(value) if isinstance(value, tuple) else value, default_flow_style=True, allow_unicode=True, width=10_000
    )
    return text.removesuffix("...\n").strip()
