"""`Predictor`: text in, predictions out. The only inference path: serving, evaluation and tests all use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from manta.artifact import ModelArtifact
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.texts import Text, first_of_wrong_kind, token_ids, wrong_kind_sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manta.labels import Floats

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Prediction:
    """The answer for one text or pair."""

    labels: tuple[str, ...]
    """The labels that apply, most probable first: exactly one, or for a multilabel task several or none."""
    label: str
    """The most probable label."""
    score: float
    """Probability of `label`."""
    scores: dict[str, float]
    """Probability of every label, most probable first."""


class Predictor:
    """A loaded model. Not thread-safe: give it one thread at a time."""

    def __init__(self, artifact: ModelArtifact, *, device: str | None = None) -> None:
        """Load the weights on `device`; the GPU when there is one, else the CPU."""
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self.artifact = artifact
        self.labels: LabelSpace = artifact.manifest.label_space
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._tokenizer: Any = AutoTokenizer.from_pretrained(artifact.path)
        model: Any = AutoModelForSequenceClassification.from_pretrained(artifact.path, dtype=torch.float32)
        self._model = model.to(self.device).eval()

    def logits(self, texts: Sequence[Text], *, on_rows_done: Callable[[int], None] | None = None) -> Floats:
        """Logits `(texts, labels)` in the order of the texts.

        Texts are cut at the length the model was trained with, ordered by length and run in batches bounded by tokens,
        padding included. `on_rows_done` is told how many rows each finished batch had.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        if not texts:
            return np.empty((0, len(self.labels.names)), dtype=np.float32)
        manifest = self.artifact.manifest
        wrong = first_of_wrong_kind(texts, num_texts=manifest.num_texts)
        if wrong is not None:
            raise InputError(f"text {wrong + 1} of {len(texts)}: {wrong_kind_sentence(manifest.num_texts)}.")
        tokens = token_ids(self._tokenizer, texts, max_length=manifest.max_length)
        result = np.empty((len(texts), len(self.labels.names)), dtype=np.float32)
        for rows in token_batches(np.array([len(row) for row in tokens["input_ids"]]), max_tokens=BATCH_TOKENS):
            batch = {name: [values[row] for row in rows] for name, values in tokens.items()}
            inputs = self._tokenizer.pad(batch, return_tensors="pt").to(self.device)
            with torch.inference_mode():
                output = self._model(**inputs)
            result[rows] = output.logits.float().cpu().numpy()
            if on_rows_done is not None:
                on_rows_done(len(rows))
        return result

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """The labels and the probabilities of each text or pair.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        probabilities = self.labels.probabilities(self.logits(texts))
        decided = self.labels.decided_names(probabilities)
        return [self._prediction(row, labels) for row, labels in zip(probabilities, decided, strict=True)]

    def _prediction(self, probabilities: npt.NDArray[np.float64], labels: tuple[str, ...]) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")
        scores = {self.labels.names[index]: float(probabilities[index]) for index in order}
        label, score = next(iter(scores.items()))
        return Prediction(labels=labels, label=label, score=score, scores=scores)


def token_batches(lengths: npt.NDArray[np.int64], *, max_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Row indices in batches of like length, longest first, each of at most `max_tokens` once padded (or one row)."""
    order = np.argsort(-lengths, kind="stable")
    batches: list[npt.NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        size = max(1, max_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches
