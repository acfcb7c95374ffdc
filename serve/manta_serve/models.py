"""`ServedModels`: the versions that one replica has loaded, and how another one takes over without anybody noticing.

A new version is loaded beside the one that answers, warmed up, and must reproduce its golden predictions before it takes over. That
is one assignment: requests that have begun hold on to the version they began with, and the last of them lets go of it.
"""

from __future__ import annotations

import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from manta.config import TrafficConfig
from manta.decisions import line_of_champions
from manta.errors import InputError, MantaError, RunError
from manta_serve.served_model import ServedModel
from manta_serve.traffic import candidate_answers

if TYPE_CHECKING:
    from collections.abc import Callable

    from manta.registry import Standing
    from manta.storage import Storage

LOOK_EVERY_S = 2.0
TOGETHER_AFTER = timedelta(seconds=15)
"""From a promotion to the moment at which several replicas take the new champion: time to see it and to load it."""
logger = logging.getLogger(__name__)


class NotLoadedError(InputError):
    """A request asks for a version that is not loaded (409)."""


class BrokenVersionError(MantaError):
    """A version loads and does not answer as it did when it was made."""


@dataclass(frozen=True)
class Refusal:
    """A version that was not taken."""

    version: int
    reason: str
    at: str
    """UTC, ISO 8601."""


@dataclass(frozen=True)
class _Due:
    """A version that is ready, and when it takes over."""

    model: ServedModel
    at: datetime


