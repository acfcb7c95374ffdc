"""The choice between the methods at planted logits: who leads, by how much, and when the rest of the fine-tuning is spared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from manta.labels import LabelSpace
from manta_jobs.runs.methods import Outcome
from manta_jobs.training.checkpoints import TrainingState
from manta_jobs.training.choice import Lead, Rival, read_lead, write_lead

if TYPE_CHECKING:
    from pathlib import Path

ABC = LabelSpace(("a", "b", "c"), "multiclass")
TARGETS = np.arange(90) % 3


def logits_of(num_right: int, *, num_rows: int = 90, first: int = 0) -> np.ndarray:
    """Logits with as many rows right, from row `first` on; the others give the next label."""
    answers = (TARGETS[:num_rows] + 1) % 3
    rows = (first + np.arange(num_right)) % num_rows
    answers[rows] = TARGETS[rows]
    return np.eye(3)[answers]


@pytest.mark.parametrize(
    ("linear", "full", "errors", "is_enough"),
    [
        (80, 60, 20 / 20**0.5, True),
        (61, 60, 1.0, True),  # on validation rows, where both had the same rows to learn from, any lead is enough
        (60, 60, 0.0, False),
        (60, 80, -(20**0.5), False),
    ],
)
def test_the_lead_is_counted_in_rows_that_only_one_has_right(linear: int, full: int, errors: float, is_enough: bool) -> None:
    lead = Rival.of(logits_of(linear), TARGETS, labels=ABC).lead(logits_of(full))
    assert (lead.linear_right, lead.full_right, lead.num_rows) == (linear, full, 90)
    assert lead.errors == pytest.approx(errors)
    assert lead.is_enough == is_enough


def test_rows_that_both_have_right_say_nothing() -> None:
    shifted = Rival.of(logits_of(60, first=30), TARGETS, labels=ABC).lead(logits_of(60))
    assert (shifted.num_differing, shifted.errors) == (60, 0.0)


def test_after_some_folds_the_lead_must_be_larger() -> None:
    folds = np.repeat([0, 1, 2], 30)
    rival = Rival.of(logits_of(90), TARGETS, labels=ABC)

    def parts(num_right: int, num_folds: int) -> list[np.ndarray]:
        early = logits_of(0, num_rows=30)
        return [np.stack([early, logits_of(num_right, num_rows=30)]) for _ in range(num_folds)]  # the last epoch counts

    slight, clear = rival.lead_in_folds(parts(24, 1), folds), rival.lead_in_folds(parts(20, 1), folds)
    assert (slight.num_rows, slight.full_right, slight.needed, slight.is_enough) == (30, 24, 3.0, False)
    assert (clear.full_right, clear.needed, clear.is_enough) == (20, 3.0, True)
    whole = rival.lead_in_folds(parts(29, 3), folds)
    assert (whole.num_rows, whole.full_right, whole.needed, whole.is_enough) == (90, 87, 1.0, True)
    within = Rival.of(logits_of(88), TARGETS, labels=ABC).lead_in_folds(parts(29, 3), folds)
    assert (within.errors, within.is_enough) == (pytest.approx(1 / within.num_differing**0.5), False)


def test_a_row_of_several_labels_is_right_if_each_is() -> None:
    labels = LabelSpace(("a", "b"), "multilabel")
    targets = np.array([[1, 0], [1, 1]], dtype=np.int8)
    lead = Rival.of(np.array([[1.0, -1.0], [1.0, 1.0]]), targets, labels=labels).lead(np.array([[1.0, 1.0], [1.0, 1.0]]))
    assert (lead.linear_right, lead.full_right) == (2, 1)


def test_the_outcome_keeps_one_model_and_says_why(tmp_path: Path) -> None:
    state = TrainingState(finished=True)
    led = Outcome(trained=state, lead=Lead(90, 40, 60, 30, 1.0), full_s=1.0)
    assert (led.method, led.kept_trained, led.kept_linear) == ("full", state, None)
    assert led.sentence() == "Kept: full. Linear has 40 of 90 held-out rows right, full 60."
    slight = Outcome(trained=state, lead=Lead(90, 61, 60, 4, 1.0))
    assert slight.sentence().endswith("full 60, a lead of 0.5 standard errors, which may be chance.")
    write_lead(tmp_path, Lead(30, 29, 9, 20, 3.0))
    spared = Outcome(lead=read_lead(tmp_path))
    assert spared.method == "linear"
    assert spared.sentence() == (
        "Kept: linear. Linear has 29 of 30 held-out rows right, full 9: a lead of 4.5 standard errors, so the rest of the "
        "fine-tuning was spared."
    )
    assert Outcome(trained=state).sentence() == ""
    assert read_lead(tmp_path / "none") is None
