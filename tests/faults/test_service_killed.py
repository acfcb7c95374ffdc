"""A service that is killed leaves nothing that answers in its place or holds its port, so that the next one can start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import psutil
import pytest

from manta.cluster.ports import free_ports
from manta.labels import LabelSpace
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.storage.folders import Storage
from manta_serve.keys import KeyStore

from ..serve.running import processes_of, running
from ..serve.untrained import artifact_of

if TYPE_CHECKING:
    from pathlib import Path

LABELS = LabelSpace.from_labels(["account", "billing", "delivery"])


@pytest.fixture
def storage(tiny_model: Path, tmp_path: Path) -> Storage:
    storage = Storage(tmp_path / "storage")
    tracker, registry = RunTracker(storage), ModelRegistry(storage)
    tracker.start("run", experiment="desk", config={})
    registry.register(artifact_of(tiny_model, tmp_path / "run", labels=LABELS), run_id=tracker.run_id)
    registry.set_champion(registry.get("desk", version=1))
    return storage


@pytest.mark.timeout(560)
@pytest.mark.parametrize("profile", ["laptop", "production"])
def test_a_killed_service_starts_again_at_the_same_port(profile: str, storage: Storage, tmp_path: Path) -> None:
    headers = {"Authorization": f"Bearer {KeyStore(storage).create('ada')}"}
    port = free_ports(1)[0]
    arguments = ("desk", "--port", str(port), "--profile", profile)
    for name in ("first", "second"):
        with running(*arguments, storage=storage, log=tmp_path / name) as process:
            assert httpx.get(f"http://127.0.0.1:{port}/v1/model", headers=headers, timeout=60).status_code == 200
            started = processes_of(process)
            process.kill()
            process.wait(30)
            _, left = psutil.wait_procs(started, timeout=60)
            names = [" ".join(item.cmdline()) for item in left if item.status() != psutil.STATUS_ZOMBIE]
            for item in left:
                item.kill()
            assert names == []
