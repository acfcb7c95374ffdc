"""A running service of the laptop profile: its ports, its log, and clients that do not behave."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import grpc
import httpx
import huggingface_hub
import pytest
from ray.serve.generated import serve_pb2, serve_pb2_grpc

from manta.cluster.ports import free_ports
from manta.labels import LabelSpace
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage

from ..process import documented, leave, listening, processes_of, running, until
from ..untrained import artifact_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]
HEAD = b"POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SLOW = json.dumps({"texts": ["the parcel is late " * 20] * 256}).encode()


class Service(NamedTuple):
    process: subprocess.Popen[bytes]
    port: int
    registry: ModelRegistry

    def log(self) -> Path:
        """The log of the replica, where docs/operations.md says that it is."""
        (replica,) = (item for item in processes_of(self.process) if "ServeReplica" in " ".join(item.cmdline()))
        log = Path(f"/proc/{replica.pid}/fd/2").readlink()
        assert log.match("/tmp/ray/session_*/logs/worker-*.err")  # noqa: S108
        return log

    def lines(self) -> list[dict[str, Any]]:
        """The lines of the service itself."""
        log = self.log()
        return [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines() if line.startswith("{")]

    def get(self, path: str, **options: Any) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.port}{path}", timeout=60, **options)


@pytest.fixture(scope="module")
def service(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder = tmp_path_factory.mktemp("running")
    storage = Storage(folder / "storage")
    registry = ModelRegistry(storage)
    for version in (1, 2):
        tracker = RunTracker(storage)
        tracker.start(f"run-{version}", experiment="desk", config={})
        labels = LabelSpace.from_labels(["account", "billing", "delivery"])
        registry.register(artifact_of(tiny_model, folder / f"run-{version}", labels=labels), run_id=tracker.run_id)
    registry.set_champion(registry.get("desk", version=1))
    tracker = RunTracker(storage)
    tracker.start("tickets", experiment="tickets", config={})
    artifact = artifact_of(tiny_model, folder / "tickets", labels=LabelSpace.from_labels(["no", "yes"]), name="tickets")
    registry.set_champion(registry.register(artifact, run_id=tracker.run_id))
    experiment, (port,) = folder / "desk.yaml", free_ports(1)
    experiment.write_text(f"name: desk\ndata: {{train: x.csv}}\nserve: {{log_requests: true}}\nstorage: {storage.root}\n")
    with running(str(experiment), "tickets", "--port", str(port), storage=storage, log=folder / "log") as process:
        yield Service(process, port, registry)


def test_its_ports_are_those_of_the_document(service: Service) -> None:
    assert listening(service.process) == documented("laptop")


def test_endless_headers_cost_no_memory(service: Service) -> None:
    for name in ("ServeReplica", "ProxyActor"):
        (item,) = (item for item in processes_of(service.process) if name in " ".join(item.cmdline()))
        (port,) = {found.laddr.port for found in item.net_connections("tcp") if found.laddr.ip == "127.0.0.1" and not found.raddr}
        before = item.memory_info().rss
        with socket.create_connection(("127.0.0.1", port), timeout=60) as client:
            client.sendall(b"GET / HTTP/1.1\r\nHost: localhost\r\n")
            headers = (b"X: " + b"a" * 100_000 + b"\r\n") * 500
            with pytest.raises(ConnectionError):
                client.sendall(headers)
        assert item.memory_info().rss < before + 10e6
    assert service.get("/readyz").status_code == 200


def test_without_the_token_nobody_calls_a_replica_directly(service: Service) -> None:
    (item,) = (item for item in processes_of(service.process) if "ServeReplica" in " ".join(item.cmdline()))
    (port,) = {found.laddr.port for found in item.net_connections("tcp") if found.laddr.ip == "::"}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel, pytest.raises(grpc.RpcError) as refused:
        serve_pb2_grpc.ASGIServiceStub(channel).HandleRequest(serve_pb2.ASGIRequest(), timeout=30)
    assert refused.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_every_request_is_a_line_with_the_id_that_the_client_sees(service: Service) -> None:
    for given in ("trace:abc/42", "two words"):
        answered = service.get("/v1/model", headers={"X-Request-ID": given})
        assert answered.headers["x-request-id"] == given
        until(lambda given=given: [line for line in service.lines() if line.get("request_id") == given], what=given, limit_s=10)
    made = service.get("/v1/model").headers["x-request-id"]
    until(lambda: [line for line in service.lines() if line.get("request_id") == made], what=made, limit_s=10)


def test_the_client_of_hugging_face_is_answered(service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    url, text = f"http://127.0.0.1:{service.port}", "the parcel is late"
    scores = httpx.post(f"{url}/v1/classify", json={"text": text}, timeout=60).json()["predictions"][0]["scores"]
    client = huggingface_hub.InferenceClient(model=url)
    for top_k in (None, 2):
        found = client.text_classification(text, top_k=top_k)
        assert [(item.label, pytest.approx(item.score, abs=1e-5)) for item in found] == list(scores.items())[:top_k]
    predicted = httpx.post(f"{url}/predict", json={"inputs": text}, timeout=60).json()
    assert {item["label"]: pytest.approx(item["score"], abs=1e-5) for item in predicted} == scores


def test_a_second_model_answers_at_its_own_path_from_the_same_process(service: Service) -> None:
    listed = service.get("/v1/models").json()["models"]
    assert [(item["name"], item["version"]) for item in listed] == [("desk", 1), ("tickets", 1)]
    url = f"http://127.0.0.1:{service.port}/v1/models/tickets/classify"
    answer = httpx.post(url, json={"text": "the parcel is late"}, timeout=60).json()
    assert (answer["model"], set(answer["predictions"][0]["scores"])) == ({"name": "tickets", "version": 1}, {"no", "yes"})
    replicas = [item for item in processes_of(service.process) if "ServeReplica" in " ".join(item.cmdline())]
    assert len(replicas) == 1  # one process holds both


def test_a_takeover_is_a_line(service: Service) -> None:
    service.registry.set_champion(service.registry.get("desk", version=2))
    said = "version 2 of desk answers from now on"
    until(lambda: [line for line in service.lines() if line["message"] == said], what=said, limit_s=60)


def gone(service: Service) -> float:
    """Number of requests that their clients gave up."""
    lines = service.get("/metrics").text.splitlines()
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'problem="client_gone"' in line)


def test_clients_that_leave_are_counted_and_no_fault(service: Service) -> None:
    before = gone(service)
    whole = HEAD + f"Content-Length: {len(SLOW)}\r\n\r\n".encode() + SLOW
    for sent, at_once in ((whole, True), (whole, False), (whole[:200], True), (whole[:200], False)):
        leave(service.port, sent, at_once=at_once)
    until(lambda: gone(service) == before + 4, what="four clients that left", limit_s=60)
    log = service.log()
    assert [file.name for file in (log, *log.parent.glob("serve/*.log")) if "raceback" in file.read_text()] == []
