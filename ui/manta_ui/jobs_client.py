"""The page's way to a cluster: Ray's Jobs API over HTTP."""

from __future__ import annotations


class JobsClient:
    """Talks to the Jobs API of one cluster."""

    def __init__(self, url: str, *, token: str | None = None) -> None:
        self.url = url.rstrip("/")
        self.token = token
