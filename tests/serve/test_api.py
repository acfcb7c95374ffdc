"""The HTTP API around the plain classifier, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from fastapi.testclient import TestClient

from manta.artifact import write_artifact
from manta.config import ModelConfig
from manta.labels import LabelSpace
from manta.model import build_model, load_model_config, load_tokenizer
from manta.predictor import Predictor
from manta_serve.api import MAX_CHARACTERS, MAX_TEXTS, create_api
from manta_serve.classifier import Classifier


def made(tiny_model: Path, folder: Path, *, labels: LabelSpace, **changed: Any) -> Classifier:
    """A classifier around an untrained model."""

    config = ModelConfig(pretrained=str(tiny_model), max_length=32)
    torch.manual_seed(3)
    facts: dict[str, Any] = {
        "name": "desk",
        "max_length": 32,
        "metrics": {"accuracy": 0.5},
        "examples": ["the parcel is late"],
        "data_hash": "",
        "config": {},
        "run": "run",
        "pretrained": "tiny",
    }
    artifact = write_artifact(
        folder / "model",
        weights=build_model(config, labels).state_dict(),
        model_config=load_model_config(config, labels),
        tokenizer=load_tokenizer(config),
        labels=labels,
        facts=facts | changed,
    )
    return Classifier(Predictor(artifact, device="cpu"), name="desk", version=7)


@pytest.fixture(scope="module")
def classifier(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    return made(tiny_model, tmp_path_factory.mktemp("single"), labels=LabelSpace.from_labels(["account", "billing", "delivery"]))


@pytest.fixture(scope="module")
def pairs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    facts = {"num_texts": 2, "examples": [("the parcel", "is late")]}
    return made(tiny_model, tmp_path_factory.mktemp("pairs"), labels=LabelSpace.from_labels(["no", "yes"]), **facts)


@pytest.fixture(scope="module")
def several(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Classifier:
    """Untrained probabilities are near one half: the first label always applies, the second never does."""
    labels = LabelSpace(("account", "billing"), "multilabel")
    return made(tiny_model, tmp_path_factory.mktemp("several"), labels=labels, thresholds=[0.0, 1.0])


@pytest.fixture
def client(classifier: Classifier) -> TestClient:
    return TestClient(create_api(lambda: classifier), raise_server_exceptions=False)


def test_classify_answers_every_text_in_order(client: TestClient, classifier: Classifier) -> None:
    texts = ["the parcel is late", "my password", "charged twice and now it is still of today"]
    response = client.post("/v1/classify", json={"texts": texts})
    assert response.status_code == 200
    body = response.json()
    assert body["model"] == {"name": "desk", "version": 7}
    expected = classifier.classify(texts)
    assert [answer["label"] for answer in body["predictions"]] == [prediction.label for prediction in expected]
    for answer in body["predictions"]:
        assert sum(answer["scores"].values()) == pytest.approx(1)
        assert answer["score"] == max(answer["scores"].values()) == answer["scores"][answer["label"]]
        assert answer["uncertain"] is (answer["score"] < 0.5)
        assert answer["labels"] == [answer["label"]]


def test_top_k_keeps_the_most_probable_labels(client: TestClient) -> None:
    everything = client.post("/v1/classify", json={"texts": ["parcel"]}).json()["predictions"][0]["scores"]
    two = client.post("/v1/classify", json={"texts": ["parcel"], "top_k": 2}).json()["predictions"][0]["scores"]
    assert list(two.values()) == pytest.approx(sorted(everything.values(), reverse=True)[:2], abs=1e-6)


def test_uncertain_and_its_reason_come_from_the_models_calibration(
    tiny_model: Path, tmp_path: Path, classifier: Classifier
) -> None:
    texts = ["the parcel is late", "my password", "charged twice and now it is still of today"]
    scores = sorted(prediction.score for prediction in classifier.classify(texts))
    figures = {"num_rows": 40, "ece_before": 0.1, "ece_after": 0.02, "brier_before": 0.3, "brier_after": 0.2}
    record: dict[str, Any] = {
        "temperature": 1.0,
        "target_precision": 0.9,
        "abstain_below": (scores[0] + scores[1]) / 2,
        "validation": figures | {"precision": 0.93, "coverage": 0.8},
        "test": figures | {"precision": 0.91, "coverage": 0.7},
    }
    calibrated = made(tiny_model, tmp_path, labels=classifier.manifest.label_space, calibration=record)
    client = TestClient(create_api(lambda: calibrated), raise_server_exceptions=False)
    predictions = client.post("/v1/classify", json={"texts": texts}).json()["predictions"]
    assert [item["uncertain"] for item in predictions] == [item["score"] < record["abstain_below"] for item in predictions]
    assert sum(item["uncertain"] for item in predictions) == 1
    expected = {"below": record["abstain_below"], "target_precision": 0.9, "precision": 0.91, "coverage": 0.7}
    assert client.get("/v1/model").json()["abstain"] == expected


def test_model_says_what_answers(client: TestClient) -> None:
    body = client.get("/v1/model").json()
    assert (body["name"], body["version"], body["task"]) == ("desk", 7, "multiclass")
    assert body["labels"] == ["account", "billing", "delivery"]
    assert body["examples"] == ["the parcel is late"]
    assert (body["num_texts"], body["thresholds"]) == (1, None)
    assert body["abstain"] == {"below": 0.5, "target_precision": None, "precision": None, "coverage": None}
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ('{"texts": [', 400, None),
        ("{}", 422, "texts"),
        ('{"texts": []}', 422, "texts"),
        ('{"texts": "one"}', 422, "texts"),
        ('{"texts": ["fine", " \\n "]}', 422, "texts.1"),
        ('{"texts": [3]}', 422, "texts.0"),
        ('{"texts": ["fine", ["a", "b"]]}', 422, "texts.1"),
        ('{"texts": [["a"]]}', 422, "texts.0"),
        ('{"texts": [["a", "b", "c"]]}', 422, "texts.0"),
        ('{"texts": [["a", " "]]}', 422, "texts.0.1"),
        ('{"texts": [["a", 3]]}', 422, "texts.0.1"),
        ('{"texts": [{"text": "a"}]}', 422, "texts.0"),
        ('{"texts": ["x"], "top_k": 0}', 422, "top_k"),
        ('{"texts": ["x"], "labels": 2}', 422, "labels"),
    ],
)
def test_faulty_requests_are_told_what_is_wrong(client: TestClient, body: str, status: int, field: str | None) -> None:
    response = client.post("/v1/classify", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    error = response.json()["error"]
    assert error.get("field") == field
    assert error["message"]


def test_limits_are_refused_by_name(client: TestClient) -> None:
    many = client.post("/v1/classify", json={"texts": ["x"] * (MAX_TEXTS + 1)})
    assert (many.status_code, many.json()["error"]["field"]) == (422, "texts")
    assert str(MAX_TEXTS) in many.json()["error"]["message"]
    long = client.post("/v1/classify", json={"texts": ["x" * (MAX_CHARACTERS + 1)]})
    assert long.status_code == 422
    assert str(MAX_CHARACTERS) in long.json()["error"]["message"]


def test_unknown_paths_and_faults_of_ours_are_problem_json_too(classifier: Classifier) -> None:
    def broken() -> Classifier:
        raise RuntimeError("the disk is gone")

    client = TestClient(create_api(broken), raise_server_exceptions=False)
    assert client.get("/nowhere").json()["error"]["code"] == "not_found"
    response = client.get("/v1/model")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "disk" not in response.text


def test_pairs_are_answered_in_order(pairs: Classifier) -> None:
    client = TestClient(create_api(lambda: pairs), raise_server_exceptions=False)
    texts = [("the parcel is late", "my card"), ("my card", "the parcel is late")]
    response = client.post("/v1/classify", json={"texts": texts})
    assert response.status_code == 200
    expected = pairs.classify(texts)
    assert [answer["score"] for answer in response.json()["predictions"]] == pytest.approx([item.score for item in expected])
    body = client.get("/v1/model").json()
    assert (body["num_texts"], body["examples"]) == (2, [["the parcel", "is late"]])


def test_a_text_of_the_wrong_kind_is_refused_with_its_place(pairs: Classifier, client: TestClient) -> None:
    of_pairs = TestClient(create_api(lambda: pairs), raise_server_exceptions=False)
    response = of_pairs.post("/v1/classify", json={"texts": [["a", "b"], "c"]})
    assert response.status_code == 422
    assert response.json()["error"] == {
        "code": "invalid_request",
        "message": "This model reads pairs of texts, so give two texts where there is one.",
        "field": "texts.1",
    }
    response = client.post("/v1/classify", json={"texts": [["a", "b"]]})
    assert response.status_code == 422
    assert "This model reads single texts" in response.json()["error"]["message"]


def test_several_labels_or_none_apply(several: Classifier, tiny_model: Path, tmp_path: Path) -> None:
    client = TestClient(create_api(lambda: several), raise_server_exceptions=False)
    (answer,) = client.post("/v1/classify", json={"texts": ["my parcel"]}).json()["predictions"]
    assert answer["labels"] == ["account"]
    assert answer["label"] in answer["scores"]
    assert answer["uncertain"] is False
    body = client.get("/v1/model").json()
    assert (body["task"], body["thresholds"]) == ("multilabel", [0.0, 1.0])
    strict = made(tiny_model, tmp_path, labels=LabelSpace(("a", "b"), "multilabel"), thresholds=[1.0, 1.0])
    client = TestClient(create_api(lambda: strict), raise_server_exceptions=False)
    (answer,) = client.post("/v1/classify", json={"texts": ["my parcel"]}).json()["predictions"]
    assert (answer["labels"], answer["uncertain"]) == ([], False)


def test_default_thresholds_are_told(tiny_model: Path, tmp_path: Path) -> None:
    plain = made(tiny_model, tmp_path, labels=LabelSpace(("a", "b"), "multilabel"))
    assert TestClient(create_api(lambda: plain)).get("/v1/model").json()["thresholds"] == [0.5, 0.5]


@pytest.mark.parametrize("kind", ["classifier", "pairs", "several"])
def test_every_kind_warms_up(kind: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(kind).warm_up()


def test_the_schema_of_a_request_shows_texts_and_pairs(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()["components"]["schemas"]["ClassifyRequest"]["properties"]["texts"]["items"]
    assert sorted(kind["type"] for kind in schema.get("oneOf", schema.get("anyOf"))) == ["array", "string"]
