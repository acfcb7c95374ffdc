"""The choice between the methods linear and contrastive, by rows that neither model was trained on.

docs/decisions/0022-the-ladder-of-methods.md has the measurements behind the rule.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from manta.inference.reliability import row_decisions

if TYPE_CHECKING:
    from manta.labels import Floats, LabelSpace, Targets

KEPT_ABOVE = 1.0
"""Standard errors that the lead of `linear` must exceed for it to be kept: the adapted encoder is the better one nearly always, and
few held-out rows cannot say otherwise."""


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