class ServedModels:
    """The champion and, if it gets traffic, the candidate.

    What is refused, and a registry that does not answer, leave in place what answers.
    """

    def __init__(
        self,
        storage: Storage,
        name: str,
        *,
        traffic: TrafficConfig | None = None,
        together: bool = False,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Load the champion, or where it is broken, the one before it.

        Args:
            storage: where the registry is.
            name: the registered model.
            traffic: what the candidate sees.
            together: whether there are other replicas, which are to take a new champion at the same moment.
            clock: the time.

        Raises:
            InputError: there is no such model, it has no champion, or no version of it that was the champion can answer.
            RunError: the registry cannot be reached.
        """
        self.name = name
        self._storage, self._together, self._clock = storage, together, clock
        self._traffic = traffic or TrafficConfig()
        self._refused: dict[int, Refusal] = {}
        self._looking, self._switching = threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._due: _Due | None = None
        self._is_settled = True
        self._candidate: ServedModel | None = None
        self._standing = self._registry_says()
        self._current = self._first(self._standing)
        self._take_candidate(self._standing)

    @property
    def current(self) -> ServedModel:
        """The champion."""
        due = self._due
        if due is not None and self._clock() >= due.at:
            with self._switching:
                if self._due is due:  # else the registry has just said something else
                    self._take(due.model)
        return self._current

    @property
    def candidate(self) -> ServedModel | None:
        """The candidate, where it is loaded and is not the champion."""
        candidate = self._candidate
        return None if candidate is None or candidate.version == self.current.version else candidate

    @property
    def loaded(self) -> list[ServedModel]:
        """Every version that may answer, the champion first."""
        candidate = self.candidate
        return [self.current] if candidate is None else [self.current, candidate]

    @property
    def refused(self) -> list[Refusal]:
        """The versions that the registry asks for and that were not taken."""
        return list(self._refused.values())

    def choose(self, *, request_key: str | None, version: int | None) -> ServedModel:
        """Who answers a request: the pinned version, else by the key's share of the traffic, and without a key the champion.

        Raises:
            NotLoadedError: the pinned version is not loaded.
        """
        loaded = self.loaded
        if version is not None:
            found = next((model for model in loaded if model.version == version), None)
            if found is None:
                there = " and ".join(str(model.version) for model in loaded)
                raise NotLoadedError(f"version {version} of {self.name} is not loaded; there is version {there}.")
            return found
        if len(loaded) == 1 or not request_key:
            return loaded[0]
        return loaded[candidate_answers(request_key, percent=self._traffic.candidate, version=loaded[1].version)]

    def start(self) -> None:
        """Look into the registry every few seconds, in a thread that ends with the process or with `stop`."""
        threading.Thread(target=self._follow, daemon=True, name="models").start()

    def stop(self) -> None:
        """End the looking."""
        self._stop.set()

    def look(self) -> bool:
        """See who the champion and the candidate are, and load who is not loaded; whether anything changed.

        A version that was refused is tried again when the registry says something new, such as `ModelRegistry.request_reload`.

        Raises:
            InputError: the model is gone from the registry.
            RunError: the registry cannot be reached, or a version not be fetched; it is tried again at the next look.
        """
        with self._looking:
            standing = self._registry_says()
            if standing == self._standing and (self._is_settled or self._due is not None):
                return False
            self._refused = {}
            before = self._due, self._current, self._candidate
            self._take_champion(standing)
            self._take_candidate(standing)
            self._standing = standing  # not before all of it was tried
            return before != (self._due, self._current, self._candidate)

    def _registry_says(self) -> Standing:
        from manta.registry import ModelRegistry

        return ModelRegistry(self._storage).standing(self.name)

    def _first(self, standing: Standing) -> ServedModel:
        if standing.champion is None:
            raise InputError(f"{self.name}: there is no champion to serve; promote a version first.")
        tried = list(dict.fromkeys([standing.champion, *reversed(line_of_champions(standing.decisions))]))
        for version in tried:
            model = self._loaded(version)
            if model is not None:
                return model
        raise InputError(self._refused[tried[0]].reason)

    def _take_champion(self, standing: Standing) -> None:
        model = None if standing.champion is None else self._ready(standing.champion)
        now, since = self._clock(), standing.champion_since
        # A clock that is ahead elsewhere must not put it off for longer.
        at = min(since, now) + TOGETHER_AFTER if self._together and since is not None else now
        with self._switching:
            self._due = None
            if model is None or model is self._current:
                return
            if at > now:
                self._due = _Due(model, at)
            else:
                self._take(model)

    def _take(self, model: ServedModel) -> None:
        self._current, self._due = model, None
        logger.warning("version %d of %s answers from now on", model.version, self.name)

    def _take_candidate(self, standing: Standing) -> None:
        due = self._due
        # Whoever meets it as the candidate already must not go back for the seconds until it is the champion.
        self._is_settled = due is None or due.model is not self._candidate
        if not self._is_settled:
            return
        wanted = standing.candidate if self._traffic.candidate else None
        self._candidate = None if wanted in (None, standing.champion) else self._ready(wanted)

    def _ready(self, version: int) -> ServedModel | None:
        """A version that is in memory already, or loaded now; None if it is refused."""
        due = self._due
        held = (self._current, self._candidate, None if due is None else due.model)
        return next((model for model in held if model is not None and model.version == version), None) or self._loaded(version)

    def _loaded(self, version: int) -> ServedModel | None:
        """A version, loaded, warm and checked; None if it is refused."""
        if version in self._refused:
            return None
        from manta.registry import ModelRegistry

        try:
            model = ServedModel.load(self._storage, ModelRegistry(self._storage).get(self.name, version=version))
            model.warm_up()
            check_golden(model)
        except RunError:
            raise  # it is not the version's fault
        except Exception as error:  # whatever it is, it must not end the one that answers
            reason = str(error) if isinstance(error, MantaError) else f"version {version} does not load: {error!r}"
            self._refused[version] = Refusal(version, reason, self._clock().isoformat(timespec="seconds"))
            logger.warning(
                "version %d of %s is refused: %s", version, self.name, reason, exc_info=not isinstance(error, MantaError)
            )
            return None
        return model

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                self.look()
            except MantaError as error:
                logger.warning("version %d goes on answering: %s", self._current.version, error)
            except Exception:
                logger.exception("version %d goes on answering", self._current.version)


def check_golden(model: ServedModel) -> None:
    """See that a loaded model, as it computes here, reproduces its golden predictions; one of an earlier version has none.

    Raises:
        InputError: they cannot be read.
        BrokenVersionError: it answers otherwise.
    """
    golden = model.artifact.golden()
    if golden is None:
        return
    names = model.manifest.labels
    answers = [model.classify([text])[0].scores for text in golden.texts]
    probabilities = np.array([[scores[name] for name in names] for scores in answers]).reshape(len(answers), len(names))
    fault = golden.fault(probabilities, form=model.form, reduced=model.is_reduced)
    if fault is not None:
        raise BrokenVersionError(f"{model.name} version {model.version}: {fault}.")
