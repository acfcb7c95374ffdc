"""The page's way to the registry: MLflow's REST API."""

from __future__ import annotations


class TrackingClient:
    """Talks to one MLflow tracking server."""

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
