"""`InferenceForm`: a faster inference format of a finished model, its comparison with the safetensors, and the verdict.

The formats are ONNX graphs that ONNX Runtime computes on a CPU: `onnx-fp32`, and `onnx-int8` whose matrices are 8-bit integers.
`manta.inference.onnx_export` makes them. This module judges them and chooses one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.labels import Floats, LabelSpace, Targets

OnnxForm = Literal["onnx-fp32", "onnx-int8"]
FormName = Literal["safetensors", "onnx-fp32", "onnx-int8"]
SAFETENSORS: FormName = "safetensors"
FORM_FILES: dict[OnnxForm, str] = {"onnx-fp32": "model.onnx", "onnx-int8": "model-int8.onnx"}
MAX_ACCURACY_LOSS = 0.005
"""The largest accepted loss of accuracy: half a point."""
MIN_AGREEMENT = 0.99


class InferenceForm(BaseModel):
    """One inference format: its figures on test rows next to those of the safetensors (the reference), and the verdict."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: OnnxForm
    file: str
    """Its file in the model folder, which exists if the format was accepted."""
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
    max_logit_difference: float | None = None
    examples_per_s: float | None = None
    """Throughput on a CPU of the machine that made it, in batches of similar length."""
    reference_examples_per_s: float | None = None
    """Throughput of the safetensors in the same measurement."""
    size_bytes: int | None = None


@dataclass(frozen=True)
class Measured:
    """Result of running an inference format on test rows."""

    logits: Floats
    """Shape `(rows, labels)`."""
    examples_per_s: float
    size_bytes: int


def judged(name: OnnxForm, form: Measured, *, reference: Measured, targets: Targets, labels: LabelSpace) -> InferenceForm:
    """Return the record of a format that was run on the reference's rows. Agreement and accuracy decide if it is accepted."""
    mine, theirs = (labels.decide(labels.probabilities(run.logits)) for run in (form, reference))
    accuracy, reference_accuracy = (_share_of_rows(decided == targets) for decided in (mine, theirs))
    agreement = _share_of_rows(mine == theirs)
    faults = []
    is_finite = bool(np.isfinite(form.logits).all())
    if not is_finite:
        faults.append("some logits are no numbers")
    if reference_accuracy - accuracy > MAX_ACCURACY_LOSS + 1e-9:  # against rounding: five rows of a thousand are half a point
        faults.append(f"accuracy {accuracy:.4f} is more than half a point below {reference_accuracy:.4f}")
    if agreement < MIN_AGREEMENT:
        faults.append(f"it agrees on {agreement:.2%} of the rows, fewer than {MIN_AGREEMENT:.0%}")
    return InferenceForm(
        name=name,
        file=FORM_FILES[name],
        accepted=not faults,
        reason="; ".join(faults) or f"accuracy {accuracy:.4f} against {reference_accuracy:.4f}, same answer on {agreement:.2%}",
        num_rows=len(targets),
        accuracy=accuracy,
        reference_accuracy=reference_accuracy,
        agreement=agreement,
        max_logit_difference=float(np.abs(form.logits - reference.logits).max(initial=0.0)) if is_finite else None,
        examples_per_s=round(form.examples_per_s, 1),
        reference_examples_per_s=round(reference.examples_per_s, 1),
        size_bytes=form.size_bytes,
    )


def unmade(name: OnnxForm, reason: str) -> InferenceForm:
    """Return the record of a format that could not be made."""
    return InferenceForm(name=name, file=FORM_FILES[name], accepted=False, reason=reason)


def fastest(forms: Sequence[InferenceForm]) -> FormName:
    """Return the fastest format on a CPU: the safetensors unless an accepted format was faster."""
    faster = [form for form in forms if form.accepted and (form.examples_per_s or 0) > (form.reference_examples_per_s or 0)]
    return max(faster, key=lambda form: form.examples_per_s or 0).name if faster else SAFETENSORS


def _share_of_rows(same: np.ndarray) -> float:
    """Return the share of rows in which all comparisons `(rows,)` or `(rows, labels)` hold."""
    return float(same.reshape(len(same), -1).all(axis=1).mean())
