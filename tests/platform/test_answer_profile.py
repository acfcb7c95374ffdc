from __future__ import annotations

import numpy as np
import pytest

from manta.answer_profile import NUM_CONFIDENCE_BINS, confidence_bin, profile_of
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
