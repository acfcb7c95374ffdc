"""`InferenceForm`: a faster form of a finished model, how it compares with the safetensors, and whether it may answer for them.

The forms are ONNX graphs that ONNX Runtime computes on a CPU: `onnx-fp32`, and `onnx-int8` whose matrices are eight-bit integers.
`manta.inference.onnx_export` makes them; here they are judged and chosen.
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
"""Half a point."""
MIN_AGREEMENT = 0.99


class InferenceForm(BaseModel):
    """One form beside the safetensors (the reference): its figures on test rows, and what follows from them."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: OnnxForm
    file: str
    """Its file in the model folder, which is there if it was accepted."""
    accepted: bool
    reason: str
    """Why it was accepted or refused, with the figures."""
    num_rows: int = 0
    """Test rows it was compared on; 0 if it could not be made."""
    accuracy: float | None = None
    reference_accuracy: float | None = None
    """Of the safetensors on the same rows."""
    agreement: float | None = None
    """Share of rows that it gives the same label as the reference, or for a multilabel task the same labels."""
    max_logit_difference: float | None = None
    examples_per_s: float | None = None
    """On a CPU, in batches of like length, on the machine that made it."""
    reference_examples_per_s: float | None = None
    """Of the safetensors, measured beside it."""
    size_bytes: int | None = None


@dataclass(frozen=True)
class Measured:
    """What running a form on test rows gave."""

    logits: Floats
    """`(rows, labels)`."""
    examples_per_s: float
    size_bytes: int


def judged(name: OnnxForm, form: Measured, *, reference: Measured, targets: Targets, labels: LabelSpace) -> InferenceForm:
    """The record of a form that was run on the same rows as the reference, accepted only if it answers alike and as well."""
    mine, theirs = (labels.decide(labels.probabilities(run.logits)) for run in (form, reference))
    accuracy, reference_accuracy = (_share_of_rows(decided == targets) for decided in (mine, theirs))
    agreement = _share_of_rows(mine == theirs)
    faults = []
    is_finite = bool(np.isfinite(form.logits).all())
    if not is_finite:
        faults.append("some logits are no numbers")
    if reference_accuracy - accuracy > MAX_ACCURACY_LOSS + 1e-9:  # five rows of a thousand are no more than half a point
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
    """The record of a form that could not be made."""
    return InferenceForm(name=name, file=FORM_FILES[name], accepted=False, reason=reason)


def fastest(forms: Sequence[InferenceForm]) -> FormName:
    """The form that answers fastest on a CPU of those that may: the safetensors unless an accepted one was faster."""
    faster = [form for form in forms if form.accepted and (form.examples_per_s or 0) > (form.reference_examples_per_s or 0)]
    return max(faster, key=lambda form: form.examples_per_s or 0).name if faster else SAFETENSORS


def _share_of_rows(same: np.ndarray) -> float:
    """Of comparisons `(rows,)` or `(rows, labels)`, the share of rows in which all hold."""
    return float(same.reshape(len(same), -1).all(axis=1).mean())
