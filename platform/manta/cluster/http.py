"""The HTTP client for Manta's own services and for clusters, with one policy on proxies.

The environment's HTTP_PROXY is for the internet: services on this machine and in a cluster are reached directly. $MANTA_PROXY names
a proxy for those that are not, and is never used for this machine.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from manta.cluster.ports import is_loopback

if TYPE_CHECKING:
    from collections.abc import Mapping

CONNECT_TIMEOUT_S = 2.0


def http_client(url: str, *, timeout_s: float, headers: Mapping[str, str] | None = None, **options: Any) -> httpx.Client:
    """Return a client of the service at `url`. Any thread may use it."""
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_TIMEOUT_S))
    return httpx.Client(base_url=url, headers=headers, timeout=timeout, proxy=proxy_of(url), trust_env=False, **options)


def proxy_of(url: str) -> str | None:
    """Return the URL of the proxy through which a service is reached; None if it is reached directly."""
    return None if is_loopback(urlsplit(url).hostname or "") else os.environ.get("MANTA_PROXY") or None


def cause_of(error: Exception) -> str:
    """Return why a request got no answer, in the words of the operating system."""
    if isinstance(error, httpx.TimeoutException):
        return "it did not answer in time"
    return re.sub(r"^\[Errno -?\d+\] ", "", str(error)) or type(error).__name__
