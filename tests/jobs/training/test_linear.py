"""The regression of the method linear: its strength, and that the scale of the embeddings does not matter."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from manta.config import ExperimentConfig
from manta.data.split import stratified_folds
from manta.labels import LabelSpace
from manta_jobs.training.batches import TokenizedData
from manta_jobs.training.few_rows.linear import LABEL_NAMES, STRENGTHS, LinearModel, chosen, fitted, read_linear, write_linear

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = ExperimentConfig.model_validate({"name": "desk", "data": {"train": "rows.csv"}})


def planted(count: int, *, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Embeddings of length 1 around a direction for each of four labels, and the labels."""
    generator = np.random.default_rng(seed)
    targets = np.arange(count) % 4
    rows = np.eye(4, 16)[targets] + noise * generator.normal(size=(count, 16))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), targets


def data_of(targets: np.ndarray, folder: Path) -> TokenizedData:
    labels = LabelSpace(("a", "b", "c", "d"), "multiclass")
    return TokenizedData(folder, labels, pad_id=0, folds=stratified_folds(targets, num_folds=3, seed=0))


@pytest.mark.parametrize(
    ("losses", "index"),
    [
        ([[1.0, 1.0], [0.5, 0.5]], 1),  # better on each row
        ([[1.0, 0.4], [0.4, 0.9]], 0),  # better on some, worse on others
        ([[0.5, 0.5]], 0),
    ],
)
def test_the_strongest_penalty_within_a_standard_error_is_taken(losses: list[list[float]], index: int) -> None:
    assert chosen([np.array(found) for found in losses]) == index


def test_longer_embeddings_give_the_same_model(tmp_path: Path) -> None:
    rows, targets = planted(60, noise=0.4)
    data = data_of(targets, tmp_path)
    one, ten = (fitted({"train": rows * scale}, {"train": targets}, CONFIG, data) for scale in (1.0, 10.0))
    assert one.strength == ten.strength
    np.testing.assert_allclose(ten.logits, one.logits, rtol=0, atol=0.02)
    np.testing.assert_allclose(ten.regression.logits(rows * 10), one.regression.logits(rows), rtol=0, atol=0.02)


def test_its_probabilities_are_calibrated_on_rows_that_a_fit_has_not_seen(tmp_path: Path) -> None:
    rows, targets = planted(400, noise=0.5)
    model = fitted({"train": rows}, {"train": targets}, CONFIG, data_of(targets, tmp_path))
    assert model.strength in STRENGTHS
    probabilities = data_of(targets, tmp_path).labels.probabilities(model.logits)
    assert probabilities.max(axis=1).mean() == pytest.approx((probabilities.argmax(axis=1) == targets).mean(), abs=0.05)


def test_weights_of_classes_move_the_answers(tmp_path: Path) -> None:
    rows, targets = planted(60, noise=1.5)
    heavy = CONFIG.with_values({"train.class_weights": {"a": 20.0, "b": 1.0, "c": 1.0, "d": 1.0}})
    data = data_of(targets, tmp_path)
    plain, moved = (fitted({"train": rows}, {"train": targets}, config, data).logits for config in (CONFIG, heavy))
    assert (moved.argmax(axis=1) == 0).sum() > (plain.argmax(axis=1) == 0).sum()


def test_names_of_labels_count_as_rows_if_they_answer_better_than_chance(tmp_path: Path) -> None:
    rows, targets = planted(8, noise=0.6)
    unseen, truth = planted(400, noise=0.6, seed=1)
    data, names = data_of(targets, tmp_path), np.eye(4, 16, dtype=np.float32)

    def model_with(names: np.ndarray) -> LinearModel:
        return fitted({"train": rows, LABEL_NAMES: names}, {"train": targets}, CONFIG, data)

    def accuracy(model: LinearModel) -> float:
        return float((model.regression.logits(unseen).argmax(axis=1) == truth).mean())

    plain, helped, misled = fitted({"train": rows}, {"train": targets}, CONFIG, data), model_with(names), model_with(names[::-1])
    assert (plain.num_names, helped.num_names, misled.num_names) == (0, 4, 0)
    assert accuracy(helped) > accuracy(plain) + 0.02
    np.testing.assert_array_equal(misled.regression.weights, plain.regression.weights)


def test_a_model_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    assert read_linear(tmp_path) is None
    rows, targets = planted(24, noise=0.3)
    model = replace(fitted({"train": rows}, {"train": targets}, CONFIG, data_of(targets, tmp_path)), embed_s=1.5, fit_s=0.5)
    write_linear(tmp_path, model)
    found = read_linear(tmp_path)
    assert found is not None
    assert (found.strength, found.seconds, found.num_names) == (model.strength, 2.0, 0)
    np.testing.assert_array_equal(found.regression.weights, model.regression.weights)
    (file,) = tmp_path.glob("*.npz")
    file.write_bytes(file.read_bytes()[:-40])
    assert read_linear(tmp_path) is None
