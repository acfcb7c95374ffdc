"""The routes of other services' clients: text-embeddings-inference's over plain HTTP, Hugging Face's by its own client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import huggingface_hub
import numpy as np
import pytest
from fastapi.testclient import TestClient
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError

from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.storage.folders import Storage
from manta_serve.access.guard import guarded
from manta_serve.access.keys import KeyStore
from manta_serve.api.routes import create_api
from manta_serve.versions.served_model import ServedModel

from ..live_api import on_socket
from ..untrained import artifact_of, service_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

TEXT, OTHER = "the parcel is late", "my password"
SPACES = {
    "multiclass": LabelSpace.from_labels(["account", "billing", "delivery"]),
    "binary": LabelSpace.from_labels(["no", "yes"]),
    "multilabel": LabelSpace(("account", "billing", "delivery"), "multilabel"),
    "pairs": LabelSpace.from_labels(["no", "yes"]),
}
FIGURES = {"num_rows": 40, "ece_before": 0.1, "ece_after": 0.02, "brier_before": 0.3, "brier_after": 0.2}
CALIBRATION = {"temperature": 2.0, "target_precision": 0.9, "abstain_below": None} | {
    part: FIGURES | {"precision": None, "coverage": 0.0} for part in ("validation", "test")
}


@pytest.fixture(scope="module")
def models(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    """A calibrated model of every kind, whose weights are far from zero, so that its scores differ."""
    folder = tmp_path_factory.mktemp("compatible")
    found = {}
    for name, labels in SPACES.items():
        facts: dict[str, Any] = {"num_texts": 2, "examples": [("a", "b")]} if name == "pairs" else {}
        artifact = artifact_of(tiny_model, folder / name, labels=labels, calibration=CALIBRATION, **facts)
        found[name] = ServedModel(Predictor(artifact, device="cpu"), name="desk", version=7)
    return found


def client_of(
    model: ServedModel, *, keys: KeyStore | None = None, candidate: ServedModel | None = None, **settings: Any
) -> TestClient:
    service = service_of(model, candidate=candidate, **settings)
    app = guarded(create_api(service), config=service.config, keys=keys, metrics=service.metrics)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def ranked(scores: dict[str, float]) -> list[dict[str, object]]:
    return [{"score": pytest.approx(score, abs=1e-5), "label": name} for name, score in scores.items()]


@pytest.mark.parametrize("inputs", [TEXT, [TEXT]])
def test_one_text_is_a_list_of_labels_by_score(models: dict[str, ServedModel], inputs: object) -> None:
    (expected,) = models["multiclass"].classify([TEXT])
    answer = client_of(models["multiclass"]).post("/predict", json={"inputs": inputs, "normalize": True})
    assert (answer.status_code, answer.headers["manta-version"]) == (200, "7")
    assert answer.json() == ranked(expected.scores)
    scores = [item["score"] for item in answer.json()]
    assert scores == sorted(scores, reverse=True)


@pytest.mark.parametrize("count", [1, 2])
def test_a_batch_is_a_list_for_each_text(models: dict[str, ServedModel], count: int) -> None:
    texts = [TEXT, OTHER][:count]
    answer = client_of(models["multiclass"]).post("/predict", json={"inputs": [[text] for text in texts]}).json()
    assert answer == [ranked(prediction.scores) for prediction in models["multiclass"].classify(texts)]


def test_a_pair_is_one_input_of_two_texts(models: dict[str, ServedModel]) -> None:
    client, expected = client_of(models["pairs"]), models["pairs"].classify([(TEXT, OTHER), (OTHER, TEXT)])
    assert client.post("/predict", json={"inputs": [TEXT, OTHER]}).json() == ranked(expected[0].scores)
    batch = client.post("/predict", json={"inputs": [[TEXT, OTHER], [OTHER, TEXT]]}).json()
    assert batch == [ranked(prediction.scores) for prediction in expected]


@pytest.mark.parametrize("kind", ["multiclass", "binary", "multilabel"])
def test_scores_fit_the_task(models: dict[str, ServedModel], kind: str) -> None:
    model, client = models[kind], client_of(models[kind])
    (logits,) = model.outputs(model.tokenise([TEXT]))
    raw = client.post("/predict", json={"inputs": TEXT, "raw_scores": True}).json()
    assert raw == ranked(dict(sorted(zip(model.manifest.labels, logits.tolist(), strict=True), key=lambda item: -item[1])))
    calibrated = logits.astype(float) / CALIBRATION["temperature"]  # type: ignore[operator]
    softmax, sigmoid = np.exp(calibrated) / np.exp(calibrated).sum(), 1 / (1 + np.exp(-calibrated))
    expected = sigmoid if kind == "multilabel" else softmax
    found = {item["label"]: item["score"] for item in client.post("/predict", json={"inputs": TEXT}).json()}
    assert [found[name] for name in model.manifest.labels] == pytest.approx(expected.tolist(), abs=1e-5)


def test_a_text_that_may_not_be_cut_is_refused_if_it_is_too_long(models: dict[str, ServedModel]) -> None:
    client, long = client_of(models["multiclass"]), "parcel " * 60
    for truncate, status in ((None, 200), (True, 200), (False, 422)):
        answer = client.post("/predict", json={"inputs": [[TEXT], [long]], "truncate": truncate})
        assert answer.status_code == status
    sentence = "Text 2 of 2 has 62 tokens, and the model reads 48; shorten it."
    assert answer.json() == {"error": sentence, "error_type": "Validation"}
    assert client.post("/predict", json={"inputs": [[TEXT], ["parcel " * 46]], "truncate": False}).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "error"),
    [
        ({"inputs": " "}, 422, "inputs: The text has no visible character"),
        ({"inputs": []}, 422, "inputs: This list has too few entries; the fewest are 1."),
        ({"inputs": ["a", "b", "c"]}, 422, "inputs: This list has more than 2 entries"),
        ({"inputs": [["a"], ["b", 3]]}, 422, "inputs.1.1: This is not a text"),
        ({"inputs": [["a"], "b"]}, 422, "inputs.1: "),
        ({"inputs": [["a"]] * 4}, 422, "inputs: This list has more than 3 entries"),
        ({"inputs": [["a"], ["b", "c"]]}, 422, "inputs.1: This model reads single texts"),
        ({"inputs": "a", "raw_scores": "yes"}, 422, "raw_scores: "),
        ({"inputs": "a", "truncation_direction": "left"}, 422, "truncation_direction: "),
        ({"text": "a"}, 422, "inputs: This field is missing."),
        ([], 422, "The body is not a JSON object; give one in braces."),
    ],
)
def test_errors_have_the_form_of_text_embeddings_inference(
    models: dict[str, ServedModel], body: object, status: int, error: str
) -> None:
    answer = client_of(models["multiclass"], max_texts=3).post("/predict", json=body)
    assert answer.status_code == status
    assert answer.json() == {"error": answer.json()["error"], "error_type": "Validation"}
    assert answer.json()["error"].startswith(error)


def test_the_guard_and_the_queue_refuse_in_the_same_form(models: dict[str, ServedModel], tmp_path: Path) -> None:
    keys = KeyStore(Storage(tmp_path))
    key = {"Authorization": f"Bearer {keys.create('shop', scopes=['classify'])}"}
    metrics = {"Authorization": f"Bearer {keys.create('prometheus', scopes=['metrics'])}"}
    client = client_of(models["multiclass"], keys=keys, max_body_bytes=1024)
    for path in ("/predict", "/", "/models/desk"):
        found = {
            status: client.post(path, json={"inputs": text}, headers=headers)
            for status, text, headers in (
                (401, TEXT, {}),
                (403, TEXT, metrics),
                (413, "x" * 2000, key),
                (421, TEXT, key | {"Host": "evil.example"}),
                (200, TEXT, key),
            )
        }
        assert {status: answer.status_code for status, answer in found.items()} == {status: status for status in found}
        refused = [answer.json() for status, answer in found.items() if status != 200]
        assert [set(problem) for problem in refused] == [{"error", "error_type"}] * len(refused)
        assert {problem["error_type"] for problem in refused} == {"Validation"}


def test_a_service_without_room_is_overloaded_and_a_closed_one_unhealthy(
    models: dict[str, ServedModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    service = service_of(models["multiclass"], max_texts=2, max_queued_texts=2)
    client = TestClient(create_api(service))
    with service.batcher._changed:  # nothing is taken out of the queue meanwhile
        monkeypatch.setattr(service.batcher, "_num_queued", 2)
    full = client.post("/predict", json={"inputs": TEXT})
    assert (full.status_code, full.json()["error_type"]) == (429, "Overloaded")
    assert int(full.headers["retry-after"]) >= 1
    monkeypatch.undo()
    service.close()
    closed = client.post("/predict", json={"inputs": TEXT})
    assert (closed.status_code, closed.json()["error_type"]) == (503, "Unhealthy")


def test_requests_are_counted_pinned_and_named_like_those_of_classify(models: dict[str, ServedModel]) -> None:
    candidate = ServedModel(models["multiclass"]._predictor, name="desk", version=8)
    client = client_of(models["multiclass"], candidate=candidate)
    for path in ("/predict", "/", "/models/desk"):
        answer = client.post(path, json={"inputs": TEXT}, headers={"Manta-Version": "8", "X-Request-ID": "trace-1"})
        assert (answer.headers["manta-version"], answer.headers["x-request-id"]) == ("8", "trace-1")
    text = client.get("/metrics").text
    for path in ("/predict", "/", "/models/{name}"):
        assert f'manta_requests_total{{path="{path}",problem="",replica="",status="200"}} 1.0' in text
    assert 'manta_texts_total{model="desk",replica="",version="8"} 3.0' in text


@pytest.fixture(autouse=True)
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let Hugging Face's client send requests: tests run offline, and then it sends none to any address."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)


@pytest.fixture(scope="module")
def urls(models: dict[str, ServedModel]) -> Iterator[dict[str, str]]:
    """The address of a service of every kind of model."""
    services = {kind: service_of(model) for kind, model in models.items()}
    with (
        on_socket(create_api(services["multiclass"])) as multiclass,
        on_socket(create_api(services["binary"])) as binary,
        on_socket(create_api(services["multilabel"])) as multilabel,
        on_socket(create_api(services["pairs"])) as pairs,
    ):
        yield {"multiclass": multiclass, "binary": binary, "multilabel": multilabel, "pairs": pairs}
    for service in services.values():
        service.close()


@pytest.mark.parametrize("kind", ["multiclass", "binary", "multilabel"])
def test_the_client_of_hugging_face_gets_what_the_model_says(
    models: dict[str, ServedModel], urls: dict[str, str], kind: str
) -> None:
    (expected,) = models[kind].classify([TEXT])
    client = InferenceClient(model=urls[kind])
    for top_k in (None, 2):
        found = client.text_classification(TEXT, top_k=top_k)
        assert [(item.label, pytest.approx(item.score, abs=1e-5)) for item in found] == list(expected.scores.items())[:top_k]
    (named,) = client.text_classification(TEXT, model=f"{urls[kind]}/models/desk", top_k=1)
    assert named.label == expected.label


@pytest.mark.parametrize("kind", ["multiclass", "binary", "multilabel"])
def test_the_client_may_choose_what_becomes_of_logits(models: dict[str, ServedModel], urls: dict[str, str], kind: str) -> None:
    model, client = models[kind], InferenceClient(model=urls[kind])
    (logits,) = model.outputs(model.tokenise([TEXT])).astype(float)
    calibrated = logits / CALIBRATION["temperature"]
    softmax, sigmoid = np.exp(calibrated) / np.exp(calibrated).sum(), 1 / (1 + np.exp(-calibrated))
    expected = {"none": logits, "softmax": softmax, "sigmoid": softmax if kind == "binary" else sigmoid}
    for function, values in expected.items():
        found = client.text_classification(TEXT, function_to_apply=function)  # type: ignore[arg-type]  # it is one of its words
        scores = [item.score for item in found]
        assert scores == sorted(scores, reverse=True)
        by_name = {item.label: item.score for item in found}
        assert [by_name[name] for name in model.manifest.labels] == pytest.approx(values.tolist(), abs=1e-5), function


def test_the_client_may_send_pairs_and_several_texts(models: dict[str, ServedModel], urls: dict[str, str]) -> None:
    (expected,) = models["pairs"].classify([(TEXT, OTHER)])
    pair: Any = {"text": TEXT, "text_pair": OTHER}  # passed on as it is
    assert InferenceClient(model=urls["pairs"]).text_classification(pair)[0].label == expected.label
    answer = client_of(models["multiclass"]).post("/", json={"inputs": [TEXT, OTHER], "options": {"wait_for_model": True}}).json()
    assert answer == [ranked(prediction.scores) for prediction in models["multiclass"].classify([TEXT, OTHER])]


def test_the_client_shows_what_was_wrong(urls: dict[str, str]) -> None:
    client = InferenceClient(model=urls["multiclass"])
    for text, model, status, sentence in (
        (" ", None, 422, "inputs: The text has no visible character"),
        (TEXT, f"{urls['multiclass']}/models/other", 404, "There is no model of this name here; there is desk."),
    ):
        with pytest.raises(HfHubHTTPError, match=sentence) as refused:
            client.text_classification(text, model=model)
        assert refused.value.response.status_code == status
