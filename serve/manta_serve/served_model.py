"""`ServedModel`: one registered version, loaded and ready to answer. A plain class: tests use it without Ray."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from manta.inference.predictor import Prediction, Predictor

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.inference.artifact import Manifest, ModelArtifact
    from manta.inference.form import FormName
    from manta.labels import Floats
    from manta.registry.models import RegisteredVersion
    from manta.storage.folders import Storage
    from manta.texts import Text, TokenLists


class ServedModel:
    """One version of a model in memory. `TextBatcher` runs it; any thread may call its methods, one computes at a time."""

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

        artifact = ModelRegistry(storage).fetch(version)
        return cls(Predictor(artifact), name=version.name, version=version.version)

    def alone(self) -> ServedModel:
        """The same version loaded once more. An ONNX form computes on the thread that calls it, and so at that one's priority."""
        return ServedModel(Predictor(self.artifact, form=self.form, num_threads=1), name=self.name, version=self.version)

    @property
    def artifact(self) -> ModelArtifact:
        """The files it was loaded from."""
        return self._predictor.artifact

    @property
    def manifest(self) -> Manifest:
        """What the artifact says of itself."""
        return self.artifact.manifest

    @property
    def form(self) -> FormName:
        """The form of the model that computes."""
        return self._predictor.form

    @property
    def is_reduced(self) -> bool:
        """Whether it may compute in fewer bits than fp32, as int8 and GPUs do."""
        return self.form == "onnx-int8" or self._predictor.device.type != "cpu"

    @property
    def batch_tokens(self) -> int:
        """Tokens of a batch, padding included, at which it computes fastest or nearly so."""
        return self._predictor.batch_tokens

    def tokenise(self, texts: Sequence[Text]) -> TokenLists:
        """Token ids of at least one text or pair, cut at the length the model was trained with.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        with self._tokenises:  # a fast tokenizer refuses two threads at once ("Already borrowed")
            return self._predictor.tokenise(texts)

    def logits(self, tokens: TokenLists) -> Floats:
        """Logits `(rows, labels)` of what `tokenise` returned, in its order."""
        with self._computes:
            return self._predictor.logits_of(tokens)

    def predictions(self, logits: Floats) -> list[Prediction]:
        """What logits `(rows, labels)` say."""
        return self._predictor.predictions(logits)

    def classify(self, texts: Sequence[Text]) -> list[Prediction]:
        """The predictions of at least one text or pair, at once and past the batcher: for warming up and for checks.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        return self.predictions(self.logits(self.tokenise(texts)))

    def warm_up(self) -> None:
        """Answer once, so that the first request does not wait for what is set up on first use."""
        self.classify(["warm up" if self.manifest.num_texts == 1 else ("warm", "up")])
