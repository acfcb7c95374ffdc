"""Writes `docs/reference/`: every setting, command and HTTP path, from the code itself. `make reference` runs it.

`tests/test_docs.py` fails when a page is older than the code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import typer

from manta.cli import GROUPS, build_app
from manta.config import ExperimentConfig, ServeConfig
from manta_serve.api.routes import create_api
from manta_serve.running.commands import RUN

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta_serve.answering.service import Service

FOLDER = Path(__file__).parent / "reference"
TYPES = {"string": "text", "integer": "whole number", "number": "number", "boolean": "`true` or `false`", "null": "`null`"}
BOUNDS = {"minimum": "at least", "exclusiveMinimum": "above", "maximum": "at most", "exclusiveMaximum": "below"}
SIZES = {"string": ("minLength", "maxLength", "characters"), "array": ("minItems", "maxItems", "entries")}


def main() -> None:
    """Write the three pages."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / name).write_text(text, encoding="utf-8")


def pages() -> dict[str, str]:
    """Return the text of each page by its file name."""
    lines = {"configuration.md": configuration(), "command-line.md": command_line(), "http.md": http()}
    return {name: "\n".join(page).strip() + "\n" for name, page in lines.items()}


# Settings


def configuration() -> Iterator[str]:
    """Yield the page of all settings of an experiment."""
    schema = ExperimentConfig.model_json_schema()
    yield from ["# Every setting", ""]
    yield "An experiment is [one YAML file](../experiment.md). Only `name` and `data.train` are required. On the command line,"
    yield "`--set train.learning_rate=3e-5` replaces a setting. `manta schema` prints the same as JSON Schema for editors."
    yield from ["", "## The whole file", ""]
    yield from settings(schema, schema, prefix="")


def settings(section: dict[str, Any], schema: dict[str, Any], *, prefix: str) -> Iterator[str]:
    """Yield each setting of a section, then the sections within it."""
    parts = []
    for name, field in section["properties"].items():
        inner = section_of(field, schema)
        if inner is not None and name != "space":
            parts.append((f"{prefix}{name}", field, inner))
        else:
            required = name in section.get("required", ())
            yield from [f"### `{prefix}{name}`", "", facts(field, schema, required=required), "", plain(field["description"]), ""]
    for name, field, inner in parts:
        optional = f" Default: {shown(field['default'])}." if field.get("default", {}) is None else ""
        yield from [f"## `{name}`", "", (field.get("description") or inner["description"]) + optional, ""]
        yield from settings(inner, schema, prefix=f"{name}.")
    if prefix == "tune.":
        yield from ["## Ranges in `tune.space`", "", schema["$defs"]["Range"]["description"], ""]
        yield from settings(schema["$defs"]["Range"], schema, prefix="")


def section_of(field: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any] | None:
    """Return the section that a field holds, if it is one."""
    for shape in (field, *field.get("anyOf", ())):
        if "$ref" in shape:
            return resolved(shape, schema)
    return None


