from __future__ import annotations

import numpy as np
import pytest

from manta.config import TrainConfig
from manta.evaluation.metrics import METRIC_NAMES, best_thresholds, classification_metrics, per_class_metrics
from manta.labels import LabelSpace

BINARY = LabelSpace(("no", "yes"), "binary")
THREE = LabelSpace(("a", "b", "c"), "multiclass")
SEVERAL = LabelSpace(("a", "b", "c"), "multilabel")


def test_binary_metrics_from_one_logit() -> None:
    # Decisions are yes, yes, no, no, no; the probability of the truth is 3/4, 1/4, 3/4, 3/4, 1/4.
    logits = np.log([[3.0], [3.0], [1 / 3], [1 / 3], [1 / 3]])
    metrics = classification_metrics(logits, np.array([1, 0, 0, 0, 1]), labels=BINARY)
    # no: 2 of 3 found, 2 of 3 right; yes: 1 of 2 found, 1 of 2 right.
    assert metrics == pytest.approx(
        {
            "accuracy": 3 / 5,
            "loss": -(3 * np.log(3 / 4) + 2 * np.log(1 / 4)) / 5,
            "precision_macro": (2 / 3 + 1 / 2) / 2,
            "recall_macro": (2 / 3 + 1 / 2) / 2,
            "f1_macro": (2 / 3 + 1 / 2) / 2,
            "precision_weighted": 3 / 5 * 2 / 3 + 2 / 5 * 1 / 2,
            "recall_weighted": 3 / 5,
            "f1_weighted": 3 / 5 * 2 / 3 + 2 / 5 * 1 / 2,
            "precision_micro": 3 / 5,
            "recall_micro": 3 / 5,
            "f1_micro": 3 / 5,
        }
    )


# Rows with the truths a a a b b c; c is never predicted.
LOGITS = np.log([[2.0, 1, 1], [2, 1, 1], [1, 2, 1], [1, 2, 1], [2, 1, 1], [2, 1, 1]])
TARGETS = np.array([0, 0, 0, 1, 1, 2])


def test_multiclass_metrics() -> None:
    metrics = classification_metrics(LOGITS, TARGETS, labels=THREE)
    # a: precision 2/4, recall 2/3, F1 4/7; b: 1/2, 1/2, 1/2; c: 0, 0, 0.
    assert metrics == pytest.approx(
        {
            "accuracy": 1 / 2,
            "loss": -(3 * np.log(1 / 2) + 3 * np.log(1 / 4)) / 6,
            "precision_macro": (1 / 2 + 1 / 2) / 3,
            "recall_macro": (2 / 3 + 1 / 2) / 3,
            "f1_macro": (4 / 7 + 1 / 2) / 3,
            "precision_weighted": (3 * 1 / 2 + 2 * 1 / 2) / 6,
            "recall_weighted": 1 / 2,
            "f1_weighted": (3 * 4 / 7 + 2 * 1 / 2) / 6,
            "precision_micro": 1 / 2,
            "recall_micro": 1 / 2,
            "f1_micro": 1 / 2,
        }
    )


def test_per_class_metrics() -> None:
    found = per_class_metrics(LOGITS, TARGETS, labels=THREE)
    assert list(found) == ["a", "b", "c"]
    assert found["a"] == pytest.approx({"precision": 1 / 2, "recall": 2 / 3, "f1": 4 / 7, "rows": 3})
    assert found["b"] == pytest.approx({"precision": 1 / 2, "recall": 1 / 2, "f1": 1 / 2, "rows": 2})
    assert found["c"] == pytest.approx({"precision": 0, "recall": 0, "f1": 0, "rows": 1})


def test_the_names_are_those_of_the_result() -> None:
    assert set(classification_metrics(LOGITS, TARGETS, labels=THREE)) == set(METRIC_NAMES)


def test_every_metric_a_config_may_choose_is_computed() -> None:
    choices = TrainConfig.model_json_schema()["properties"]["metric"]["enum"]
    assert set(choices) <= set(METRIC_NAMES)


def test_a_label_without_rows_still_counts_in_macro_averages() -> None:
    metrics = classification_metrics(np.array([[5.0, 0, 0], [0, 5.0, 0]]), np.array([0, 1]), labels=THREE)
    assert metrics["accuracy"] == 1.0
    assert metrics["f1_macro"] == pytest.approx(2 / 3)


def test_the_loss_of_a_confident_mistake_is_finite() -> None:
    assert classification_metrics(np.array([[1e6]]), np.array([0]), labels=BINARY)["loss"] == pytest.approx(-np.log(1e-12))


# Four rows with the truths {a}, {a, b}, {} and {b}; decided are {a}, {a}, {} and {a, b}; c neither occurs nor is decided.
SEVERAL_LOGITS = np.log([[3.0, 1 / 3, 1 / 3], [3, 1 / 3, 1 / 3], [1 / 3, 1 / 3, 1 / 3], [3, 3, 1 / 3]])
SEVERAL_TARGETS = np.array([[1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 1, 0]], dtype=np.int8)


