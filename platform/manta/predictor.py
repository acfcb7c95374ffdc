"""`Predictor`: text in, predictions out. The only inference path: serving, evaluation and tests all use it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from manta.artifact import ModelArtifact
from manta.labels import LabelSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manta.labels import Floats

BATCH_TOKENS = 2048


@dataclass(frozen=True)
class Prediction:
    """The answer for one text."""

    label: str
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

    def logits(self, texts: Sequence[str], *, on_rows_done: Callable[[int], None] | None = None) -> Floats:
        """Logits `(texts, labels)` in the order of the texts.

        Texts are cut at the length the model was trained with, ordered by length and run in batches bounded by tokens,
        padding included. `on_rows_done` is told how many rows each finished batch had.
        """
        if not texts:
            return np.empty((0, len(self.labels.names)), dtype=np.float32)
        ids = self._tokenizer(list(texts), truncation=True, max_length=self.artifact.manifest.max_length)["input_ids"]
        result = np.empty((len(texts), len(self.labels.names)), dtype=np.float32)
        for rows in token_batches(np.array([len(row) for row in ids]), max_tokens=BATCH_TOKENS):
            inputs = self._tokenizer.pad({"input_ids": [ids[row] for row in rows]}, return_tensors="pt").to(self.device)
            with torch.inference_mode():
                output = self._model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
            result[rows] = output.logits.float().cpu().numpy()
            if on_rows_done is not None:
                on_rows_done(len(rows))
        return result

    def predict(self, texts: Sequence[str]) -> list[Prediction]:
        """The label and the probabilities of each text."""
        return [self._prediction(row) for row in self.labels.probabilities(self.logits(texts))]

    def _prediction(self, probabilities: npt.NDArray[np.float64]) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")
        scores = {self.labels.names[index]: float(probabilities[index]) for index in order}
        label = self.labels.names[int(self.labels.decide(probabilities[None, :])[0])]
        return Prediction(label=label, score=scores[label], scores=scores)


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
