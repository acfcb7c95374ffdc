"""The choice between the method `linear` and another one, by rows that neither model was trained on.

docs/decisions/0022-the-ladder-of-methods.md has the measurements behind the numbers.
"""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from manta.inference.reliability import row_decisions
from manta.storage.folders import write_atomically
from manta.storage.object_store import fetch, store

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    import numpy.typing as npt

    from manta.labels import Floats, LabelSpace, Targets
    from manta_jobs.training.batches import Rows

LEAD_FILE = "lead.json"
"""File in the folder of a run's checkpoints: the latest comparison of the two methods."""
KEPT_ABOVE = -1.0
"""`linear` is kept unless `full` leads by a standard error: of models that are equal by what is known, the simpler."""
SPARED_ABOVE = 1.0
"""Standard errors of a lead of `linear` after some of the folds above which the rest of the fine-tuning is spared."""
KEPT_FOR_CONTRASTIVE_ABOVE = 1.0
"""`linear` is kept beside `contrastive` only if it leads by more than a standard error: with few rows, `contrastive` is the better
one nearly always, and few held-out rows cannot say otherwise."""


class LinearLeadsError(Exception):
    """Signal that fine-tuning ends before its last training, because the linear model is better."""


@dataclass(frozen=True)
class Rival:
    """The linear model that another one must beat, as the workers know it."""

    right: npt.NDArray[np.bool_]
    """For each validation row `(rows,)` if the linear model has it right; of a cross-validated run, for each training row."""
    targets: Targets
    """The targets of the same rows."""
    labels: LabelSpace

    @classmethod
    def of(cls, logits: Floats, targets: Targets, *, labels: LabelSpace) -> Rival:
        """Take the linear model's logits `(rows, outputs)` of rows that it was not fitted to."""
        return cls(row_decisions(labels.probabilities(logits), targets, labels=labels)[1], targets, labels)

    def lead(self, other: Floats, rows: Rows | None = None, *, needed: float = KEPT_ABOVE) -> Lead:
        """Compare with the logits `(rows, outputs)` of the other model, for all rows or for those at `rows`."""
        chosen = np.arange(len(self.targets)) if rows is None else rows
        mine = self.right[chosen]
        _, theirs = row_decisions(self.labels.probabilities(other), self.targets[chosen], labels=self.labels)
        return Lead(len(chosen), int(mine.sum()), int(theirs.sum()), int((mine != theirs).sum()), needed=needed)

    def lead_in_folds(self, parts: Sequence[Floats], folds: Rows) -> Lead:
        """Compare in the first folds, of which `parts` are the logits `(epochs, rows, outputs)`. The last epoch counts."""
        rows = np.flatnonzero(folds < len(parts))
        full = np.empty((len(folds), parts[0].shape[2]))
        for fold, logits in enumerate(parts):
            full[folds == fold] = logits[-1]
        needed = KEPT_ABOVE if len(parts) > int(folds.max()) else SPARED_ABOVE
        return self.lead(full[rows], rows, needed=needed)


@dataclass(frozen=True)
class Lead:
    """Comparison of the two methods on the same rows. In a multilabel task, a row is right if every label is."""

    num_rows: int
    linear_right: int
    other_right: int
    """Of the method that `linear` is compared with."""
    num_differing: int
    """Rows that only one of the two has right."""
    needed: float
    """Standard errors that the lead of `linear` must exceed for it to be kept."""

    @property
    def errors(self) -> float:
        """The lead of `linear` in standard errors of a difference by chance (McNemar); below 0 if the other leads."""
        return (self.linear_right - self.other_right) / math.sqrt(max(1, self.num_differing))

    @property
    def is_enough(self) -> bool:
        """True if `linear` is kept."""
        return self.errors > self.needed


def write_lead(folder: Path, lead: Lead) -> None:
    """Write the comparison into the folder of a run's checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    write_atomically(folder / LEAD_FILE, json.dumps(dataclasses.asdict(lead)) + "\n")
    store(folder / LEAD_FILE)


def read_lead(folder: Path) -> Lead | None:
    """Return the comparison that `write_lead` wrote; None if there is none."""
    try:
        return Lead(**json.loads(fetch(folder / LEAD_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None