def test_multilabel_metrics() -> None:
    metrics = classification_metrics(SEVERAL_LOGITS, SEVERAL_TARGETS, labels=SEVERAL)
    # a: precision 2/3, recall 2/2, F1 4/5; b: 1/1, 1/2, 2/3; c: 0, 0, 0. In all 3 of 4 decided and 3 of 4 found.
    assert metrics == pytest.approx(
        {
            "accuracy": 2 / 4,  # the first and the third row are right in every label
            "loss": -(10 * np.log(3 / 4) + 2 * np.log(1 / 4)) / 12,
            "precision_macro": (2 / 3 + 1) / 3,
            "recall_macro": (1 + 1 / 2) / 3,
            "f1_macro": (4 / 5 + 2 / 3) / 3,
            "precision_weighted": (2 * 2 / 3 + 2 * 1) / 4,
            "recall_weighted": 3 / 4,
            "f1_weighted": (2 * 4 / 5 + 2 * 2 / 3) / 4,
            "precision_micro": 3 / 4,
            "recall_micro": 3 / 4,
            "f1_micro": 3 / 4,
        }
    )
    assert set(metrics) == set(METRIC_NAMES)


def test_per_label_metrics() -> None:
    found = per_class_metrics(SEVERAL_LOGITS, SEVERAL_TARGETS, labels=SEVERAL)
    assert found["a"] == pytest.approx({"precision": 2 / 3, "recall": 1, "f1": 4 / 5, "rows": 2})
    assert found["b"] == pytest.approx({"precision": 1, "recall": 1 / 2, "f1": 2 / 3, "rows": 2})
    assert found["c"] == pytest.approx({"precision": 0, "recall": 0, "f1": 0, "rows": 0})


def test_multilabel_metrics_go_by_the_thresholds() -> None:
    strict = LabelSpace(SEVERAL.names, "multilabel", thresholds=(0.9, 0.2, 0.5))
    found = per_class_metrics(SEVERAL_LOGITS, SEVERAL_TARGETS, labels=strict)
    assert (found["a"]["recall"], found["b"]["recall"], found["b"]["precision"]) == (0.0, 1.0, 0.5)


def f1_at(threshold: float, probabilities: np.ndarray, truth: np.ndarray) -> float:
    decided = probabilities >= threshold
    return 2 * (decided & truth).sum() / max(1, decided.sum() + truth.sum())


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("decimals", [1, 2, 12])
def test_the_best_thresholds_are_those_of_trying_them_all(seed: int, decimals: int) -> None:
    """Few decimals give rows of equal probability, which no threshold can tell apart."""
    generator = np.random.default_rng(seed)
    truth = generator.random((60, 5)) < [0.5, 0.1, 0.9, 0.02, 0.3]
    probabilities = np.round(np.clip(truth * 0.3 + generator.normal(0.4, 0.3, truth.shape), 0, 1), decimals)
    thresholds = best_thresholds(probabilities, truth.astype(np.int8))
    tried = np.unique(np.concatenate([probabilities.ravel(), np.linspace(0, 1.0, 201)]))
    for label, threshold in enumerate(thresholds):
        column, positive = probabilities[:, label], truth[:, label]
        if not positive.any():
            assert threshold == 0.5
            continue
        scores = np.array([f1_at(value, column, positive) for value in tried])
        assert f1_at(threshold, column, positive) == pytest.approx(scores.max())
        nearest = np.abs(tried[np.isclose(scores, scores.max())] - 0.5).min()
        gaps = np.diff(np.unique(np.concatenate([column, [0.0, 1.0]])))
        assert abs(threshold - 0.5) <= nearest + gaps.max() / 2 + 0.005


@pytest.mark.parametrize(
    ("probabilities", "truth", "threshold"),
    [
        ([0.9, 0.6, 0.4, 0.1], [1, 1, 0, 0], 0.5),  # 0.5 tells them apart
        ([0.3, 0.2, 0.1, 0.0], [1, 1, 0, 0], 0.15),
        ([0.9, 0.8, 0.7, 0.6], [1, 0, 0, 0], 0.85),
        ([0.9, 0.8, 0.7, 0.6], [1, 1, 1, 1], 0.5),
        ([0.2, 0.2, 0.2, 0.2], [1, 1, 1, 1], 0.1),
        ([0.9, 0.8, 0.2, 0.1], [0, 0, 0, 0], 0.5),  # no row to go by
        ([0.0, 0.0, 0.0, 0.0], [0, 1, 0, 0], 0.0),
        ([1.0, np.nextafter(1.0, 0.0), 0.9, 0.9], [1, 0, 0, 0], 1.0),
    ],
)
def test_thresholds_lie_between_the_rows_they_tell_apart(probabilities: list[float], truth: list[int], threshold: float) -> None:
    assert best_thresholds(np.array([probabilities]).T, np.array([truth]).T) == pytest.approx([threshold], abs=1e-12)


def test_thresholds_of_many_rows_take_no_time() -> None:
    generator = np.random.default_rng(0)
    truth = generator.random((200_000, 4)) < 0.1
    thresholds = best_thresholds(np.clip(generator.normal(0.2, 0.1, truth.shape) + 0.3 * truth, 0, 1), truth)
    assert ((thresholds > 0.3) & (thresholds < 0.5)).all()
