"""A bound for the heads of requests, in every process of Ray Serve that answers HTTP.

Ray starts uvicorn with the parser httptools, which keeps header after header as long as a client sends some. Ray calls `install` in
each of these processes before they listen, because the variable RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH names it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from uvicorn.config import HTTP_PROTOCOLS
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

if TYPE_CHECKING:
    from starlette.middleware import Middleware

MAX_HEAD_BYTES = 64 * 1024
"""As in uvicorn's other parser, h11. HAProxy takes 16 kB."""


class BoundedHeads(HttpToolsProtocol):
    """uvicorn's protocol, which gives up a client that sends MAX_HEAD_BYTES without completing a head or a part of a body."""

    _unparsed_bytes = 0

    def data_received(self, data: bytes) -> None:
        """Parse what arrives."""
        self._unparsed_bytes += len(data)
        super().data_received(data)
        if self._unparsed_bytes > MAX_HEAD_BYTES and not self.transport.is_closing():
            self.send_400_response(f"The head of the request has more than {MAX_HEAD_BYTES} bytes.")

    def on_headers_complete(self) -> None:
        """Begin with the body."""
        self._unparsed_bytes = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Add a part of the body. What follows it may be another head, or headers after a body in chunks."""
        self._unparsed_bytes = 0
        super().on_body(body)


def install() -> list[Middleware]:
    """Make uvicorn use the bounded protocol in this process. Return no middleware, which Ray would also take."""
    HTTP_PROTOCOLS["auto"] = f"{__name__}:{BoundedHeads.__name__}"
    return []
