"""The application on Ray: deployed behind Ray's proxy, and as `manta serve` starts it, up to its end by SIGTERM."""

from __future__ import annotations

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from manta.cluster.ports import free_ports
from manta.config import ServeConfig
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage

from ..untrained import artifact_of

WAIT_S = 240.0
NUM_REPLICAS = 2
TEXTS = ["the parcel is late", "my password", "charged twice and now it is still of today", "card", "hello it is the driver"]


def call(port: int, method: str, path: str, body: object = None) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    content = None if body is None else json.dumps(body)
    connection.request(method, path, body=content, headers={"Content-Type": "application/json"})
    response = connection.getresponse()
    answer = json.loads(response.read())
    connection.close()
    return response.status, answer


def scores(answer: dict[str, object]) -> list[dict[str, float]]:
    predictions = answer["predictions"]
    assert isinstance(predictions, list)
    return [prediction["scores"] for prediction in predictions]


@pytest.fixture(scope="module")
def storage(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """One registered version, the champion."""
    folder = tmp_path_factory.mktemp("app")
    storage = Storage(folder / "storage")
    tracker = RunTracker(storage)
    tracker.start("run", experiment="desk", config={})
    registry = ModelRegistry(storage)
    labels = LabelSpace.from_labels(["account", "billing", "delivery"])
    registry.register(artifact_of(tiny_model, folder / "run", labels=labels), run_id=tracker.run_id)
    registry.set_champion(registry.get("desk", version=1))
    return storage


@pytest.fixture(scope="module")
def predictor(storage: Storage) -> Predictor:
    registry = ModelRegistry(storage)
    return Predictor(registry.files.fetch(registry.get("desk")), device="cpu")


@pytest.fixture(scope="module")
def port(serve_port: int, storage: Storage) -> Iterator[int]:
    """Port of the application behind Ray's proxy."""
    from ray import serve

    from manta_serve.running.app import ServeArguments, build

    config = ServeConfig(num_replicas=NUM_REPLICAS)
    arguments = ServeArguments(model="desk", storage=str(storage.root), serve=config, require_keys=False)
    serve.run(build(arguments), name="manta", route_prefix="/")
    yield serve_port
    serve.delete("manta")


def test_many_clients_get_what_the_predictor_says(port: int, predictor: Predictor) -> None:
    requests = [TEXTS, TEXTS[:1], TEXTS[::-1], *([text] for text in TEXTS * 5)]
    with ThreadPoolExecutor(16) as clients:
        answers = list(clients.map(lambda texts: call(port, "POST", "/v1/classify", {"texts": texts}), requests))
    for texts, (status, answer) in zip(requests, answers, strict=True):
        assert (status, answer["model"]) == (200, {"name": "desk", "version": 1})
        for found, expected in zip(scores(answer), predictor.predict(texts), strict=True):
            assert found == pytest.approx(expected.scores, abs=1e-5)


def test_one_scrape_has_the_figures_of_every_replica(port: int) -> None:
    for _ in range(3):
        assert call(port, "POST", "/v1/classify", {"texts": TEXTS})[0] == 200
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    answered = [sample for sample in families["manta_texts"].samples if sample.labels["version"] == "1"]
    assert sum(sample.value for sample in answered) >= 3 * len(TEXTS)
    asked = families["manta_requests"].samples
    assert sum(sample.value for sample in asked if sample.labels["path"] == "/v1/classify") >= 3
    replicas = {sample.labels["replica"] for sample in families["manta_ready"].samples}
    assert len(replicas) == NUM_REPLICAS
    assert {sample.labels["replica"] for sample in answered} <= replicas


def test_a_replica_that_is_told_to_drain_is_not_ready_and_still_answers(port: int) -> None:
    from ray import serve

    assert call(port, "GET", "/readyz")[0] == 200
    serve.get_app_handle("manta").broadcast("drain").results(timeout_s=60)
    assert call(port, "GET", "/readyz")[0] == 503
    assert call(port, "POST", "/v1/classify", {"texts": TEXTS})[0] == 200


@pytest.mark.ray
@pytest.mark.timeout(400)
def test_manta_serve_answers_what_was_asked_before_sigterm_and_leaves_nothing(
    storage: Storage, predictor: Predictor, listens_to_ctrl_c: Callable[[], None], tmp_path: Path
) -> None:
    port, log = free_ports(1)[0], tmp_path / "log"
    command = [sys.executable, "-m", "manta.cli", "serve", "desk", "--port", str(port)]
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=output,
            env=os.environ | {"MANTA_STORAGE": str(storage.root)},
            start_new_session=True,
            preexec_fn=listens_to_ctrl_c,
        )

    def wait_for(words: str) -> None:
        deadline = time.monotonic() + WAIT_S
        while words not in log.read_text():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.05)

    try:
        wait_for("Ctrl-C stops it")
        status, answer = call(port, "POST", "/v1/classify", {"texts": TEXTS})
        assert status == 200
        assert scores(answer)[0] == pytest.approx(predictor.predict(TEXTS)[0].scores, abs=1e-5)
        listening = [item.laddr for item in psutil.net_connections("tcp") if item.status == psutil.CONN_LISTEN]
        assert {address.ip for address in listening if address.port == port} == {"127.0.0.1"}
        started = psutil.Process(process.pid).children(recursive=True)

        body = json.dumps({"texts": TEXTS}).encode()
        slow = socket.create_connection(("127.0.0.1", port), timeout=60)
        head = "POST /v1/classify HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
        head += f"Content-Length: {len(body)}\r\n\r\n"
        slow.sendall(head.encode() + body[:5])
        assert call(port, "GET", "/readyz")[0] == 200  # by now the request that was sent before is under way
        process.send_signal(signal.SIGTERM)
        wait_for("Stopping")
        slow.sendall(body[5:])
        response = http.client.HTTPResponse(slow)
        response.begin()
        assert response.status == 200
        assert scores(json.loads(response.read()))[0] == pytest.approx(predictor.predict(TEXTS)[0].scores, abs=1e-5)
        slow.close()
        assert process.wait(90) == 0
        _, alive = psutil.wait_procs(started, timeout=20)
        assert [child.name() for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []
    finally:
        if process.poll() is None:
            for child in psutil.Process(process.pid).children(recursive=True):
                child.kill()
            process.kill()


def test_replicas_follow_the_load_between_their_bounds() -> None:
    from manta_serve.running.app import ServeArguments, deployment

    def bounds(num_replicas: object) -> tuple[object, ...]:
        config = ServeConfig.model_validate({"num_replicas": num_replicas})
        made = deployment(ServeArguments(model="desk", num_cpus=2, serve=config))
        scaling = made._deployment_config.autoscaling_config
        assert made.max_ongoing_requests > config.max_queued_texts  # the batcher refuses, not Ray
        assert made.ray_actor_options["num_cpus"] == 2
        if scaling is None:
            return (made.num_replicas,)
        return (scaling.min_replicas, scaling.initial_replicas, scaling.max_replicas)

    assert bounds(2) == (2,)
    assert bounds([2, 2]) == (2,)
    assert bounds([1, 4]) == (1, 1, 4)
    assert bounds([0, 4]) == (0, 1, 4)


def test_the_file_for_serve_deploy_fits_rays_schema_and_our_arguments() -> None:
    from ray.serve.schema import ServeDeploySchema

    from manta_serve.running.app import ServeArguments

    path = Path(__file__).parents[3] / "serve" / "config.yaml"
    schema = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    (application,) = schema.applications
    assert application.import_path == "manta_serve.running.app:build"
    arguments = ServeArguments.model_validate(application.args)
    assert arguments.require_keys


def test_the_application_asks_for_a_key_unless_told_not_to(storage: Storage) -> None:
    from fastapi.testclient import TestClient

    from manta_serve.running.app import ServeArguments, asgi_app, served

    assert ServeArguments(model="desk").require_keys
    services = served(ServeArguments(model="desk"), storage)
    try:
        for required, status in ((True, 401), (False, 200)):
            client = TestClient(asgi_app(services, storage, require_keys=required), base_url="http://127.0.0.1")
            assert client.post("/v1/classify", json={"texts": TEXTS[:1]}).status_code == status
    finally:
        services.close()
