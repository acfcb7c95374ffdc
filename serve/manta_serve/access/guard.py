"""`guarded`: the layers in front of the API. They check names, keys, rate and body size, and add headers to every answer.

Pure ASGI (https://asgi.readthedocs.io), so that it costs microseconds and sees a request before any of it is read. The order is:
request id and security headers, counting and logging, host and origin, CORS, the API key, the key's rate, the size of the body.
"""

from __future__ import annotations

import asyncio
import math
import re
import socket
import time
import uuid
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.middleware.cors import CORSMiddleware

from manta.cluster.ports import is_loopback
from manta.storage import audit
from manta_serve.http.paths import SCOPE_OF, path_of
from manta_serve.http.problems import ApiProblem
from manta_serve.monitoring.request_log import RequestLog

if TYPE_CHECKING:
    from collections.abc import Callable

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from manta.config import ServeConfig
    from manta.storage.folders import Storage
    from manta_serve.access.keys import KeyStore
    from manta_serve.monitoring.service_metrics import ServiceMetrics

OPEN_PATHS = ("/healthz", "/readyz")
"""Paths without a key, for load balancers."""
FIRST_DELAY_S, LONGEST_DELAY_S, CALM_S = 0.1, 5.0, 60.0
MOST_DELAYED = 50
"""Most refused clients that wait at a time, so that they do not take the places of others."""
LONGEST_ID = 200
NOT_PRINTABLE = re.compile(r"[^\x20-\x7e]")
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}
CORS_HEADERS = ("Authorization", "Content-Type", "X-Request-ID", "Manta-Key", "Manta-Version")
NO_BODY = ("GET", "HEAD", "OPTIONS")


def guarded(
    app: ASGIApp,
    *,
    config: ServeConfig,
    keys: KeyStore | None,
    metrics: ServiceMetrics,
    is_stopping: Callable[[], bool] = lambda: False,
    proxy_returns_id: bool = False,
) -> ASGIApp:
    """Return the API behind its guards.

    With `keys`, only requests with a valid key are let in. Every request is counted in `metrics`. While `is_stopping` returns True,
    every answer closes its connection. `proxy_returns_id` is True if the proxy already returns the request's id, as Ray Serve does.
    """
    app = BodyLimit(app, max_bytes=config.max_body_bytes, max_wait_s=config.deadline_s)
    app = KeyCheck(app, keys=keys, requests_per_minute=config.requests_per_minute)
    if config.cors_origins:
        app = CORSMiddleware(
            app,
            allow_origins=config.cors_origins,
            allow_methods=("GET", "POST"),
            allow_headers=CORS_HEADERS,
            expose_headers=("X-Request-ID", "Retry-After"),
        )
    app = BrowserCheck(app, config=config, is_local=keys is None)
    app = RequestLog(app, metrics=metrics, logs_all=config.log_requests)
    return AnswerHeaders(app, returns_id=not proxy_returns_id, is_stopping=is_stopping)


class AnswerHeaders:
    """A layer that gives every request an id, and every answer the security headers for browsers."""

    def __init__(self, app: ASGIApp, *, returns_id: bool, is_stopping: Callable[[], bool]) -> None:
        self._app = app
        self._returns_id = returns_id
        self._is_stopping = is_stopping

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on. Its id is in `request.state.request_id`."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request_id = request_id_of(Headers(scope=scope))
        scope.setdefault("state", {})["request_id"] = request_id

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in SECURITY_HEADERS.items():
                    headers.setdefault(name, value)
                if self._returns_id:
                    headers["X-Request-ID"] = request_id
                if self._is_stopping():
                    # Otherwise the client's next request may be in transit when the server closes the connection.
                    headers["Connection"] = "close"
            await send(message)

        await self._app(scope, receive, send_with_headers)


