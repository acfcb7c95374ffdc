"""The choice between the methods at planted logits: who leads, by how much, and when the rest of the fine-tuning is spared."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from manta.labels import LabelSpace
from manta.model.regression import Regression
from manta_jobs.runs.methods import Outcome
from manta_jobs.training.checkpoints import TrainingState
from manta_jobs.training.choice import KEPT_FOR_CONTRASTIVE_ABOVE, Lead, Rival, read_lead, write_lead
from manta_jobs.training.few_rows.linear import LinearModel

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
        (60, 80, -(20**0.5), False),
    ],
)
def test_the_lead_is_counted_in_rows_that_only_one_has_right(linear: int, full: int, errors: float, is_enough: bool) -> None:
    lead = Rival.of(logits_of(linear), TARGETS, labels=ABC).lead(logits_of(full))
    assert (lead.linear_right, lead.other_right, lead.num_rows) == (linear, full, 90)
    assert lead.errors == pytest.approx(errors)
    assert lead.is_enough == is_enough


def test_rows_that_both_have_right_say_nothing() -> None:
    shifted = Rival.of(logits_of(60, first=30), TARGETS, labels=ABC).lead(logits_of(60))
    assert (shifted.num_differing, shifted.errors) == (60, 0.0)


def test_after_some_folds_linear_must_lead_for_the_rest_to_be_spared() -> None:
    folds = np.repeat([0, 1, 2], 30)

    def lead(linear: int, full: int, *, num_folds: int) -> Lead:
        """With as many rows right of all 90, and of the 30 of each fold. The first rows of a fold are right in both."""
        parts = [np.stack([logits_of(0, num_rows=30), logits_of(full, num_rows=30)])] * num_folds  # the last epoch counts
        right = np.concatenate([logits_of(linear, num_rows=30)] * 3)
        return Rival.of(right, TARGETS, labels=ABC).lead_in_folds(parts, folds)

    slight, clear = lead(25, 24, num_folds=1), lead(26, 24, num_folds=1)
    assert (slight.num_rows, slight.errors, slight.is_enough) == (30, 1.0, False)
    assert (clear.linear_right, clear.other_right, clear.is_enough) == (26, 24, True)
    assert lead(24, 24, num_folds=2).is_enough is False
    equal, beaten = lead(24, 24, num_folds=3), lead(24, 25, num_folds=3)
    assert (equal.num_rows, equal.errors, equal.is_enough) == (90, 0.0, True)
    assert (beaten.errors, beaten.is_enough) == (pytest.approx(-(3**0.5)), False)


def test_a_row_of_several_labels_is_right_if_each_is() -> None:
    labels = LabelSpace(("a", "b"), "multilabel")
    targets = np.array([[1, 0], [1, 1]], dtype=np.int8)
    lead = Rival.of(np.array([[1.0, -1.0], [1.0, 1.0]]), targets, labels=labels).lead(np.array([[1.0, 1.0], [1.0, 1.0]]))
    assert (lead.linear_right, lead.other_right) == (2, 1)


def test_the_outcome_keeps_one_model_and_says_why(tmp_path: Path) -> None:
    state = TrainingState(finished=True)
    led = Outcome(trained=state, lead=Lead(90, 40, 60, 25, -1.0), full_s=1.0)
    assert (led.method, led.kept_trained, led.kept_linear) == ("full", state, None)
    assert led.sentence() == "Kept: full. Linear has 40 of 90 held-out rows right, full 60: a lead of 4.0 standard errors."
    equal = Outcome(trained=state, lead=Lead(90, 60, 61, 9, -1.0))
    assert equal.method == "linear"
    assert equal.sentence().endswith("full 61: no more than chance gives.")
    write_lead(tmp_path, Lead(30, 29, 9, 20, 1.0))
    spared = Outcome(lead=read_lead(tmp_path))
    assert spared.method == "linear"
    assert spared.sentence() == (
        "Kept: linear. Linear has 29 of 30 held-out rows right, full 9: a lead of 4.5 standard errors, so the rest of the "
        "fine-tuning was spared."
    )
    assert Outcome(trained=state).sentence() == ""
    assert read_lead(tmp_path / "none") is None


def test_contrastive_is_kept_unless_linear_leads_by_more_than_a_standard_error() -> None:
    regression = Regression(np.zeros((3, 2)), np.zeros(3))

    def outcome(linear: int, contrastive: int) -> Outcome:
        models = [LinearModel(regression, 1.0, logits_of(right), embed_s=1.0, fit_s=0.0) for right in (linear, contrastive)]
        lead = Rival.of(models[0].logits, TARGETS, labels=ABC).lead(models[1].logits, needed=KEPT_FOR_CONTRASTIVE_ABOVE)
        return Outcome(*models, lead=lead)

    assert outcome(61, 60).method == "contrastive"  # a lead of one standard error
    assert outcome(62, 60).method == "linear"
    equal, led = outcome(60, 60), outcome(60, 64)
    assert equal.kept_linear is equal.contrastive
    assert equal.sentence().endswith("contrastive 60: no more than chance gives.")
    counts = "Linear has 60 of 90 held-out rows right, contrastive 64"
    assert led.sentence() == f"Kept: contrastive. {counts}: a lead of 2.0 standard errors."
