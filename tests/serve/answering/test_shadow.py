"""The shadow with real models and its real thread: what it compares, and that it stands back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta_serve.answering import shadow as shadow_module
from manta_serve.answering.service import Service
from manta_serve.answering.shadow import MOST_WAITING_TEXTS, Shadow
from manta_serve.api.routes import create_api
from manta_serve.versions.served_model import ServedModel

from ..untrained import OneModel, artifact_of, service_of

LABELS = LabelSpace.from_labels(["account", "billing", "delivery"])
TEXTS = ["the parcel is late", "my password", "charged twice and now it is still of today", "card", "hello it is the driver"]
WAIT_S = 60.0


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[ServedModel, ServedModel]:
    """A champion and a candidate that answers otherwise."""
    folder = tmp_path_factory.mktemp("shadow")
    artifacts = [artifact_of(tiny_model, folder / f"model-{seed}", labels=LABELS, seed=seed) for seed in (3, 5)]
    first, second = (
        ServedModel(Predictor(artifact, device="cpu"), name="desk", version=number)
        for number, artifact in enumerate(artifacts, start=1)
    )
    return first, second


@pytest.fixture
def busy() -> threading.Event:
    return threading.Event()


@pytest.fixture
def service(models: tuple[ServedModel, ServedModel], busy: threading.Event) -> Iterator[Service]:
    service = service_of(models[0])
    assert isinstance(service.models, OneModel)
    service.models.candidate = models[1]
    service.shadow = Shadow(service.models, percent=100, is_busy=busy.is_set)
    yield service
    service.close()


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def num_texts(service: Service) -> int:
    assert service.shadow is not None
    comparison = service.shadow.comparison
    return 0 if comparison is None else comparison.num_texts


def test_both_answers_to_the_same_texts_are_compared(service: Service, models: tuple[ServedModel, ServedModel]) -> None:
    client = TestClient(create_api(service))
    answer = client.post("/v1/classify", json={"texts": TEXTS}).json()
    assert answer["model"]["version"] == 1
    until(lambda: num_texts(service) == len(TEXTS))
    champion, candidate = (model.classify(TEXTS) for model in models)
    agreed = sum(one.labels == other.labels for one, other in zip(champion, candidate, strict=True))
    body = client.get("/v1/model").json()["comparison"]
    assert body["shadow"]["agreement"] == agreed / len(TEXTS)
    assert body["shadow"]["champion_confidence"] == pytest.approx(sum(item.score for item in champion) / len(TEXTS), abs=1e-4)
    assert body["shadow"]["candidate_confidence"] == pytest.approx(sum(item.score for item in candidate) / len(TEXTS), abs=1e-4)
    assert body["shadow"]["candidate_ms"] > 0
    assert (body["champion"]["version"], body["champion"]["num_texts"]) == (1, len(TEXTS))
    assert (body["candidate"]["version"], body["candidate"]["num_texts"], body["candidate"]["p50_ms"]) == (2, 0, None)


def test_while_answers_are_waited_for_nothing_is_compared_and_what_is_too_much_is_dropped(
    service: Service, busy: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shadow_module, "MOST_AGE_S", 3600.0)
    busy.set()
    client = TestClient(create_api(service))
    for _ in range(2):
        assert client.post("/v1/classify", json={"texts": ["card"] * 50}).status_code == 200
    assert service.shadow is not None
    comparison = service.shadow.comparison
    assert comparison is not None
    assert (comparison.num_texts, comparison.num_dropped) == (0, 100 - MOST_WAITING_TEXTS)
    busy.clear()
    until(lambda: comparison.num_texts == MOST_WAITING_TEXTS)


def test_what_has_waited_too_long_is_dropped(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shadow_module, "MOST_AGE_S", -1.0)
    TestClient(create_api(service)).post("/v1/classify", json={"texts": TEXTS})
    assert service.shadow is not None
    comparison = service.shadow.comparison
    assert comparison is not None
    until(lambda: comparison.num_dropped == len(TEXTS))
    assert comparison.num_texts == 0


def test_another_candidate_is_compared_anew_and_none_not_at_all(service: Service, models: tuple[ServedModel, ServedModel]) -> None:
    client = TestClient(create_api(service))
    client.post("/v1/classify", json={"texts": TEXTS})
    until(lambda: num_texts(service) == len(TEXTS))
    assert isinstance(service.models, OneModel)
    service.models.candidate = ServedModel(Predictor(models[0].artifact, device="cpu"), name="desk", version=3)
    client.post("/v1/classify", json={"texts": TEXTS[:2]})
    until(lambda: num_texts(service) == 2)
    assert client.get("/v1/model").json()["comparison"]["shadow"]["agreement"] == 1.0
    service.models.candidate = None
    assert client.get("/v1/model").json()["comparison"] is None
    assert client.post("/v1/classify", json={"texts": TEXTS}).status_code == 200


def test_a_candidate_that_fails_costs_the_champion_nothing(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = threading.Event()

    def alone(self: ServedModel) -> ServedModel:
        failed.set()
        raise RuntimeError("no memory")

    monkeypatch.setattr(ServedModel, "alone", alone)
    assert len(asyncio.run(service.classify(TEXTS)).predictions) == len(TEXTS)
    assert failed.wait(WAIT_S)
    assert len(asyncio.run(service.classify(TEXTS)).predictions) == len(TEXTS)
