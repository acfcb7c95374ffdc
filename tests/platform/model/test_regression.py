"""Logistic regression of every task, also where labels are missing among the rows."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.sparse import csr_matrix
from sklearn.linear_model import LogisticRegression

from manta.labels import LabelSpace, Targets
from manta.model.regression import CERTAIN, fit_regression

ROWS = np.random.default_rng(0).normal(size=(60, 5))
THREE = LabelSpace(("a", "b", "c"), "multiclass")
TWO = LabelSpace(("a", "b"), "binary")
SEVERAL = LabelSpace(("a", "b"), "multilabel")


def labelled(num_classes: int) -> Targets:
    return np.asarray(ROWS[:, :num_classes].argmax(axis=1))


@pytest.mark.parametrize("labels", [THREE, TWO])
@pytest.mark.parametrize("is_sparse", [True, False])
def test_it_gives_scikit_learns_own_logits(labels: LabelSpace, is_sparse: bool) -> None:
    targets = labelled(len(labels.names))
    rows = csr_matrix(ROWS) if is_sparse else ROWS
    theirs = LogisticRegression(C=2.0, max_iter=3000).fit(rows, targets).decision_function(rows)
    ours = fit_regression(rows, targets, labels=labels, strength=2.0).logits(rows)
    np.testing.assert_allclose(ours, theirs.reshape(60, -1), rtol=0, atol=1e-9)


def test_a_label_without_rows_is_never_answered() -> None:
    two_of_three = np.where(labelled(2) == 1, 2, 0)
    logits = fit_regression(ROWS, two_of_three, labels=THREE, strength=1.0).logits(ROWS)
    assert (logits[:, 1] == -CERTAIN).all()
    assert (logits.argmax(axis=1) == two_of_three).mean() > 0.9
    only_one = fit_regression(ROWS, np.ones(60, dtype=np.int64), labels=THREE, strength=1.0).logits(ROWS)
    assert (only_one.argmax(axis=1) == 1).all()
    assert fit_regression(ROWS, np.zeros(60, dtype=np.int64), labels=TWO, strength=1.0).logits(ROWS).max() == -CERTAIN


def test_each_of_several_labels_has_a_regression_and_a_weight() -> None:
    targets = np.stack([ROWS[:, 0] > 0, np.ones(60)], axis=1).astype(np.int8)
    plain = fit_regression(ROWS, targets, labels=SEVERAL, strength=1.0)
    assert plain.logits(ROWS).shape == (60, 2)
    assert (plain.logits(ROWS)[:, 1] == CERTAIN).all()
    weighted = fit_regression(ROWS, targets, labels=SEVERAL, strength=1.0, class_weights=np.array([9.0, 1.0]))
    assert weighted.logits(ROWS)[:, 0].mean() > plain.logits(ROWS)[:, 0].mean()


def test_weights_of_classes_are_weights_of_their_rows() -> None:
    targets = labelled(3)
    weights = np.array([3.0, 1.0, 0.5])
    theirs = LogisticRegression(C=1.0, max_iter=3000).fit(ROWS, targets, sample_weight=weights[targets]).decision_function(ROWS)
    ours = fit_regression(ROWS, targets, labels=THREE, strength=1.0, class_weights=weights).scaled(2.0).logits(ROWS)
    np.testing.assert_allclose(ours, 2 * theirs, rtol=0, atol=1e-9)
