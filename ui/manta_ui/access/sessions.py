"""`Sessions`: who is logged in, and until when."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

SESSION_S = 12 * 3600.0
"""Seconds after which a person has to log in again."""


class Sessions(dict[str, str]):
    """Users by the token of their session, in the place of gradio's dictionary, whose entries never end.

    A session ends after `SESSION_S`, and at once if `is_user` no longer knows its user.
    """

    def __init__(self, is_user: Callable[[str], bool], *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._is_user = is_user
        self._clock = clock
        self._ends: dict[str, float] = {}

    def __setitem__(self, token: str, user: str) -> None:
        for other in [other for other, end in self._ends.items() if end <= self._clock()]:
            self._end(other)
        self._ends[token] = self._clock() + SESSION_S
        super().__setitem__(token, user)

    def get(self, token: str | None, default: str | None = None) -> str | None:  # type: ignore[override]
        """Return the user of a session that has not ended."""
        user = super().get(token or "")
        if user is None:
            return default
        if self._ends[token or ""] <= self._clock() or not self._is_user(user):
            self._end(token or "")
            return default
        return user

    def _end(self, token: str) -> None:
        self._ends.pop(token, None)
        self.pop(token, None)
