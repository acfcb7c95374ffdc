"""`ApiWatch`: tells whether a model answers, and which one. The load on the API does not grow with the number of viewers."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta_ui.clients.api import ApiError

if TYPE_CHECKING:
    from manta_ui.clients.api import ModelInfo, ServeClient

READY_EVERY_S = 0.4
MODEL_EVERY_S = 15.0
"""Seconds within which a new champion is noticed. Each look counts towards the rate limit of the page's key."""


@dataclass(frozen=True)
class Seen:
    """The observed state of the API."""

    model: ModelInfo | None = None
    """The model that answers; None while none does."""
    problem: str | None = None
    """The reason why none answers, as a sentence."""


class ApiWatch:
    """An observer of one API. Any thread may use it."""

    def __init__(self, api: ServeClient) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._seen = Seen()
        self._looked_at = self._described_at = float("-inf")

    def look(self) -> Seen:
        """Return the current state of the API, which may be a moment old."""
        with self._lock:
            if time.monotonic() - self._looked_at >= READY_EVERY_S:
                self._seen = self._look()
                self._looked_at = time.monotonic()
            return self._seen

    def _look(self) -> Seen:
        try:
            self._api.check_ready()
            is_recent = time.monotonic() - self._described_at < MODEL_EVERY_S
            if self._seen.model is not None and is_recent:
                return self._seen
            found = Seen(model=self._api.model())
            self._described_at = time.monotonic()
        except ApiError as error:
            return Seen(problem=str(error))
        return found
