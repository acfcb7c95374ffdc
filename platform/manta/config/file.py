"""Reading of an `ExperimentConfig` from a YAML file and `--set` pairs, with errors that say what to do."""

from __future__ import annotations

import re
from itertools import islice
from pathlib import Path
from reprlib import Repr
from typing import TYPE_CHECKING, Any, get_args, get_origin

import yaml
from pydantic import BaseModel, ValidationError

from manta.config import ExperimentConfig, field_names, nearest, section_type, set_by_name
from manta.config.experiment import ONE_SLASH
from manta.config.yaml_model import has_names, read_as
from manta.config.yaml_text import nearest_place, places_in, read_yaml
from manta.errors import InputError

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

DATA_FILES = ("train", "validation", "test", "feedback", "corrections", "behaviour")
"""The settings of `data` that name files."""
MOST_TOLD = 20
"""Wrong settings that are told of at once."""
PROBLEMS = {
    "model_type": "expected settings of its own, each on a line below it",
    "dict_type": "expected names with their values, such as {name: value}",
    "tuple_type": "expected a list, such as [a, b]",
    "string_type": "expected a text",
    "string_pattern_mismatch": "it has a character that is not allowed, or not at its start",
}
"""Sentences about wrong values by the type of pydantic's error, in place of those that speak of Python."""
DECIMAL_COMMA = re.compile(r"[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?")
_short = Repr()
_short.maxstring = _short.maxother = 200


def load_config(path: Path, *, overrides: list[str] | None = None) -> ExperimentConfig:
    """Read one YAML file, apply `--set name=value` pairs and check the result.

    Relative data and model paths in the file start at the file's folder, those in `overrides` at the working folder.

    Raises:
        InputError: the file is missing or not YAML, or a setting is unknown or wrong; the message names it and its line.
    """
    text = read_text(path)
    document = parse_document(text, source=str(path))
    anchor_paths(document, path.resolve().parent)
    return build_config(document, source=str(path), text=text, overrides=overrides)


def read_text(path: Path, *, what: str = "config file") -> str:
    """Return the text of a YAML file. Messages call the file `what`.

    Raises:
        InputError: the file is missing or unreadable.
    """
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such {what}; check the path.") from None
    except UnicodeDecodeError as error:
        line, byte = error.object.count(b"\n", 0, error.start) + 1, error.object[error.start]
        raise InputError(f"{path}, line {line}: byte 0x{byte:02x} is not UTF-8; save the file as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error}).") from None


def read_document(path: Path, *, what: str, example: str) -> dict[str, Any]:
    """Return a YAML file as plain data. Messages call the file `what` and show the `example` of its contents.

    Raises:
        InputError: the file is missing, unreadable, or not a YAML mapping.
    """
    return parse_document(read_text(path, what=what), source=str(path), example=example)


def parse_document(text: str, *, source: str, example: str = "name: support") -> dict[str, Any]:
    """Return YAML text as plain data. Messages name it by `source`.

    Raises:
        InputError: the text cannot be read, see `read_yaml`, or is not a mapping.
    """
    document = read_yaml(text, source=source)
    if not isinstance(document, dict):
        raise InputError(f"{source}: expected settings such as '{example}', found {_kind(document)}.")
    return document


def _kind(document: Any) -> str:
    if document is None:
        return "nothing"
    return "a list" if isinstance(document, list) else read_as(document) or "one text"


def build_config(document: dict[str, Any], *, source: str, text: str = "", overrides: list[str] | None = None) -> ExperimentConfig:
    """Apply `--set` pairs to a config document and check the result. `text` is the YAML of the document, if it comes from any.

    Raises:
        InputError: the message has one line for each setting that is unknown or wrong. It begins with the place of the setting.
    """
    given: dict[str, str] = {}
    for pair in overrides or []:
        name, equals, words = pair.partition("=")
        if not equals or not name:
            raise InputError(f"--set {pair}: write it as name=value, for example --set train.learning_rate=3e-5.")
        value = read_yaml(words, source=f"--set {pair}")
        try:
            set_by_name(document, name.strip(), value, section=ExperimentConfig)
        except ValueError as error:
            raise InputError(f"--set {pair}: {error}") from None
        given[name.strip()] = f"--set {pair}"
    try:
        return ExperimentConfig.model_validate(document)
    except ValidationError as error:
        in_file = places_in(text, source=source)
        places = {name: place for name, place in in_file.items() if nearest_place(given, name) is None} | given
        told = ((nearest_place(places, name) or source, sentence) for name, sentence in explain(error))
        raise InputError("\n".join(dict.fromkeys(f"{place}: {sentence}" for place, sentence in told))) from None


