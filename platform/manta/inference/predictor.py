"""`Predictor`: text in, predictions out. It is the only inference path, which serving, evaluation and tests all use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt
import torch

from manta.errors import InputError
from manta.inference.form import FORM_FILES, SAFETENSORS, FormName, fastest
from manta.model.forward import Forward, OnnxForward, TorchForward
from manta.texts import Text, TokenLists, first_of_wrong_kind, token_ids, wrong_kind_sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from transformers import PreTrainedTokenizerBase

    from manta.inference.artifact import ModelArtifact
    from manta.labels import Floats, LabelSpace


@dataclass(frozen=True)
class Prediction:
    """The answer for one text or pair."""

    labels: tuple[str, ...]
    """The labels that apply, most probable first: exactly one; for a multilabel task, several or none."""
    label: str
    """The most probable label."""
    score: float
    """Probability of `label`."""
    scores: dict[str, float]
    """Probability of every label, most probable first."""
    confidence: float
    """Confidence of the answer (`LabelSpace.confidence`), 0 to 1."""
    uncertain: bool
    """True if the confidence is below the model's abstain threshold (`Manifest.uncertain_below`)."""


class Predictor:
    """A loaded model. It is not thread-safe: only one thread at a time may use it."""

    def __init__(
        self,
        artifact: ModelArtifact,
        *,
        device: str | None = None,
        form: FormName | Literal["auto"] = "auto",
        num_threads: int | None = None,
    ) -> None:
        """Load an inference format of the model on `device`. By default, this is the GPU if there is one, else the CPU.

        On a CPU, `auto` takes the fastest format among those whose answers agree with the safetensors'. On a GPU, it takes the
        safetensors. On a CPU, the predictor computes with `torch.get_num_threads()` threads; an ONNX format uses `num_threads` if
        it is given.

        Raises:
            InputError: the artifact has no such format, or it was refused, or it does not run on that device.
        """
        from transformers import AutoTokenizer

        self.artifact = artifact
        self.labels: LabelSpace = artifact.manifest.label_space
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.form: FormName = chosen_form(artifact, form, on_cpu=self.device.type == "cpu")
        self._tokenizer: Any = AutoTokenizer.from_pretrained(artifact.path, trust_remote_code=False)
        self._forward: Forward
        if self.form == "safetensors":
            self._forward = TorchForward(artifact.path, device=str(self.device))
        else:
            self._forward = OnnxForward(artifact.path / FORM_FILES[self.form], num_threads=num_threads or torch.get_num_threads())

    def logits(self, texts: Sequence[Text], *, on_rows_done: Callable[[int], None] | None = None) -> Floats:
        """Return logits `(texts, labels)` in the order of the texts.

        Texts are cut at the length the model was trained with and sorted by length. They run in batches of a limited number of
        tokens, padding included. `on_rows_done` is called with the number of rows of each finished batch.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        if not texts:
            return np.empty((0, len(self.labels.names)), dtype=np.float32)
        return self.logits_of(self.tokenise(texts), on_rows_done=on_rows_done)

    def tokenise(self, texts: Sequence[Text]) -> TokenLists:
        """Return the token ids of at least one text or pair, cut at the length the model was trained with.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        manifest = self.artifact.manifest
        wrong = first_of_wrong_kind(texts, num_texts=manifest.num_texts)
        if wrong is not None:
            raise InputError(f"text {wrong + 1} of {len(texts)}: {wrong_kind_sentence(manifest.num_texts)}.")
        return token_ids(self._tokenizer, texts, max_length=manifest.max_length)

    @property
    def batch_tokens(self) -> int:
        """Number of tokens of a batch, padding included, at which the throughput is at or near its best."""
        return self._forward.batch_tokens

    def logits_of(self, tokens: TokenLists, *, on_rows_done: Callable[[int], None] | None = None) -> Floats:
        """Return logits `(rows, labels)` for the result of `tokenise`, in its order."""
        return run_batches(self._forward, self._tokenizer, tokens, num_labels=len(self.labels.names), on_rows_done=on_rows_done)

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """Return the labels and the probabilities of each text or pair.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        return self.predictions(self.logits(texts))

    def predictions(self, logits: Floats) -> list[Prediction]:
        """Convert logits `(rows, labels)` to predictions."""
        probabilities = self.labels.probabilities(logits)
        decided = self.labels.decided_names(probabilities)
        confidence = self.labels.confidence(probabilities).tolist()
        return [
            self._prediction(row, labels=labels, confidence=sure)
            for row, labels, sure in zip(probabilities, decided, confidence, strict=True)
        ]

    def _prediction(self, probabilities: npt.NDArray[np.float64], *, labels: tuple[str, ...], confidence: float) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")
        scores = {self.labels.names[index]: float(probabilities[index]) for index in order}
        label, score = next(iter(scores.items()))
        uncertain = confidence < self.artifact.manifest.uncertain_below
        return Prediction(labels=labels, label=label, score=score, scores=scores, confidence=confidence, uncertain=uncertain)


def chosen_form(artifact: ModelArtifact, form: FormName | Literal["auto"], *, on_cpu: bool) -> FormName:
    """Return the requested inference format, or the one that `auto` selects.

    Raises:
        InputError: the artifact has no such format, or it was refused, or it does not run on a GPU.
    """
    forms = {item.name: item for item in artifact.manifest.forms}
    if form == "auto":
        return fastest(artifact.manifest.forms) if on_cpu else SAFETENSORS
    if form == SAFETENSORS:
        return form
    if form not in FORM_FILES:
        raise InputError(f"inference format {form}: unknown; known ones are auto, {SAFETENSORS} and {', '.join(FORM_FILES)}.")
    if form not in forms:
        raise InputError(f"{artifact.path}: this model has no inference format {form}; use {SAFETENSORS}.")
    if not forms[form].accepted:
        raise InputError(f"{artifact.path}: the inference format {form} was refused: {forms[form].reason}; use {SAFETENSORS}.")
    if not on_cpu:
        raise InputError(f"the inference format {form} runs on a CPU only; use {SAFETENSORS}, or the device cpu.")
    return form


def run_batches(
    forward: Forward,
    tokenizer: PreTrainedTokenizerBase,
    tokens: TokenLists,
    *,
    num_labels: int,
    on_rows_done: Callable[[int], None] | None = None,
) -> Floats:
    """Compute logits `(rows, labels)` for the result of `manta.texts.token_ids`, in batches of similar length."""
    lengths = np.array([len(row) for row in tokens["input_ids"]])
    result = np.empty((len(lengths), num_labels), dtype=np.float32)
    for rows in token_batches(lengths, max_tokens=forward.batch_tokens):
        batch = {name: [values[row] for row in rows] for name, values in tokens.items()}
        result[rows] = forward(dict(tokenizer.pad(batch, return_tensors="np")))
        if on_rows_done is not None:
            on_rows_done(len(rows))
    return result


def token_batches(lengths: npt.NDArray[np.int64], *, max_tokens: int) -> list[npt.NDArray[np.int64]]:
    """Return row indices in batches of similar length, longest first. A padded batch has at most `max_tokens`, or one row."""
    order = np.argsort(-lengths, kind="stable")
    batches: list[npt.NDArray[np.int64]] = []
    start = 0
    while start < len(order):
        size = max(1, max_tokens // int(lengths[order[start]]))
        batches.append(order[start : start + size])
        start += size
    return batches
