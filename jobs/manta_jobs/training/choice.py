"""The choice between methods, by rows that no model was trained on: linear or contrastive, and these or a search of fine-tunings.

Measurements: docs/decisions/0022-the-ladder-of-methods.md, and 0014-what-takes-the-place-of-a-config.md for searches.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from manta.inference.reliability import row_decisions

if TYPE_CHECKING:
    from manta.config import Method
    from manta.labels import Floats, LabelSpace, Targets

KEPT_ABOVE = 1.0
"""Standard errors that the lead of `linear` must exceed for it to be kept: the adapted encoder is the better one nearly always, and
few held-out rows cannot say otherwise."""

FEW_ROWS_FROM_S = 600.0
"""Time limit from which a search of few rows tries the other methods first, which takes a minute or two of the embedded encoder."""


def has_time_for_few_row_methods(limit_s: float | None) -> bool:
    """Tell whether the time limit of a search, `tune.budget.wall_clock_s`, leaves time for the methods for few rows."""
    return limit_s is None or limit_s >= FEW_ROWS_FROM_S


@dataclass(frozen=True)
class SearchLead:
    """Comparison of a search's winner with the model that the methods for few rows give, on the same held-out rows."""

    num_rows: int
    searched: float | None
    """Accuracy of fine-tuning with the winning settings: the mean of the runs with several seeds. None if no trial finished an
    epoch in the time of the search."""
    other: float
    """Accuracy of the other model."""
    method: Method
    """The other model's method."""

    @property
    def errors(self) -> float | None:
        """The search's lead in standard errors of the difference of two shares; below 0 if the other model leads."""
        if self.searched is None:
            return None
        variance = sum(share * (1 - share) for share in (self.searched, self.other)) / self.num_rows
        return (self.searched - self.other) / math.sqrt(max(variance, 1 / self.num_rows**2))

    @property
    def is_enough(self) -> bool:
        """True if the search's model is kept. As with other settings, what stands stays unless the lead exceeds chance."""
        return self.errors is not None and self.errors > KEPT_ABOVE

    def to_dict(self) -> dict[str, Any]:
        """Return the comparison as `report.json` has it."""
        return asdict(self) | {"errors": None if self.errors is None else round(self.errors, 3)}

    def sentence(self) -> str:
        """Return which model is kept, and why."""
        if self.searched is None:
            return f"Kept: {self.method}. The search's time was over before any trial had finished an epoch; raise tune.budget."
        kept = "the winner of the search" if self.is_enough else self.method
        lead = f"a lead of {self.errors:.1f} standard errors" if self.is_enough else "no lead of more than one standard error"
        return (
            f"Kept: {kept}. Of {self.num_rows:,} held-out rows, {self.method} has {self.other:.1%} right and the "
            f"winner of the search {self.searched:.1%}: {lead}."
        )


@dataclass(frozen=True)
class Lead:
    """Comparison of the two methods on the same rows. In a multilabel task, a row is right if every label is."""

    num_rows: int
    linear_right: int
    contrastive_right: int
    num_differing: int
    """Rows that only one of the two has right."""

    @classmethod
    def of(cls, linear: Floats, contrastive: Floats, targets: Targets, *, labels: LabelSpace) -> Lead:
        """Compare logits `(rows, outputs)` of rows that neither model was fitted to."""
        right = [row_decisions(labels.probabilities(logits), targets, labels=labels)[1] for logits in (linear, contrastive)]
        return cls(len(targets), int(right[0].sum()), int(right[1].sum()), int((right[0] != right[1]).sum()))

    @property
    def errors(self) -> float:
        """The lead of `linear` in standard errors of a difference by chance (McNemar); below 0 if contrastive leads."""
        return (self.linear_right - self.contrastive_right) / math.sqrt(max(1, self.num_differing))

    @property
    def is_enough(self) -> bool:
        """True if `linear` is kept."""
        return self.errors > KEPT_ABOVE
