from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest

from manta.errors import InputError
from manta.labels import LabelSpace

BINARY = LabelSpace(("no", "yes"), "binary")
THREE = LabelSpace(("a", "b", "c"), "multiclass")
SEVERAL = LabelSpace(("a", "b", "c"), "multilabel")


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        (["b", "a", "B", "a"], ("B", "a", "b")),
        (["10", "9", "-1", "9"], ("-1", "9", "10")),
        (["10", "9", "x"], ("10", "9", "x")),
        (["2", "10", "--1"], ("--1", "10", "2")),
        (["1.5", "10", "9"], ("1.5", "10", "9")),
        (["²", "10"], ("10", "²")),
    ],
)
def test_names_are_sorted_and_integers_go_by_their_value(labels: list[str], names: tuple[str, ...]) -> None:
    assert LabelSpace.from_labels(labels).names == names


@pytest.mark.parametrize(
    ("labels", "asked", "task", "num_logits"),
    [
        ("ab", "auto", "binary", 1),
        ("abc", "auto", "multiclass", 3),
        ("ab", "multiclass", "multiclass", 2),
        ("ab", "binary", "binary", 1),
    ],
)
def test_two_labels_are_binary_unless_told_otherwise(labels: str, asked: Any, task: str, num_logits: int) -> None:
    space = LabelSpace.from_labels(labels, task=asked)
    assert (space.task, space.num_logits) == (task, num_logits)


def test_a_binary_task_with_three_labels_is_refused() -> None:
    with pytest.raises(InputError, match=r"model\.task is binary, but the data has 3 labels \(a, b, c"):
        LabelSpace.from_labels("abc", task="binary")


def test_encode_gives_class_indices() -> None:
    indices = THREE.encode(["c", "a", "b", "a"])
    assert indices.dtype == np.int64
    assert indices.tolist() == [2, 0, 1, 0]
    with pytest.raises(KeyError):
        THREE.encode(["d"])


def test_one_logit_and_its_two_logit_form_both_are_the_sigmoid() -> None:
    z = np.linspace(-30, 30, 61)
    sigmoid = 1 / (1 + np.exp(-z))
    one = BINARY.probabilities(z[:, None])
    two = BINARY.probabilities(np.stack([np.zeros_like(z), z], axis=1))
    np.testing.assert_allclose(one[:, 1], sigmoid, rtol=1e-12)
    np.testing.assert_array_equal(one, two)


def test_softmax_is_the_known_one_and_sums_to_one() -> None:
    probabilities = THREE.probabilities(np.log([[1.0, 2.0, 5.0], [3.0, 3.0, 4.0]]))
    np.testing.assert_allclose(probabilities, [[0.125, 0.25, 0.625], [0.3, 0.3, 0.4]])
    logits = np.random.default_rng(0).normal(scale=20, size=(50, 3)).astype(np.float32)
    np.testing.assert_allclose(THREE.probabilities(logits).sum(axis=1), 1.0, rtol=1e-12)


@pytest.mark.parametrize("logits", [[[1000.0, 999.0, -1000.0]], [[-1000.0, -1001.0, -3000.0]], [[3e38, 3e38, -3e38]]])
def test_softmax_is_stable_for_big_logits(logits: list[list[float]]) -> None:
    probabilities = THREE.probabilities(np.array(logits, dtype=np.float32))
    assert np.isfinite(probabilities).all()
    assert probabilities.sum() == pytest.approx(1.0)
    assert THREE.decide(probabilities).tolist() == [0]


def test_big_single_logits_are_stable() -> None:
    np.testing.assert_allclose(BINARY.probabilities(np.array([[1e4], [-1e4]])), [[0, 1], [1, 0]], atol=1e-12)


def test_the_most_probable_wins_and_a_tie_goes_to_the_first() -> None:
    assert THREE.decide(np.array([[0.2, 0.5, 0.3], [0.4, 0.2, 0.4], [0.2, 0.4, 0.4]])).tolist() == [1, 0, 1]
    assert BINARY.decide(BINARY.probabilities(np.array([[0.0], [1e-6], [-1e-6]]))).tolist() == [0, 1, 0]


@pytest.mark.parametrize(
    ("space", "shape"), [(THREE, (4, 1)), (THREE, (4, 2)), (THREE, (3,)), (BINARY, (4, 3)), (BINARY, (4,)), (THREE, (1, 3, 1))]
)
def test_logits_of_another_shape_are_refused(space: LabelSpace, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="do not fit"):
        space.probabilities(np.zeros(shape))


