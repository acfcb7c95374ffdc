"""The HTTP API around the plain classifier, without Ray."""

from __future__ import annotations

import asyncio
import math
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from manta.errors import RunError
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta_serve.api.routes import create_api
from manta_serve.api.schemas import MAX_EXPLAINED
from manta_serve.http.paths import PLAIN_ERRORS
from manta_serve.versions.extra import BusyLoadingError, RefusedVersionError, UnknownVersionError
from manta_serve.versions.served_model import ServedModel

from ..untrained import artifact_of, service_of


def made(tiny_model: Path, folder: Path, *, labels: LabelSpace, **changed: Any) -> ServedModel:
    """Version 7 of an untrained model."""
    return ServedModel(
        Predictor(artifact_of(tiny_model, folder / "model", labels=labels, **changed), device="cpu"), name="desk", version=7
    )


@pytest.fixture(scope="module")
def classifier(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    return made(tiny_model, tmp_path_factory.mktemp("single"), labels=LabelSpace.from_labels(["account", "billing", "delivery"]))


@pytest.fixture(scope="module")
def pairs(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    facts = {"num_texts": 2, "examples": [("the parcel", "is late")]}
    return made(tiny_model, tmp_path_factory.mktemp("pairs"), labels=LabelSpace.from_labels(["no", "yes"]), **facts)


@pytest.fixture(scope="module")
def several(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    """Untrained probabilities are near one half: the first label always applies, the second never does."""
    labels = LabelSpace(("account", "billing"), "multilabel")
    return made(tiny_model, tmp_path_factory.mktemp("several"), labels=labels, thresholds=[0.0, 1.0])


@pytest.fixture
def client(classifier: ServedModel) -> TestClient:
    return TestClient(create_api(service_of(classifier)), raise_server_exceptions=False)


def test_classify_answers_every_text_in_order(client: TestClient, classifier: ServedModel) -> None:
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
    tiny_model: Path, tmp_path: Path, classifier: ServedModel
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
    client = TestClient(create_api(service_of(calibrated)), raise_server_exceptions=False)
    predictions = client.post("/v1/classify", json={"texts": texts}).json()["predictions"]
    assert [item["uncertain"] for item in predictions] == [item["score"] < record["abstain_below"] for item in predictions]
    assert sum(item["uncertain"] for item in predictions) == 1
    expected = {
        "below": record["abstain_below"],
        "target_precision": 0.9,
        "guarantee": None,
        "precision": 0.91,
        "coverage": 0.7,
    }
    assert client.get("/v1/model").json()["abstain"] == expected


def test_answers_have_label_sets_where_the_model_has_a_threshold_for_them(
    tiny_model: Path, tmp_path: Path, classifier: ServedModel
) -> None:
    texts = ["the parcel is late", "my password", "charged twice and now it is still of today"]
    assert "set" not in classifier_answer(classifier, texts)[0]
    above = sorted(score for prediction in classifier.classify(texts) for score in prediction.scores.values())[4]
    figures = {"num_rows": 40, "ece_before": 0.1, "ece_after": 0.02, "brier_before": 0.3, "brier_after": 0.2}
    figures |= {"precision": None, "coverage": 0.0}
    record: dict[str, Any] = {
        "temperature": 1.0,
        "target_precision": 0.9,
        "abstain_below": None,
        "guarantee": 0.9,
        "set_coverage": 0.95,
        "set_above": above,
        "validation": figures,
        "test": figures | {"set_coverage": 0.96, "set_size": 1.4},
    }
    model = made(tiny_model, tmp_path, labels=classifier.manifest.label_space, calibration=record)
    for item in classifier_answer(model, texts):
        likely = [name for name, score in item["scores"].items() if score >= above]
        assert item["set"] == (likely or [item["label"]])
        assert item["uncertain"]  # no threshold keeps the guarantee
    about = TestClient(create_api(service_of(model))).get("/v1/model").json()
    assert about["sets"] == {"coverage": 0.95, "test_coverage": 0.96, "test_size": 1.4}
    assert (about["abstain"]["below"], about["abstain"]["guarantee"]) == (1.0, 0.9)


def classifier_answer(model: ServedModel, texts: list[str]) -> list[dict[str, Any]]:
    """Predictions of the API of one model, as JSON."""
    client = TestClient(create_api(service_of(model)), raise_server_exceptions=False)
    predictions: list[dict[str, Any]] = client.post("/v1/classify", json={"texts": texts}).json()["predictions"]
    return predictions


def test_model_says_what_answers(client: TestClient) -> None:
    body = client.get("/v1/model").json()
    assert (body["name"], body["version"], body["task"]) == ("desk", 7, "multiclass")
    assert body["labels"] == ["account", "billing", "delivery"]
    assert body["examples"] == ["the parcel is late"]
    assert (body["num_texts"], body["thresholds"]) == (1, None)
    nothing_chosen = {"below": 0.5, "target_precision": None, "guarantee": None, "precision": None, "coverage": None}
    assert (body["abstain"], body["sets"]) == (nothing_chosen, None)
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json() == {"status": "ready"}
    for path in ("/healthz", "/readyz"):
        head = client.head(path)
        assert (head.status_code, head.content) == (200, b"")


@pytest.mark.parametrize(
    ("body", "status", "field"),
    [
        ('{"texts": [', 400, None),
        ("{}", 422, None),
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
        ('{"texts": ["x"], "top_k": "2"}', 422, "top_k"),
        ('{"texts": ["x"], "top_k": NaN}', 422, "top_k"),
        ('{"texts": ["x"], "labels": 2}', 422, "labels"),
        ('{"texts": ["x"], "explain": 1}', 422, "explain"),
        ('{"text": "x", "texts": ["y"]}', 422, None),
        ('{"text": null}', 422, "text"),
        ('{"text": "a\\u0000b"}', 422, "text"),
        ('{"texts": ["x", "\\u200b\\u200d \\ufeff"]}', 422, "texts.1"),
        ('{"texts": [["x", "\\u0001\\u0007\\u009f"]]}', 422, "texts.0.1"),
        ('{"text": "\\u3164\\u2800\\udb40\\udc41"}', 422, "text"),
        ('{"text": "\\ud800"}', 400, None),
        ('{"text": "a\x00b"}', 400, None),
        (b'{"text": "\xff"}', 400, None),
        ("[" * 50_000, 400, None),
        ("", 400, None),
        ("[]", 422, None),
    ],
)
def test_faulty_requests_are_told_what_is_wrong(client: TestClient, body: str | bytes, status: int, field: str | None) -> None:
    response = client.post("/v1/classify", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code == status
    error = response.json()["error"]
    assert error.get("field") == field
    assert error["message"]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("null", "The body is not a JSON object; give one in braces."),
        ('{"texts": "one"}', "This is not a list; give one in brackets."),
        ('{"texts": []}', "This list has too few entries; the fewest are 1."),
    ],
)
def test_a_body_of_the_wrong_form_is_told_in_the_words_of_json(client: TestClient, body: str, message: str) -> None:
    response = client.post("/v1/classify", content=body, headers={"Content-Type": "application/json"})
    assert response.json()["error"]["message"] == message


def test_texts_with_anything_to_see_are_answered(client: TestClient) -> None:
    seen = ["\u200bx", "\U0001f468\u200d\U0001f469", "\u05d0\u200f", "\u0915\u094d\u200d", "?", "\ufeff\u4f60", "\U0001fae9"]
    assert len(client.post("/v1/classify", json={"texts": seen}).json()["predictions"]) == len(seen)


def test_limits_are_refused_by_name(classifier: ServedModel) -> None:
    client = TestClient(create_api(service_of(classifier, max_texts=3, max_characters=10)))
    assert client.post("/v1/classify", json={"texts": ["x"] * 3, "top_k": 1}).status_code == 200
    assert client.post("/v1/classify", json={"text": "x" * 10}).status_code == 200
    for body, field, limit in [
        ({"texts": ["x"] * 4}, "texts", "more than 3 entries"),
        ({"text": "x" * 11}, "text", "more than 10 characters"),
        ({"texts": ["x", ["y", "x" * 11]]}, "texts.1.1", "more than 10 characters"),
        ({"texts": ["x"] * (MAX_EXPLAINED + 1), "explain": True}, "texts", "more than 3 entries"),
    ]:
        response = client.post("/v1/classify", json=body)
        assert (response.status_code, response.json()["error"]["field"]) == (422, field)
        assert limit in response.json()["error"]["message"]
    assert (
        str(MAX_EXPLAINED)
        in TestClient(create_api(service_of(classifier)))
        .post("/v1/classify", json={"texts": ["x"] * (MAX_EXPLAINED + 1), "explain": True})
        .json()["error"]["message"]
    )


def test_one_text_is_answered_as_the_first_of_several(client: TestClient, pairs: ServedModel) -> None:
    one = client.post("/v1/classify", json={"text": "my parcel"}).json()
    assert one == client.post("/v1/classify", json={"texts": ["my parcel"]}).json()
    assert "explanation" not in one["predictions"][0]
    of_pairs = TestClient(create_api(service_of(pairs)))
    pair = ["the parcel", "is late"]
    assert of_pairs.post("/v1/classify", json={"text": pair}).json() == of_pairs.post("/v1/classify", json={"texts": [pair]}).json()


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({}, 415, "unsupported_media_type"),
        ({"Content-Type": "text/plain"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/json", "Content-Encoding": "gzip"}, 415, "unsupported_media_type"),
        ({"Content-Type": "application/json; charset=utf-8"}, 200, None),
        ({"Content-Type": "application/json", "Manta-Version": "seven"}, 422, "invalid_request"),
    ],
)
def test_headers_are_checked(client: TestClient, headers: dict[str, str], status: int, code: str | None) -> None:
    response = client.post("/v1/classify", content='{"text": "my parcel"}', headers=headers)
    assert (response.status_code, response.json().get("error", {}).get("code")) == (status, code)


def test_a_method_that_is_not_there_is_problem_json(client: TestClient) -> None:
    response = client.get("/v1/classify")
    assert (response.status_code, response.headers["allow"]) == (405, "POST")
    assert response.json()["error"]["code"] == "method_not_allowed"


def test_what_the_service_refuses_is_told(classifier: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_of(classifier, max_texts=2, max_queued_texts=2)
    client = TestClient(create_api(service))
    with service.batcher._changed:  # nothing is taken out of the queue meanwhile
        monkeypatch.setattr(service.batcher, "_num_queued", 2)
    full = client.post("/v1/classify", json={"text": "my parcel"})
    assert (full.status_code, full.json()["error"]["code"]) == (429, "queue_full")
    assert int(full.headers["retry-after"]) >= 1
    monkeypatch.undo()
    service.drain()
    assert client.get("/readyz").status_code == 503
    assert client.post("/v1/classify", json={"text": "my parcel"}).status_code == 200
    service.close()
    closed = client.post("/v1/classify", json={"text": "my parcel"})
    assert (closed.status_code, closed.json()["error"]["code"]) == (503, "stopping")


def test_explanations_name_the_words_of_the_text(client: TestClient, pairs: ServedModel) -> None:
    text = "The parcel, unheard-of, is late"
    (prediction,) = client.post("/v1/classify", json={"text": text, "explain": True}).json()["predictions"]
    explanation = prediction["explanation"]
    assert explanation["label"] == prediction["label"]
    assert [text[word["start"] : word["end"]] for word in explanation["words"]] == [word["text"] for word in explanation["words"]]
    assert [word["text"] for word in explanation["words"]][:3] == ["The", "parcel", ","]
    assert explanation["complete"] is True
    change = explanation["log_odds"] - explanation["baseline_log_odds"]
    assert sum(word["attribution"] for word in explanation["words"]) == pytest.approx(change, abs=explanation["error"] + 1e-6)
    assert explanation["log_odds"] == pytest.approx(math.log(prediction["score"] / (1 - prediction["score"])), abs=1e-3)
    of_pairs = TestClient(create_api(service_of(pairs)))
    answer = of_pairs.post("/v1/classify", json={"texts": [["the parcel", "is late"]], "explain": True}).json()
    words = answer["predictions"][0]["explanation"]["words"]
    assert [(word["part"], word["start"], word["text"]) for word in words] == [
        (0, 0, "the"),
        (0, 4, "parcel"),
        (1, 0, "is"),
        (1, 3, "late"),
    ]


def test_the_openapi_has_an_example_for_every_body_and_error(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for operation in methods.values():
            assert operation["description"], path
            for status, response in operation["responses"].items():
                if status != "200":
                    error = response["content"]["application/json"]["example"]["error"]
                    assert error if path in PLAIN_ERRORS else error["code"]
    for example in document["paths"]["/v1/classify"]["post"]["requestBody"]["content"]["application/json"]["examples"].values():
        assert client.post("/v1/classify", json=example["value"]).status_code in (200, 422)  # the pair is none of this model's
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"


def test_the_docs_page_asks_nobody_else(client: TestClient) -> None:
    page = client.get("/docs")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    sources = re.findall(r'(?:src|href)="([^"]+)"', page.text)
    assert sources
    for source in sources:
        assert client.get(f"/{source}").status_code == 200
        assert "http" not in source


def test_unknown_paths_and_faults_of_ours_are_problem_json_too(classifier: ServedModel) -> None:
    class Broken:
        @property
        def current(self) -> ServedModel:
            raise RuntimeError("the disk is gone")

    service = service_of(classifier)
    service.models = Broken()  # type: ignore[assignment]
    client = TestClient(create_api(service), raise_server_exceptions=False)
    assert client.get("/nowhere").json()["error"]["code"] == "not_found"
    response = client.get("/v1/model")
    assert response.status_code == 500
    assert response.json()["error"]["code"] == "internal_error"
    assert "disk" not in response.text


def test_pairs_are_answered_in_order(pairs: ServedModel) -> None:
    client = TestClient(create_api(service_of(pairs)), raise_server_exceptions=False)
    texts = [("the parcel is late", "my card"), ("my card", "the parcel is late")]
    response = client.post("/v1/classify", json={"texts": texts})
    assert response.status_code == 200
    expected = pairs.classify(texts)
    assert [answer["score"] for answer in response.json()["predictions"]] == pytest.approx([item.score for item in expected])
    body = client.get("/v1/model").json()
    assert (body["num_texts"], body["examples"]) == (2, [["the parcel", "is late"]])


def test_a_text_of_the_wrong_kind_is_refused_with_its_place(pairs: ServedModel, client: TestClient) -> None:
    of_pairs = TestClient(create_api(service_of(pairs)), raise_server_exceptions=False)
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


def test_several_labels_or_none_apply(several: ServedModel, tiny_model: Path, tmp_path: Path) -> None:
    client = TestClient(create_api(service_of(several)), raise_server_exceptions=False)
    (answer,) = client.post("/v1/classify", json={"texts": ["my parcel"]}).json()["predictions"]
    assert answer["labels"] == ["account"]
    assert answer["label"] in answer["scores"]
    assert answer["uncertain"] is False
    body = client.get("/v1/model").json()
    assert (body["task"], body["thresholds"]) == ("multilabel", [0.0, 1.0])
    strict = made(tiny_model, tmp_path, labels=LabelSpace(("a", "b"), "multilabel"), thresholds=[1.0, 1.0])
    client = TestClient(create_api(service_of(strict)), raise_server_exceptions=False)
    (answer,) = client.post("/v1/classify", json={"texts": ["my parcel"]}).json()["predictions"]
    assert (answer["labels"], answer["uncertain"]) == ([], False)


def test_default_thresholds_are_told(tiny_model: Path, tmp_path: Path) -> None:
    plain = made(tiny_model, tmp_path, labels=LabelSpace(("a", "b"), "multilabel"))
    assert TestClient(create_api(service_of(plain))).get("/v1/model").json()["thresholds"] == [0.5, 0.5]


@pytest.mark.parametrize("kind", ["classifier", "pairs", "several"])
def test_every_kind_warms_up(kind: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(kind).warm_up()


def test_the_schema_of_a_request_has_the_limits(classifier: ServedModel) -> None:
    client = TestClient(create_api(service_of(classifier, max_texts=5, max_characters=50)))
    body = client.get("/openapi.json").json()["paths"]["/v1/classify"]["post"]["requestBody"]["content"]["application/json"]
    texts = body["schema"]["properties"]["texts"]
    assert texts["maxItems"] == 5
    single, pair = sorted(texts["items"]["oneOf"], key=lambda kind: kind["type"], reverse=True)
    assert (single["type"], single["maxLength"], pair["type"], pair["maxItems"]) == ("string", 50, "array", 2)


def test_a_version_that_cannot_be_had_is_told(classifier: ServedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    service = service_of(classifier, deadline_s=0.05)
    client = TestClient(create_api(service))
    errors: list[Exception | None] = [
        UnknownVersionError("there is no version 9 of desk."),
        RefusedVersionError("version 9 of desk cannot answer; the log says why."),
        BusyLoadingError("other versions are being loaded; ask for version 9 again in 5 s."),
        RunError("the registry at sqlite:////home/ada/mlflow.db does not answer"),
        None,
    ]

    async def choose(*, request_key: str | None, version: int | None) -> ServedModel:
        assert version == 9
        error = errors[0]
        if error is not None:
            raise error
        await asyncio.sleep(60)
        return classifier

    monkeypatch.setattr(service.models, "choose", choose)
    for status, code in (
        (404, "unknown_version"),
        (409, "version_refused"),
        (429, "loading"),
        (503, "registry_down"),
        (504, "deadline"),
    ):
        response = client.post("/v1/classify", json={"text": "card"}, headers={"Manta-Version": "9"})
        assert (response.status_code, response.json()["error"]["code"]) == (status, code)
        assert "sqlite" not in response.text
        del errors[0]
