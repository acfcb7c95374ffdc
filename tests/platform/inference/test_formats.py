"""The verdict about an inference format, from its answers to test rows."""

from __future__ import annotations

import numpy as np
import pytest

from manta.inference.formats import FormatRun, InferenceFormat, judged, unmade
from manta.labels import LabelSpace

SPACE = LabelSpace(("a", "b"), "multiclass")


def logits_of(classes: list[int], margin: float = 1.0) -> np.ndarray:
    return margin * np.eye(2, dtype=np.float32)[classes]


def judge(
    mine: list[int], reference: list[int], targets: list[int], *, margin: float = 0.05, neighbour_change: float = 0.0
) -> InferenceFormat:
    """Judge two-class answers, by default so near to a tie that another answer changes the probabilities little."""
    found = FormatRun(logits_of(mine, margin), neighbour_change, 200.0, 1)
    return judged("openvino-int8", found, reference=logits_of(reference, margin), targets=np.array(targets), labels=SPACE)


def test_rows_near_a_tie_that_change_sides_refuse_nothing() -> None:
    reference = [0] * 190 + [1] * 10
    found = judge([0] * 185 + [1] * 5 + [0] * 5 + [1] * 5, reference, targets=[0] * 200)
    assert found.accepted, found.reason
    assert (found.agreement, found.accuracy, found.reference_accuracy) == (0.95, 0.95, 0.95)
    assert found.probability_change == pytest.approx(10 / 200 * 0.025, rel=0.01)
    assert found.reason == "accuracy 0.9500 against 0.9500, probabilities change by 0.0012 on average"


@pytest.mark.parametrize(
    ("lost", "gained", "num_rows", "accepted"),
    [
        (4, 0, 200, True),  # two points, but four rows lost are chance: p = 1/16
        (5, 0, 200, False),  # p = 1/32
        (12, 5, 200, True),
        (14, 4, 200, False),
        (5, 0, 1000, True),  # significantly worse, by half a point
        (6, 0, 1000, False),
    ],
)
def test_accuracy_may_not_be_significantly_worse(lost: int, gained: int, num_rows: int, accepted: bool) -> None:
    reference = [0] * (num_rows - gained) + [1] * gained
    mine = [1] * lost + [0] * (num_rows - lost)
    found = judge(mine, reference, targets=[0] * num_rows, margin=0.01)
    assert found.accepted is accepted, found.reason
    assert accepted or f"({lost} rows lost, {gained} gained, p = " in found.reason


def test_probabilities_that_change_too_much_are_refused_though_the_answers_are_the_same() -> None:
    targets = [0, 1] * 50
    reference = logits_of(targets, 2.0)
    for factor, accepted in ((1.1, True), (1.2, False)):
        mine = FormatRun(factor * reference, 0.0, 1.0, 1)
        found = judged("openvino-int8", mine, reference=reference, targets=np.array(targets), labels=SPACE)
        assert (found.accepted, found.agreement) == (accepted, 1.0), found.reason
    assert "a row's probabilities change by 0.0360 on average, more than 0.02" in found.reason


def test_the_temperature_counts() -> None:
    """Calibrated probabilities are compared: at a high temperature they change less than the logits."""
    targets = np.array([0, 1] * 50)
    reference = logits_of(targets.tolist(), 2.0)
    hot = LabelSpace(SPACE.names, SPACE.task, temperature=5.0)
    assert judged(
        "openvino-int8", FormatRun(1.2 * reference, 0.0, 1.0, 1), reference=reference, targets=targets, labels=hot
    ).accepted


def test_scores_that_depend_on_the_neighbours_are_refused() -> None:
    targets = [0, 1] * 50
    assert judge(targets, targets, targets, neighbour_change=9e-4).accepted
    refused = judge(targets, targets, targets, neighbour_change=0.05)
    assert not refused.accepted
    assert refused.reason == "a text's probabilities change by up to 0.0500 with the other texts of its batch"


def test_of_several_labels_all_must_agree() -> None:
    labels = LabelSpace(("a", "b"), "multilabel")
    reference, mine = np.full((10, 2), 3.0), np.full((10, 2), 3.0)
    mine[0, 1] = -3.0
    found = judged(
        "openvino-fp32", FormatRun(mine, 0.0, 1.0, 1), reference=reference, targets=np.ones((10, 2), dtype=np.int8), labels=labels
    )
    assert (found.agreement, found.accuracy, found.reference_accuracy, found.max_logit_difference) == (0.9, 0.9, 1.0, 6.0)
    assert found.probability_change == pytest.approx(0.0905, abs=1e-4)
    assert not found.accepted


def test_logits_that_are_no_numbers_are_refused() -> None:
    broken = FormatRun(np.full((4, 2), np.nan), 0.0, 1.0, 1)
    found = judged("openvino-int8", broken, reference=logits_of([0] * 4), targets=np.zeros(4, int), labels=SPACE)
    assert (found.accepted, found.num_rows, found.reason) == (False, 4, "some logits are no numbers")
    assert InferenceFormat.model_validate_json(found.model_dump_json()) == found


def test_the_record_of_a_format_that_could_not_be_made() -> None:
    assert unmade("openvino-int8", "no").model_dump(exclude_none=True) == {
        "name": "openvino-int8",
        "file": "model-int8.xml",
        "accepted": False,
        "reason": "no",
        "num_rows": 0,
    }
