"""`ExtraVersions`: versions that are neither champion nor candidate, in memory because somebody asks for one by its number.

One is loaded at a time, in a thread of its own, beside whatever answers. Of those in memory the one that was asked for longest ago
makes room.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from manta.errors import InputError, MantaError

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from manta_serve.served_model import ServedModel

MOST_PENDING = 3
"""Versions that may be loading or wait for it: a client that asks for all of them in turn must not make others wait for that."""
RETRY_S = 5


class UnknownVersionError(InputError):
    """A request asks for a version that does not exist (404)."""


class RefusedVersionError(InputError):
    """A request asks for a version that cannot answer (409)."""


class BusyLoadingError(MantaError):
    """Too many other versions are being loaded (429)."""


class ExtraVersions:
    """Up to `most` versions. `find` and `keep` may be called by any thread, `loaded` by event loops."""

    def __init__(self, load: Callable[[int], ServedModel], *, most: int) -> None:
        """`load` returns a version that is warm and checked, or raises what the request is to be told."""
        self._load = load
        self._most = most
        self._held: dict[int, ServedModel] = {}  # the one that was asked for last at the end
        self._pending: dict[int, Future[ServedModel]] = {}
        self._changing = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="versions")

    @property
    def held(self) -> list[ServedModel]:
        """Those in memory."""
        with self._changing:
            return list(self._held.values())

    def find(self, version: int) -> ServedModel | None:
        """A version, if it is in memory."""
        with self._changing:
            model = self._held.pop(version, None)
            if model is not None:
                self._held[version] = model
            return model

    def keep(self, model: ServedModel) -> None:
        """Keep a version in memory for the next request that names it."""
        with self._changing:
            self._held.pop(model.version, None)
            self._held[model.version] = model
            while len(self._held) > self._most:
                del self._held[next(iter(self._held))]

    async def loaded(self, version: int) -> ServedModel:
        """A version, once it is in memory. It is loaded even if the client that asked for it has gone: others may ask, too.

        Raises:
            UnknownVersionError: there is no such version.
            RefusedVersionError: it does not load, or not answer as it did when it was made.
            BusyLoadingError: others are being loaded; it can be asked for again soon.
            RunError: the registry cannot be reached.
        """
        with self._changing:
            future = self._pending.get(version)
            if future is None:
                if len(self._pending) >= MOST_PENDING:
                    raise BusyLoadingError(f"other versions are being loaded; ask for version {version} again in {RETRY_S} s.")
                future = self._pending[version] = self._thread.submit(self._loaded, version)
        return await asyncio.shield(asyncio.wrap_future(future))

    def close(self) -> None:
        """Load no more."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _loaded(self, version: int) -> ServedModel:
        try:
            model = self._load(version)
            self.keep(model)
            return model
        finally:
            with self._changing:
                del self._pending[version]
