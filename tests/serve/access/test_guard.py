"""The guard in front of the API: keys, rates, the size of bodies, and the headers of every answer."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from starlette.datastructures import Headers

from manta.cluster.ports import is_loopback
from manta.config import ServeConfig
from manta.inference.predictor import Predictor
from manta.labels import LabelSpace
from manta.storage.folders import Storage
from manta_serve.access import keys as keys_module
from manta_serve.access.guard import KeyRefusals, RequestRate, guarded, request_id_of
from manta_serve.access.keys import KeyStore
from manta_serve.api.routes import create_api
from manta_serve.http.problems import ApiProblem
from manta_serve.monitoring.service_metrics import ServiceMetrics
from manta_serve.versions.served_model import ServedModel

from ..untrained import artifact_of, service_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Scope


@pytest.fixture(scope="module")
def api(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ASGIApp]:
    artifact = artifact_of(tiny_model, tmp_path_factory.mktemp("guard") / "model", labels=LabelSpace.from_labels(["a", "b", "c"]))
    service = service_of(ServedModel(Predictor(artifact, device="cpu"), name="desk", version=1))
    yield create_api(service)
    service.close()


@pytest.fixture
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KeyStore:
    monkeypatch.setattr(keys_module, "LOOK_EVERY_S", 0.0)
    return KeyStore(Storage(tmp_path))


OURS = "http://127.0.0.1:8000"


def client_of(api: ASGIApp, *, keys: KeyStore | None = None, **settings: Any) -> TestClient:
    return TestClient(
        guarded(api, config=ServeConfig.model_validate(settings), keys=keys, metrics=ServiceMetrics()),
        base_url=OURS,
        raise_server_exceptions=False,
    )


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_without_a_valid_key_nothing_but_health_is_told(api: ASGIApp, keys: KeyStore, caplog: pytest.LogCaptureFixture) -> None:
    client = client_of(api, keys=keys)
    key = keys.create("ada")
    caplog.set_level(logging.DEBUG)
    for path in ("/v1/model", "/docs", "/openapi.json", "/nowhere", "/healthz/"):
        for headers in ({}, bearer(key[:-1]), bearer(""), {"Authorization": key}, {"X-API-Key": key}):
            response = client.get(path, headers=headers)
            assert (response.status_code, response.headers["www-authenticate"]) == (401, "Bearer")
            assert response.json()["error"]["code"] == "unauthorized"
        assert client.get(path, headers=bearer(key)).status_code in (200, 404)
    assert client.post("/v1/classify", content=b"x" * 10_000_000).status_code == 401
    assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]
    assert client.post("/v1/classify", json={"text": "my parcel"}, headers=bearer(key)).status_code == 200
    keys.revoke("ada")
    assert client.get("/v1/model", headers=bearer(key)).status_code == 401
    assert key not in caplog.text
    assert "my parcel" not in caplog.text


def test_a_key_opens_what_it_is_for(api: ASGIApp, keys: KeyStore) -> None:
    client = client_of(api, keys=keys)
    metrics, classify = keys.create("prometheus", scopes=["metrics"]), keys.create("shop", scopes=["classify"])
    asked = {"/metrics": client.get, "/v1/model": client.get, "/v1/feedback": client.get, "/v1/classify": client.post}
    opened = [{path: ask(path, headers=bearer(key)).status_code for path, ask in asked.items()} for key in (metrics, classify)]
    # 403 by the key, and /v1/feedback is off for everybody; 415 is past the guard.
    assert opened == [
        {"/metrics": 200, "/v1/model": 200, "/v1/feedback": 403, "/v1/classify": 403},
        {"/metrics": 403, "/v1/model": 200, "/v1/feedback": 403, "/v1/classify": 415},
    ]
    # The router takes a line break at the end of a path for none, and so must the guard.
    assert client.post("/v1/classify%0A", json={"text": "card"}, headers=bearer(classify)).status_code == 200
    assert client.post("/v1/classify%0A", json={"text": "card"}, headers=bearer(metrics)).status_code == 403
    refused = client.get("/metrics", headers=bearer(classify)).json()["error"]
    assert (refused["code"], refused["message"]) == ("wrong_scope", "This key is not for metrics; it is for classify.")


def test_wrong_keys_wait_longer_and_longer_and_are_on_record(keys: KeyStore) -> None:
    now = [0.0]
    refusals = KeyRefusals(keys.storage, clock=lambda: now[0])
    delays = [refusals.delay_after("192.0.2.7", path="/v1/model") for _ in range(8)]
    assert delays == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0])
    now[0] = 61.0
    assert refusals.delay_after("192.0.2.8", path="/v1/model") == pytest.approx(0.1)
    lines = [json.loads(line) for line in (keys.storage.root / "audit.jsonl").read_text().splitlines()]
    assert [(line["event"], line["by"], line["count"]) for line in lines] == [
        ("key refused", "192.0.2.7", 1),
        ("key refused", "192.0.2.8", 8),
    ]


def test_a_wrong_key_is_told_late_and_a_right_one_at_once(api: ASGIApp, keys: KeyStore) -> None:
    client, key = client_of(api, keys=keys), keys.create("ada")
    started = time.monotonic()
    for _ in range(3):
        assert client.get("/v1/model", headers=bearer("manta_wrong") | {"X-Forwarded-For": "a, 192.0.2.9"}).status_code == 401
    assert time.monotonic() - started > 0.6
    started = time.monotonic()
    assert client.get("/v1/model", headers=bearer(key)).status_code == 200
    assert time.monotonic() - started < 0.5
    assert '"by": "192.0.2.9"' in (keys.storage.root / "audit.jsonl").read_text()


def test_each_key_has_a_rate_of_its_own(api: ASGIApp, keys: KeyStore) -> None:
    client = client_of(api, keys=keys, requests_per_minute=2)
    ada, bob = keys.create("ada"), keys.create("bob")
    assert [client.get("/v1/model", headers=bearer(ada)).status_code for _ in range(3)] == [200, 200, 429]
    refused = client.get("/v1/model", headers=bearer(ada))
    assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert client.get("/v1/model", headers=bearer(bob)).status_code == 200
    assert client.get("/healthz").status_code == 200


def test_a_bucket_fills_as_time_passes() -> None:
    now = [0.0]
    rate = RequestRate(6, clock=lambda: now[0])
    for _ in range(6):
        rate.take("ada")
    with pytest.raises(ApiProblem) as refused:
        rate.take("ada")
    assert refused.value.headers == {"Retry-After": "10"}
    now[0] = 10.0
    rate.take("ada")
    now[0] = 13.0
    with pytest.raises(ApiProblem) as refused:
        rate.take("ada")
    assert refused.value.headers == {"Retry-After": "7"}
    now[0] = 3600.0
    for _ in range(6):
        rate.take("ada")
    with pytest.raises(ApiProblem):
        rate.take("ada")


def scope_of(headers: dict[str, str]) -> Scope:
    headers = {"Host": "127.0.0.1"} | headers
    return {
        "type": "http",
        "method": "POST",
        "path": "/v1/classify",
        "raw_path": b"/v1/classify",
        "query_string": b"",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "state": {},
    }


async def sent(app: ASGIApp, chunks: list[bytes], headers: dict[str, str], *, ends: bool = True) -> tuple[int, Any, int]:
    """Status, body, and how many of the chunks were read, of a request sent in chunks."""
    read = 0
    answer: list[Message] = []

    async def receive() -> Message:
        nonlocal read
        if read == len(chunks):
            await asyncio.Event().wait()
        read += 1
        return {"type": "http.request", "body": chunks[read - 1], "more_body": read < len(chunks) or not ends}

    async def send(message: Message) -> None:
        answer.append(message)

    await app(scope_of({"Content-Type": "application/json"} | headers), receive, send)
    return answer[0]["status"], json.loads(b"".join(message.get("body", b"") for message in answer[1:])), read


@pytest.mark.parametrize("announced", [True, False])
def test_a_body_is_refused_as_soon_as_it_is_too_large(api: ASGIApp, announced: bool) -> None:
    app = guarded(api, config=ServeConfig(max_body_bytes=1024), keys=None, metrics=ServiceMetrics())
    body = json.dumps({"text": "x" * 1000}).encode()
    chunks = [body[:100], body[100:]]
    length = {"Content-Length": str(len(body))} if announced else {}
    assert asyncio.run(sent(app, chunks, length))[0] == 200
    chunks = [b"x" * 512] * 1000
    length = {"Content-Length": "512000"} if announced else {}
    status, answer, read = asyncio.run(sent(app, chunks, length))
    assert (status, answer["error"]["code"], read) == (413, "too_large", 0 if announced else 3)
    assert "1024 bytes" in answer["error"]["message"]


def test_a_body_that_never_ends_is_given_up(api: ASGIApp) -> None:
    app = guarded(api, config=ServeConfig(deadline_s=0.05), keys=None, metrics=ServiceMetrics())
    status, answer, _ = asyncio.run(sent(app, [b"{"], {}, ends=False))
    assert (status, answer["error"]["code"]) == (408, "request_timeout")


def test_every_answer_has_the_headers(api: ASGIApp) -> None:
    client = client_of(api)
    for response in (
        client.get("/v1/model"),
        client.get("/nowhere"),
        client.post("/v1/classify", content=b"x" * 2_000_000),
        client.get("/docs"),
    ):
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
        assert "frame-ancestors 'none'" in response.headers["content-security-policy"]
        assert len(response.headers["x-request-id"]) == 32
        assert "access-control-allow-origin" not in response.headers
        assert "server" not in response.headers


def test_a_request_id_is_taken_if_a_log_can_hold_it(api: ASGIApp) -> None:
    client = client_of(api)
    for given in ("trace-1.a_B", "trace:abc/42", "two words", '{"a": 1}'):
        assert client.get("/healthz", headers={"X-Request-ID": given}).headers["x-request-id"] == given
    for given, expected in ((b"a\x85b\xe9", "a?b?"), (b"x" * 1000, "x" * 200)):
        assert request_id_of(Headers(raw=[(b"x-request-id", given)])) == expected
    assert len(client.get("/healthz", headers={"X-Request-ID": ""}).headers["x-request-id"]) == 32
    behind_ray = TestClient(
        guarded(api, config=ServeConfig(), keys=None, metrics=ServiceMetrics(), proxy_returns_id=True), base_url=OURS
    )
    assert "x-request-id" not in behind_ray.get("/healthz").headers


def test_answers_end_their_connection_while_it_is_stopping(api: ASGIApp) -> None:
    stopping = False
    app = guarded(api, config=ServeConfig(), keys=None, metrics=ServiceMetrics(), is_stopping=lambda: stopping)
    client = TestClient(app, base_url=OURS)
    assert "connection" not in client.get("/healthz").headers
    stopping = True
    assert client.get("/healthz").headers["connection"] == "close"


def test_only_the_named_origins_scripts_read_answers(api: ASGIApp, keys: KeyStore) -> None:
    ask = {
        "Origin": "https://desk.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    closed = client_of(api).options("/v1/classify", headers=ask)
    assert "access-control-allow-origin" not in closed.headers
    client = client_of(api, keys=keys, cors_origins=["https://desk.example"])
    allowed = client.options("/v1/classify", headers=ask)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, "https://desk.example")
    refused = client.options("/v1/classify", headers=ask | {"Origin": "https://evil.example"})
    assert "access-control-allow-origin" not in refused.headers
    # A script may read that its key is wrong, too.
    assert client.get("/v1/model", headers={"Origin": "https://desk.example"}).headers["access-control-allow-origin"]


def status_for(client: TestClient, host: str, path: str = "/v1/model", **headers: str) -> int:
    return client.get(path, headers={"Host": host} | headers).status_code


def test_a_name_that_a_page_has_bound_to_this_machine_is_refused(api: ASGIApp, keys: KeyStore) -> None:
    local = client_of(api)
    ours = ("127.0.0.1:8000", "127.0.0.1", "localhost:8000", "LOCALHOST", "[::1]:8000", "127.8.8.8")
    assert [status_for(local, host) for host in ours] == [200] * len(ours)
    foreign = (
        "evil.example",
        "evil.example:8000",
        "localhost.evil.example",
        "192.0.2.7:8000",
        "localhost@evil.example",
        "[::1",
        "",
        "/",
    )
    assert [status_for(local, host) for host in foreign] == [421] * len(foreign)
    answer = local.post("/v1/feedback", headers={"Host": "evil.example"}, json={}).json()
    assert "serve.allowed_hosts" in answer["error"]["message"]
    assert status_for(local, "10.0.0.3", "/readyz") == 200  # a load balancer's check
    beyond, key = client_of(api, keys=keys, allowed_hosts=["api.example", "*.desk.example"]), bearer(keys.create("ada"))
    ours = ("api.example", "API.example:8000", "a.desk.example", "192.0.2.7:8000", "[2001:db8::1]:8000", socket.gethostname())
    assert [status_for(beyond, host, **key) for host in ours] == [200] * len(ours)
    foreign = ("evil.example", "api.example.evil.example", "desk.example", "evil-desk.example")
    assert [status_for(beyond, host, **key) for host in foreign] == [421] * len(foreign)
    assert status_for(client_of(api, allowed_hosts=["*"]), "evil.example") == 200


def test_pages_of_other_origins_are_refused(api: ASGIApp) -> None:
    local = client_of(api, cors_origins=["https://desk.example"])
    for origin in ("http://127.0.0.1:8000", "https://desk.example"):
        assert status_for(local, "127.0.0.1:8000", Origin=origin) == 200
    for origin in ("https://evil.example", "http://127.0.0.1:9000", "null", ""):
        asked = {"Origin": origin, "Content-Type": "application/json"}
        refused = local.post("/v1/classify", json={"text": "my parcel"}, headers=asked)
        assert (refused.status_code, refused.json()["error"]["code"]) == (403, "wrong_origin")


@pytest.mark.parametrize("wrong", ["api.example:8000", "https://api.example", "a*.example", ""])
def test_a_host_in_the_config_is_a_name(wrong: str) -> None:
    with pytest.raises(ValidationError, match="allowed_hosts"):
        ServeConfig.model_validate({"allowed_hosts": [wrong]})


@pytest.mark.parametrize("expected", [True, False])
def test_loopback_is_told_from_the_rest(expected: bool) -> None:
    ours = ("127.0.0.1", "127.8.8.8", "localhost", "::1", "[::1]")
    others = ("0.0.0.0", "::", "10.0.0.1", "example.com", "")  # noqa: S104
    assert [is_loopback(host) for host in (ours if expected else others)] == [expected] * 5
