"""Which labels are probably wrong: confident learning on the probabilities of rows by a model that was not fitted to them.

The method is that of Northcutt et al. (2021, Confident Learning: Estimating Uncertainty in Dataset Labels,
https://arxiv.org/abs/1911.00068), computed by `cleanlab`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from manta.data.split import stratified_folds
from manta.errors import InputError
from manta.label_check.decisions import text_hash
from manta_jobs.training.batches import TokenizedData
from manta_jobs.training.few_rows.linear import fitted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.config import ExperimentConfig
    from manta.data import TextDataset
    from manta.labels import Floats, LabelSpace, Targets, Task
    from manta.texts import Text
    from manta_jobs.training.few_rows.linear import LinearModel

NUM_FOLDS = 3
Flags = npt.NDArray[np.bool_]
Probabilities = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Doubts:
    """Doubts about the label of each row, from out-of-fold probabilities."""

    quality: npt.NDArray[np.float64]
    """Shape `(rows,)`, between 0 and 1; low is doubtful."""
    is_wrong: Flags
    """Shape `(rows,)`: confident learning takes the label to be wrong."""


def cross_validated(
    vectors: Floats, targets: Targets, texts: Sequence[Text], *, config: ExperimentConfig, labels: LabelSpace
) -> LinearModel:
    """Return the calibrated regression on all rows, with logits of each row by a fit without its text.

    Equal texts are in the same fold, so that an error that was copied does not confirm itself.

    Raises:
        InputError: no label has rows enough for two folds.
    """
    _, first, group = np.unique([text_hash(text) for text in texts], return_index=True, return_inverse=True)
    folds = stratified_folds(targets[first], num_folds=NUM_FOLDS, seed=config.data.split_seed)[group]
    if not folds.any():
        raise InputError(f"{config.data.train}: no label has a second row, so no label can be checked; add rows.")
    data = TokenizedData(Path(), labels, pad_id=0, folds=folds)
    return fitted({"train": vectors}, {"train": targets}, config, data)


def doubts(probabilities: Probabilities, targets: Targets, *, task: Task) -> Doubts:
    """Return the doubts about labels, from probabilities `(rows, labels)` that do not come from a fit to these labels."""
    if task == "multilabel":
        from cleanlab.multilabel_classification.filter import find_label_issues as find_multilabel_issues
        from cleanlab.multilabel_classification.rank import get_label_quality_scores as multilabel_scores

        lists = [np.flatnonzero(row).tolist() for row in targets]
        is_wrong = find_multilabel_issues(lists, probabilities, n_jobs=1)
        return Doubts(np.asarray(multilabel_scores(lists, probabilities)), np.asarray(is_wrong, dtype=bool))
    from cleanlab.filter import find_label_issues
    from cleanlab.rank import get_label_quality_scores

    is_wrong = find_label_issues(targets, probabilities, n_jobs=1)
    scores = get_label_quality_scores(targets, probabilities, method="self_confidence")
    return Doubts(np.asarray(scores, dtype=np.float64), np.asarray(is_wrong, dtype=bool))


@dataclass(frozen=True)
class HeldOutSuspects:
    """The number of rows of a run that look wrongly labeled, of those that its linear model was not fitted to."""

    count: int
    num_rows: int
    split: str
    """validation, or train if the training rows were cross-validated."""

    def sentence(self, command: str) -> str:
        """Return the count in one sentence, with the command that lists the rows."""
        split = "training" if self.split == "train" else self.split
        return f"{self.count:,} of {self.num_rows:,} {split} rows may be wrongly labeled; {command} lists them."


def held_out_suspects(logits: Floats, dataset: TextDataset) -> HeldOutSuspects:
    """Count the doubtful labels of a run's validation rows, from logits of a model that was not fitted to them."""
    split = dataset.validation
    found = doubts(dataset.labels.probabilities(logits), split.targets, task=dataset.labels.task)
    name = "validation" if dataset.folds is None else "train"
    return HeldOutSuspects(int(found.is_wrong.sum()), len(split), name)


@dataclass(frozen=True)
class Overlap:
    """Two labels that are hard to tell apart."""

    first: str
    second: str
    first_as_second: int
    """Rows with the first label of which the second one is more probable."""
    second_as_first: int

    @property
    def num_rows(self) -> int:
        """Rows in both directions."""
        return self.first_as_second + self.second_as_first

    def sentence(self) -> str:
        """Return the overlap in one sentence."""
        one, other = self.first_as_second, self.second_as_first
        rows = f"{one:,} {'row' if one == 1 else 'rows'}"
        ways = f"{rows} each way" if one == other else f"{rows} of {self.first} and {other:,} of {self.second} look like the other"
        return f"{self.first} and {self.second} are hard to tell apart: {ways}."


def overlaps(probabilities: Probabilities, targets: Targets, labels: LabelSpace, *, fewest: int = 3) -> list[Overlap]:
    """Return the pairs of labels of which at least `fewest` rows in all look like the other label, most rows first.

    The counts are those of the confident joint: a row counts for a label if its probability reaches the mean probability that
    this label has among its own rows. A single wrong label looks like this, too, so both directions must occur.
    """
    if labels.task == "multilabel":
        return []
    from cleanlab.count import compute_confident_joint

    joint = np.asarray(compute_confident_joint(targets, probabilities, calibrate=False))
    pairs = [(row, column) for row in range(len(joint)) for column in range(row) if joint[row, column] and joint[column, row]]
    found = [Overlap(labels.names[b], labels.names[a], int(joint[b, a]), int(joint[a, b])) for a, b in pairs]
    return sorted((pair for pair in found if pair.num_rows >= fewest), key=lambda pair: (-pair.num_rows, pair.first, pair.second))
