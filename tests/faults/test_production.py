"""A service of the production profile on one machine: what other users and clients without a key can do to it."""

from __future__ import annotations

import http.client
import socket
import stat
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from manta.cluster.ports import free_ports
from manta.labels import LabelSpace
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage
from manta_serve.access.keys import KeyStore

from ..serve.process import documented, listening, processes_of, running, until
from ..serve.untrained import artifact_of

if TYPE_CHECKING:
    import subprocess

pytestmark = pytest.mark.timeout(560)
UNFINISHED = 4300
LABELS = LabelSpace.from_labels(["account", "billing", "delivery"])


@pytest.fixture
def storage(tiny_model: Path, tmp_path: Path) -> Storage:
    storage = Storage(tmp_path / "storage")
    tracker, registry = RunTracker(storage), ModelRegistry(storage)
    tracker.start("run", experiment="desk", config={})
    registry.register(artifact_of(tiny_model, tmp_path / "run", labels=LABELS), run_id=tracker.run_id)
    registry.set_champion(registry.get("desk", version=1))
    return storage


def status(port: int, path: str, key: str | None = None) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", path, headers={} if key is None else {"Authorization": f"Bearer {key}"})
    found = connection.getresponse().status
    connection.close()
    return found


def haproxys(process: subprocess.Popen[bytes]) -> list[psutil.Process]:
    return [item for item in processes_of(process) if "haproxy -db" in " ".join(item.cmdline())]


def test_production_is_closed_to_others_and_leaves_nothing(storage: Storage, tmp_path: Path) -> None:
    key, (first, second) = KeyStore(storage).create("ada"), free_ports(2)
    profile = ("--profile", "production")
    with running("desk", "--port", str(first), *profile, storage=storage, log=tmp_path / "log") as process:
        assert listening(process) == documented("production")
        assert (status(first, "/v1/model", key), status(first, "/v1/model"), status(first, "/readyz")) == (200, 401, 200)
        (haproxy,) = haproxys(process)
        config = Path(haproxy.cmdline()[haproxy.cmdline().index("-f") + 1])
        assert stat.S_IMODE((config.parent / "admin.sock").stat().st_mode) == 0o600
        assert stat.S_IMODE(config.parents[1].stat().st_mode) == 0o700

        clients = [socket.create_connection(("127.0.0.1", first), timeout=60) for _ in range(UNFINISHED)]
        for client in clients:
            client.sendall(b"GET /readyz HTTP/1.1\r\nHost: x\r\nX-")
        assert status(first, "/readyz") == 200
        clients[0].settimeout(30)
        assert clients[0].recv(100).startswith(b"HTTP/1.1 408")
        for client in clients:
            client.close()

        with running("desk", "--port", str(second), *profile, storage=storage, log=tmp_path / "log2"):
            assert (status(first, "/readyz"), status(second, "/readyz")) == (200, 200)
        process.kill()
        process.wait(30)
        until(lambda: is_free(first), what="HAProxy's end", limit_s=60)


def is_free(port: int) -> bool:
    with socket.socket() as again:
        return again.connect_ex(("127.0.0.1", port)) != 0
