from __future__ import annotations

import numpy as np
import pytest

from manta.inference.answer_profile import NUM_CONFIDENCE_BINS, confidence_bin, profile_of, stability_by_chance, stability_index
from manta.labels import LabelSpace


def log_odds(probabilities: list[list[float]]) -> np.ndarray:
    values = np.array(probabilities)
    return np.log(values / (1 - values))


def test_labels_and_confidences_are_counted() -> None:
    labels = LabelSpace(("a", "b", "c"), "multiclass")
    logits = np.log(np.array([[0.75, 0.2, 0.05], [0.05, 0.9, 0.05], [0.34, 0.33, 0.33], [0.98, 0.01, 0.01]]))
    profile = profile_of(logits, labels=labels)
    assert (profile.num_rows, profile.labels) == (4, (3, 1, 0))
    assert profile.confidence == (0, 0, 0, 1, 0, 0, 0, 1, 0, 2)


def test_of_several_labels_each_counts_and_so_does_none() -> None:
    labels = LabelSpace(("a", "b"), "multilabel")
    profile = profile_of(log_odds([[0.9, 0.9], [0.9, 0.1], [0.1, 0.1]]), labels=labels)
    assert profile.labels == (2, 1, 1)
    assert profile.confidence == (0, 0, 0, 0, 0, 0, 0, 0, 3, 0)  # 0.81 each


def test_one_logit_is_two_labels_and_no_rows_are_counted_too() -> None:
    labels = LabelSpace(("no", "yes"), "binary")
    assert profile_of(np.array([[3.0], [-3.0], [2.0]]), labels=labels).labels == (1, 2)
    assert profile_of(np.empty((0, 1)), labels=labels).confidence == (0,) * NUM_CONFIDENCE_BINS


@pytest.mark.parametrize(("confidence", "index"), [(0.0, 0), (0.0999, 0), (0.5, 5), (0.95, 9), (1.0, 9)])
def test_bins_are_tenths(confidence: float, index: int) -> None:
    assert confidence_bin(confidence) == index


def test_the_stability_index_is_what_its_definition_says() -> None:
    before, now = (200_000, 800_000), (500_000, 500_000)
    assert stability_index(before, now) == pytest.approx(0.3 * np.log(0.5 / 0.2) - 0.3 * np.log(0.5 / 0.8), abs=1e-4)
    assert stability_index((3, 5, 0), (300, 500, 0)) == pytest.approx(0, abs=1e-12)
    assert stability_index((0, 0), (1, 2)) == 0
    assert np.isfinite(stability_index((0, 10), (10, 0)))
    with pytest.raises(ValueError, match="cannot be compared"):
        stability_index((1, 2), (1, 2, 3))


def test_two_draws_of_one_distribution_have_the_index_that_chance_gives() -> None:
    generator = np.random.default_rng(0)
    shares = generator.dirichlet(np.full(40, 5.0))
    pairs = [(generator.multinomial(1000, shares), generator.multinomial(1500, shares)) for _ in range(200)]
    found = np.mean([stability_index(one.tolist(), other.tolist()) for one, other in pairs])
    expected = np.mean([stability_by_chance(one.tolist(), other.tolist()) for one, other in pairs])
    assert found == pytest.approx(expected, rel=0.1)
