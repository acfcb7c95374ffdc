"""The cache of answers: what it saves, what it never mixes up, and what it forgets."""

from __future__ import annotations

import gc
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from manta.inference.predictor import Predictor
from manta.labels import Floats, LabelSpace
from manta_serve.answering.shadow import Shadow
from manta_serve.api.routes import create_api
from manta_serve.batching.answer_cache import AnswerCache
from manta_serve.versions.served_model import ServedModel

from ..untrained import artifact_of, service_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from manta.texts import TokenLists

TEXTS = ["the parcel is late", "my password", "charged twice and now it is still of today"]


class CountingModel(ServedModel):
    """Counts the texts that it computes."""

    num_computed = 0

    def logits(self, tokens: TokenLists) -> Floats:
        self.num_computed += len(tokens["input_ids"])
        return super().logits(tokens)


@pytest.fixture(scope="module")
def predictors(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Predictor]:
    """Two models that answer differently."""
    folder, labels = tmp_path_factory.mktemp("cache"), LabelSpace.from_labels(["account", "billing", "delivery"])
    artifacts = [artifact_of(tiny_model, folder / f"model-{seed}", labels=labels, seed=seed) for seed in (3, 5)]
    return [Predictor(artifact, device="cpu") for artifact in artifacts]


@pytest.fixture
def models(predictors: list[Predictor]) -> list[CountingModel]:
    return [CountingModel(predictor, name="desk", version=number) for number, predictor in enumerate(predictors, start=1)]


@pytest.fixture
def client(models: list[CountingModel]) -> Iterator[TestClient]:
    """A service with a cache, of two versions."""
    service = service_of(models[0], candidate=models[1], cached_answers=10)
    yield TestClient(create_api(service))
    service.close()


def asked(client: TestClient, texts: list[str], *, version: int = 1) -> dict[str, Any]:
    response = client.post("/v1/classify", json={"texts": texts}, headers={"Manta-Version": str(version)})
    assert response.status_code == 200
    answer: dict[str, Any] = response.json()
    return answer


def counted(client: TestClient) -> dict[str, float]:
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    return {sample.labels["result"]: sample.value for sample in families["manta_cache_texts"].samples}


def test_an_answer_from_the_cache_is_the_one_that_was_computed(client: TestClient, models: list[CountingModel]) -> None:
    computed = asked(client, TEXTS)
    raw = client.post("/predict", json={"inputs": TEXTS[0], "raw_scores": True}).json()
    assert asked(client, TEXTS) == computed
    assert asked(client, TEXTS[:1]) == {**computed, "predictions": computed["predictions"][:1]}
    assert models[0].num_computed == len(TEXTS)
    assert counted(client) == {"miss": 3, "hit": 5}
    uncached = TestClient(create_api(service_of(models[0])))
    for answer in (uncached.post("/v1/classify", json={"texts": TEXTS}), uncached.post("/v1/classify", json={"texts": TEXTS})):
        assert [item["scores"] for item in answer.json()["predictions"]] == [
            pytest.approx(item["scores"], abs=1e-5) for item in computed["predictions"]
        ]
    assert models[0].num_computed == 3 * len(TEXTS)  # without the setting, all is computed
    assert "manta_cache_texts" not in uncached.get("/metrics").text
    again = uncached.post("/predict", json={"inputs": TEXTS[0], "raw_scores": True}).json()
    assert [(item["label"], pytest.approx(item["score"], abs=1e-5)) for item in again] == [
        (item["label"], item["score"]) for item in raw
    ]


def test_known_and_new_texts_keep_their_order(client: TestClient, models: list[CountingModel]) -> None:
    asked(client, [TEXTS[1]])
    answer = asked(client, TEXTS)
    expected = models[0].classify(TEXTS)
    assert [item["label"] for item in answer["predictions"]] == [item.label for item in expected]
    assert [item["score"] for item in answer["predictions"]] == pytest.approx([item.score for item in expected], abs=1e-5)
    assert counted(client) == {"miss": 3, "hit": 1}


def test_each_version_answers_for_itself(client: TestClient, models: list[CountingModel]) -> None:
    first, second = (asked(client, TEXTS, version=version) for version in (1, 2))
    assert [model.num_computed for model in models] == [3, 3]
    assert first["predictions"] != second["predictions"]
    assert [asked(client, TEXTS, version=version) for version in (1, 2)] == [first, second]
    assert [model.num_computed for model in models] == [3, 3]


def test_the_text_asked_least_recently_makes_room_whichever_version_it_was_for(models: list[CountingModel]) -> None:
    cache, (first, second) = AnswerCache(3), models
    cache.add(first, ["a", "b"], np.array([[1.0], [2.0]]))
    cache.add(second, ["a"], np.array([[3.0]]))
    assert cache.find(first, ["a"]) == [1.0]
    cache.add(second, ["c"], np.array([[4.0]]))
    assert len(cache) == 3
    assert cache.find(first, ["a", "b"]) == [1.0, None]
    assert cache.find(second, ["a", "c"]) == [3.0, 4.0]
    cache.add(first, ["d", "e", "f", "g"], np.array([[5.0], [6.0], [7.0], [8.0]]))
    assert cache.find(first, ["a", "d", "e", "f", "g"]) == [None, None, 6.0, 7.0, 8.0]
    assert cache.find(second, ["a", "c"]) == [None, None]


def test_what_was_computed_for_a_version_goes_with_it(predictors: list[Predictor]) -> None:
    service = service_of(ServedModel(predictors[0], name="desk", version=1), cached_answers=10)
    client = TestClient(create_api(service))
    asked(client, TEXTS)
    assert service.cache is not None
    assert len(service.cache) == 3
    service.models.current = ServedModel(predictors[0], name="desk", version=1)  # type: ignore[misc]
    ends = time.monotonic() + 10
    while len(service.cache) and time.monotonic() < ends:  # the thread that computed it lets go of it in a moment
        gc.collect()
    assert len(service.cache) == 0
    asked(client, TEXTS)
    assert counted(client) == {"miss": 6, "hit": 0}
    service.close()


def test_pairs_are_told_apart_by_where_they_are_parted(models: list[CountingModel]) -> None:
    cache = AnswerCache(10)
    cache.add(models[0], [("my parcel", ""), ("my", " parcel")], np.array([[1.0], [2.0]]))
    assert cache.find(models[0], [("my", " parcel"), ("my parcel", ""), ("", "my parcel")]) == [2.0, 1.0, None]


def test_a_shadow_compares_what_was_computed(models: list[CountingModel]) -> None:
    service = service_of(models[0], candidate=models[1], cached_answers=10)
    service.shadow = Shadow(service.models, percent=100, is_busy=lambda: True)  # it waits, so that the queue can be counted
    client = TestClient(create_api(service))
    for _ in range(3):
        asked(client, TEXTS)
    assert service.shadow._runner is not None
    assert len(service.shadow._runner._jobs) == len(TEXTS)
    service.close()
