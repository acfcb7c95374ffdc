"""`ServedModel`: one registered version, loaded and ready to answer. A plain class, so that tests can use it without Ray."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from manta.inference.formats import REDUCED_FORMATS
from manta.inference.predictor import Prediction, Predictor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.inference.artifact import Manifest, ModelArtifact
    from manta.inference.formats import FormatName
    from manta.labels import Floats
    from manta.registry.versions import RegisteredVersion
    from manta.storage.folders import Storage
    from manta.texts import Text, TokenLists


class ServedModel:
    """One version of a model in memory. `TextBatcher` runs it. Any thread may call its methods; one thread computes at a time."""

    def __init__(self, predictor: Predictor, *, name: str, version: int) -> None:
        self.name = name
        self.version = version
        self._predictor = predictor
        self._tokenises, self._computes = threading.Lock(), threading.Lock()

    @classmethod
    def load(cls, storage: Storage, version: RegisteredVersion) -> ServedModel:
        """Load a registered version.

        Raises:
            InputError: its artifact is damaged or was altered.
        """
        from manta.registry.models import ModelRegistry

        artifact = ModelRegistry(storage).files.fetch(version)
        return cls(Predictor(artifact), name=version.name, version=version.version)

    def alone(self) -> ServedModel:
        """Load the same version again. OpenVINO computes on the calling thread, and so at that thread's priority."""
        return ServedModel(Predictor(self.artifact, format=self.format, num_threads=1), name=self.name, version=self.version)

    @property
    def artifact(self) -> ModelArtifact:
        """The files that it was loaded from."""
        return self._predictor.artifact

    @property
    def manifest(self) -> Manifest:
        """The artifact's manifest."""
        return self.artifact.manifest

    @property
    def format(self) -> FormatName:
        """The inference format that computes."""
        return self._predictor.format

    @property
    def is_reduced(self) -> bool:
        """True if it may compute in fewer bits than fp32, as int8 and GPUs do."""
        return self.format in REDUCED_FORMATS or self._predictor.device.type != "cpu"

    @property
    def batch_tokens(self) -> int:
        """Tokens per batch, including padding, at which it computes fastest or nearly so."""
        return self._predictor.batch_tokens

    def tokenise(self, texts: Sequence[Text]) -> TokenLists:
        """Return the token ids of at least one text or pair, truncated to the length that the model was trained with.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the reverse.
        """
        with self._tokenises:  # a fast tokenizer refuses two threads at once ("Already borrowed")
            return self._predictor.tokenise(texts)

    def check_lengths(self, texts: Sequence[Text]) -> None:
        """Check that no text or pair is longer than the model reads.

        Raises:
            InputError: one is longer.
        """
        with self._tokenises:
            self._predictor.check_lengths(texts)

    def outputs(self, tokens: TokenLists) -> Floats:
        """Return the outputs (`Predictor.outputs`) for the result of `tokenise`, in the same order."""
        with self._computes:
            return self._predictor.outputs_of(tokens)

    def predictions(self, outputs: Floats) -> list[Prediction]:
        """Return the predictions of the rows of `outputs`."""
        return self._predictor.predictions(outputs)

    def classify(self, texts: Sequence[Text]) -> list[Prediction]:
        """Classify at least one text or pair immediately, without the batcher: for warm-up and checks.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the reverse.
        """
        return self.predictions(self.outputs(self.tokenise(texts)))

    def warm_up(self) -> None:
        """Answer once, so that the first request does not wait for one-time setup."""
        self.classify(["warm up" if self.manifest.num_texts == 1 else ("warm", "up")])
