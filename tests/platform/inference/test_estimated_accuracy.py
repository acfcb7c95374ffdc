"""Estimated accuracy on answers whose truth is planted: shifted labels are estimated well, other shifts are doubted."""

from __future__ import annotations

import numpy as np
import pytest

from manta.inference.estimated_accuracy import Estimate, Window, answer_sums, estimated
from manta.labels import Floats, LabelSpace, Targets

LABELS = LabelSpace(("a", "b", "c", "d"), "multiclass")
MEANS = 2.2 * np.eye(4)
MEANS[1] = MEANS[0] + [0, 0.9, 0, 0]  # the first two are hard to tell apart
USUAL = np.array([0.25, 0.25, 0.25, 0.25])


def drawn(shares: np.ndarray, count: int, *, seed: int, noise: float = 1.0) -> tuple[Floats, Targets]:
    """Logits of the best possible model for the usual shares, and the labels of its rows."""
    generator = np.random.default_rng(seed)
    targets = generator.choice(4, count, p=shares)
    rows = MEANS[targets] + noise * generator.normal(size=(count, 4))
    return rows @ MEANS.T - 0.5 * (MEANS**2).sum(axis=1), targets


def window_of(logits: Floats, *, num_out: int = 0) -> Window:
    probabilities = LABELS.probabilities(logits)
    confidence = LABELS.confidence(probabilities)
    counts = np.bincount(np.asarray(LABELS.decide(probabilities)), minlength=4).tolist()
    return Window(len(logits), float(confidence.sum()), float((confidence**2).sum()), counts, num_out)


def judged(shares: np.ndarray, *, seed: int, noise: float = 1.0, num_out: int = 0) -> tuple[Estimate, float, float]:
    """The estimate for a window, its true accuracy, and its mean confidence."""
    expected = answer_sums(*drawn(USUAL, 3000, seed=1), labels=LABELS)
    logits, targets = drawn(shares, 1000, seed=seed, noise=noise)
    probabilities = LABELS.probabilities(logits)
    truth = float((LABELS.decide(probabilities) == targets).mean())
    return estimated(expected, window_of(logits, num_out=num_out)), truth, float(LABELS.confidence(probabilities).mean())


def test_with_other_shares_of_the_labels_the_estimate_is_near_where_confidence_is_not() -> None:
    shifts = [np.array([0.85, 0.05, 0.05, 0.05]), np.array([0.02, 0.02, 0.48, 0.48]), np.array([0.05, 0.85, 0.05, 0.05])]
    found = [(shares, *judged(shares, seed=seed)) for shares in shifts for seed in range(10, 20)]
    errors = [abs(estimate.accuracy - truth) for _, estimate, truth, _ in found]
    assert np.mean(errors) < 0.02
    assert np.mean(errors) < 0.7 * np.mean([abs(confidence - truth) for *_, truth, confidence in found])
    assert np.mean([estimate.low <= truth <= estimate.high for _, estimate, truth, _ in found]) >= 0.85
    assert np.mean([np.abs(np.array(estimate.shares) - shares).max() for shares, estimate, *_ in found]) < 0.07
    assert sum(bool(estimate.doubts) for _, estimate, *_ in found) <= 1


def test_rows_like_the_validation_rows_raise_no_doubt() -> None:
    found = [judged(USUAL, seed=seed) for seed in range(30, 50)]
    assert not any(estimate.doubts for estimate, *_ in found)
    assert np.mean([abs(estimate.accuracy - truth) for estimate, truth, _ in found]) < 0.02


def test_harder_texts_and_texts_out_of_scope_are_doubted() -> None:
    estimate, truth, _ = judged(USUAL, seed=3, noise=2.5)
    assert abs(estimate.accuracy - truth) > 0.02
    assert estimate.doubts == ("confidence",)
    assert judged(USUAL, seed=3, num_out=150)[0].doubts == ("out_of_scope",)


def test_several_labels_a_row_are_one_sum() -> None:
    labels = LabelSpace(("a", "b"), "multilabel")
    logits = np.tile([[3.0, -3.0], [3.0, 3.0]], (100, 1))
    expected = answer_sums(logits, np.tile([[1, 0], [0, 1]], (100, 1)), labels=labels)
    confidence = float(labels.confidence(labels.probabilities(logits)).sum())
    assert (expected.num_rows, expected.num_right, expected.answers) == ((200,), (100,), ())
    estimate = estimated(expected, Window(200, confidence, confidence**2 / 200, (200, 100)))
    assert estimate.accuracy == pytest.approx(0.5, abs=0.03)  # half as sure as it says
    assert estimate.shares == ()
