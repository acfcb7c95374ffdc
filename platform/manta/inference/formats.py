"""`InferenceFormat`: a faster inference format of a finished model, its comparison with the safetensors, and the verdict.

OpenVINO computes two of them on a CPU: `openvino-fp32` has the same weights; `openvino-int8` has its matrices and activations in
8-bit integers, with scales fixed beforehand. `torch-bf16` is the safetensors themselves, computed on a GPU with bfloat16 matrix
products. `manta.inference.conversion` makes them, this module judges them, and `manta.inference.fastest` chooses one where it runs.
docs/decisions/0017-static-int8-and-what-admits-a-format.md has the figures behind the rule.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict

from manta.evaluation.significance import mcnemar
from manta.labels import Floats, LabelSpace, Targets

FastFormat = Literal["openvino-fp32", "openvino-int8", "torch-bf16"]
FormatName = Literal["safetensors", "openvino-fp32", "openvino-int8", "torch-bf16"]
SAFETENSORS: FormatName = "safetensors"
FAST_FORMATS: tuple[FastFormat, ...] = get_args(FastFormat)
CPU_FORMATS: tuple[FastFormat, ...] = ("openvino-fp32", "openvino-int8")
GPU_FORMAT: FastFormat = "torch-bf16"
WEIGHTS_FILE = "model.safetensors"
FORMAT_FILES: dict[FastFormat, tuple[str, ...]] = {
    "openvino-fp32": ("model-fp32.xml", "model-fp32.bin"),
    "openvino-int8": ("model-int8.xml", "model-int8.bin"),
    "torch-bf16": (),
}
"""The files of each format in the model folder. The engine is given the first, and finds the others beside it."""
REDUCED_FORMATS: frozenset[FormatName] = frozenset({"openvino-int8", "torch-bf16"})
"""Formats that compute in fewer bits than fp32."""
FORMER_FORMATS = ("onnx-fp32", "onnx-int8")
"""Formats of earlier versions that are no longer computed."""
FORMER_FILES = ("model.onnx", "model-int8.onnx")
"""The files that earlier versions computed. A format that names one no longer answers, though the file stays in its folder."""
MAX_ACCURACY_LOSS = 0.005
"""The largest loss of accuracy that is accepted even if it is significant: half a point."""
SIGNIFICANCE = 0.05
MAX_PROBABILITY_CHANGE = 0.02
"""The largest accepted change of a row's calibrated probabilities, on the average of the rows."""
MAX_NEIGHBOUR_CHANGE = 0.01
"""The largest accepted change of a probability when the same text is computed alone instead of in a batch."""


class InferenceFormat(BaseModel):
    """One inference format: its figures on test rows next to those of the safetensors (the reference), and the verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: FastFormat
    file: str
    """The first of its files in the model folder, which exist if the format was accepted; the safetensors if it has none."""
    accepted: bool
    reason: str
    """The reason for accepting or refusing it, with the figures."""
    num_rows: int = 0
    """Number of test rows of the comparison; 0 if the format could not be made."""
    accuracy: float | None = None
    reference_accuracy: float | None = None
    """Accuracy of the safetensors on the same rows."""
    agreement: float | None = None
    """Share of rows with the same label as the reference; for a multilabel task, with the same labels."""
    probability_change: float | None = None
    """Change of the calibrated probabilities: the largest change of any label's, on the average of the rows."""
    neighbour_change: float | None = None
    """The largest change of a probability when texts are computed alone or in another order."""
    max_logit_difference: float | None = None
    examples_per_s: float | None = None
    """Throughput on the CPU or GPU of the machine that made it, in batches of similar length."""
    reference_examples_per_s: float | None = None
    """Throughput of the safetensors in the same measurement; recorded by earlier versions only."""
    size_bytes: int | None = None
    golden: tuple[tuple[float, ...], ...] | None = None
    """Its probabilities for the texts of the golden predictions, `(texts, labels)`, each text computed alone."""


@dataclass(frozen=True)
class FormatRun:
    """Result of running an inference format on test rows."""

    logits: Floats
    """Shape `(rows, labels)`."""
    neighbour_change: float
    """See `InferenceFormat.neighbour_change`."""
    examples_per_s: float
    size_bytes: int
    golden: tuple[tuple[float, ...], ...] | None = None
    """See `InferenceFormat.golden`."""


def judged(name: FastFormat, found: FormatRun, *, reference: Floats, targets: Targets, labels: LabelSpace) -> InferenceFormat:
    """Return the record of a format that was run on the rows of the safetensors' logits `reference`, `(rows, labels)`."""
    if not np.isfinite(found.logits).all():
        return unmade(name, "some logits are no numbers").model_copy(update={"num_rows": len(targets)})
    mine, theirs = labels.probabilities(found.logits), labels.probabilities(reference)
    decided, expected = labels.decide(mine), labels.decide(theirs)
    right, reference_right = _rows_where(decided == targets), _rows_where(expected == targets)
    agreement = float(_rows_where(decided == expected).mean())
    change = float(np.abs(mine - theirs).max(axis=1).mean())
    accuracy, reference_accuracy = float(right.mean()), float(reference_right.mean())
    faults = _accuracy_faults(right, reference_right)
    if change > MAX_PROBABILITY_CHANGE:
        faults.append(f"a row's probabilities change by {change:.4f} on average, more than {MAX_PROBABILITY_CHANGE}")
    if found.neighbour_change > MAX_NEIGHBOUR_CHANGE:
        faults.append(f"a text's probabilities change by up to {found.neighbour_change:.4f} with the other texts of its batch")
    return InferenceFormat(
        name=name,
        file=next(iter(FORMAT_FILES[name]), WEIGHTS_FILE),
        accepted=not faults,
        reason="; ".join(faults)
        or f"accuracy {accuracy:.4f} against {reference_accuracy:.4f}, probabilities change by {change:.4f} on average",
        num_rows=len(targets),
        accuracy=accuracy,
        reference_accuracy=reference_accuracy,
        agreement=agreement,
        probability_change=change,
        neighbour_change=found.neighbour_change,
        max_logit_difference=float(np.abs(found.logits - reference).max(initial=0.0)),
        examples_per_s=round(found.examples_per_s, 1),
        size_bytes=found.size_bytes,
        golden=None if faults else found.golden,
    )


def unmade(name: FastFormat, reason: str) -> InferenceFormat:
    """Return the record of a format that could not be made."""
    return InferenceFormat(name=name, file=next(iter(FORMAT_FILES[name]), WEIGHTS_FILE), accepted=False, reason=reason)


def _accuracy_faults(right: np.ndarray, reference_right: np.ndarray) -> list[str]:
    """Return the fault of a format that is right on significantly fewer rows than the reference; empty if it has none.

    The loss must be larger than half a point, and larger than chance gives on the rows that only one of the two has right
    (McNemar's test), so that a few rows near a tie refuse nothing.
    """
    lost, gained = int((reference_right & ~right).sum()), int((right & ~reference_right).sum())
    chance = mcnemar(lost, gained)
    loss = (lost - gained) / len(right)
    if loss <= MAX_ACCURACY_LOSS + 1e-9 or chance > SIGNIFICANCE:  # against rounding: five rows of a thousand are half a point
        return []
    counts = f"{lost} rows lost, {gained} gained, p = {chance:.2g}"
    return [f"accuracy {right.mean():.4f} is significantly below {reference_right.mean():.4f} ({counts})"]


def _rows_where(same: np.ndarray) -> np.ndarray:
    """Return for each row if all comparisons `(rows,)` or `(rows, labels)` hold."""
    return np.asarray(same.reshape(len(same), -1).all(axis=1))
