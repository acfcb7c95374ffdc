"""`Classifier`: one registered version, loaded and ready to answer. A plain class: tests use it without Ray."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from manta.predictor import Prediction, Predictor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.artifact import Manifest
    from manta.storage import Storage
    from manta.texts import Text


class Classifier:
    """Answers with one version of a model."""

    def __init__(self, predictor: Predictor, *, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self._predictor = predictor
        self._one_at_a_time = threading.Lock()

    @classmethod
    def champion(cls, storage: Storage, name: str) -> Classifier:
        """The model's current champion.

        Raises:
            InputError: there is no such model, it has no champion, or its artifact is damaged.
        """
        from manta.registry import ModelRegistry

        registry = ModelRegistry(storage)
        version = registry.get(name)
        return cls(Predictor(registry.fetch(version)), name=version.name, version=version.version)

    @property
    def manifest(self) -> Manifest:
        """What the artifact says of itself."""
        return self._predictor.artifact.manifest

    def classify(self, texts: Sequence[Text]) -> list[Prediction]:
        """The predictions of all texts or pairs, in their order. Any thread may call it; one computes at a time.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        with self._one_at_a_time:
            return self._predictor.predict(texts)

    def warm_up(self) -> None:
        """Answer once, so that the first request does not wait for what is set up on first use."""
        self.classify(["warm up" if self.manifest.num_texts == 1 else ("warm", "up")])
