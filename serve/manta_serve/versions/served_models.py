"""`ServedModels`: the versions that one replica has loaded, and the switch to a new one without interruption.

A new version is loaded while the old one answers. It is warmed up, and must reproduce its golden predictions before it takes over.
The switch is one assignment. Requests in progress keep the version they began with, which is freed after the last of them.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from manta.config import TrafficConfig
from manta.errors import InputError, MantaError
from manta.registry.decisions import line_of_champions
from manta_serve.versions.extra import ExtraVersions
from manta_serve.versions.loader import VersionLoader
from manta_serve.versions.takeover import TOGETHER_AFTER, answering
from manta_serve.versions.traffic import candidate_answers

if TYPE_CHECKING:
    from collections.abc import Callable

    from manta.registry.versions import Standing
    from manta.storage.folders import Storage
    from manta_serve.versions.loader import Refusal
    from manta_serve.versions.served_model import ServedModel

LOOK_EVERY_S = 2.0
OVERDUE_LOOK_S = 0.02
logger = logging.getLogger(__name__)


class NotLoadedError(InputError):
    """Error: a request names a version that is not loaded, and the service does not load versions on request (409)."""


@dataclass(frozen=True)
class _Due:
    """A version that is ready, and the time at which it takes over."""

    model: ServedModel
    at: datetime


class ServedModels:
    """The champion, the candidate if it gets traffic, and a few more versions that requests name.

    If a version is refused or the registry does not answer, the versions that answer stay in place.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        *,
        traffic: TrafficConfig | None = None,
        extra_versions: int = 0,
        together: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Load the champion or, if it is broken, the one before it.

        Args:
            storage: location of the registry.
            name: name of the registered model.
            traffic: the traffic that the candidate gets.
            extra_versions: number of further versions that are held because requests name them.
            together: True if there are other replicas, which must take a new champion at the same moment.
            clock: returns the current time.

        Raises:
            InputError: there is no such model, it has no champion, or none of its champions so far can answer.
            RunError: the registry cannot be reached.
        """
        self.name = name
        self._together, self._clock = together, clock
        self._traffic = traffic or TrafficConfig()
        self._loader = VersionLoader(storage, name, clock=clock)
        self._looking, self._switching = threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._due: _Due | None = None
        self._overdue_from: datetime | None = None
        self._extra = ExtraVersions(self._loader.load_on_request, most=extra_versions) if extra_versions else None
        self._is_settled = True
        self._candidate: ServedModel | None = None
        self._standing = self._loader.standing()
        self._current = self._first(self._standing)
        self._take_champion(self._standing)
        self._take_candidate(self._standing)

    @property
    def current(self) -> ServedModel:
        """The champion."""
        due = self._due
        if due is not None and self._clock() >= due.at:
            with self._switching:
                if self._due is due:  # otherwise the registry has just changed it
                    self._take(due.model)
        return self._current

    @property
    def candidate(self) -> ServedModel | None:
        """The candidate, if it is loaded and is not the champion."""
        candidate = self._candidate
        return None if candidate is None or candidate.version == self.current.version else candidate

    @property
    def loaded(self) -> list[ServedModel]:
        """Every version that may answer: the champion, then the candidate, then the others."""
        main = [self.current] if (candidate := self.candidate) is None else [self.current, candidate]
        extra = [] if self._extra is None else self._extra.held
        return [*main, *(model for model in extra if model.version not in {other.version for other in main})]

    @property
    def refused(self) -> list[Refusal]:
        """The versions that the registry asks for and that were refused."""
        return self._loader.refused

    async def choose(self, *, request_key: str | None, version: int | None) -> ServedModel:
        """Return the version that answers a request: the pinned one, else by the key's traffic split, else the champion.

        A pinned version that is not in memory is loaded, if there is room for it.

        Raises:
            NotLoadedError: the pinned version is not loaded, and there is no room for one more.
            UnknownVersionError, RefusedVersionError, BusyLoadingError, RunError: as for `ExtraVersions.loaded`.
        """
        if version is not None:
            return self._in_memory(version) or await self._loaded_for(version)
        while self._is_overdue():
            await asyncio.sleep(OVERDUE_LOOK_S)
        candidate = self.candidate
        if candidate is None or not request_key:
            return self.current
        if candidate_answers(request_key, percent=self._traffic.candidate, version=candidate.version):
            return candidate
        return self.current

    def exists(self, version: int) -> bool:
        """Tell whether a version is in memory or in the registry.

        Raises:
            RunError: the registry cannot be reached.
        """
        return self._in_memory(version) is not None or self._loader.exists(version)

    def start(self) -> None:
        """Check the registry every few seconds, in a thread that ends with the process or with `stop`."""
        threading.Thread(target=self._follow, daemon=True, name="models").start()

    def stop(self) -> None:
        """Stop checking the registry and loading versions."""
        self._stop.set()
        if self._extra is not None:
            self._extra.close()

    def look(self) -> bool:
        """Read champion and candidate from the registry, and load those that are not loaded. Return True if anything changed.

        A refused version is tried again when the registry changes, for example after `ModelRegistry.request_reload`.

        Raises:
            InputError: the model is no longer in the registry.
            RunError: the registry cannot be reached, or a version cannot be fetched; the next look tries again.
        """
        with self._looking:
            standing = self._loader.standing()
            if standing == self._standing and (self._is_settled or self._due is not None):
                return False
            self._loader.forget_refusals()
            self._drop_deleted(standing)
            before = self._due, self._current, self._candidate
            if standing.reload != self._standing.reload:
                self._renew()
            self._take_champion(standing)
            self._take_candidate(standing)
            self._standing = standing  # only after everything was tried
            return before != (self._due, self._current, self._candidate)

    def _drop_deleted(self, standing: Standing) -> None:
        """Forget the versions that were deleted since the last look. A number may be given again, to another model."""
        for decision in standing.decisions:
            if decision.action == "deleted" and decision not in self._standing.decisions:
                self._loader.forget(decision.version)
                if self._extra is not None:
                    self._extra.drop(decision.version)

    def _renew(self) -> None:
        """Load champion and candidate again if inference formats have joined them."""
        current, candidate = self._current, self._candidate
        renewed = self._loader.renewed(current)
        with self._switching:
            if self._current is current:
                self._current = renewed
        if candidate is not None:
            self._candidate = renewed if candidate is current else self._loader.renewed(candidate)

    def _is_overdue(self) -> bool:
        """Tell whether this replica is still loading a champion with which the other replicas already answer.

        If so, its requests wait: a client that got the new version must not get the old one again.
        """
        overdue_from = self._overdue_from
        return overdue_from is not None and self._clock() >= overdue_from

    def _first(self, standing: Standing) -> ServedModel:
        if standing.champion is None:
            raise InputError(f"{self.name}: there is no champion to serve; promote a version first.")
        before = [standing.champion, *reversed(line_of_champions(standing.decisions))]
        if self._together:
            # A champion promoted just now answers nowhere yet: the replica begins with the version that the others use.
            before = [answering(standing.decisions, now=self._clock()) or standing.champion, *before]
        tried = list(dict.fromkeys(before))
        for version in tried:
            model = self._loader.load_or_refuse(version)
            if model is not None:
                return model
        raise InputError(next(refusal.reason for refusal in self.refused if refusal.version == tried[0]))

    def _take_champion(self, standing: Standing) -> None:
        now, since = self._clock(), standing.champion_since
        # A clock that is ahead on another machine must not delay it longer.
        at = min(since, now) + TOGETHER_AFTER if self._together and since is not None else now
        self._overdue_from = at if at > now else None
        try:
            self._switch(None if standing.champion is None else self._ready(standing.champion), at=at)
        finally:
            self._overdue_from = None

    def _switch(self, model: ServedModel | None, *, at: datetime) -> None:
        with self._switching:
            self._due = None
            if model is None or model is self._current:
                return
            if at > self._clock():
                self._due = _Due(model, at)
            else:
                self._take(model)

    def _take(self, model: ServedModel) -> None:
        if self._extra is not None:
            self._extra.keep(self._current)  # for a rollback, and to compare the two
        self._current, self._due = model, None
        logger.warning("version %d of %s answers from now on", model.version, self.name)

    def _take_candidate(self, standing: Standing) -> None:
        due = self._due
        # A client that got it as the candidate must not get the old champion in the seconds before the takeover.
        self._is_settled = due is None or due.model is not self._candidate
        if not self._is_settled:
            return
        wanted = standing.candidate if self._traffic.candidate or self._traffic.shadow else None
        self._candidate = None if wanted in (None, standing.champion) else self._ready(wanted)

    def _in_memory(self, version: int) -> ServedModel | None:
        due = self._due
        held = (self._current, self._candidate, None if due is None else due.model)
        found = next((model for model in held if model is not None and model.version == version), None)
        return found if found is not None or self._extra is None else self._extra.find(version)

    def _ready(self, version: int) -> ServedModel | None:
        """Return a version from memory, or load it now; None if it is refused."""
        return self._in_memory(version) or self._loader.load_or_refuse(version)

    async def _loaded_for(self, version: int) -> ServedModel:
        """Load a version that a request names."""
        if self._extra is None:
            there = " and ".join(str(model.version) for model in self.loaded)
            raise NotLoadedError(f"version {version} of {self.name} is not loaded; there is version {there}.")
        return await self._extra.loaded(version)

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self.look()
            except MantaError as error:
                logger.warning("version %d goes on answering: %s", self._current.version, error)
            except Exception:
                logger.exception("version %d goes on answering", self._current.version)
