"""`ApiWatch`: whether a model answers, and which. However many people look at the page, the API is asked as if one did."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta_ui.client import ApiError

if TYPE_CHECKING:
    from manta_ui.client import ModelInfo, ServeClient

READY_EVERY_S = 0.4
MODEL_EVERY_S = 15.0
"""A new champion is noticed within this time; each look counts towards the requests that the page's key may send."""


@dataclass(frozen=True)
class Seen:
    """What the API was seen to be."""

    model: ModelInfo | None = None
    """What answers; None while nothing does."""
    problem: str | None = None
    """Why nothing does, as a sentence."""


class ApiWatch:
    """Looks at one API. Any thread may use it."""

    def __init__(self, api: ServeClient) -> None:
        self._api = api
        self._lock = threading.Lock()
        self._seen = Seen()
        self._looked_at = self._described_at = float("-inf")

    def look(self) -> Seen:
        """What the API is now, or was a moment ago."""
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
