"""The paths of the API, the scope that a key needs for each, and the paths whose clients expect errors in another form."""

from __future__ import annotations

from typing import Literal

from starlette.routing import compile_path

KeyScope = Literal["classify", "feedback", "review", "metrics"]
"""The purpose that a key may be used for."""
OTHER = "other"
"""Name for all other paths, so that a client cannot create metrics without limit."""
SCOPE_OF: dict[str, KeyScope] = {
    "/v1/classify": "classify",
    "/v1/models/{name}/classify": "classify",
    "/predict": "classify",
    "/v1/models/{name}/predict": "classify",
    "/": "classify",
    "/models/{name}": "classify",
    "/v1/feedback": "feedback",
    "/v1/models/{name}/feedback": "feedback",
    "/v1/feedback/texts": "review",
    "/v1/models/{name}/feedback/texts": "review",
    "/metrics": "metrics",
}
"""The scope that a key must have for a path. For all others, any key will do."""
PATHS = (*SCOPE_OF, "/v1/model", "/v1/models", "/v1/models/{name}", "/healthz", "/readyz", "/docs", "/openapi.json")
PLAIN_ERRORS = ("/predict", "/v1/models/{name}/predict", "/", "/models/{name}")
"""Paths whose errors are a sentence and a type, as text-embeddings-inference and Hugging Face's clients expect."""
# The router's own patterns, so that both always agree: `$` also matches before a line break at the end.
_PATTERNS = {path: compile_path(path)[0] for path in PATHS}


def path_of(path: str) -> str:
    """Return the path of PATHS to which the router sends a request, with the names of parameters for their values; else OTHER."""
    if path in _PATTERNS:
        return path
    return next((name for name, pattern in _PATTERNS.items() if pattern.match(path)), OTHER)
