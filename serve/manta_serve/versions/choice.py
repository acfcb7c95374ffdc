"""`Models`: the interface that chooses the version for a request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta_serve.versions.loader import Refusal
    from manta_serve.versions.served_model import ServedModel


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