def resolved(shape: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    """Return what a `$ref` points to."""
    target: Any = schema
    for part in shape["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return dict(target)


def facts(field: dict[str, Any], schema: dict[str, Any], *, required: bool) -> str:
    """Return a setting's type, bounds and default in one line."""
    default = "required" if required else f"default {shown(field['default'])}" if "default" in field else "optional"
    return f"*{kind(field, schema)} · {default}*"


def kind(shape: dict[str, Any], schema: dict[str, Any]) -> str:
    """Return the words for the values that a JSON schema takes."""
    if "$ref" in shape:
        target = resolved(shape, schema)
        return f"[{target['title']}](#{target['title'].lower()})" if "paths" in schema else "a range"
    options = shape.get("anyOf", shape.get("oneOf"))
    if options and shape.get("type") != "object":
        return joined([kind(option, schema) for option in options])
    if "const" in shape or "enum" in shape:
        return joined([shown(value) for value in shape.get("enum", [shape.get("const")])])
    if shape.get("type") == "object":
        values = shape.get("additionalProperties")
        return f"a mapping to {kind(values, schema)}" if isinstance(values, dict) and values else "a mapping"
    if first := shape.get("prefixItems"):
        return f"a list of {len(first)} ({'; '.join(dict.fromkeys(kind(item, schema) for item in first))})"
    items = f" of {kind(shape['items'], schema)}" if shape.get("items") else ""
    words = f"a list{items}" if shape.get("type") == "array" else TYPES.get(shape.get("type", ""), "any value")
    limits = [f"{words} {shape[key]:g}" for key, words in BOUNDS.items() if key in shape]
    return " ".join([words, *(f"({limit})" for limit in (", ".join(limits), size(shape)) if limit)])


def size(shape: dict[str, Any]) -> str:
    """Return the words for how long a text or list may be."""
    least, most, unit = SIZES.get(shape.get("type", ""), ("", "", ""))
    match shape.get(least), shape.get(most):
        case None, None:
            return ""
        case low, None:
            return "not empty" if low == 1 else f"at least {low} {unit}"
        case low, high:
            return f"{high} {unit}" if low == high else f"{low or 0} to {high} {unit}"


def plain(text: str) -> str:
    """Return an explanation as Markdown: its asterisks are none of emphasis."""
    parts = text.split("`")
    return "`".join(part if index % 2 else part.replace("*", r"\*") for index, part in enumerate(parts))


def joined(words: list[str]) -> str:
    """Return a list in words, each once."""
    *first, last = dict.fromkeys(words)
    return f"{', '.join(first)} or {last}" if first else last


def shown(value: Any) -> str:
    """Return a value as it stands in YAML."""
    return f"`{value if isinstance(value, str) else json.dumps(value)}`"


# Commands


def command_line() -> Iterator[str]:
    """Yield the page of all commands, with what `--help` says."""
    yield from ["# Every command", ""]
    yield from ["`--help` after a command shows the same. [The table of commands](../commands.md) is the overview.", ""]
    app = cast("Any", typer.main.get_command(build_app()))
    for name in (name for names in GROUPS.values() for name in names):
        yield from one_command(app.commands[name], f"manta {name}")


def one_command(command: Any, path: str) -> Iterator[str]:
    """Yield a command's usage, explanation and parameters, then the commands below it."""
    inner = getattr(command, "commands", {})
    if not inner or command.invoke_without_command:
        path = path.removesuffix(f" {RUN}")
        words = [metavar(parameter) for parameter in command.params if parameter.param_type_name == "argument"]
        yield from [f"## `{path}`", "", "```text", " ".join([path, *words, "[OPTIONS]"]), "```", "", command.help or "", ""]
        rows = [parameter_row(parameter) for parameter in command.params if parameter.name != "help"]
        if rows:
            yield from ["| argument or option | meaning |", "| --- | --- |", *rows, ""]
    for name, child in inner.items():
        yield from one_command(child, f"{path} {name}")


def metavar(parameter: Any) -> str:
    """Return the name of an argument as usage lines have it."""
    name = re.sub(r"^\[(.*)\]$", r"\1", parameter.metavar or parameter.name.upper())
    return name if parameter.required else f"[{name}]"


def parameter_row(parameter: Any) -> str:
    """Return the table row of an argument or option."""
    if parameter.param_type_name == "argument":
        name = metavar(parameter)
    else:
        value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
        name = ", ".join([*parameter.opts, *parameter.secondary_opts]) + value
    default = parameter.default
    said = default not in (None, False, [], ()) and not callable(default)
    ends = [" Required." if parameter.required else "", f" Default: `{default}`." if said else ""]
    meaning = "".join([parameter.help or "", *ends]).replace("|", r"\|")
    return f"| `{name}` | {meaning} |"


# HTTP


def http() -> Iterator[str]:
    """Yield the page of all HTTP paths, from the API's own OpenAPI document."""
    document = create_api(cast("Service", SimpleNamespace(config=ServeConfig()))).openapi()
    yield from ["# Every HTTP path", ""]
    yield "A running service has the same under `/docs` and `/openapi.json`; [the guide](../api.md) explains it."
    yield from ["The limits are the defaults of [`serve`](configuration.md#serve).", ""]
    methods = ((path, *entry) for path, entries in document["paths"].items() for entry in entries.items())
    operations = [(f"{method.upper()} {path}", operation) for path, method, operation in methods]
    for paths, operation in alike(operations):
        yield from one_path(" and ".join(f"`{path}`" for path in paths), operation, document)
    yield from ["## Errors", "", "The body of each is a [ProblemAnswer](#problemanswer)."]
    yield from ["On the paths of other services' clients it is a [PlainProblem](#plainproblem).", ""]
    yield from ["| status | `code`, for example | `message`, for example |", "| --- | --- | --- |"]
    yield from dict(sorted(error for _, operation in operations for error in errors(operation))).values()
    yield from ["", "## Fields of the answers", ""]
    for name, shape in sorted(document["components"]["schemas"].items()):
        yield from [f"### {name}", "", *([shape["description"], ""] if "description" in shape else []), *fields(shape, document)]


def alike(operations: list[tuple[str, dict[str, Any]]]) -> Iterator[tuple[list[str], dict[str, Any]]]:
    """Yield operations with their paths: that of the first model and that of a model by its name are one."""
    found: dict[str, tuple[list[str], dict[str, Any]]] = {}
    for path, operation in operations:
        found.setdefault(operation["summary"], ([], operation))[0].append(path)
    yield from found.values()


def one_path(title: str, operation: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """Yield a path's explanation, the fields of its body, an example, and its answers."""
    yield from [f"## {title}", "", operation.get("description", operation["summary"]), ""]
    if "requestBody" in operation:
        body = operation["requestBody"]["content"]["application/json"]
        yield from fields(body["schema"], document)
        yield from ["```json", json.dumps(next(iter(body["examples"].values()))["value"]), "```", ""]
    schema = operation["responses"]["200"].get("content", {}).get("application/json", {}).get("schema")
    yield f"Answers with {kind(schema, document) if schema else 'text'}."
    if statuses := [status for status in operation["responses"] if status != "200"]:
        yield f"[Errors](#errors): {', '.join(statuses)}."
    yield ""


def errors(operation: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield each error of a path in the API's own form: its status, and its row of the table."""
    for status, answer in operation["responses"].items():
        error = answer.get("content", {}).get("application/json", {}).get("example", {}).get("error")
        if isinstance(error, dict):
            yield status, f"| {status} | `{error['code']}` | {error['message']} |"


def fields(shape: dict[str, Any], document: dict[str, Any]) -> Iterator[str]:
    """Yield the table of an object's fields."""
    yield from ["| field | type | meaning |", "| --- | --- | --- |"]
    for name, field in shape.get("properties", {}).items():
        words = " ".join(field.get("description", "").split())
        yield f"| `{name}` | {kind(field, document)} | {words} |"
    yield ""


if __name__ == "__main__":
    main()
