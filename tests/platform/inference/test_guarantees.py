"""Promises about answers, on scores of a real model: a linear head on frozen embeddings, on BANKING77 rows that are new to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manta.inference.abstention import abstain_threshold
from manta.inference.calibration import calibrate, figures_on
from manta.inference.guarantees import guaranteed_threshold, in_label_set, label_set_threshold
from manta.labels import LabelSpace

SCORES = Path(__file__).with_name("banking77_scores.npz")
NUM_RESPLITS, NUM_CHOSEN_ON = 1000, 1000
TARGET, GUARANTEE = 0.95, 0.9


@pytest.fixture(scope="module")
def scores() -> dict[str, np.ndarray]:
    with np.load(SCORES) as found:
        return {name: found[name] for name in found.files}


def test_the_target_is_missed_at_most_as_often_as_the_guarantee_allows(scores: dict[str, np.ndarray]) -> None:
    confidence, correct = scores["confidence"], scores["correct"]
    missed, on_average, answered = 0, 0, []
    generator = np.random.default_rng(0)
    for _ in range(NUM_RESPLITS):
        rows = generator.permutation(len(correct))
        chosen_on, rest = rows[:NUM_CHOSEN_ON], rows[NUM_CHOSEN_ON:]
        threshold, _ = guaranteed_threshold(confidence[chosen_on], correct[chosen_on], target=TARGET, guarantee=GUARANTEE)
        assert threshold is not None
        sure = confidence[rest] >= threshold
        missed += correct[rest][sure].mean() < TARGET
        answered.append(sure.mean())
        plain, _ = abstain_threshold(confidence[chosen_on], correct[chosen_on], target=TARGET)
        on_average += plain is not None and correct[rest][confidence[rest] >= plain].mean() < TARGET
    assert missed / NUM_RESPLITS <= 1 - GUARANTEE
    assert on_average / NUM_RESPLITS > 1 - GUARANTEE  # the rule without a guarantee misses it more often, so this test can fail
    assert np.mean(answered) > 0.85  # and the promise is not kept by answering nothing


def test_label_sets_hold_the_right_label_as_often_as_they_say(scores: dict[str, np.ndarray]) -> None:
    right, correct = scores["right_label"], scores["correct"]
    generator = np.random.default_rng(0)
    covered = []
    for _ in range(NUM_RESPLITS):
        rows = generator.permutation(len(right))
        chosen_on, rest = rows[:NUM_CHOSEN_ON], rows[NUM_CHOSEN_ON:]
        above = label_set_threshold(right[chosen_on][:, None], np.zeros(NUM_CHOSEN_ON, np.int64), coverage=TARGET)
        covered.append(((right[rest] >= above) | correct[rest]).mean())
    assert np.mean(covered) == pytest.approx(TARGET, abs=0.005)


def test_a_threshold_is_none_where_no_rows_can_show_the_target() -> None:
    sure = np.linspace(1, 0.5, 44)
    right = np.ones(44, bool)
    assert guaranteed_threshold(sure, right, target=0.95, guarantee=0.9) == (None, None)  # 0.95 ** 44 is above 0.1
    assert guaranteed_threshold(np.append(sure, 0.5), np.ones(45, bool), target=0.95, guarantee=0.9) == (0.5, None)
    half, bound = guaranteed_threshold(np.linspace(1, 0, 200), np.arange(200) % 2 == 0, target=0.95, guarantee=0.9)
    assert half is None
    assert bound == pytest.approx(0.405, abs=0.01)  # the exact lower bound of 30 right among 60, at 90%
    assert guaranteed_threshold(np.empty(0), np.empty(0, bool), target=0.95, guarantee=0.9) == (None, None)


def test_equal_confidences_are_answered_together() -> None:
    confidence = np.full(100, 0.8)
    threshold, _ = guaranteed_threshold(confidence, np.arange(100) > 1, target=0.9, guarantee=0.9)
    assert threshold == 0.8
    assert guaranteed_threshold(confidence, np.arange(100) > 11, target=0.9, guarantee=0.9)[0] is None


def test_too_few_rows_give_no_label_sets_and_the_most_probable_label_is_always_in_one() -> None:
    right = np.linspace(0.1, 1, 18)[:, None]
    assert label_set_threshold(right, np.zeros(18, np.int64), coverage=0.95) is None
    assert label_set_threshold(np.vstack([right, [[0.05]]]), np.zeros(19, np.int64), coverage=0.95) == 0.05
    probabilities = np.array([[0.4, 0.35, 0.25], [0.98, 0.01, 0.01]])
    assert in_label_set(probabilities, above=0.3).tolist() == [[True, True, False], [True, False, False]]
    assert in_label_set(probabilities, above=0.99).tolist() == [[True, False, False], [True, False, False]]


def drawn(num_rows: int) -> tuple[np.ndarray, np.ndarray]:
    """Logits of four classes whose probabilities are true."""
    generator = np.random.default_rng(3)
    logits = generator.normal(0, 2.5, (num_rows, 4))
    probabilities = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    return logits, (generator.random((num_rows, 1)) > np.cumsum(probabilities, axis=1)[:, :-1]).sum(axis=1)


def test_a_calibration_says_what_its_guarantees_give() -> None:
    labels = LabelSpace(("a", "b", "c", "d"), "multiclass")
    logits, targets = drawn(4000)
    fitted, record = calibrate(logits[:1000], targets[:1000], labels=labels, target_precision=0.9, guarantee=0.9, set_coverage=0.95)
    record = record.model_copy(update={"test": figures_on(record, logits[1000:], targets[1000:], labels=fitted)})
    assert record.test is not None
    assert record.test.precision is not None
    assert record.test.precision > 0.9
    assert record.test.set_coverage == pytest.approx(0.95, abs=0.02)
    assert record.validation.set_coverage == pytest.approx(0.95, abs=0.02)
    _, answers, sets = record.sentences()
    assert "so that 90.0% of the others are right with a probability of 90%." in answers
    assert sets.startswith(f"Label sets of {record.test.set_size:.2f} labels on average have the right label on ")


def test_without_a_threshold_for_the_guarantee_every_answer_is_uncertain() -> None:
    labels = LabelSpace(("a", "b", "c", "d"), "multiclass")
    logits, targets = drawn(1000)
    fitted, record = calibrate(logits[:40], targets[:40], labels=labels, target_precision=0.95, guarantee=0.9)
    assert record.abstain_below is None
    figures = figures_on(record, logits[40:], targets[40:], labels=fitted)
    assert (figures.coverage, figures.precision) == (0.0, None)
    sentence = record.model_copy(update={"test": figures}).sentences()[1]
    assert "with a probability of 90%: 40 validation rows are too few to choose one. So every answer is uncertain." in sentence