def test_rows_of_several_labels_are_multilabel() -> None:
    space = LabelSpace.from_labels([("b", "a"), (), ("b",)])
    assert (space.names, space.task, space.num_logits) == (("a", "b"), "multilabel", 2)
    assert LabelSpace.from_labels([("10", "9"), ("2",)]).names == ("2", "9", "10")


def test_one_label_a_row_can_be_multilabel_too() -> None:
    assert LabelSpace.from_labels("abc", task="multilabel") == SEVERAL


@pytest.mark.parametrize("rows", [[()], [("a",), ()]])
def test_fewer_than_two_labels_are_no_multilabel_task(rows: Any) -> None:
    with pytest.raises(InputError, match=r"model\.task is multilabel, but the data has \d labels?; it needs at least two"):
        LabelSpace.from_labels(rows, task="multilabel")


def test_encode_marks_each_of_several_labels() -> None:
    hot = SEVERAL.encode([("c", "a"), (), ("b",), "b"])
    assert hot.dtype == np.int8
    assert hot.tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 1, 0]]
    with pytest.raises(KeyError):
        SEVERAL.encode([("a", "d")])


def test_several_labels_have_a_sigmoid_each() -> None:
    logits = np.array([[0.0, 2.0, -2.0], [1e4, -1e4, 30.0]], dtype=np.float32)
    probabilities = SEVERAL.probabilities(logits)
    np.testing.assert_allclose(probabilities[0], 1 / (1 + np.exp([0.0, -2.0, 2.0])), rtol=1e-12)
    np.testing.assert_allclose(probabilities[1], [1.0, 0.0, 1.0], atol=1e-12)


def test_a_label_applies_from_its_threshold() -> None:
    probabilities = np.array([[0.5, 0.49, 0.9], [0.1, 0.2, 0.3]])
    assert SEVERAL.decide(probabilities).tolist() == [[True, False, True], [False, False, False]]
    chosen = LabelSpace(SEVERAL.names, "multilabel", thresholds=(0.1, 0.49, 0.95))
    assert chosen.decide(probabilities).tolist() == [[True, True, False], [True, False, False]]


def test_decided_names_are_one_or_several_or_none() -> None:
    probabilities = np.array([[0.6, 0.1, 0.9], [0.1, 0.2, 0.3]])
    assert SEVERAL.decided_names(probabilities) == [("c", "a"), ()]
    assert THREE.decided_names(probabilities) == [("c",), ("c",)]


@pytest.mark.parametrize("space", [{"task": "multiclass"}, {"task": "multilabel", "names": ("a", "b")}])
def test_thresholds_that_do_not_fit_are_refused(space: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="3 thresholds do not fit"):
        LabelSpace(**({"names": ("a", "b", "c"), "thresholds": (0.5, 0.5, 0.5)} | space))


def test_the_temperature_divides_the_logits() -> None:
    logits = np.array([[1.0, -2.0, 0.5], [4.0, 4.0, -3.0]])
    for labels in (THREE, SEVERAL):
        hot = dataclasses.replace(labels, temperature=2.0)
        np.testing.assert_allclose(hot.probabilities(logits), labels.probabilities(logits / 2))
    np.testing.assert_allclose(
        dataclasses.replace(BINARY, temperature=2.0).probabilities(np.array([[3.0]])),
        [[1 - 1 / (1 + np.exp(-1.5)), 1 / (1 + np.exp(-1.5))]],
    )


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan"), float("inf")])
def test_a_temperature_that_makes_no_probabilities_is_refused(temperature: float) -> None:
    with pytest.raises(ValueError, match="above 0"):
        LabelSpace(("a", "b", "c"), "multiclass", temperature=temperature)


def test_confidence_is_of_the_decision() -> None:
    probabilities = np.array([[0.6, 0.1, 0.3], [0.2, 0.5, 0.3]])
    assert THREE.confidence(probabilities) == pytest.approx([0.6, 0.5])
    assert SEVERAL.confidence(probabilities) == pytest.approx([0.6 * 0.9 * 0.7, 0.8 * 0.5 * 0.7])
    low = dataclasses.replace(SEVERAL, thresholds=(0.5, 0.5, 0.25))
    assert low.confidence(probabilities)[0] == pytest.approx(0.6 * 0.9 * 0.3)
