"""The sample of the latest texts: its size, that each distinct text is as likely, and that old ones leave."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from manta.inference.predictor import Prediction
from manta_serve.monitoring.drift import PART_ROWS
from manta_serve.monitoring.traffic_sample import MOST_TEXTS, TrafficSample

if TYPE_CHECKING:
    from collections.abc import Sequence


def ask(sample: TrafficSample, texts: Sequence[str], *, version: int = 3, score: float = 0.9) -> None:
    prediction = Prediction(("a",), "a", score, {"a": score, "b": 1 - score}, score, uncertain=False)
    answer: Any = SimpleNamespace(predictions=[prediction] * len(texts), model=SimpleNamespace(version=version))
    sample.add(texts, answer)


def texts_of(sample: TrafficSample) -> list[str]:
    return [str(item.text) for item in sample.texts(version=3)]


def test_few_texts_are_all_kept_once_with_their_latest_answer() -> None:
    sample = TrafficSample()
    ask(sample, ["one", "two", "one"], score=0.6)
    ask(sample, ["two"], score=0.8)
    assert sample.num_answers == 4
    assert {item.text: item.prediction.score for item in sample.texts(version=3)} == {"one": 0.6, "two": 0.8}
    assert sample.texts(version=4) == []


def test_a_text_that_is_asked_often_is_no_more_likely() -> None:
    rare, common = [f"rare {number}" for number in range(400)], [f"common {number}" for number in range(66)]
    rest = [*rare, *common * 9]
    assert len(rest) < PART_ROWS
    shares = []
    for _ in range(20):
        sample = TrafficSample()
        ask(sample, rest)
        found = texts_of(sample)
        assert len(set(found)) == len(found) == MOST_TEXTS
        shares.append(sum(text.startswith("rare") for text in found) / MOST_TEXTS)
    # of the distinct texts 86% are rare, of the answers 40%; the mean of 20 samples is within 0.03 of the former but once in 10^7
    assert abs(sum(shares) / len(shares) - 400 / 466) < 0.03


def test_the_first_texts_are_a_random_sample_too() -> None:
    asked = [f"text {number}" for number in range(600)]
    places = []
    for _ in range(20):
        sample = TrafficSample()
        ask(sample, asked)
        places += [asked.index(text) for text in texts_of(sample)[:30]]
    assert 250 < sum(places) / len(places) < 350


def test_texts_of_long_ago_have_left() -> None:
    sample = TrafficSample()
    for start in range(0, 5 * PART_ROWS, 100):
        ask(sample, [f"text {number}" for number in range(start, start + 100)])
    found = [int(text.removeprefix("text ")) for text in texts_of(sample)]
    assert len(found) == MOST_TEXTS
    assert min(found) >= 3 * PART_ROWS
    assert PART_ROWS <= sample.num_answers <= 2 * PART_ROWS
