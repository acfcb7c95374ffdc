"""`ExtraVersions`: versions that are neither champion nor candidate, in memory because a request names them.

One version is loaded at a time, in a separate thread, while other versions answer. The least recently requested version makes room
for a new one.
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

    from manta_serve.versions.served_model import ServedModel

MOST_PENDING = 3
"""Most versions that may be loading or waiting to load: a client that requests all versions must not delay the others."""
RETRY_S = 5


class UnknownVersionError(InputError):
    """Error: a request names a version that does not exist (404)."""


class RefusedVersionError(InputError):
    """Error: a request names a version that cannot answer (409)."""


class BusyLoadingError(MantaError):
    """Error: too many other versions are being loaded (429)."""


class ExtraVersions:
    """A cache of up to `most` versions. Any thread may call `find` and `keep`; event loops call `loaded`."""

    def __init__(self, load: Callable[[int], ServedModel], *, most: int) -> None:
        """Create an empty cache. `load` returns a version that is warm and checked, or raises the error for the request."""
        self._load = load
        self._most = most
        self._held: dict[int, ServedModel] = {}  # the most recently requested version is last
        self._pending: dict[int, Future[ServedModel]] = {}
        self._changing = threading.Lock()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="versions")

    @property
    def held(self) -> list[ServedModel]:
        """The versions in memory."""
        with self._changing:
            return list(self._held.values())

    def find(self, version: int) -> ServedModel | None:
        """Return a version if it is in memory, else None."""
        with self._changing:
            model = self._held.pop(version, None)
            if model is not None:
                self._held[version] = model
            return model

    def drop(self, version: int) -> None:
        """Forget a version, such as one that was deleted."""
        with self._changing:
            self._held.pop(version, None)

    def keep(self, model: ServedModel) -> None:
        """Keep a version in memory for the next request that names it."""
        with self._changing:
            self._held.pop(model.version, None)
            self._held[model.version] = model
            while len(self._held) > self._most:
                del self._held[next(iter(self._held))]

    async def loaded(self, version: int) -> ServedModel:
        """Load a version and return it. Loading continues if the client disconnects, as other clients may request it too.

        Raises:
            UnknownVersionError: there is no such version.
            RefusedVersionError: it does not load, or its answers differ from its golden predictions.
            BusyLoadingError: other versions are being loaded; the client can retry soon.
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
        """Stop loading versions."""
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _loaded(self, version: int) -> ServedModel:
        try:
            model = self._load(version)
            self.keep(model)
            return model
        finally:
            with self._changing:
                del self._pending[version]
