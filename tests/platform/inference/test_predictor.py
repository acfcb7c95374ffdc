from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, pipeline

from manta.errors import InputError
from manta.inference.artifact_writing import with_calibration
from manta.inference.batches import token_batches
from manta.inference.predictor import Predictor

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = pytest.mark.usefixtures("one_thread")

WORDS = ("parcel", "courier", "late", "charged", "invoice", "card", "password", "login", "email", "the", "my", "is", "please")
TASKS = ("binary", "multiclass")


def texts_of(count: int) -> list[str]:
    """Texts of 1 to 12 words, in no order."""
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def predictors(finished: dict[str, Any]) -> dict[str, Predictor]:
    return {kind: Predictor(made.artifact, device="cpu") for kind, made in finished.items()}


@pytest.mark.parametrize("task", TASKS)
def test_answers_keep_the_order_and_do_not_go_with_their_company(
    predictors: dict[str, Predictor], task: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("manta.model.forward.TorchForward.batch_tokens", 64)
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
        assert prediction.labels == (prediction.label,)
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
    monkeypatch.setattr("manta.model.forward.TorchForward.batch_tokens", 64)
    done: list[int] = []
    predictors["binary"].outputs(texts_of(30), on_rows_done=done.append)
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


def test_the_labels_that_apply_are_those_above_their_thresholds(
    make_artifact: Callable[..., Any], calibration: Callable[..., Any], tmp_path: Path
) -> None:
    artifact = make_artifact(tmp_path / "model", "multilabel").artifact
    texts = texts_of(20)
    plain = Predictor(artifact, device="cpu")
    probabilities = plain.labels.probabilities(plain.logits(texts))
    assert not np.allclose(probabilities.sum(axis=1), 1.0)
    middle = np.median(probabilities, axis=0)
    predictor = Predictor(with_calibration(artifact, calibration(), thresholds=middle), device="cpu")
    predictions = predictor.predict(texts)
    assert {len(prediction.labels) for prediction in predictions} >= {0, 1, 2}
    for prediction, row in zip(predictions, probabilities, strict=True):
        assert prediction.scores == pytest.approx(dict(zip(predictor.labels.names, row, strict=True)))
        assert prediction.label == next(iter(prediction.scores))
        wanted = {name for name, score, threshold in zip(predictor.labels.names, row, middle, strict=True) if score >= threshold}
        assert set(prediction.labels) == wanted
        assert list(prediction.labels) == [name for name in prediction.scores if name in wanted]


@pytest.mark.parametrize("task", TASKS)
def test_the_temperature_changes_probabilities_but_neither_logits_nor_labels(
    make_artifact: Callable[..., Any], calibration: Callable[..., Any], tmp_path: Path, task: str
) -> None:
    artifact, texts = make_artifact(tmp_path / "model", task).artifact, texts_of(20)
    plain = Predictor(artifact, device="cpu", format="safetensors")
    logits, before = plain.logits(texts), plain.predict(texts)
    hot = Predictor(with_calibration(artifact, calibration(temperature=2.5)), device="cpu", format="safetensors")
    np.testing.assert_array_equal(hot.logits(texts), logits)
    after = hot.predict(texts)
    assert [item.labels for item in after] == [item.labels for item in before]
    # Plain transformers gives these probabilities for its logits divided by the temperature.
    expected = torch.softmax(torch.from_numpy(logits) / 2.5, dim=1).numpy()
    for prediction, row in zip(after, expected, strict=True):
        assert prediction.scores == pytest.approx(dict(zip(hot.labels.names, row, strict=True)), abs=1e-6)
    assert max(abs(one.score - two.score) for one, two in zip(before, after, strict=True)) > 0.01


@pytest.mark.parametrize("task", ["binary", "multiclass", "multilabel"])
def test_uncertain_is_what_is_less_sure_than_the_abstain_threshold(
    make_artifact: Callable[..., Any], calibration: Callable[..., Any], tmp_path: Path, task: str
) -> None:
    artifact, texts = make_artifact(tmp_path / "model", task).artifact, texts_of(20)
    plain = Predictor(artifact, device="cpu")
    before = plain.predict(texts)
    assert [item.uncertain for item in before] == [task != "multilabel" and item.score < 0.5 for item in before]
    confidence = plain.labels.confidence(plain.labels.probabilities(plain.logits(texts)))
    middle = float(np.sort(confidence)[9:11].mean())
    record = calibration(target_precision=0.9, abstain_below=middle)
    predictions = Predictor(with_calibration(artifact, record), device="cpu").predict(texts)
    assert sum(item.uncertain for item in predictions) == 10
    if task != "multilabel":
        assert [item.uncertain for item in predictions] == [item.score < middle for item in predictions]


def pairs_of(count: int) -> list[tuple[str, str]]:
    texts = texts_of(2 * count)
    return list(zip(texts[::2], texts[1::2], strict=True))


def test_pairs_are_answered_as_plain_transformers_answers_them(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["pairs"]
    pairs = [(" ".join(first.split()[:6]), " ".join(second.split()[:6])) for first, second in pairs_of(12)]
    plain = pipeline("text-classification", model=str(predictor.artifact.path), top_k=None, device="cpu")
    for prediction, (first, second) in zip(predictor.predict(pairs), pairs, strict=True):
        scores = {item["label"]: item["score"] for item in plain({"text": first, "text_pair": second})}
        assert prediction.scores == pytest.approx(scores, abs=1e-6)


def test_the_second_text_its_place_and_its_token_types_count(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["pairs"]
    pair = ("my parcel is late", "charged card")
    together = predictor.logits([pair])
    assert np.abs(predictor.logits([pair[::-1]]) - together).max() > 1e-3
    assert np.abs(predictor.logits([(pair[0], "password")]) - together).max() > 1e-3
    inputs = AutoTokenizer.from_pretrained(predictor.artifact.path)(*pair, return_tensors="pt")
    assert inputs["token_type_ids"].tolist() == [[0] * 6 + [1] * 3]
    plain = AutoModelForSequenceClassification.from_pretrained(predictor.artifact.path).eval()
    with torch.inference_mode():
        without = plain(**{**inputs, "token_type_ids": torch.zeros_like(inputs["token_type_ids"])}).logits.numpy()
    assert np.abs(without - together).max() > 1e-3


def test_long_pairs_are_cut_at_the_length_of_training(predictors: dict[str, Predictor]) -> None:
    predictor = predictors["pairs"]
    longer = predictor.logits([("parcel " * 40, "card card")])
    np.testing.assert_allclose(longer, predictor.logits([("parcel " * 11, "card card")]), rtol=0, atol=1e-6)


def test_pairs_keep_their_order(predictors: dict[str, Predictor], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manta.model.forward.TorchForward.batch_tokens", 64)
    predictor, pairs = predictors["pairs"], pairs_of(12)
    alone = np.concatenate([predictor.logits([pair]) for pair in pairs])
    np.testing.assert_allclose(predictor.logits(pairs), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "texts", "message"),
    [
        ("pairs", [("a", "b"), "one"], "text 2 of 2: this model reads pairs of texts, so give two texts"),
        ("multiclass", [("a", "b")], "text 1 of 1: this model reads single texts, so give one text"),
    ],
)
def test_texts_of_the_wrong_kind_are_refused(predictors: dict[str, Predictor], kind: str, texts: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        predictors[kind].predict(texts)
