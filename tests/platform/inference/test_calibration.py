from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from sklearn.metrics import brier_score_loss

from manta.inference.abstention import abstain_threshold
from manta.inference.calibration import Calibration, calibrate, figures_on, fit_temperature, uncertain_below
from manta.inference.reliability import brier_score, claims, expected_calibration_error, reliability_bins, row_decisions
from manta.labels import LabelSpace

SPACES = {
    "binary": LabelSpace(("no", "yes"), "binary"),
    "multiclass": LabelSpace(tuple("abcdefgh"), "multiclass"),
    "multilabel": LabelSpace(("a", "b", "c", "d"), "multilabel"),
}
TASKS = list(SPACES)


def drawn(task: str, num_rows: int, *, seed: int = 0, spread: float = 2.0) -> tuple[np.ndarray, np.ndarray]:
    """Logits whose probabilities are true: the targets are drawn from them."""
    generator = np.random.default_rng(seed)
    labels = SPACES[task]
    logits = generator.normal(0, spread, (num_rows, labels.num_logits))
    probabilities = labels.probabilities(logits)
    if task == "multilabel":
        return logits, (generator.random(probabilities.shape) < probabilities).astype(np.int8)
    return logits, (generator.random((num_rows, 1)) > np.cumsum(probabilities, axis=1)[:, :-1]).sum(axis=1)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("factor", [3.0, 1.0, 0.25])
def test_a_known_temperature_is_found_again(task: str, factor: float) -> None:
    logits, targets = drawn(task, 4000)
    assert fit_temperature(factor * logits, targets, labels=SPACES[task]) == pytest.approx(factor, rel=0.07)


def test_one_logit_and_its_two_logit_equivalent_have_one_temperature() -> None:
    logits, targets = drawn("binary", 500)
    two = np.concatenate([np.zeros_like(logits), logits], axis=1)
    one = fit_temperature(3 * logits, targets, labels=SPACES["binary"])
    assert fit_temperature(3 * two, targets, labels=SPACES["binary"]) == pytest.approx(one, rel=1e-6)


@pytest.mark.parametrize("task", TASKS)
def test_overconfidence_is_taken_away_on_rows_that_chose_nothing(task: str) -> None:
    labels = SPACES[task]
    logits, targets = drawn(task, 3000)
    fitted, record = calibrate(3 * logits[:1000], targets[:1000], labels=labels, target_precision=0.9)
    figures = figures_on(record, 3 * logits[1000:], targets[1000:], labels=fitted)
    assert (record.validation.num_rows, figures.num_rows) == (1000, 2000)
    for found in (record.validation, figures):
        assert found.ece_after < found.ece_before / 2
        assert found.brier_after < found.brier_before
    assert fitted.temperature == record.temperature == pytest.approx(3, rel=0.15)
    assert (fitted.thresholds is None) == (task != "multilabel")
    again = calibrate(3 * logits[:1000], targets[:1000], labels=labels, target_precision=0.9)
    assert again == (fitted, record)
    assert Calibration.model_validate_json(record.model_dump_json()) == record


@pytest.mark.parametrize("task", ["binary", "multiclass"])
def test_the_temperature_changes_no_decision(task: str) -> None:
    logits, _ = drawn(task, 500)
    labels = SPACES[task]
    hot = dataclasses.replace(labels, temperature=2.7)
    plain, warm = labels.probabilities(logits), hot.probabilities(logits)
    np.testing.assert_array_equal(labels.decide(plain), hot.decide(warm))
    assert np.abs(plain - warm).max() > 0.1


def test_each_label_gets_the_threshold_that_its_rows_ask_for() -> None:
    """Rows of which only the surest have a label need thresholds far above one half."""
    logits = np.random.default_rng(0).normal(0, 2, (400, 4))
    targets = (logits >= np.sort(logits, axis=0)[-20]).astype(np.int8)
    fitted, _ = calibrate(logits, targets, labels=SPACES["multilabel"], target_precision=None)
    np.testing.assert_array_equal(fitted.decide(fitted.probabilities(logits)), targets > 0)
    assert min(fitted.applied_thresholds) > 0.5


def test_figures_before_are_those_of_plain_probabilities_and_after_those_of_held_out_rows() -> None:
    labels = SPACES["multiclass"]
    logits, targets = drawn("multiclass", 400)
    fitted, record = calibrate(4 * logits, targets, labels=labels, target_precision=None)
    plain = labels.probabilities(4 * logits)
    assert record.validation.ece_before == expected_calibration_error(*claims(plain, targets, labels=labels))
    assert record.validation.brier_before == brier_score(plain, targets, labels=labels)
    in_sample = brier_score(fitted.probabilities(4 * logits), targets, labels=labels)
    assert record.validation.brier_after != in_sample
    assert record.validation.brier_after == pytest.approx(in_sample, rel=0.02)
    assert (record.abstain_below, record.best_precision) == (None, None)


