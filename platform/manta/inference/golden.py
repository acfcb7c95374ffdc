"""Golden predictions: a few texts with the probabilities that each inference format of a finished model gave them.

A process that loads the model uses them to check that the answers are still the same: on another machine, with other packages, and
in the inference format used there. A file's sha256 shows that it is unaltered. Golden predictions show that the model works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from manta.inference.formats import FORMER_FORMATS, FastFormat, FormatName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.labels import Floats

GOLDEN_FILE = "golden.json"
NUM_GOLDEN = 16
TOLERANCE = 1e-3
"""The largest accepted difference between a probability in fp32 and the recorded one. Processors and versions differ in
rounding."""
DECIMALS = 6
"""Decimals of a recorded probability."""
REDUCED_TOLERANCE = 0.03
"""The same for int8, where a difference in the last bit may round an activation to the next integer, and for the reduced precision
of a GPU. A wrong model differs by more on some of the texts."""


class GoldenPredictions(BaseModel):
    """The contents of `golden.json`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    texts: tuple[str | tuple[str, str], ...]
    """Texts or pairs of the test rows."""
    probabilities: dict[FormatName, tuple[tuple[float, ...], ...]]
    """Probabilities of each accepted inference format: `(texts, labels)`, in the order of the model's labels. Each text is computed
    alone."""

    @field_validator("probabilities", mode="before")
    @classmethod
    def _leave_out_former(cls, value: Any) -> Any:
        """Leave out formats that earlier versions recorded and that are no longer computed."""
        return {name: rows for name, rows in value.items() if name not in FORMER_FORMATS} if isinstance(value, dict) else value

    @model_validator(mode="after")
    def _whole(self) -> GoldenPredictions:
        if any(len(rows) != len(self.texts) for rows in self.probabilities.values()):
            raise ValueError("there must be one row of probabilities for each text")
        return self

    def with_formats(self, golden: dict[FastFormat, tuple[tuple[float, ...], ...]]) -> GoldenPredictions:
        """Return these predictions with those of further inference formats for the same texts.

        Raises:
            ValueError: a format has another number of rows.
        """
        return GoldenPredictions(texts=self.texts, probabilities={**self.probabilities, **golden})

    def fault(self, probabilities: Floats, *, format: FormatName, reduced: bool) -> str | None:
        """Return what is wrong with the probabilities `(texts, labels)` of a loaded format; None if they match the recorded ones.

        Probabilities within the tolerance have the same most probable label wherever it leads by more than twice the tolerance.
        `reduced` says that they were computed in fewer bits than fp32. A format without recorded probabilities always passes.
        """
        if format not in self.probabilities:
            return None
        expected = np.array(self.probabilities[format])
        if not np.isfinite(probabilities).all():
            return f"some probabilities of its {len(self.texts)} golden predictions are no numbers"
        if probabilities.shape != expected.shape:
            return f"it has {probabilities.shape[-1]} labels where its golden predictions have {expected.shape[-1]}"
        tolerance = REDUCED_TOLERANCE if reduced else TOLERANCE
        difference = np.abs(probabilities - expected).max(axis=1)
        num_wrong = int((difference > tolerance).sum())
        if not num_wrong:
            return None
        return (
            f"{num_wrong} of its {len(self.texts)} golden predictions come out otherwise as {format}: "
            f"a probability is off by {difference.max():.4f}, more than {tolerance}"
        )


def rounded(probabilities: Floats) -> tuple[tuple[float, ...], ...]:
    """Return probabilities `(texts, labels)` as they are recorded."""
    return tuple(tuple(round(float(value), DECIMALS) for value in row) for row in probabilities)


def spread_rows(decided: Sequence[object], *, count: int = NUM_GOLDEN) -> list[int]:
    """Return up to `count` row indices, taken in turn from the rows of each decision, so that rare decisions are included."""
    groups: dict[object, list[int]] = {}
    for row, decision in enumerate(decided):
        groups.setdefault(decision, []).append(row)
    turns = sorted((turn, group[turn]) for group in groups.values() for turn in range(min(len(group), count)))
    return sorted(row for _, row in turns[:count])
