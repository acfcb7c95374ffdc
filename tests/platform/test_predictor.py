from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest

from manta.predictor import Predictor, token_batches

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = ("parcel", "courier", "late", "charged", "invoice", "card", "password", "login", "email", "the", "my", "is", "please")
TASKS = ("binary", "multiclass")


def texts_of(count: int) -> list[str]:
    """Texts of 1 to 12 words, in no order."""
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def predictors(finished: dict[str, Any]) -> dict[str, Predictor]:
    return {task: Predictor(finished[task].artifact, device="cpu") for task in TASKS}


@pytest.mark.parametrize("task", TASKS)
def test_answers_keep_the_order_and_do_not_go_with_their_company(
    predictors: dict[str, Predictor], task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manta.predictor.BATCH_TOKENS", 64)
    predictor, texts = predictors[task], texts_of(16)
    together = predictor.logits(texts)
    alone = np.concatenate([predictor.logits([text]) for text in texts])
    np.testing.assert_allclose(together, alone, rtol=0, atol=1e-5)
    assert np.ptp(alone, axis=0).max() > 0.05  # rows differ, so a wrong order would show
    np.testing.assert_allclose(predictor.logits(texts[::-1]), alone[::-1], rtol=0, atol=1e-5)


@pytest.mark.parametrize("task", TASKS)
def test_a_prediction_is_the_most_probable_label_with_all_probabilities(predictors: dict[str, Predictor], task: str) -> None:
    predictor, texts = predictors[task], texts_of(20)
    probabilities = predictor.labels.probabilities(predictor.logits(texts))
    for prediction, row in zip(predictor.predict(texts), probabilities, strict=True):
        assert prediction.label == predictor.labels.names[int(row.argmax())]
        assert prediction.score == pytest.approx(row.max())
        assert prediction.scores == pytest.approx(dict(zip(predictor.labels.names, row, strict=True)))
        assert list(prediction.scores.values()) == sorted(prediction.scores.values(), reverse=True)
        assert next(iter(prediction.scores)) == prediction.label
        assert sum(prediction.scores.values()) == pytest.approx(1.0)


def test_no_texts_give_no_answers(predictors: dict[str, Predictor]) -> None:
    assert predictors["multiclass"].predict([]) == []
    assert predictors["multiclass"].logits([]).shape == (0, 3)


def test_texts_are_cut_at_the_length_of_training(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["multiclass"]
    assert predictor.artifact.manifest.max_length == 16
    fitting = "parcel " * 14  # with [CLS] and [SEP]: 16 tokens
    same, shorter = predictor.logits([fitting + "card " * 500]), predictor.logits(["parcel " * 13])
    np.testing.assert_allclose(same, predictor.logits([fitting]), rtol=0, atol=1e-6)
    assert np.abs(same - shorter).max() > 1e-4


def test_progress_counts_every_row(predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manta.predictor.BATCH_TOKENS", 64)
    done: list[int] = []
    predictors["binary"].logits(texts_of(30), on_rows_done=done.append)
    assert sum(done) == 30
    assert len(done) > 1


@pytest.mark.parametrize("max_tokens", [1, 50, 512, 10_000])
def test_batches_cover_each_row_once_within_the_bound(max_tokens: int) -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=203)
    batches = token_batches(lengths, max_tokens=max_tokens)
    assert sorted(np.concatenate(batches)) == list(range(203))
    for rows in batches:
        assert len(rows) == 1 or lengths[rows].max() * len(rows) <= max_tokens


def test_batches_are_filled_and_the_longest_come_first() -> None:
    assert [rows.tolist() for rows in token_batches(np.array([2, 9, 4, 4]), max_tokens=11)] == [[1], [2, 3], [0]]
    lengths = np.random.default_rng(0).integers(3, 60, size=2000)
    batches = token_batches(lengths, max_tokens=512)
    assert sum(lengths[rows].max() * len(rows) for rows in batches) < 1.1 * lengths.sum()
    assert len(batches) < 1.3 * lengths.sum() / 512


def test_a_text_without_known_words_is_answered(predictors: dict[str, Predictor]) -> None:
    prediction = predictors["binary"].predict(["😀 ???"])[0]
    assert 0.5 <= prediction.score <= 1.0
