"""Records of a service behind HAProxy: clients that leave are counted, and every request until SIGTERM is logged."""

from __future__ import annotations

import json
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import httpx
import pytest

from manta.cluster.ports import free_ports
from manta.labels import LabelSpace
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage
from manta_serve.access.keys import KeyStore

from ..serve.process import leave, processes_of, running, until
from ..serve.untrained import artifact_of

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

pytestmark = pytest.mark.timeout(560)
LABELS = LabelSpace.from_labels(["account", "billing", "delivery"])
SLOW = json.dumps({"texts": ["the parcel is late " * 20] * 256}).encode()
SHORT = {"texts": ["where is my parcel"]}


class Service(NamedTuple):
    process: subprocess.Popen[bytes]
    port: int
    key: str

    def files(self) -> list[Path]:
        """The logs of the replica, where docs/operations.md says that they are."""
        replicas = [item for item in processes_of(self.process) if "ServeReplica" in " ".join(item.cmdline())]
        files = [Path(f"/proc/{item.pid}/fd/2").readlink() for item in replicas]
        assert all(file.match("/tmp/ray/session_*/logs/worker-*.err") for file in files)  # noqa: S108
        return files

    def gone(self) -> float:
        """Number of requests that their clients gave up."""
        headers = {"Authorization": f"Bearer {self.key}"}
        lines = httpx.get(f"http://127.0.0.1:{self.port}/metrics", headers=headers, timeout=60).text.splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'problem="client_gone"' in line)

    def answered(self, number: int) -> tuple[int | None, str]:
        """The status and the id of a request, or None if nobody listens any more."""
        headers = {"Authorization": f"Bearer {self.key}", "X-Request-ID": f"asked-{number}"}
        try:
            url = f"http://127.0.0.1:{self.port}/v1/classify"
            return httpx.post(url, json=SHORT, headers=headers, timeout=60).status_code, headers["X-Request-ID"]
        except httpx.HTTPError:
            return None, headers["X-Request-ID"]


@pytest.fixture
def service(tiny_model: Path, tmp_path: Path) -> Iterator[Service]:
    storage = Storage(tmp_path / "storage")
    tracker, registry = RunTracker(storage), ModelRegistry(storage)
    tracker.start("run", experiment="desk", config={})
    registry.register(artifact_of(tiny_model, tmp_path / "run", labels=LABELS), run_id=tracker.run_id)
    registry.set_champion(registry.get("desk", version=1))
    experiment, (port,), key = tmp_path / "desk.yaml", free_ports(1), KeyStore(storage).create("ada")
    experiment.write_text(f"name: desk\ndata: {{train: x.csv}}\nserve: {{log_requests: true}}\nstorage: {storage.root}\n")
    arguments = (str(experiment), "--port", str(port), "--profile", "production")
    with running(*arguments, storage=storage, log=tmp_path / "log") as process:
        yield Service(process, port, key)


def lines_of(files: list[Path]) -> list[dict[str, Any]]:
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    return [json.loads(line) for line in text.splitlines() if line.startswith("{")]


def test_clients_that_leave_are_counted_and_no_line_is_lost_at_the_end(service: Service) -> None:
    files = service.files()
    head = "POST /v1/classify HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    head += f"Authorization: Bearer {service.key}\r\n"
    whole = f"{head}Content-Length: {len(SLOW)}\r\n\r\n".encode() + SLOW
    for sent, at_once in ((whole, True), (whole, False), (whole[:300], True), (whole[:300], False)):
        leave(service.port, sent, at_once=at_once)
    until(lambda: service.gone() == 4, what="four clients that left", limit_s=60)

    with ThreadPoolExecutor(8) as clients:
        asked = [clients.submit(service.answered, number) for number in range(400)]
        asked[100].result()
        service.process.send_signal(signal.SIGTERM)
        answers = [request.result() for request in asked]
    assert service.process.wait(90) == 0
    lines = lines_of(files)
    known = {line.get("request_id") for line in lines if line["message"] == "answered"}
    right = [name for status, name in answers if status == 200]
    assert len(right) >= 100
    assert [name for name in right if name not in known] == []
    assert [file.name for file in (*files, *files[0].parent.glob("serve/*.log")) if "raceback" in file.read_text()] == []
