"""The answer to a request, and the interface that chooses the version for it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.inference.predictor import Prediction
    from manta.labels import Floats
    from manta_serve.served_model import ServedModel
    from manta_serve.version_loader import Refusal


@dataclass(frozen=True)
class Answer:
    """The answer to one request, computed by one version."""

    model: ServedModel
    predictions: list[Prediction]
    """One for each text, in order."""
    logits: Floats
    """`(texts, labels)`, from which the predictions are."""
    num_computed: int
    """Number of its texts that were computed. The others were in the cache."""
    queued_s: float
    """Seconds from the request's arrival until computing of its first text starts."""
    computed_s: float
    """Seconds from then until its last text is computed."""


class Models(Protocol):
    """The loaded versions, and the choice between them."""

    @property
    def current(self) -> ServedModel:
        """The champion."""
        ...

    @property
    def candidate(self) -> ServedModel | None:
        """The candidate, if it is loaded and is not the champion."""
        ...

    @property
    def loaded(self) -> Sequence[ServedModel]:
        """Every version in memory that may answer."""
        ...

    @property
    def refused(self) -> Sequence[Refusal]:
        """The versions that the registry asks for and that were refused."""
        ...

    async def choose(self, *, request_key: str | None, version: int | None) -> ServedModel:
        """Return the version that answers a request: the pinned one, loaded if needed, else by the key's traffic split.

        Raises:
            NotLoadedError, UnknownVersionError, RefusedVersionError, BusyLoadingError: the pinned version is not available.
        """
        ...

    def exists(self, version: int) -> bool:
        """Tell whether the registry has a version of this model.

        Raises:
            RunError: the registry cannot be reached.
        """
        ...

    def stop(self) -> None:
        """Stop looking for other versions."""
        ...
