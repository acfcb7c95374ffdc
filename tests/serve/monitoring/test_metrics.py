"""Metrics of a service, read back from GET /metrics with Prometheus's own parser."""

from __future__ import annotations

import asyncio
import json
import logging
import re
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from prometheus_client.parser import text_string_to_metric_families

from manta.inference.answer_profile import AnswerProfile, profile_of
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.storage.folders import Storage
from manta_serve.access.guard import guarded
from manta_serve.access.keys import KeyStore
from manta_serve.answering.service import Service
from manta_serve.answering.services import Services
from manta_serve.answering.shadow import Shadow
from manta_serve.api.metrics import families_of
from manta_serve.api.routes import create_api
from manta_serve.http.paths import PATHS
from manta_serve.monitoring.drift import LEAST_ROWS, PART_ROWS, DriftWindow
from manta_serve.monitoring.exposition import Family, Histogram, exposition
from manta_serve.monitoring.request_log import JsonLines, current_request
from manta_serve.versions.served_model import ServedModel

from ..untrained import artifact_of, service_of

LABELS = LabelSpace.from_labels(["account", "billing", "delivery"])
TEXTS = ["the parcel is late", "my password", "charged twice and now it is still of today"]
GRAFANA = Path(__file__).parents[3] / "deploy" / "grafana" / "manta.json"