@pytest.mark.parametrize("task", TASKS)
def test_true_probabilities_have_next_to_no_calibration_error(task: str) -> None:
    labels = SPACES[task]
    logits, targets = drawn(task, 40_000)
    true, known = labels.probabilities(logits), claims(labels.probabilities(logits), targets, labels=labels)
    assert expected_calibration_error(*known) < 0.01
    wrong = labels.probabilities(3 * logits)
    assert expected_calibration_error(*claims(wrong, targets, labels=labels)) > 0.05
    assert brier_score(true, targets, labels=labels) < brier_score(wrong, targets, labels=labels)


def test_bins_hold_equally_many_and_the_error_is_their_mean_gap() -> None:
    confidence = np.array([0.9, 0.6, 0.8, 0.7])
    correct = np.array([True, False, True, False])
    bins = reliability_bins(confidence, correct, num_bins=2)
    assert [(item.num_decisions, item.confidence, item.accuracy) for item in bins] == [
        (2, pytest.approx(0.65), 0.0),
        (2, pytest.approx(0.85), 1.0),
    ]
    assert expected_calibration_error(confidence, correct, num_bins=2) == pytest.approx((0.65 + 0.15) / 2)
    assert [item.num_decisions for item in reliability_bins(np.linspace(0, 1, 300), np.ones(300, bool))] == [20] * 15


