"""`ChampionFollower`: a running service takes the registry's champion, and a rollback, within seconds."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from manta.errors import MantaError
from manta_serve.served_model import ServedModel

if TYPE_CHECKING:
    from manta.storage import Storage

LOOK_EVERY_S = 5.0
logger = logging.getLogger(__name__)


class ChampionFollower:
    """Holds the classifier that answers, and replaces it when another version has become the champion.

    The new version is loaded and warmed up beside the old one, which answers until then. One that does not load, and a
    registry that does not answer, leave the old one in place.
    """

    def __init__(self, storage: Storage, name: str) -> None:
        """Load the champion.

        Raises:
            InputError: there is no such model, it has no champion, or its artifact is damaged.
        """
        from manta.registry import ModelRegistry

        self._storage, self._name = storage, name
        self._refused: int | None = None
        self._stop = threading.Event()
        self.current = ServedModel.load(storage, ModelRegistry(storage).get(name))
        self.current.warm_up()

    def choose(self, *, request_key: str | None, version: int | None) -> ServedModel:
        """Who answers a request: the champion."""
        return self.current

    def start(self) -> None:
        """Look for another champion every few seconds, in a thread that ends with the process or with `stop`."""
        threading.Thread(target=self._follow, daemon=True, name="champion").start()

    def stop(self) -> None:
        """End the looking."""
        self._stop.set()

    def look(self) -> bool:
        """Take the champion if it is another version than the one that answers; whether it was taken."""
        from manta.registry import ModelRegistry

        champion = ModelRegistry(self._storage).get(self._name)
        if champion.version in (self.current.version, self._refused):
            return False
        try:
            new = ServedModel.load(self._storage, champion)
            new.warm_up()
        except Exception:
            self._refused = champion.version  # its files do not get better; the next champion is tried
            raise
        self.current = new
        return True

    def _follow(self) -> None:
        while not self._stop.wait(LOOK_EVERY_S):
            try:
                if self.look():
                    logger.warning("version %d of %s answers from now on", self.current.version, self._name)
            except MantaError as error:
                logger.warning("version %d goes on answering: %s", self.current.version, error)
            except Exception:
                logger.exception("version %d goes on answering", self.current.version)
