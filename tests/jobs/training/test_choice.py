"""The choice between the methods linear and contrastive at planted logits: who leads, by how much, and which one is kept."""

from __future__ import annotations

import numpy as np
import pytest

from manta.labels import LabelSpace
from manta.model.regression import Regression
from manta_jobs.runs.methods import Outcome
from manta_jobs.training.checkpoints import TrainingState
from manta_jobs.training.choice import Lead, SearchLead
from manta_jobs.training.few_rows.linear import LinearModel

ABC = LabelSpace(("a", "b", "c"), "multiclass")
TARGETS = np.arange(90) % 3


def logits_of(num_right: int, *, first: int = 0) -> np.ndarray:
    """Logits with as many of 90 rows right, from row `first` on; the others give the next label."""
    answers = (TARGETS + 1) % 3
    rows = (first + np.arange(num_right)) % 90
    answers[rows] = TARGETS[rows]
    return np.eye(3)[answers]


def lead_of(linear: np.ndarray, contrastive: np.ndarray) -> Lead:
    return Lead.of(linear, contrastive, TARGETS, labels=ABC)


@pytest.mark.parametrize(
    ("linear", "contrastive", "errors", "is_enough"),
    [(80, 60, 20 / 20**0.5, True), (61, 60, 1.0, False), (62, 60, 2**0.5, True), (60, 80, -(20**0.5), False)],
)
def test_the_lead_is_counted_in_rows_that_only_one_has_right(linear: int, contrastive: int, errors: float, is_enough: bool) -> None:
    lead = lead_of(logits_of(linear), logits_of(contrastive))
    assert (lead.linear_right, lead.contrastive_right, lead.num_rows) == (linear, contrastive, 90)
    assert lead.errors == pytest.approx(errors)
    assert lead.is_enough == is_enough


def test_rows_that_both_have_right_say_nothing() -> None:
    shifted = lead_of(logits_of(60, first=30), logits_of(60))
    assert (shifted.num_differing, shifted.errors) == (60, 0.0)


def test_a_row_of_several_labels_is_right_if_each_is() -> None:
    labels = LabelSpace(("a", "b"), "multilabel")
    targets = np.array([[1, 0], [1, 1]], dtype=np.int8)
    lead = Lead.of(np.array([[1.0, -1.0], [1.0, 1.0]]), np.array([[1.0, 1.0], [1.0, 1.0]]), targets, labels=labels)
    assert (lead.linear_right, lead.contrastive_right) == (2, 1)


def test_contrastive_is_kept_unless_linear_leads_by_more_than_a_standard_error() -> None:
    regression = Regression(np.zeros((3, 2)), np.zeros(3))

    def outcome(linear: int, contrastive: int) -> Outcome:
        models = [LinearModel(regression, 1.0, logits_of(right), embed_s=1.0, fit_s=0.0) for right in (linear, contrastive)]
        return Outcome(*models, lead=lead_of(models[0].logits, models[1].logits))

    assert outcome(61, 60).method == "contrastive"  # a lead of one standard error
    assert outcome(62, 60).method == "linear"
    equal, led = outcome(60, 60), outcome(60, 64)
    assert equal.kept_linear is equal.contrastive
    assert equal.sentence().endswith("contrastive 60: no more than chance gives.")
    counts = "Linear has 60 of 90 held-out rows right, contrastive 64"
    assert led.sentence() == f"Kept: contrastive. {counts}: a lead of 2.0 standard errors."


def test_a_single_method_is_kept_without_a_word() -> None:
    state = TrainingState(finished=True)
    assert (Outcome(trained=state).method, Outcome(trained=state).sentence()) == ("full", "")
    linear = LinearModel(Regression(np.zeros((3, 2)), np.zeros(3)), 1.0, logits_of(60))
    assert (Outcome(linear).method, Outcome(contrastive=linear).method) == ("linear", "contrastive")


@pytest.mark.parametrize(
    ("searched", "other", "is_enough"),
    [(0.8, 0.8, False), (0.83, 0.8, False), (0.85, 0.8, True), (0.7, 0.8, False), (1.0, 1.0, False), (1.0, 0.98, True)],
)
def test_a_search_must_lead_by_more_than_a_standard_error(searched: float, other: float, is_enough: bool) -> None:
    """The standard error of the difference of two accuracies near 0.8 on 200 rows is 0.04."""
    lead = SearchLead(200, searched, other, "contrastive")
    assert lead.is_enough == is_enough
    assert lead.sentence().startswith(f"Kept: {'the winner of the search' if is_enough else 'contrastive'}")
