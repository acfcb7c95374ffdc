"""Several models in one service, without Ray: who answers which path, what they share, and how each follows the registry."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from manta.config import ServeConfig
from manta.errors import InputError
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage
from manta_serve.access.keys import SCOPES, KeyStore
from manta_serve.running.app import ServeArguments, asgi_app, served
from manta_serve.running.commands import serve
from manta_serve.versions.served_models import ServedModels

from ..untrained import artifact_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from manta_serve.answering.services import Services

TEXTS = ["the parcel is late", "my password"]
LABELS = {"desk": LabelSpace.from_labels(["account", "billing", "delivery"]), "tickets": LabelSpace.from_labels(["no", "yes"])}


@pytest.fixture(scope="module")
def storage(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """Two models with two versions each, of which the first is the champion."""
    folder = tmp_path_factory.mktemp("several")
    storage = Storage(folder / "storage")
    registry = ModelRegistry(storage)
    for name, labels in LABELS.items():
        for seed in (1, 2):
            tracker = RunTracker(storage)
            tracker.start(f"{name}-{seed}", experiment=name, config={})
            artifact = artifact_of(tiny_model, folder / f"{name}-{seed}", labels=labels, seed=seed, name=name)
            registry.register(artifact, run_id=tracker.run_id)
        registry.set_champion(registry.get(name, version=1))
    return storage


@pytest.fixture
def services(storage: Storage) -> Iterator[Services]:
    settings = {"models": ["tickets", "desk"], "feedback": True, "cached_answers": 10}
    services = served(ServeArguments(model="desk", serve=ServeConfig.model_validate(settings)), storage)
    yield services
    services.close()


def client_of(services: Services, storage: Storage, *, require_keys: bool = False) -> TestClient:
    app = asgi_app(services, storage, require_keys=require_keys)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def expected(storage: Storage, name: str, *, version: int = 1) -> list[dict[str, float]]:
    registry = ModelRegistry(storage)
    predictor = Predictor(registry.files.fetch(registry.get(name, version=version)), device="cpu")
    return [pytest.approx(prediction.scores, abs=1e-5) for prediction in predictor.predict(TEXTS)]


def classified(client: TestClient, path: str, *, version: int = 1) -> tuple[dict[str, Any], list[dict[str, float]]]:
    """The model that answered, and the scores."""
    response = client.post(path, json={"texts": TEXTS}, headers={"Manta-Version": str(version)})
    assert response.status_code == 200
    return response.json()["model"], [item["scores"] for item in response.json()["predictions"]]


def test_each_model_answers_at_its_own_path_and_the_first_one_without_a_name(services: Services, storage: Storage) -> None:
    client = client_of(services, storage)
    for path, name in (
        ("/v1/classify", "desk"),
        ("/v1/models/desk/classify", "desk"),
        ("/v1/models/tickets/classify", "tickets"),
        ("/v1/models/tickets/classify", "tickets"),  # from the cache, which must not mix versions of one number
    ):
        assert classified(client, path) == ({"name": name, "version": 1}, expected(storage, name))
    assert classified(client, "/v1/models/tickets/classify", version=2) == (
        {"name": "tickets", "version": 2},
        expected(storage, "tickets", version=2),
    )
    for path in ("/v1/models/tickets/predict", "/models/tickets"):
        answer = client.post(path, json={"inputs": TEXTS[0]}).json()
        labels = answer if path.endswith("predict") else answer[0]
        assert {item["label"]: item["score"] for item in labels} == expected(storage, "tickets")[0]


def test_models_are_listed_and_described(services: Services, storage: Storage) -> None:
    client = client_of(services, storage)
    listed = client.get("/v1/models").json()["models"]
    assert [(item["name"], item["version"], item["labels"], item["task"]) for item in listed] == [
        ("desk", 1, ["account", "billing", "delivery"], "multiclass"),
        ("tickets", 1, ["no", "yes"], "binary"),
    ]
    assert client.get("/v1/models/desk").json() == client.get("/v1/model").json()
    described = client.get("/v1/models/tickets", headers={"Manta-Version": "2"}).json()
    assert (described["name"], described["version"], described["labels"]) == ("tickets", 2, ["no", "yes"])


def test_an_unknown_model_is_404_in_one_sentence(services: Services, storage: Storage) -> None:
    client = client_of(services, storage)
    sentence = "There is no model of this name here; there are desk, tickets."
    for method, path in (("POST", "classify"), ("POST", "feedback"), ("GET", "feedback"), ("GET", "")):
        answer = client.request(method, f"/v1/models/other/{path}".rstrip("/"), json={"text": "card"})
        assert (answer.status_code, answer.json()) == (404, {"error": {"code": "unknown_model", "message": sentence}})
    for path in ("/v1/models/other/predict", "/models/other"):
        answer = client.post(path, json={"inputs": "card"})
        assert (answer.status_code, answer.json()) == (404, {"error": sentence, "error_type": "Validation"})


def test_feedback_is_kept_for_the_model_that_it_is_about(services: Services, storage: Storage) -> None:
    client = client_of(services, storage)
    said = {"text": "my parcel", "answer": "no", "correction": "yes", "version": 1}
    assert client.post("/v1/models/tickets/feedback", json=said).json() == {"stored": True}
    assert client.post("/v1/feedback", json=said).json()["error"]["code"] == "unknown_label"
    assert client.get("/v1/models/tickets/feedback").json()["by_label"] == {"yes": 1}
    assert client.get("/v1/feedback").json()["count"] == 0


def test_figures_name_the_model(services: Services, storage: Storage) -> None:
    client = client_of(services, storage)
    for _ in range(2):
        classified(client, "/v1/classify")
    classified(client, "/v1/models/tickets/classify")
    families = {family.name: family for family in text_string_to_metric_families(client.get("/metrics").text)}
    texts = {(item.labels["model"], item.labels["version"]): item.value for item in families["manta_texts"].samples}
    assert texts == {("desk", "1"): 4, ("tickets", "1"): 2}
    paths = {item.labels["path"]: item.value for item in families["manta_requests"].samples}
    assert paths == {"/v1/classify": 2, "/v1/models/{name}/classify": 1}
    assert {item.labels["model"] for item in families["manta_model_info"].samples} == {"desk", "tickets"}


def test_a_key_is_for_what_it_is_for_whichever_model_the_path_names(services: Services, storage: Storage) -> None:
    client, keys = client_of(services, storage, require_keys=True), KeyStore(storage)
    bodies: dict[str, Any] = {
        "/v1/models/tickets/classify": {"text": "card"},
        "/v1/models/tickets/predict": {"inputs": "card"},
        "/models/tickets": {"inputs": "card"},
        "/v1/models/tickets/feedback": {"text": "card", "answer": "no", "correction": "no", "version": 1},
    }
    made = {scope: keys.create(scope, scopes=[scope]) for scope in SCOPES}
    opened = {
        scope: [
            client.post(path, json=body, headers={"Authorization": f"Bearer {key}"}).status_code for path, body in bodies.items()
        ]
        for scope, key in made.items()
    }
    assert opened == {"classify": [200, 200, 200, 403], "feedback": [403, 403, 403, 200], "review": [403] * 4, "metrics": [403] * 4}
    assert {client.post(path, json=body).status_code for path, body in bodies.items()} == {401}


def test_each_model_follows_its_own_champion(services: Services, storage: Storage) -> None:
    client, registry = client_of(services, storage), ModelRegistry(storage)
    desk, tickets = services
    assert isinstance(tickets.models, ServedModels)
    assert isinstance(desk.models, ServedModels)
    registry.set_champion(registry.get("tickets", version=2))
    try:
        tickets.models.look()
        desk.models.look()
        assert [item["version"] for item in client.get("/v1/models").json()["models"]] == [1, 2]
        answer = client.post("/v1/models/tickets/classify", json={"texts": TEXTS}).json()
        assert [item["scores"] for item in answer["predictions"]] == expected(storage, "tickets", version=2)
        assert classified(client, "/v1/classify") == ({"name": "desk", "version": 1}, expected(storage, "desk"))
    finally:
        registry.set_champion(registry.get("tickets", version=1))


def test_the_service_is_ready_while_every_model_is(services: Services, storage: Storage) -> None:
    client = client_of(services, storage)
    assert client.get("/readyz").status_code == 200
    services.drain()
    assert client.get("/readyz").status_code == 503
    assert classified(client, "/v1/models/tickets/classify")[0]["name"] == "tickets"


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["desk", "other"], "other"),
        (["desk", "other.yaml"], "other.yaml: only the first may be an experiment's file"),
    ],
)
def test_what_cannot_be_served_is_said_before_anything_starts(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, names: list[str], sentence: str
) -> None:
    monkeypatch.setenv("MANTA_STORAGE", str(storage.root))
    refused = CliRunner().invoke(serve, names).exception
    assert isinstance(refused, InputError)
    assert sentence in str(refused)
