"""Golden predictions: a few texts with the probabilities that each form of a model gave them when it was finished.

A process that loads the model checks with them that it answers as it did: on another machine, with other packages, in the
format that is used there. A file's sha256 shows that it is unaltered; this shows that it works.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, model_validator

from manta.inference.form import FormName

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.labels import Floats

GOLDEN_FILE = "golden.json"
NUM_GOLDEN = 16
TOLERANCE = 1e-3
"""How far a probability computed in fp32 may be from the recorded one: processors and versions add in other orders."""
REDUCED_TOLERANCE = 0.03
"""The same for int8, where a difference in the last bit may round an activation to the next integer, and for what a GPU computes
in fewer bits. A wrong model is further off on some of the texts."""


class GoldenPredictions(BaseModel):
    """What `golden.json` holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    texts: tuple[str | tuple[str, str], ...]
    """Texts or pairs of the test rows."""
    probabilities: dict[FormName, tuple[tuple[float, ...], ...]]
    """Of each form that may answer: `(texts, labels)`, in the order of the model's labels, each text computed alone, because int8
    probabilities depend a little on the texts of the same batch."""

    @model_validator(mode="after")
    def _whole(self) -> GoldenPredictions:
        if any(len(rows) != len(self.texts) for rows in self.probabilities.values()):
            raise ValueError("there must be one row of probabilities for each text")
        return self

    def fault(self, probabilities: Floats, *, form: FormName, reduced: bool) -> str | None:
        """What is wrong with probabilities `(texts, labels)` that a loaded form gives; None if they are the recorded ones.

        Those within the tolerance have the same most probable label wherever it leads by more than twice the tolerance.
        `reduced` says that they were computed in fewer bits than fp32. A form that was not recorded has nothing to fail.
        """
        if form not in self.probabilities:
            return None
        expected = np.array(self.probabilities[form])
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
            f"{num_wrong} of its {len(self.texts)} golden predictions come out otherwise as {form}: "
            f"a probability is off by {difference.max():.4f}, more than {tolerance}"
        )


def spread_rows(decided: Sequence[object], *, count: int = NUM_GOLDEN) -> list[int]:
    """Indices of up to `count` rows, taken in turn from the rows of each decision, so that rare ones are among them."""
    groups: dict[object, list[int]] = {}
    for row, decision in enumerate(decided):
        groups.setdefault(decision, []).append(row)
    turns = sorted((turn, group[turn]) for group in groups.values() for turn in range(min(len(group), count)))
    return sorted(row for _, row in turns[:count])
