"""An answer of the service, and what gives it its model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.inference.predictor import Prediction
    from manta_serve.models import Refusal
    from manta_serve.served_model import ServedModel


@dataclass(frozen=True)
class Answer:
    """The answer to one request, all of it by one version."""

    model: ServedModel
    predictions: list[Prediction]
    """One for each text, in order."""
    queued_s: float
    """Seconds from the request's arrival to its first text being computed."""
    computed_s: float
    """Seconds from then to its last text being computed."""


class Models(Protocol):
    """Which versions are loaded."""

    @property
    def current(self) -> ServedModel:
        """The champion."""
        ...

    @property
    def candidate(self) -> ServedModel | None:
        """The candidate, where it is loaded and is not the champion."""
        ...

    @property
    def loaded(self) -> Sequence[ServedModel]:
        """Every version in memory that may answer."""
        ...

    @property
    def refused(self) -> Sequence[Refusal]:
        """The versions that the registry asks for and that were not taken."""
        ...

    async def choose(self, *, request_key: str | None, version: int | None) -> ServedModel:
        """Who answers a request: the pinned version, loaded if need be, else by the key's share of the traffic.

        Raises:
            NotLoadedError, UnknownVersionError, RefusedVersionError, BusyLoadingError: the pinned version cannot be had.
        """
        ...

    def stop(self) -> None:
        """Look no more for other versions."""
        ...
