from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from manta.config import TrainConfig
from manta.errors import InputError
from manta.labels import LabelSpace
from manta.model.loss import ClassificationLoss, resolve_class_weights

BINARY = LabelSpace(("no", "yes"), "binary")
THREE = LabelSpace(("a", "b", "c"), "multiclass")
TAGS = LabelSpace(("x", "y", "z"), "multilabel")
LOGITS = torch.tensor([[1.5, -0.5, 0.2], [0.1, 2.0, -1.0], [0.0, 0.3, 0.1], [-2.0, 1.0, 1.0]])
CLASSES = torch.tensor([0, 1, 2, 1])
MULTI_HOT = torch.tensor([[1, 0, 1], [0, 1, 0], [0, 0, 0], [1, 1, 1]])
CHANCES = LOGITS[:, :1]
YES = torch.tensor([1, 0, 0, 1])


def loss(
    labels: LabelSpace, *, weights: list[float] | None = None, smoothing: float = 0.0, gamma: float = 0.0, noise: float = 0.0
) -> ClassificationLoss:
    given = None if weights is None else np.array(weights)
    return ClassificationLoss(labels, class_weights=given, smoothing=smoothing, focal_gamma=gamma, label_noise=noise)


def test_plain_losses_are_those_of_transformers() -> None:
    assert loss(THREE)(LOGITS, CLASSES) == pytest.approx(functional.cross_entropy(LOGITS, CLASSES).item())
    binary = functional.binary_cross_entropy_with_logits(CHANCES, YES.float().unsqueeze(1))
    assert loss(BINARY)(CHANCES, YES) == pytest.approx(binary.item())
    tags = functional.binary_cross_entropy_with_logits(LOGITS, MULTI_HOT.float())
    assert loss(TAGS)(LOGITS, MULTI_HOT) == pytest.approx(tags.item())


def test_one_logit_and_two_logits_say_the_same() -> None:
    two = torch.cat([torch.zeros_like(CHANCES), CHANCES], dim=1)
    as_classes = LabelSpace(("no", "yes"), "multiclass")
    for settings in ({}, {"weights": [0.5, 3.0]}, {"gamma": 2.0}, {"smoothing": 0.1}, {"noise": 0.2}):
        assert loss(BINARY, **settings)(CHANCES, YES) == pytest.approx(loss(as_classes, **settings)(two, YES).item(), rel=1e-5)


def test_smoothing_spreads_the_target() -> None:
    logs = torch.log_softmax(LOGITS, dim=1)
    expected = -(0.7 * logs[range(4), CLASSES] + 0.1 * logs.sum(dim=1)).mean()
    assert loss(THREE, smoothing=0.3)(LOGITS, CLASSES) == pytest.approx(expected.item())


def test_focus_leaves_out_what_is_right_already() -> None:
    right = torch.softmax(LOGITS, dim=1)[range(4), CLASSES]
    expected = (-((1 - right) ** 2) * right.log()).mean()
    assert loss(THREE, gamma=2.0)(LOGITS, CLASSES) == pytest.approx(expected.item())
    chances = torch.sigmoid(LOGITS)
    right = torch.where(MULTI_HOT == 1, chances, 1 - chances)
    expected = (-((1 - right) ** 2) * right.log()).mean()
    assert loss(TAGS, gamma=2.0)(LOGITS, MULTI_HOT) == pytest.approx(expected.item())


def test_with_label_noise_the_loss_is_that_of_labels_of_which_a_share_is_wrong() -> None:
    classes = torch.softmax(LOGITS, dim=1)
    mixed = 0.7 * classes + 0.15 * (1 - classes)  # of three labels, each of the two others has half of 0.3
    assert loss(THREE, noise=0.3)(LOGITS, CLASSES) == pytest.approx(-mixed[range(4), CLASSES].log().mean().item())
    chances = torch.sigmoid(LOGITS)
    right = torch.where(MULTI_HOT == 1, chances, 1 - chances)
    assert loss(TAGS, noise=0.3)(LOGITS, MULTI_HOT) == pytest.approx(-(0.7 * right + 0.3 * (1 - right)).log().mean().item())


