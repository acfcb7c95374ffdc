"""`Predictor`: text in, predictions out. It is the only inference path, which serving, evaluation and tests all use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from manta.errors import InputError
from manta.inference.batches import run_batches
from manta.inference.fastest import fastest_here, load_format
from manta.inference.formats import CPU_FORMATS, FAST_FORMATS, FORMER_FORMATS, GPU_FORMAT, SAFETENSORS, FormatName
from manta.inference.scope import References, UncertainReason
from manta.texts import Text, TokenLists, first_of_wrong_kind, num_tokens, token_ids, wrong_kind_sentence

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from manta.inference.artifact import ModelArtifact
    from manta.labels import Floats, LabelSpace
    from manta.model.forward import Forward

MOST_ROWS = 50_000
"""Rows whose token ids are in memory at a time."""


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
    """True if the confidence is below the model's abstain threshold (`Manifest.uncertain_below`), or the text is out of scope."""
    label_set: tuple[str, ...] | None = None
    """Labels of which one is right as often as `Calibration.set_coverage` says, most probable first; None without sets."""
    uncertain_reason: UncertainReason | None = None
    """`out_of_scope` for a text that is unlike all training rows, else `unsure`; None if the answer is not uncertain."""


class Predictor:
    """A loaded model. It is not thread-safe: only one thread at a time may use it."""

    def __init__(
        self,
        artifact: ModelArtifact,
        *,
        device: str | None = None,
        format: FormatName | Literal["auto"] = "auto",
        num_threads: int | None = None,
    ) -> None:
        """Load an inference format of the model on `device`. By default, this is the GPU if there is one, else the CPU.

        On a CPU, `auto` takes the accepted format that computes fastest on this machine. On a GPU, it takes `torch-bf16` if it
        was accepted and the GPU computes in bfloat16, else the safetensors. On a CPU, the predictor computes with
        `torch.get_num_threads()` threads; a fast format uses `num_threads` if it is given.

        Raises:
            InputError: the artifact has no such format, or it was refused, or it does not run here.
        """
        import torch
        from transformers import AutoTokenizer

        self.artifact = artifact
        self.labels: LabelSpace = artifact.manifest.label_space
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._tokenizer: Any = AutoTokenizer.from_pretrained(artifact.path, trust_remote_code=False)
        num_threads = num_threads or torch.get_num_threads()
        self._references = None if artifact.manifest.scope is None else References.load(artifact.path)
        self.format: FormatName
        self._forward: Forward
        if format == "auto" and self.device.type == "cpu":
            self.format, self._forward = fastest_here(artifact, self._tokenizer, num_threads=num_threads)
            return
        self.format = chosen_format(artifact, format, on_cpu=self.device.type == "cpu")
        try:
            self._forward = load_format(
                artifact.path,
                self.format,
                device=str(self.device),
                num_threads=num_threads,
                features=self._references is not None,
            )
        except ImportError as error:
            raise InputError(f"the inference format {self.format} needs a package that is not installed ({error}).") from None

    def logits(self, texts: Sequence[Text]) -> Floats:
        """Return logits `(texts, labels)` in the order of the texts; otherwise as `outputs`."""
        return self.outputs(texts)[:, : len(self.labels.names)]

    def outputs(self, texts: Sequence[Text], *, on_rows_done: Callable[[int], None] | None = None) -> Floats:
        """Return what the model computes for each text: logits `(texts, labels)`.

        If the model has a scope, its distance from the training rows follows them, `(texts, labels + 1)`.

        Texts are cut at the length the model was trained with, or read in windows, as in training. Sorted by length, they run in
        batches of a limited number of tokens, padding included. `on_rows_done` is called with the number of rows of each finished
        batch. At most `MOST_ROWS` are tokenized at a time.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        if not texts:
            return np.empty((0, len(self.labels.names) + (self._references is not None)), dtype=np.float32)
        self._check_kind(texts)
        parts = (texts[start : start + MOST_ROWS] for start in range(0, len(texts), MOST_ROWS))
        return np.concatenate([self.outputs_of(self._tokens(part), on_rows_done=on_rows_done) for part in parts])

    def tokenise(self, texts: Sequence[Text]) -> TokenLists:
        """Return the token ids of at least one text or pair, cut at the length the model was trained with or in windows of it.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        self._check_kind(texts)
        return self._tokens(texts)

    def check_lengths(self, texts: Sequence[Text]) -> None:
        """Check that no text or pair would be cut. A model that reads long texts in windows cuts none.

        Raises:
            InputError: one has more tokens than the model was trained with.
        """
        most = self.artifact.manifest.max_length
        if self.artifact.manifest.long_texts == "windows":
            return
        for number, length in enumerate(num_tokens(self._tokenizer, texts), start=1):
            if length > most:
                raise InputError(f"text {number} of {len(texts)} has {length} tokens, and the model reads {most}; shorten it.")

    def _check_kind(self, texts: Sequence[Text]) -> None:
        num_texts = self.artifact.manifest.num_texts
        wrong = first_of_wrong_kind(texts, num_texts=num_texts)
        if wrong is not None:
            raise InputError(f"text {wrong + 1} of {len(texts)}: {wrong_kind_sentence(num_texts)}.")

    def _tokens(self, texts: Sequence[Text]) -> TokenLists:
        manifest = self.artifact.manifest
        return token_ids(self._tokenizer, texts, max_length=manifest.max_length, long_texts=manifest.long_texts)

    @property
    def batch_tokens(self) -> int:
        """Number of tokens of a batch, padding included, at which the throughput is at or near its best."""
        return self._forward.batch_tokens

    def outputs_of(self, tokens: TokenLists, *, on_rows_done: Callable[[int], None] | None = None) -> Floats:
        """Return what `outputs` does for the result of `tokenise`, in its order."""
        max_length, num_labels = self.artifact.manifest.max_length, len(self.labels.names)
        found = run_batches(self._forward, self._tokenizer, tokens, max_length=max_length, on_rows_done=on_rows_done)
        if self._references is None:
            return found
        return np.column_stack([found[:, :num_labels], self._references.distances(found[:, num_labels:])])

    def predict(self, texts: Sequence[Text]) -> list[Prediction]:
        """Return the labels and the probabilities of each text or pair.

        Raises:
            InputError: a pair was given to a model that reads single texts, or the other way round.
        """
        return self.predictions(self.outputs(texts))

    def predictions(self, outputs: Floats) -> list[Prediction]:
        """Convert the rows of `outputs` to predictions. Rows with logits alone are not told to be out of scope."""
        num_labels, scope = len(self.labels.names), self.artifact.manifest.scope
        probabilities = self.labels.probabilities(outputs[:, :num_labels])
        if scope is not None and outputs.shape[1] > num_labels:
            is_out = scope.is_out(outputs[:, num_labels]).tolist()
        else:
            is_out = [False] * len(outputs)
        decided = self.labels.decided_names(probabilities)
        confidence = self.labels.confidence(probabilities).tolist()
        return [
            self._prediction(row, labels=labels, confidence=sure, is_out=out)
            for row, labels, sure, out in zip(probabilities, decided, confidence, is_out, strict=True)
        ]

    def _prediction(
        self, probabilities: npt.NDArray[np.float64], *, labels: tuple[str, ...], confidence: float, is_out: bool
    ) -> Prediction:
        order = np.argsort(-probabilities, kind="stable")
        scores = {self.labels.names[index]: float(probabilities[index]) for index in order}
        label, score = next(iter(scores.items()))
        manifest = self.artifact.manifest
        above = manifest.calibration.set_above if manifest.calibration else None
        reason: UncertainReason | None = "unsure" if confidence < manifest.uncertain_below else None
        if is_out:
            reason = "out_of_scope"
        return Prediction(
            labels=labels,
            label=label,
            score=score,
            scores=scores,
            confidence=confidence,
            uncertain=reason is not None,
            label_set=None if above is None else tuple(name for name in scores if name == label or scores[name] >= above),
            uncertain_reason=reason,
        )