class BrowserCheck:
    """A layer that refuses requests which a foreign web page made a browser send.

    A page can bind its own name to this machine's address ("DNS rebinding"), so that the browser takes the API for the page's own
    server. Such a request has the page's name as its host. Starlette's `TrustedHostMiddleware` knows neither addresses nor origins.
    """

    def __init__(self, app: ASGIApp, *, config: ServeConfig, is_local: bool) -> None:
        """Protect `app`. `is_local` is True if only this machine reaches it; otherwise any address is a valid host."""
        self._app = app
        self._takes_addresses = not is_local
        own = socket.gethostname()
        names = ("localhost", config.host) if is_local else ("localhost", own, own.partition(".")[0])
        self._names = {name.lower() for name in (*names, *config.allowed_hosts) if not name.startswith("*")}
        self._endings = tuple(name[1:].lower() for name in config.allowed_hosts if name.startswith("*"))
        self._origins = config.cors_origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 403 or 421."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            headers = Headers(scope=scope)
            host, origin = headers.get("host", ""), headers.get("origin")
            problem = None
            if not self._is_ours(_hostname(host)):
                message = "This service does not answer under this host name; its operator adds it to serve.allowed_hosts."
                problem = ApiProblem(421, "wrong_host", message)
            elif origin is not None and not self._takes_origin(origin, host):
                message = "Pages of this origin may not use the service; its operator adds it to serve.cors_origins."
                problem = ApiProblem(403, "wrong_origin", message)
            if problem is not None:
                await problem.answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    def _takes_origin(self, origin: str, host: str) -> bool:
        is_own = origin.partition("://")[2].lower() == host.lower()
        return is_own or origin in self._origins or "*" in self._origins

    def _is_ours(self, name: str) -> bool:
        if name in self._names or name.endswith(self._endings) or is_loopback(name):
            return True
        return self._takes_addresses and _is_address(name)


def _hostname(host: str) -> str:
    """Return the name or address in a Host header, in lower case; an empty string if there is none."""
    try:
        parts = urlsplit(f"//{host}")
    except ValueError:
        return ""
    return parts.hostname or "" if parts.netloc == host and parts.username is None else ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


class KeyCheck:
    """A layer that lets in requests with a valid key, up to the key's rate."""

    def __init__(self, app: ASGIApp, *, keys: KeyStore | None, requests_per_minute: int | None) -> None:
        self._app = app
        self._keys = keys
        self._rate = RequestRate(requests_per_minute) if requests_per_minute else None
        self._refusals = None if keys is None else KeyRefusals(keys.storage)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401 or 429. The key's name is in `request.state.key_name`."""
        if scope["type"] == "http" and scope["path"] not in OPEN_PATHS:
            try:
                name = scope.setdefault("state", {})["key_name"] = await self._name(scope)
                if self._rate is not None:
                    self._rate.take(name or "")
            except ApiProblem as problem:
                await problem.answer(scope, receive, send)
                return
        await self._app(scope, receive, send)

    async def _name(self, scope: Scope) -> str | None:
        """Return the name of the key that was sent, or None if no key is required."""
        if self._keys is None or self._refusals is None:
            return None
        headers = Headers(scope=scope)
        scheme, _, key = headers.get("authorization", "").partition(" ")
        found = self._keys.check(key.strip()) if scheme.lower() == "bearer" and key else None
        if found is None:
            if key:  # who sends none has not guessed
                await self._refusals.refuse(_address(scope, headers), path=scope["path"])
            message = "This needs a valid API key; send it as the header Authorization: Bearer KEY."
            raise ApiProblem(401, "unauthorized", message, headers={"WWW-Authenticate": "Bearer"})
        needed = SCOPE_OF.get(path_of(scope["path"]))
        if needed is not None and needed not in found.scopes:
            message = f"This key is not for {needed}; it is for {', '.join(found.scopes)}."
            raise ApiProblem(403, "wrong_scope", message)
        return found.name


