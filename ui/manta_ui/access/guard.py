"""`BrowserGuard`: the layer in front of the page, which keeps out what other web pages make a visitor's browser send.

On this machine the page needs no login, and with a login the browser itself sends the cookie. So every request has to be addressed
to a name of the page (against DNS rebinding) and, if a browser says where it comes from, to come from the page itself.
"""

from __future__ import annotations

import asyncio
import ipaddress
import shutil
import socket
import time
from http.cookies import SimpleCookie
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse

from manta.cluster.ports import is_loopback
from manta_ui.access.sessions import SESSION_S

if TYPE_CHECKING:
    from collections.abc import Collection

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_UPLOAD_BYTES = 105_000_000
"""The largest request that uploads files, which may be several."""
MOST_STORED_BYTES = 1_000_000_000
"""Bytes of uploads and downloads that the page keeps at the same time, for all visitors."""
KEPT_S = 6 * 3600.0
"""Seconds after which an upload or a download is deleted."""
CLEANS_EVERY_S = 600.0
CLOSED_PATHS = ("/gradio_api/token",)
"""Paths that give a script the session's token; the page does not use them."""
HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class PageNames:
    """The names under which the page is reached.

    On a loopback address these are that address and the names of this machine's loopback. Else they are any IP address, which DNS
    cannot rebind, and this machine's name. `allowed` are further names, such as a proxy's.
    """

    def __init__(self, host: str, *, allowed: Collection[str] = ()) -> None:
        self._takes_addresses = not is_loopback(host)
        self._allowed = {name.lower() for name in allowed}
        self._own = {"localhost", "127.0.0.1", "::1", host.strip("[]").lower()}
        if self._takes_addresses:
            self._own.add(socket.gethostname().lower())

    def refusal(self, headers: Headers) -> str | None:
        """Return the reason why a request is not for this page, or None if it is."""
        host = headers.get("host", "")
        name = _name_of(f"//{host}")
        if name not in self._own | self._allowed and not (self._takes_addresses and _is_address(name)):
            return (
                f"This page does not answer to the name {name or 'that was sent'}. If it is the page's: manta ui --allow-host NAME"
            )
        origin = headers.get("origin")
        if origin is not None and urlsplit(origin).netloc.lower() != host.lower() and _name_of(origin) not in self._allowed:
            return f"A page of {origin} sent this request. Only the page itself may."
        return None


class BrowserGuard:
    """A layer that refuses requests of other web pages, limits uploads, and keeps cookies and frames to the page.

    `uploads` is the folder in which gradio stores uploads and downloads.
    """

    def __init__(self, app: ASGIApp, *, names: PageNames, uploads: Path) -> None:
        self._app = app
        self._names = names
        self._uploads = uploads
        self._arriving_bytes = 0
        self._cleaned_at = time.monotonic()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or say why not."""
        if scope["type"] not in {"http", "websocket"}:
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refusal = self._names.refusal(headers)
        if refusal is None and _is_sent_by_another_page(headers, scope):
            refusal = "Another web page sent this request. Only the page itself may."
        if refusal is not None:
            await PlainTextResponse(refusal, 403)(scope, receive, send)
        elif scope["path"].rstrip("/").endswith(CLOSED_PATHS):
            await PlainTextResponse("Not found", 404)(scope, receive, send)
        elif scope["type"] == "http" and scope["method"] == "POST" and scope["path"].rstrip("/").endswith("/upload"):
            await self._upload(scope, receive, send)
        else:
            await self._pass_on(scope, receive, send)

    async def _upload(self, scope: Scope, receive: Receive, send: Send) -> None:
        announced = Headers(scope=scope).get("content-length", "")
        if not announced.isdecimal():
            await PlainTextResponse("The size of an upload has to be announced.", 411)(scope, receive, send)
            return
        size = int(announced[:18])
        if size > MAX_UPLOAD_BYTES:
            message = f"The files have {size / 1e6:.0f} MB, and the page takes {MAX_UPLOAD_BYTES / 1e6:.0f} MB at once."
            await PlainTextResponse(message, 413)(scope, receive, send)
            return
        await asyncio.to_thread(remove_old, self._uploads)
        if stored_bytes(self._uploads) + self._arriving_bytes + size > MOST_STORED_BYTES:
            message = f"The page holds {MOST_STORED_BYTES / 1e6:.0f} MB of files, which is its limit. Try again later."
            await PlainTextResponse(message, 507)(scope, receive, send)
            return
        self._arriving_bytes += size
        try:
            await self._pass_on(scope, receive, send)
        finally:
            self._arriving_bytes -= size

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send) -> None:
        if time.monotonic() - self._cleaned_at > CLEANS_EVERY_S:
            self._cleaned_at = time.monotonic()
            await asyncio.to_thread(remove_old, self._uploads)

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered = MutableHeaders(scope=message)
                cookies = [_own_cookie(line, is_tls=scope["scheme"] == "https") for line in answered.getlist("set-cookie")]
                del answered["set-cookie"]
                for cookie in filter(None, cookies):
                    answered.append("set-cookie", cookie)
                for name, value in HEADERS.items():
                    answered[name] = value
            await send(message)

        await self._app(scope, receive, send_guarded)


def stored_bytes(folder: Path) -> int:
    """Return the size of all files of a folder."""
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # deleted meanwhile
            continue
    return total


def remove_old(folder: Path, *, older_than_s: float = KEPT_S) -> None:
    """Delete what has been in the folder for too long. Its entries are files, and folders of one upload or download each."""
    for path in folder.iterdir():
        try:
            age_s = time.time() - path.stat().st_mtime
        except FileNotFoundError:
            continue
        if age_s > older_than_s:
            shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def _is_sent_by_another_page(headers: Headers, scope: Scope) -> bool:
    """Tell whether a browser says that another site or a sibling subdomain sends this. A link to the page is no such request."""
    if headers.get("sec-fetch-site", "none") in {"none", "same-origin"} or "origin" in headers:
        return False  # an origin was compared already, as a proxy may change the name
    is_link = headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return not (is_link and scope.get("method") == "GET" and not scope["path"].endswith("/logout"))


def _own_cookie(line: str, *, is_tls: bool) -> str | None:
    """Return gradio's cookie so that no other site's requests carry it and it ends with the session; None if it is not needed.

    Gradio sets two cookies: one for pages over TLS, one for the others.
    """
    cookies = SimpleCookie(line)
    for name, cookie in cookies.items():
        if name.startswith("access-token-") and cookie.value:
            if is_tls == name.startswith("access-token-unsecure-"):
                return None
            cookie["max-age"] = str(int(SESSION_S))
        cookie["samesite"] = "Lax"
    return cookies.output(header="").strip()


def _name_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").lower()
    except ValueError:
        return ""


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