def chosen_format(artifact: ModelArtifact, name: FormatName | Literal["auto"], *, on_cpu: bool) -> FormatName:
    """Return the requested inference format. For `auto`, this is the one for GPUs if it was accepted, else the safetensors.

    Raises:
        InputError: the artifact has no such format, or it was refused, or it does not run on this device.
    """
    formats = {item.name: item for item in artifact.manifest.formats}
    if name == "auto":
        fast = not on_cpu and GPU_FORMAT in formats and formats[GPU_FORMAT].accepted and gpu_computes_bf16()
        return GPU_FORMAT if fast else SAFETENSORS
    if name == SAFETENSORS:
        return SAFETENSORS
    if name in FORMER_FORMATS:
        raise InputError(f"inference format {name}: no longer computed; use auto.")
    if name not in FAST_FORMATS:
        raise InputError(f"inference format {name}: unknown; known ones are auto, {SAFETENSORS}, {', '.join(FAST_FORMATS)}.")
    if name not in formats:
        raise InputError(f"{artifact.path}: this model has no inference format {name}; use {SAFETENSORS}.")
    if not formats[name].accepted:
        raise InputError(f"{artifact.path}: the inference format {name} was refused: {formats[name].reason}; use {SAFETENSORS}.")
    if on_cpu != (name in CPU_FORMATS):
        device, other = ("CPU", "cpu") if name in CPU_FORMATS else ("GPU", "cuda")
        raise InputError(f"the inference format {name} runs on a {device} only; use {SAFETENSORS}, or the device {other}.")
    return name


def gpu_computes_bf16() -> bool:
    """Tell whether this process's GPU has instructions for bfloat16."""
    import torch

    return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