@pytest.fixture(scope="module")
def model(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedModel:
    folder = tmp_path_factory.mktemp("metrics")
    plain = Predictor(artifact_of(tiny_model, folder / "plain", labels=LABELS), device="cpu")
    answers = profile_of(plain.logits(TEXTS * 100), labels=LABELS)
    artifact = artifact_of(tiny_model, folder / "model", labels=LABELS, answers=answers)
    return ServedModel(Predictor(artifact, device="cpu"), name="desk", version=7)


@pytest.fixture
def service(model: ServedModel) -> Service:
    return service_of(model, max_texts=300)


def client_of(service: Service, *, keys: KeyStore | None = None) -> TestClient:
    api = create_api(service)
    app = guarded(api, config=service.config, keys=keys, metrics=service.metrics)
    return TestClient(app, base_url="http://127.0.0.1", raise_server_exceptions=False)


def figures(text: str) -> dict[tuple[str, ...], float]:
    """Every number by its name and labels' values, without the replica's."""
    return {
        (sample.name, *(value for name, value in sorted(sample.labels.items()) if name != "replica")): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_requests_are_counted_by_what_became_of_them(service: Service) -> None:
    client = client_of(service)
    for _ in range(3):
        assert client.post("/v1/classify", json={"texts": TEXTS}).status_code == 200
    client.post("/v1/classify", json={"texts": []})
    client.get("/a/path/that/somebody/made/up")
    service.close()
    client.post("/v1/classify", json={"texts": TEXTS})
    response = client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = figures(response.text)
    requests = {
        labels: value for (name, *labels), value in found.items() if name == "manta_requests_total" for labels in [tuple(labels)]
    }
    assert requests == {
        ("/v1/classify", "", "200"): 3,
        ("/v1/classify", "invalid_request", "422"): 1,
        ("/v1/classify", "stopping", "503"): 1,
        ("other", "not_found", "404"): 1,
    }
    assert found["manta_request_seconds_count", "/v1/classify"] == 5
    assert found["manta_batch_texts_sum",] == found["manta_texts_total", "desk", "7"] == 9


def test_answers_are_counted_as_they_were_given(service: Service) -> None:
    client = client_of(service)
    predictions = client.post("/v1/classify", json={"texts": TEXTS}).json()["predictions"]
    found = figures(client.get("/metrics").text)
    for label in LABELS.names:
        assert found["manta_labels_total", label, "desk", "7"] == sum(item["label"] == label for item in predictions)
    assert found["manta_confidence_sum", "desk", "7"] == pytest.approx(sum(item["score"] for item in predictions))
    assert found["manta_confidence_bucket", "0.5", "desk", "7"] == sum(item["score"] <= 0.5 for item in predictions)
    assert found["manta_uncertain_total", "desk", "7"] == sum(item["uncertain"] for item in predictions)
    assert found["manta_model_info", "safetensors", "desk", "champion", "7"] == 1
    assert found["manta_ready",] == 1
    assert found["manta_memory_bytes",] > 1e7
    service.drain()
    assert figures(client.get("/metrics").text)["manta_ready",] == 0


def test_answers_like_those_to_the_validation_rows_are_no_drift_and_others_are(
    model: ServedModel, service: Service, tiny_model: Path, tmp_path: Path
) -> None:
    client = client_of(service)
    for _ in range(2):
        client.post("/v1/classify", json={"texts": TEXTS * 50})
    same = figures(client.get("/metrics").text)
    assert same["manta_drift_psi", "desk", "labels", "7"] < 0.01
    assert same["manta_drift_psi", "desk", "confidence", "7"] < 0.01
    once = AnswerProfile(num_rows=300, labels=(100, 100, 100), confidence=(0, 0, 0, 100, 0, 0, 0, 0, 0, 200))
    artifact = artifact_of(tiny_model, tmp_path / "once", labels=LABELS, answers=once)
    client = client_of(service_of(ServedModel(Predictor(artifact, device="cpu"), name="desk", version=8), max_texts=300))
    client.post("/v1/classify", json={"texts": TEXTS * 100})
    found = figures(client.get("/metrics").text)
    for what in ("labels", "confidence"):
        assert found["manta_drift_psi", "desk", what, "8"] > 0.25 > 10 * found["manta_drift_psi_by_chance", "desk", what, "8"]


def test_the_drift_window_forgets(model: ServedModel) -> None:
    answers = model.manifest.answers
    assert answers is not None
    window = DriftWindow(answers, labels=LABELS.names)
    for _ in range(LEAST_ROWS - 1):
        window.add(["account"], 0.99)
    assert window.drift() == {}
    window.add(["account"], 0.99)
    odd = window.drift()["confidence"].index
    usual = [(item.labels, item.confidence) for item in model.classify(TEXTS)] * PART_ROWS
    for labels, confidence in usual[: 2 * PART_ROWS + 2]:
        window.add(labels, confidence)
    assert PART_ROWS <= window.num_rows <= 2 * PART_ROWS
    assert window.drift()["confidence"].index < 0.01 < odd


def test_every_path_is_counted_by_its_name(service: Service) -> None:
    routes = {route.path for route in create_api(service).routes}  # type: ignore[attr-defined]
    assert set(PATHS) <= routes
    assert routes - set(PATHS) == {"/docs/page.js", "/docs/page.css"}


def test_figures_need_a_key_where_everything_does(service: Service, tmp_path: Path) -> None:
    keys = KeyStore(Storage(tmp_path))
    key = keys.create("prometheus")
    client = client_of(service, keys=keys)
    assert client.get("/metrics").status_code == 401
    found = figures(client.get("/metrics", headers={"Authorization": f"Bearer {key}"}).text)
    assert found["manta_requests_total", "/metrics", "unauthorized", "401"] == 1
    assert key not in client.get("/metrics", headers={"Authorization": f"Bearer {key}"}).text


def test_the_figures_of_several_replicas_are_one_text() -> None:
    def of(count: int) -> list[Family]:
        requests = Family("manta_requests_total", "counter", "Requests.")
        requests.add(count, path='a "quoted" \\ path\n', status="200")
        seconds = Family("manta_seconds", "histogram", "Seconds.")
        histogram = Histogram((0.5, 1))
        for value in (0.5, 0.7, 3):
            histogram.add(value)
        seconds.add_histogram(histogram)
        return [requests, seconds]

    text = exposition({"a": of(2), "b": of(3)})
    assert text.count("# TYPE manta_requests_total counter") == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counts = {sample.labels["replica"]: sample.value for sample in families["manta_requests"].samples}
    assert counts == {"a": 2, "b": 3}
    assert families["manta_requests"].samples[0].labels["path"] == 'a "quoted" \\ path\n'
    buckets = [(item.labels["le"], item.value) for item in families["manta_seconds"].samples if item.labels.get("le")]
    assert buckets[:3] == [("0.5", 1), ("1.0", 2), ("+Inf", 3)]


def test_a_replica_that_does_not_tell_its_figures_does_not_cost_the_others(caplog: pytest.LogCaptureFixture) -> None:
    from manta_serve.running.app import with_others

    own, other = [Family("manta_ready", "gauge", "Ready.")], [Family("manta_ready", "gauge", "Ready.")]

    async def in_time() -> list[object]:
        return [("b", other), RuntimeError("it died"), ("a", own)]

    async def too_late() -> list[object]:
        raise TimeoutError

    assert asyncio.run(with_others("a", own, in_time)) == {"a": own, "b": other}
    assert "it died" in caplog.text
    assert asyncio.run(with_others("a", own, too_late)) == {"a": own}


def test_quantiles_lie_within_their_bin() -> None:
    histogram = Histogram((1, 2, 4))
    assert histogram.quantile(0.5) is None
    for value in (0.5, 1.5, 1.5, 3, 9):
        histogram.add(value)
    assert histogram.quantile(0.5) == pytest.approx(1.75)
    assert histogram.quantile(0.99) == 4


@pytest.fixture
def families(model: ServedModel, tiny_model: Path, tmp_path: Path) -> dict[str, Family]:
    """All figures of a service that has everything: answers, drift, a candidate and a shadow."""
    service = service_of(model, max_texts=300, cached_answers=3)
    other = ServedModel(Predictor(artifact_of(tiny_model, tmp_path / "other", labels=LABELS, seed=4)), name="desk", version=8)
    service.models.candidate = other  # type: ignore[misc]
    service.shadow = Shadow(service.models, percent=100, is_busy=lambda: False)
    client_of(service).post("/v1/classify", json={"texts": TEXTS * 100})
    found = families_of(Services(service))
    service.close()
    return {family.name: family for family in found}


def queries(panel: dict[str, Any]) -> list[str]:
    inner = [query for part in panel.get("panels", []) for query in queries(part)]
    return [target["expr"] for target in panel.get("targets", [])] + inner


def used_by(query: str, families: dict[str, Family]) -> set[str]:
    """The families that a PromQL query asks for; it fails if one does not exist, or has no such label."""
    used = set()
    for name, chosen in re.findall(r"\b(manta_\w+)(?:\{([^}]*)\})?", query):
        family = name if name in families else re.sub(r"_(bucket|sum|count)$", "", name)
        assert family in families, query
        labels = {label for sample in families[family].samples for label in sample.labels} | {"replica"}
        assert {re.split("[=!]", item)[0].strip() for item in chosen.split(",") if item} <= labels, query
        used.add(family)
    labels = {label for name in used for sample in families[name].samples for label in sample.labels} | {"replica"}
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        assert {item.strip() for item in grouped.split(",")} <= labels, query
    return used


def test_the_dashboard_shows_every_figure_and_none_that_does_not_exist(families: dict[str, Family]) -> None:
    dashboard = json.loads(GRAFANA.read_text(encoding="utf-8"))
    found = [query for panel in dashboard["panels"] for query in queries(panel)]
    assert set().union(*(used_by(query, families) for query in found)) == set(families)


def test_the_guide_names_every_figure_and_its_alerts_are_of_figures_that_exist(families: dict[str, Family]) -> None:
    guide = (Path(__file__).parents[3] / "docs" / "operations.md").read_text(encoding="utf-8")
    assert set().union(*(used_by(query, families) for query in re.findall(r"expr: (.*)", guide)))
    table = re.findall(r"^\| (`manta_.*?) \|", guide, flags=re.MULTILINE)
    assert set().union(*(used_by(cell, families) for cell in table)) == set(families)


def test_log_lines_are_json_with_the_requests_id_and_texts_only_if_asked_for(
    model: ServedModel, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="manta_serve")

    def lines(**settings: Any) -> list[dict[str, Any]]:
        caplog.clear()
        service = service_of(model, **settings)
        client = client_of(service)
        client.post("/v1/classify", json={"texts": TEXTS}, headers={"X-Request-ID": "trace-1"})
        service.close()
        client.post("/v1/classify", json={"texts": TEXTS}, headers={"X-Request-ID": "trace-2"})
        return [record.__dict__["facts"] for record in caplog.records if record.name == "manta_serve.monitoring.request_log"]

    (failed,) = lines()
    assert (failed["status"], failed["problem"], failed["path"]) == (503, "stopping", "/v1/classify")
    answered, failed = lines(log_requests=True)
    assert (answered["status"], answered["version"], failed["status"]) == (200, 7, 503)
    assert answered["seconds"] > 0
    assert "parcel" not in json.dumps([answered, failed])
    assert lines(log_requests=True, log_texts=True)[0]["texts"] == TEXTS


def test_a_line_of_the_log_is_one_json_object() -> None:
    record = logging.LogRecord("manta_serve.versions.served_models", logging.WARNING, "", 0, "version %d\nanswers", (3,), None)
    token = current_request.set("trace-1")
    try:
        line = JsonLines().format(record)
    finally:
        current_request.reset(token)
    assert "\n" not in line
    assert json.loads(line) | {"at": ""} == {
        "at": "",
        "level": "warning",
        "logger": "manta_serve.versions.served_models",
        "message": "version 3\nanswers",
        "request_id": "trace-1",
    }