class KeyRefusals:
    """The wrong keys of late. Each delays the next refusal longer, and the audit log tells of them once a minute at most."""

    def __init__(self, storage: Storage, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._storage = storage
        self._clock = clock
        self._number = self._waiting = self._unwritten = 0
        self._last = self._written = float("-inf")

    async def refuse(self, address: str, *, path: str) -> None:
        """Count a wrong key, and wait."""
        delay_s = self.delay_after(address, path=path)
        if self._waiting < MOST_DELAYED:
            self._waiting += 1
            try:
                await asyncio.sleep(delay_s)
            finally:
                self._waiting -= 1

    def delay_after(self, address: str, *, path: str) -> float:
        """Count a wrong key, and return the seconds to wait: twice those of the one before, unless none came for a while."""
        now = self._clock()
        self._number = self._number + 1 if now - self._last < CALM_S else 1
        self._last = now
        self._unwritten += 1
        if now - self._written >= CALM_S:
            audit.record(self._storage, "key refused", by=address, path=path, count=self._unwritten)
            self._written, self._unwritten = now, 0
        return min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(self._number - 1, 10))


def _address(scope: Scope, headers: Headers) -> str:
    """Return the client's address, as HAProxy gives it if there is one."""
    forwarded = headers.getlist("x-forwarded-for")
    client = scope.get("client")
    return forwarded[-1].rpartition(",")[2].strip()[:LONGEST_ID] if forwarded else client[0] if client else ""


class RequestRate:
    """A token bucket for each key. A minute's requests may come at once; after that, the bucket refills evenly."""

    def __init__(self, per_minute: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._left: dict[str, tuple[float, float]] = {}

    def take(self, name: str) -> None:
        """Count one request of this key.

        Raises:
            ApiProblem: there were too many (429); it says when the next one is let in.
        """
        now = self._clock()
        left, since = self._left.get(name, (float(self._per_minute), now))
        left = min(float(self._per_minute), left + (now - since) * self._per_minute / 60)
        self._left[name] = (left - 1 if left >= 1 else left, now)
        if left < 1:
            wait_s = math.ceil((1 - left) * 60 / self._per_minute)
            message = f"More than {self._per_minute} requests in a minute; the next one is let in after {wait_s} s."
            raise ApiProblem(429, "too_many_requests", message, headers={"Retry-After": str(wait_s)})


class BodyLimit:
    """A layer that first reads the body up to its limits, so that a body that is too large or too slow costs nothing else."""

    def __init__(self, app: ASGIApp, *, max_bytes: int, max_wait_s: float) -> None:
        self._app = app
        self._max_bytes = max_bytes
        self._max_wait_s = max_wait_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its whole body as one message, or answer 408 or 413."""
        if scope["type"] != "http" or scope["method"] in NO_BODY:
            await self._app(scope, receive, send)
            return
        try:
            async with asyncio.timeout(self._max_wait_s):
                whole = await self._whole_body(Headers(scope=scope), receive)
        except TimeoutError:
            message = f"The body did not arrive within {self._max_wait_s:g} s."
            await ApiProblem(408, "request_timeout", message, headers={"Connection": "close"}).answer(scope, receive, send)
            return
        except ApiProblem as problem:
            await problem.answer(scope, receive, send)
            return
        if whole is None:
            return
        first: list[Message] = [{"type": "http.request", "body": whole, "more_body": False}]

        async def receive_rest() -> Message:
            return first.pop() if first else await receive()

        await self._app(scope, receive_rest, send)

    async def _whole_body(self, headers: Headers, receive: Receive) -> bytes | None:
        """Return the body, never holding more than the limit; None if the client disconnected."""
        announced = headers.get("content-length", "")
        if announced.isdecimal() and (len(announced) > 18 or int(announced) > self._max_bytes):
            raise self._too_large()
        body = bytearray()
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            if len(body) > self._max_bytes:
                raise self._too_large()
            if not message.get("more_body", False):
                return bytes(body)

    def _too_large(self) -> ApiProblem:
        message = f"The body has more than {self._max_bytes} bytes, which is the limit; send fewer texts in a request."
        return ApiProblem(413, "too_large", message)


def request_id_of(headers: Headers) -> str:
    """Return the caller's id, else a new one. Ray Serve answers with the caller's, whatever it is, so the log has the same.

    Only what could break a line of the log, or fill it, is replaced or cut off.
    """
    given = headers.get("x-request-id", "").strip()
    return NOT_PRINTABLE.sub("?", given)[:LONGEST_ID] or uuid.uuid4().hex