def explain(error: ValidationError, *, section: str | None = None) -> list[tuple[str, str]]:
    """Return for each wrong setting its dotted name, and one sentence that names it, what is wrong, and what is allowed.

    `section` is the one that was validated, if it was not the whole config.
    """
    outer = (section,) if section else ()
    told: list[tuple[str, str]] = []
    deepest: dict[str, ErrorDetails] = {}
    for item in error.errors(include_url=False):
        item["loc"] = (*outer, *item["loc"])
        name = ".".join(_setting(item["loc"]))
        if name not in deepest or len(item["loc"]) > len(deepest[name]["loc"]):
            deepest[name] = item  # of a union's errors, the one in the type that fits best
    for name, item in islice(deepest.items(), MOST_TOLD):
        location = _setting(item["loc"])
        if item["type"] == "extra_forbidden":
            settings = _section_at(location[:-1])
            allowed = list(settings.model_fields) if settings else []
            elsewhere = [known for known in field_names(ExperimentConfig) if known.rsplit(".", 1)[-1] == location[-1]]
            told.append((name, f"unknown setting {name}; {nearest(location[-1], [*allowed, *elsewhere])}"))
        elif item["type"] == "invalid_key":
            section_name = ".".join(location[:-1]) or "the experiment"
            problem = f"YAML reads the name of a setting as {read_as(item['input'])}; quote it or remove it"
            told.append((".".join((*location[:-1], str(item["input"]))), f"{section_name}: {problem}"))
        elif item["type"] == "missing":
            told.append((name, f"{name} is required; {_explanation(location)}"))
        elif item["type"] == "value_error":
            cause = item.get("ctx", {}).get("error")
            message = str(cause) if cause is not None else item["msg"]
            sentence = f"{name}: {message}" if name and not message.startswith(name) else message
            told.append((_first_setting(sentence), sentence))
        elif item["input"] is None:
            told.append((name, f"{name} has no value; give one, or remove the line. {_explanation(location)}".rstrip()))
        else:
            problem = _problem(item, location)
            told.append((name, f"{name}: {_short.repr(item['input'])} is wrong: {problem}. {_explanation(location)}".rstrip()))
    more = len(deepest) - MOST_TOLD
    return [*told, ("", f"{more:,} more settings are wrong")] if more > 0 else told


def _problem(item: ErrorDetails, location: list[str]) -> str:
    """Return what is wrong with a value, in the terms of YAML."""
    if isinstance(item["input"], str) and DECIMAL_COMMA.fullmatch(item["input"]):
        return "write a point instead of the comma"
    section = _section_at(location[:-1])
    field = section.model_fields.get(location[-1]) if section else None
    if item["type"] == "literal_error" and field is not None and has_names(field.annotation):
        return PROBLEMS["dict_type"]
    return PROBLEMS.get(item["type"]) or item["msg"][0].lower() + item["msg"][1:]


def write_config(config: ExperimentConfig, path: Path) -> None:
    """Write the config as YAML with every setting, so that the run can be repeated from the file."""
    path.write_text(config_text(config), encoding="utf-8")


def config_text(config: ExperimentConfig) -> str:
    """Return the config as YAML with every setting."""
    return yaml.safe_dump(config.document(), sort_keys=False, allow_unicode=True)


def anchor_paths(document: dict[str, Any], folder: Path) -> None:
    """Resolve a document's relative data, model and storage paths against `folder`, in place."""
    data = document.get("data")
    if isinstance(data, dict):
        for key in DATA_FILES:
            if isinstance(data.get(key), str) and data[key].strip() and not _is_elsewhere(data[key]):
                data[key] = str(folder / data[key])
    storage = document.get("storage")
    if isinstance(storage, str) and storage.strip() and not _is_elsewhere(storage):
        document["storage"] = str(folder / storage)
    model = document.get("model")
    if isinstance(model, dict) and isinstance(model.get("pretrained"), str):
        pretrained = model["pretrained"]
        if pretrained.startswith((".", "~")) or (pretrained.strip() and (folder / pretrained).is_dir()):
            model["pretrained"] = str(folder / Path(pretrained).expanduser())


def _is_elsewhere(location: str) -> bool:
    return "://" in location or location.startswith(("sample:", "/", "~")) or ONE_SLASH.match(location) is not None


def _setting(location: tuple[int | str, ...]) -> list[str]:
    """Return the setting an error is about, without the parts that name the attempted type of a union."""
    parts = [str(part) for part in location]
    section: type[BaseModel] = ExperimentConfig
    for depth, part in enumerate(parts, start=1):
        field = section.model_fields.get(part)
        inner = section_type(field.annotation) if field else None
        if inner is not None:
            section = inner
        elif parts[:2] == ["tune", "space"]:
            return parts
        else:
            return parts[:depth]
    return parts


def _first_setting(sentence: str) -> str:
    """Return the setting with which a rule's sentence begins: `train.batch_size 2 leaves …`, `tune.space: train.seed cannot …`."""
    first, second = (*sentence.split(), "", "")[:2]
    return f"{first.rstrip(':')}.{second}" if first == "tune.space:" else first.rstrip(":")


def _section_at(location: list[str]) -> type[BaseModel] | None:
    section: type[BaseModel] = ExperimentConfig
    for part in location:
        field = section.model_fields.get(part)
        if field is None:
            return _range_section(location)
        inner = section_type(field.annotation)
        if inner is None:
            return _range_section(location)
        section = inner
    return section


def _range_section(location: list[str]) -> type[BaseModel] | None:
    from manta.config import Range

    return Range if location[:2] == ["tune", "space"] else None


def _explanation(location: list[str]) -> str:
    """Return the text under the field, with its allowed values if they are a short list."""
    for end in range(len(location), 0, -1):
        section = _section_at(location[: end - 1])
        field = section.model_fields.get(location[end - 1]) if section else None
        if field is None:
            continue
        choices = [] if has_names(field.annotation) else list(map(str, _literals(field.annotation)))
        if choices and _is_number(field.annotation):
            choices[-1] += " or a number"
        allowed = f"Allowed: {', '.join(choices)}. " if choices else ""
        return f"{allowed}{' '.join((field.description or '').split())}"
    return ""


def _literals(annotation: Any) -> list[Any]:
    from typing import Literal

    if get_origin(annotation) is Literal:
        return list(get_args(annotation))
    return [choice for part in get_args(annotation) for choice in _literals(part)]


def _is_number(annotation: Any) -> bool:
    """Tell whether a field of several types accepts numbers."""
    return annotation in (int, float) or (get_origin(annotation) is not dict and any(map(_is_number, get_args(annotation))))