def test_equal_confidences_share_a_bin_so_that_the_order_of_rows_does_not_matter() -> None:
    confidence = np.repeat([0.5, 0.75, 1.0], [10, 50, 40])
    correct = np.arange(100) % 4 > 0
    order = np.random.default_rng(0).permutation(100)
    bins = reliability_bins(confidence, correct)
    assert [item.num_decisions for item in bins] == [10, 50, 40]
    assert reliability_bins(confidence[order], correct[order]) == bins
    assert (reliability_bins(np.array([]), np.array([], bool)), expected_calibration_error([], [])) == ([], 0.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("task", TASKS)
def test_the_brier_score_is_scikit_learns(task: str) -> None:
    labels = SPACES[task]
    logits, targets = drawn(task, 200)
    probabilities = labels.probabilities(logits)
    if task == "binary":
        expected = brier_score_loss(targets, probabilities[:, 1])
    elif task == "multiclass":
        expected = brier_score_loss(targets, probabilities, labels=range(8))
    else:
        expected = np.mean([brier_score_loss(targets[:, label], probabilities[:, label]) for label in range(4)])
    assert brier_score(probabilities, targets, labels=labels) == pytest.approx(expected)


def test_answered_rows_have_the_target_precision_on_rows_that_chose_nothing() -> None:
    """Over 40 drawings of 600 validation rows; model errors are rare and its confidence is a little too high."""
    found = []
    for seed in range(40):
        logits, targets = drawn("multiclass", 5000, seed=seed, spread=5.0)
        confidence, correct = row_decisions(softmax(1.1 * logits, axis=1), targets, labels=SPACES["multiclass"])
        threshold, best = abstain_threshold(confidence[:600], correct[:600], target=0.95)
        assert threshold is not None
        assert best is None
        answered = confidence[600:] >= threshold
        found.append((correct[600:][answered].mean(), answered.mean()))
    precision, coverage = np.array(found).T
    assert np.mean(precision) == pytest.approx(0.95, abs=0.005)
    assert np.mean(np.abs(precision - 0.95) <= 0.02) >= 0.9
    assert 0.3 < np.mean(coverage) < 0.95


def test_a_lower_target_answers_more_rows() -> None:
    logits, targets = drawn("multiclass", 2000, spread=5.0)
    confidence, correct = row_decisions(softmax(logits, axis=1), targets, labels=SPACES["multiclass"])
    thresholds = [abstain_threshold(confidence, correct, target=target)[0] for target in (0.85, 0.9, 0.95, 0.99)]
    assert thresholds == sorted(thresholds, key=lambda value: value or 0.0)
    assert len(set(thresholds)) == 4


def test_where_no_threshold_reaches_the_target_the_best_is_told() -> None:
    generator = np.random.default_rng(0)
    confidence, correct = generator.uniform(0.5, 0.99, 500), generator.random(500) < 0.6
    threshold, best = abstain_threshold(confidence, correct, target=0.95)
    assert threshold is None
    assert best == pytest.approx(0.66, abs=0.1)
    assert abstain_threshold(confidence[:19], np.ones(19, bool), target=0.95) == (None, None)


@pytest.mark.parametrize(("lowest", "expected"), [(0.7, 0.5), (0.3, 0.3)])
def test_where_all_rows_reach_the_target_only_less_sure_ones_than_any_of_them_are_uncertain(lowest: float, expected: float) -> None:
    confidence = np.append(np.full(199, 0.98), lowest)
    assert abstain_threshold(confidence, np.ones(200, bool), target=0.9) == (pytest.approx(expected), None)


def edge(task: str, kind: str) -> tuple[np.ndarray, np.ndarray]:
    """Validation rows that a fit might choke on."""
    logits, targets = drawn(task, 3 if kind == "three rows" else 1 if kind == "one row" else 60)
    sign = np.where(targets > 0, 1.0, -1.0)
    right = sign if task == "multilabel" else sign[:, None] if task == "binary" else np.eye(8)[targets]
    if kind == "all right":
        return 5.0 * right, targets
    if kind == "all wrong":
        return -5.0 * right, targets
    if kind == "certain":
        return 1e4 * right, targets
    if kind == "one class":
        return logits, np.zeros_like(targets)
    if kind == "no idea":
        return np.zeros_like(logits), targets
    return logits, targets


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("kind", ["all right", "all wrong", "certain", "one class", "no idea", "three rows", "one row"])
def test_odd_validation_rows_give_a_bounded_record(task: str, kind: str) -> None:
    logits, targets = edge(task, kind)
    fitted, record = calibrate(logits, targets, labels=SPACES[task], target_precision=0.95)
    assert 0.05 <= record.temperature <= 20
    if kind in {"no idea", "one row"}:
        assert record.temperature == 1.0
    if kind == "all right":  # of 60 rows: sure, but not certain
        assert 0.3 < record.temperature <= 1.0
    if kind == "all wrong":
        assert record.temperature > 3
        assert record.abstain_below is None
    _, promised = calibrate(logits, targets, labels=SPACES[task], target_precision=0.95, guarantee=0.9, set_coverage=0.9)
    for figures in (record.validation, promised.validation):
        found = figures.model_dump(exclude={"num_rows", "precision", "set_size"}, exclude_none=True)
        assert all(0.0 <= value <= 2.0 for value in found.values())
    assert all(promised.sentences(of_test=False))
    assert np.isfinite(fitted.probabilities(logits)).all()
    assert record.validation.num_rows == len(targets)
    assert all(record.sentences(of_test=False))
    assert record.sentences() == []


def test_a_temperature_that_does_not_help_held_out_rows_is_not_used() -> None:
    used = []
    for seed in range(30):  # true probabilities: what twelve rows say against them is chance
        logits, targets = drawn("multiclass", 12, seed=seed)
        _, record = calibrate(logits, targets, labels=SPACES["multiclass"], target_precision=None)
        used.append(record.temperature != 1.0)
    assert np.mean(used) < 0.5


def test_without_a_threshold_the_rule_is_one_half_and_never_for_several_labels() -> None:
    assert uncertain_below(None, task="multiclass") == uncertain_below(None, task="binary") == 0.5
    assert uncertain_below(None, task="multilabel") == 0.0
    assert uncertain_below(0.0, task="multiclass") == 0.0


def figures(**changed: Any) -> dict[str, Any]:
    same = {"num_rows": 300, "ece_before": 0.08, "ece_after": 0.012, "brier_before": 0.2, "brier_after": 0.18}
    return same | {"precision": 0.957, "coverage": 0.91} | changed


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        (
            {},
            (
                "Answers below 60.0% are uncertain: chosen on 300 validation rows, so that 95.0% of the others are right. "
                "On the test rows, it answers 91.0%, of which 95.7% are right."
            ),
        ),
        ({"test": figures(precision=None, coverage=0.0)}, "On the test rows, all answers are uncertain."),
        (
            {"abstain_below": None, "best_precision": 0.9},
            "No threshold gives 95.0% right answers: the most confident of the 300 validation rows reach 90.0%.",
        ),
        ({"abstain_below": None}, "No threshold gives 95.0% right answers: 300 validation rows are too few to choose one."),
    ],
)
def test_sentences_say_what_became_of_the_answers(changed: dict[str, Any], sentence: str) -> None:
    facts = {"temperature": 1.8, "target_precision": 0.95, "abstain_below": 0.6, "validation": figures(), "test": figures()}
    first, second = Calibration.model_validate(facts | changed).sentences()
    assert first.startswith(
        "Calibration: temperature 1.80; expected calibration error on the test rows: 0.0800 before, 0.0120 after"
    )
    assert sentence in second
