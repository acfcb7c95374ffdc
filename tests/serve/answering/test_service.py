"""The service behind a real socket, without Ray: clients that hang up, deadlines, a queue that is full, and readiness."""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING

import pytest

from manta.inference.predictor import Predictor
from manta.labels import Floats, LabelSpace
from manta_serve.access.guard import guarded
from manta_serve.api.routes import create_api
from manta_serve.versions.served_model import ServedModel

from ..live_api import on_socket
from ..untrained import artifact_of, service_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from manta.texts import TokenLists
    from manta_serve.answering.service import Service

WAIT_S = 60.0
TEXTS = ["the parcel is late", "my password"]


class HeldModel(ServedModel):
    """Computes only while `gate` is open, and counts the texts it computed."""

    gate: threading.Event
    entered: threading.Event
    num_computed = 0

    def logits(self, tokens: TokenLists) -> Floats:
        self.entered.set()
        assert self.gate.wait(WAIT_S)
        self.num_computed += len(tokens["input_ids"])
        return super().logits(tokens)


@pytest.fixture(scope="module")
def predictor(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    labels = LabelSpace.from_labels(["account", "billing", "delivery"])
    return Predictor(artifact_of(tiny_model, tmp_path_factory.mktemp("service") / "model", labels=labels), device="cpu")


@pytest.fixture
def model(predictor: Predictor) -> HeldModel:
    model = HeldModel(predictor, name="desk", version=7)
    model.gate, model.entered = threading.Event(), threading.Event()
    return model


@pytest.fixture
def service(model: HeldModel) -> Iterator[Service]:
    service = service_of(model, max_queued_texts=400)
    yield service
    model.gate.set()
    service.close()


@pytest.fixture
def port(service: Service) -> Iterator[int]:
    """Port at which uvicorn serves the API on this machine."""
    app = guarded(create_api(service), config=service.config, keys=None, metrics=service.metrics)
    with on_socket(app) as url:
        yield int(url.rpartition(":")[2])


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def asked(port: int, texts: list[str]) -> http.client.HTTPConnection:
    """A connection with a request under way."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
    body = json.dumps({"texts": texts})
    connection.request("POST", "/v1/classify", body=body, headers={"Content-Type": "application/json"})
    return connection


def answered(connection: http.client.HTTPConnection) -> tuple[int, dict[str, str], dict[str, object]]:
    response = connection.getresponse()
    body = json.loads(response.read())
    connection.close()
    return response.status, {name.lower(): value for name, value in response.getheaders()}, body


def test_clients_that_hang_up_cost_no_computing_and_everything_after_is_answered(
    service: Service, model: HeldModel, port: int
) -> None:
    first = asked(port, ["hello"])  # the computing thread is busy with it
    until(model.entered.is_set)
    gone = [asked(port, TEXTS) for _ in range(150)]
    until(lambda: service.batcher.num_queued_texts == 300)
    for connection in gone:
        connection.close()
    until(lambda: service.batcher.num_queued_texts == 0)
    model.gate.set()
    assert answered(first)[0] == 200
    status, _, body = answered(asked(port, TEXTS))
    assert (status, body["model"]) == (200, {"name": "desk", "version": 7})
    assert model.num_computed == 1 + len(TEXTS)


def test_a_full_queue_is_429_and_says_when_to_come_again(service: Service, model: HeldModel, port: int) -> None:
    waiting = [asked(port, ["card"] * 200) for _ in range(2)]
    until(lambda: service.batcher.num_queued_texts > 200)  # the second has come; one batch of the first may be with the model
    status, headers, body = answered(asked(port, ["card"] * 200))
    assert (status, headers["retry-after"]) == (429, "1")
    assert "400 may at most" in str(body["error"])
    model.gate.set()
    assert [answered(connection)[0] for connection in waiting] == [200, 200]


def test_a_deadline_is_504(model: HeldModel, service: Service, port: int) -> None:
    service.config = service.config.model_copy(update={"deadline_s": 0.05})
    status, _, body = answered(asked(port, TEXTS))
    assert status == 504
    assert "no answer within 0.05 s" in str(body["error"])
    assert service.batcher.num_queued_texts == 0


def test_a_service_that_drains_is_not_ready_and_answers_what_comes(service: Service, model: HeldModel, port: int) -> None:
    model.gate.set()

    def ready() -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_S)
        connection.request("GET", "/readyz")
        return answered(connection)[0]

    assert ready() == 200
    service.drain()
    assert ready() == 503
    assert answered(asked(port, TEXTS))[0] == 200
