"""`VersionLoader` loads a registered version and checks it before it may answer. It remembers the versions that it refused."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from manta.errors import InputError, MantaError, RunError
from manta_serve.versions.extra import RefusedVersionError, UnknownVersionError
from manta_serve.versions.served_model import ServedModel

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime

    from manta.registry.versions import Standing
    from manta.storage.folders import Storage

logger = logging.getLogger(__name__)


class BrokenVersionError(MantaError):
    """Error: a version loads but does not reproduce its golden predictions."""


@dataclass(frozen=True)
class Refusal:
    """A version that was refused."""

    version: int
    reason: str
    at: str
    """UTC, ISO 8601."""


class VersionLoader:
    """Loader of one registered model's versions."""

    def __init__(self, storage: Storage, name: str, *, clock: Callable[[], datetime]) -> None:
        self._storage, self._name, self._clock = storage, name, clock
        self._refused: dict[int, Refusal] = {}
        self._existing: set[int] = set()

    @property
    def refused(self) -> list[Refusal]:
        """The versions that `load_or_refuse` refused since `forget_refusals`."""
        return list(self._refused.values())

    def forget_refusals(self) -> None:
        """Try refused versions again from now on."""
        self._refused = {}

    def forget(self, version: int) -> None:
        """Ask the registry again whether a version exists."""
        self._existing.discard(version)

    def standing(self) -> Standing:
        """Return the registry's champion, candidate and decisions.

        Raises:
            InputError: there is no such model.
            RunError: the registry cannot be reached.
        """
        from manta.registry.models import ModelRegistry

        return ModelRegistry(self._storage).standing(self._name)

    def exists(self, version: int) -> bool:
        """Tell whether the registry has a version of this model.

        Raises:
            RunError: the registry cannot be reached.
        """
        from manta.registry.models import ModelRegistry

        if version not in self._existing:
            try:
                ModelRegistry(self._storage).get(self._name, version=version)
            except InputError:
                return False
        self._existing.add(version)
        return True

    def load_or_refuse(self, version: int) -> ServedModel | None:
        """Load a version, warm it up and check it; return None if it is refused."""
        if version in self._refused:
            return None
        try:
            return self.load(version)
        except RefusedVersionError as error:
            reason = str(error)
            self._refused[version] = Refusal(version, reason, self._clock().isoformat(timespec="seconds"))
            logger.warning("version %d of %s is refused: %s", version, self._name, reason, exc_info=error.__cause__)
            return None

    def renewed(self, model: ServedModel) -> ServedModel:
        """Return a loaded version with the inference formats that have joined it since; the same if there are none.

        Raises:
            RunError: the registry cannot be reached.
        """
        from manta.registry.models import ModelRegistry

        registry = ModelRegistry(self._storage)
        try:
            artifact = registry.files.fetch(registry.get(self._name, version=model.version))
        except InputError:  # it is gone from the registry, and goes on answering here
            return model
        same = artifact.manifest.formats == model.manifest.formats
        return model if same else self.load_or_refuse(model.version) or model

    def load(self, version: int) -> ServedModel:
        """Load a version, warm it up and check it.

        Raises:
            RefusedVersionError: the version cannot answer.
            RunError: the version could not be fetched, which is not the version's fault.
        """
        from manta.registry.models import ModelRegistry

        try:
            model = ServedModel.load(self._storage, ModelRegistry(self._storage).get(self._name, version=version))
            model.warm_up()
            check_golden(model)
        except RunError:
            raise
        except MantaError as error:
            raise RefusedVersionError(str(error)) from None
        except Exception as error:  # no error may stop the version that answers
            raise RefusedVersionError(f"version {version} does not load: {error!r}") from error
        return model

    def load_on_request(self, version: int) -> ServedModel:
        """Load a version that a request names. The error must not reveal the location of the registry."""
        if not self.exists(version):
            raise UnknownVersionError(f"there is no version {version} of {self._name}.")
        try:
            return self.load(version)
        except RefusedVersionError as error:
            logger.warning(
                "version %d of %s was asked for and cannot answer: %s", version, self._name, error, exc_info=error.__cause__
            )
            raise RefusedVersionError(f"version {version} of {self._name} cannot answer; the log says why.") from None


def check_golden(model: ServedModel) -> None:
    """Check that a loaded model reproduces its golden predictions on this machine. An artifact without golden predictions passes.

    Raises:
        InputError: the golden predictions cannot be read.
        BrokenVersionError: the model answers differently.
    """
    golden = model.artifact.golden()
    if golden is None:
        return
    names = model.manifest.labels
    answers = [model.classify([text])[0].scores for text in golden.texts]
    probabilities = np.array([[scores[name] for name in names] for scores in answers]).reshape(len(answers), len(names))
    fault = golden.fault(probabilities, format=model.format, reduced=model.is_reduced)
    if fault is not None:
        raise BrokenVersionError(f"{model.name} version {model.version}: {fault}.")
