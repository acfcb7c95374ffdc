"""The API's documentation: OpenAPI with examples, and /docs, a page that loads nothing from elsewhere."""

from __future__ import annotations

import importlib.resources
from typing import TYPE_CHECKING, Any

from starlette.responses import HTMLResponse, Response

from manta_serve.http.problems import JSON, PlainProblem, ProblemAnswer, error_type

if TYPE_CHECKING:
    from fastapi import FastAPI
    from pydantic import BaseModel

CLASSIFY_EXAMPLES = {
    "one": {"summary": "One text", "value": {"text": "Where is my parcel?"}},
    "several": {"summary": "Several texts", "value": {"texts": ["Where is my parcel?", "I was charged twice."], "top_k": 3}},
    "explained": {"summary": "One text, explained", "value": {"text": "Where is my parcel?", "explain": True}},
    "pair": {"summary": "A pair, for a model that reads pairs", "value": {"text": ["It is late.", "Is it late?"]}},
}
PREDICT_EXAMPLES = {
    "one": {"summary": "One text", "value": {"inputs": "Where is my parcel?"}},
    "several": {"summary": "Several texts", "value": {"inputs": [["Where is my parcel?"], ["I was charged twice."]]}},
    "raw": {"summary": "Logits", "value": {"inputs": "Where is my parcel?", "raw_scores": True}},
}
PIPELINE_EXAMPLES = {
    "one": {"summary": "One text", "value": {"inputs": "Where is my parcel?", "parameters": {"top_k": 2}}},
    "several": {"summary": "Several texts", "value": {"inputs": ["Where is my parcel?", "I was charged twice."]}},
}
FEEDBACK_EXAMPLES = {
    "corrected": {
        "summary": "The answer was wrong",
        "value": {"text": "Where is my parcel?", "answer": "billing", "correction": "delivery", "version": 3},
    },
    "several": {
        "summary": "A multilabel model's answer was right",
        "value": {"text": "Where is my parcel?", "answer": ["delivery"], "correction": ["delivery"], "version": 3},
    },
}
PROBLEMS = {
    400: ("invalid_json", "The body is not valid JSON: EOF while parsing a list at line 1 column 12."),
    401: ("unauthorized", "This needs a valid API key; send it as the header Authorization: Bearer KEY."),
    403: ("wrong_origin", "Pages of this origin may not use the service; its operator adds it to serve.cors_origins."),
    404: ("unknown_version", "There is no version 9 of support."),
    408: ("request_timeout", "The body did not arrive within 30 s."),
    409: ("not_loaded", "Version 2 of support is not loaded; there is version 3."),
    413: ("too_large", "The body has more than 1048576 bytes, which is the limit; send fewer texts in a request."),
    415: ("unsupported_media_type", "Send the body as JSON, with the header Content-Type: application/json."),
    421: ("wrong_host", "This service does not answer under this host name; its operator adds it to serve.allowed_hosts."),
    422: ("invalid_request", "The text has more than 20000 characters, which is the limit for one text."),
    429: ("queue_full", "1024 texts wait already, and 1024 may at most; try again in 4 s."),
    503: ("stopping", "The service is stopping."),
    504: ("deadline", "There was no answer within 30 s; try again later, or with fewer texts."),
    507: ("feedback_full", "There is no room for more feedback."),
}
# Allows the page its own script and style, and requests to this server.
PAGE_POLICY = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; frame-ancestors 'none'"
PAGE_FILES = {
    "/docs": ("docs.html", "text/html"),
    "/docs/page.js": ("docs.js", "text/javascript"),
    "/docs/page.css": ("docs.css", "text/css"),
}


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the errors that a path can answer with, each with an example."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        code, message = PROBLEMS[status]
        example = {"error": {"code": code, "message": message}}
        found[status] = {"model": ProblemAnswer, "content": {JSON: {"example": example}}}
    return found


def plain_problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the same for a path whose errors have the form of text-embeddings-inference."""
    found: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        example = {"error": PROBLEMS[status][1], "error_type": error_type(status)}
        found[status] = {"model": PlainProblem, "content": {JSON: {"example": example}}}
    return found


def body_of(shape: type[BaseModel], examples: dict[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body, for a path that parses its body itself."""
    schema = shape.model_json_schema()
    schema = _inlined(schema, schema.pop("$defs", {}))
    return {"requestBody": {"required": True, "content": {JSON: {"schema": schema, "examples": examples}}}}


def _inlined(part: Any, definitions: dict[str, Any]) -> Any:
    """Return a part of a schema with definitions in place of references, which would lead nowhere in the OpenAPI document."""
    if isinstance(part, list):
        return [_inlined(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    name = part.get("$ref", "").removeprefix("#/$defs/")
    return _inlined(definitions[name], definitions) if name else {key: _inlined(item, definitions) for key, item in part.items()}


def add_documentation(api: FastAPI) -> None:
    """Add the page /docs, and add to the OpenAPI document how a key is sent."""
    plain = api.openapi

    def openapi() -> dict[str, Any]:
        document = plain()
        document["components"]["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}, {}]  # no key is required on the machine itself
        return document

    api.openapi = openapi  # type: ignore[method-assign]  # as FastAPI documents it
    folder = importlib.resources.files("manta_serve.api") / "page"
    for path, (name, kind) in PAGE_FILES.items():
        _add_file(api, path, (folder / name).read_text(encoding="utf-8"), kind=kind)


def _add_file(api: FastAPI, path: str, content: str, *, kind: str) -> None:
    @api.get(path, include_in_schema=False)
    async def file() -> Response:
        return HTMLResponse(content, media_type=kind, headers={"Content-Security-Policy": PAGE_POLICY})
