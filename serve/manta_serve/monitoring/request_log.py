"""Counting and logging of requests: `RequestLog` in front of the API, and the log's JSON format.

Every request is counted. Requests that fail with a 5xx status are logged; with `serve.log_requests`, all are. A line has the
request's id, path, status, seconds and key name. It has the user's texts only with `serve.log_texts`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from manta_serve.monitoring.service_metrics import ServiceMetrics

CLIENT_GONE = 499
SERVER_FAULT = 500
logger = logging.getLogger(__name__)
current_request: ContextVar[str | None] = ContextVar("current_request", default=None)
"""Id of the request that is being answered. Everything logged meanwhile carries it."""


class RequestLog:
    """A layer that counts every request when it ends, and logs it if required."""

    def __init__(self, app: ASGIApp, *, metrics: ServiceMetrics, logs_all: bool) -> None:
        self._app = app
        self._metrics = metrics
        self._logs_all = logs_all

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        state = scope.setdefault("state", {})
        current_request.set(state.get("request_id"))
        status = CLIENT_GONE  # kept if the client leaves before there is an answer
        started = time.perf_counter()

        async def send_and_see(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, send_and_see)
        finally:
            seconds = time.perf_counter() - started
            # Ray cancels the request of a client that has gone, so that nothing else can name the problem.
            problem = state.setdefault("problem", "client_gone" if status == CLIENT_GONE else "")
            self._metrics.request(scope["path"], status=status, problem=problem, seconds=seconds)
            if self._logs_all or status >= SERVER_FAULT:
                facts = {"method": scope["method"], "path": scope["path"], "status": status, "seconds": round(seconds, 6)}
                facts |= {name: state[name] for name in ("problem", "key_name", "version", "texts") if state.get(name)}
                logger.info("answered", extra={"facts": facts})


class JsonLines(logging.Formatter):
    """A formatter that writes one JSON object a line: time, level, logger, message, request id and further facts."""

    def format(self, record: logging.LogRecord) -> str:
        """Format a record as one line."""
        line: dict[str, Any] = {
            "at": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        request = current_request.get()
        if request is not None:
            line["request_id"] = request
        line |= getattr(record, "facts", {})
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)


def log_as_json() -> None:
    """Make this process write the service's log to stderr as JSON, line by line.

    `sys.stderr` is no use in a replica: Ray replaces it by a log of its own, in another format, which holds back a thousand lines.
    """
    handler = logging.StreamHandler(sys.__stderr__)
    handler.setFormatter(JsonLines())
    for name in ("manta", "manta_serve"):
        ours = logging.getLogger(name)
        ours.handlers, ours.propagate = [handler], False
        ours.setLevel(logging.INFO)
