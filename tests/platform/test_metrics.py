from __future__ import annotations

import numpy as np
import pytest

from manta.config import TrainConfig
from manta.labels import LabelSpace
from manta.metrics import METRIC_NAMES, classification_metrics, per_class_metrics

BINARY = LabelSpace(("no", "yes"), "binary")
THREE = LabelSpace(("a", "b", "c"), "multiclass")


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