def test_a_row_that_looks_wrongly_labeled_moves_the_model_less() -> None:
    """And one whose label has a probability of 0 does not move it at all, where the cross-entropy would move it most."""
    logits, targets = torch.tensor([[4.0, -4.0], [300.0, -300.0]]), torch.tensor([1, 1])

    def gradients(noise: float) -> torch.Tensor:
        leaf = logits.clone().requires_grad_()
        loss(LabelSpace(("no", "yes"), "multiclass"), noise=noise)(leaf, targets).backward()
        assert leaf.grad is not None
        return leaf.grad.abs().amax(dim=1)

    assert gradients(0.1)[0] < 0.01 * gradients(0.0)[0]
    assert gradients(0.1)[1] == 0.0
    assert gradients(0.0)[1] == pytest.approx(0.5)


def test_weights_multiply_rows_and_the_mean_is_over_rows() -> None:
    rows = functional.cross_entropy(LOGITS, CLASSES, reduction="none")
    expected = (rows * torch.tensor([2.0, 0.5, 1.0])[CLASSES]).mean()
    assert loss(THREE, weights=[2.0, 0.5, 1.0])(LOGITS, CLASSES) == pytest.approx(expected.item())
    positives = torch.tensor([3.0, 1.0, 2.0])
    expected = functional.binary_cross_entropy_with_logits(LOGITS, MULTI_HOT.float(), pos_weight=positives)
    assert loss(TAGS, weights=positives.tolist())(LOGITS, MULTI_HOT) == pytest.approx(expected.item())


@pytest.mark.parametrize(
    "settings", [{}, {"weights": [2.0, 0.5, 1.0]}, {"gamma": 1.5, "smoothing": 0.1, "weights": [2.0, 0.5, 1.0]}]
)
def test_a_batch_may_be_divided(settings: dict[str, object]) -> None:
    whole = loss(THREE, **settings)(LOGITS, CLASSES)
    parts = [loss(THREE, **settings)(LOGITS[rows], CLASSES[rows]) * len(rows) / 4 for rows in ([0], [1, 2, 3])]
    assert whole == pytest.approx(sum(parts).item())


def test_half_precision_logits_give_a_float32_loss() -> None:
    assert loss(THREE)(LOGITS.half(), CLASSES).dtype == torch.float32


def weights(labels: LabelSpace, targets: list[object], given: object) -> np.ndarray | None:
    return resolve_class_weights(TrainConfig.model_validate({"class_weights": given}), labels, np.array(targets))


def test_balanced_weights_count_every_class_alike_and_a_row_one_on_average() -> None:
    targets = [0] * 6 + [1] * 3 + [2]
    found = weights(THREE, targets, "balanced")
    assert found is not None
    counts = np.bincount(targets)
    np.testing.assert_allclose(found * counts, found[0] * counts[0])
    assert (found[targets]).mean() == pytest.approx(1.0)
    np.testing.assert_allclose(weights(TAGS, [[1, 0, 1], [0, 0, 1], [0, 0, 1], [0, 1, 1]], "balanced"), [3.0, 3.0, 0.0])


def test_given_weights_keep_their_ratio_and_a_row_counts_one_on_average() -> None:
    targets = [0] * 6 + [1] * 3 + [2]
    found = weights(THREE, targets, {"c": 4.0, "a": 1.0, "b": 2.0})
    assert found is not None
    np.testing.assert_allclose(found / found[0], [1.0, 2.0, 4.0])
    assert found[targets].mean() == pytest.approx(1.0)
    assert weights(THREE, targets, None) is None


@pytest.mark.parametrize(
    ("given", "words"), [({"a": 1, "b": 1}, "'c' has no weight"), ({"a": 1, "b": 1, "d": 1}, "'d' is no label")]
)
def test_weights_for_other_labels_are_refused(given: dict[str, float], words: str) -> None:
    with pytest.raises(InputError, match=f"train.class_weights: .*{words}"):
        weights(THREE, [0, 1, 2], given)
