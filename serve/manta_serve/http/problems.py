"""The format of the API's errors: `{"error": {"code", "message", "field"}}`.

On the paths of other services' clients (`PLAIN_ERRORS`), it is theirs: `{"error": message, "error_type"}`.

A 4xx status is the caller's fault, and the message says what to do. 429, 504 and 507 mean that there was no capacity at the time.
Any other 5xx is the service's fault.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel
from starlette.responses import Response

from manta_serve.http.paths import PLAIN_ERRORS, path_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pydantic_core import ErrorDetails
    from starlette.requests import Request
    from starlette.types import Receive, Scope, Send

JSON = "application/json"
# Tags of unions. They appear in pydantic's locations, but not in the caller's body.
KINDS = ("one", "several", "pair", "batch")
logger = logging.getLogger(__name__)


class Problem(BaseModel):
    """Description of an error."""

    code: str
    """A code for programs, such as `invalid_request`."""
    message: str
    """A sentence for people."""
    field: str | None = None
    """The field of the body that the error is about, such as texts.3."""


class ProblemAnswer(BaseModel):
    """The body of every error."""

    error: Problem


class PlainProblem(BaseModel):
    """The body of every error of text-embeddings-inference."""

    error: str
    """A sentence for people."""
    error_type: Literal["Unhealthy", "Backend", "Overloaded", "Validation"]


def error_type(status: int) -> Literal["Unhealthy", "Backend", "Overloaded", "Validation"]:
    """Return the word of text-embeddings-inference for an error's status."""
    if status == 429:
        return "Overloaded"
    if status == 503:
        return "Unhealthy"
    return "Backend" if status >= 500 else "Validation"


class ApiProblem(Exception):  # noqa: N818  # usually the caller's fault
    """An error that any code behind the API may raise; it becomes the answer."""

    def __init__(
        self, status: int, code: str, message: str, *, field: str | None = None, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.problem = Problem(code=code, message=message, field=field)
        self.headers = dict(headers or {})

    def response(self, path: str) -> Response:
        """Return the error as an HTTP response, in the form that clients of the path expect."""
        problem = self.problem
        answer: BaseModel = ProblemAnswer(error=problem)
        if path_of(path) in PLAIN_ERRORS:
            message = problem.message if problem.field is None else f"{problem.field}: {problem.message}"
            answer = PlainProblem(error=message, error_type=error_type(self.status))
        content = answer.model_dump_json(exclude_none=True)
        return Response(content, status_code=self.status, headers=self.headers, media_type=JSON)

    async def answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the error as the answer of an ASGI application. Its code is stored in the state, for the request count."""
        scope.setdefault("state", {})["problem"] = self.problem.code
        await self.response(scope["path"])(scope, receive, send)


def invalid(errors: Sequence[ErrorDetails]) -> ApiProblem:
    """Return the first error of a body as a sentence, which names the limit if there is one."""
    first = errors[0]
    field = ".".join(str(part) for part in first["loc"] if part not in KINDS) or None
    context: dict[str, Any] = first.get("ctx", {})
    kind = first["type"]
    sentences = {
        "missing": "This field is missing.",
        "string_pattern_mismatch": "The text has no visible character, or holds a NUL character.",
        "string_too_long": f"The text has more than {context.get('max_length')} characters, which is the limit for one text.",
        "string_type": "This is not a text; give a string.",
        "model_type": "This is not an object; give one in braces."
        if field
        else "The body is not a JSON object; give one in braces.",
        "list_type": "This is not a list; give one in brackets.",
        "too_short": f"This list has too few entries; the fewest are {context.get('min_length')}.",
    }
    if kind == "too_long":
        most, what = context["max_length"], context["field_type"].lower()
        found = f"This {what} has more than {most} entries"
        sentences["too_long"] = f"{found}, which is the limit; send the rest in another request."
    return ApiProblem(422, "invalid_request", sentences.get(kind, f"{first['msg'].removeprefix('Value error, ')}."), field=field)


async def refused(request: Request, error: Any) -> Response:
    """Answer an error of the router: an unknown path, or a method that the path does not have."""
    code = str(error.detail).lower().replace(" ", "_")
    return await told(request, ApiProblem(error.status_code, code, f"{error.detail}.", headers=error.headers))


async def told(request: Request, error: Any) -> Response:
    """Return an `ApiProblem` as the response. Its code is stored in the state, for the request count."""
    request.state.problem = error.problem.code
    response: Response = error.response(request.scope["path"])
    return response


async def broken(request: Request, error: Exception) -> Response:
    """Answer an unexpected error. The log has the traceback; the answer reveals nothing of it."""
    logger.error("a request failed", exc_info=error)
    return await told(request, ApiProblem(500, "internal_error", "The server failed to answer; its log says why."))
