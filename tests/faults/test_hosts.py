"""Three hosts with addresses of their own and token authentication: work on all of them, one that dies, one that is cut off."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import requests

from manta.registry.models import ModelRegistry
from manta.storage.folders import Storage
from manta_jobs.cluster.local import LocalCluster

from ..conftest import rows_of
from ..jobs.registered import LABELS, register, train_tiny
from .hosts import Hosts
from .laptop import COMMAND, laptop, write_experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="network namespaces need root and iproute2"),
    pytest.mark.timeout(600),
]
SEARCH = {
    "space": {"train.learning_rate": {"loguniform": [3e-4, 1e-2]}},
    "search": "random",
    "scheduler": "none",
    "confirm": None,
    "budget": {"num_trials": 6},
}


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    with Hosts(3) as hosts:
        yield hosts


@pytest.fixture
def cluster(hosts: Hosts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LocalCluster]:
    monkeypatch.setenv("MANTA_STORAGE", str(tmp_path / "shared"))  # of the hosts: where a job looks for a model by its name
    monkeypatch.setenv("RAY_health_check_timeout_ms", "5000")  # so that a host that is cut off is missed soon
    with LocalCluster(3, prefixes=hosts.prefixes, hosts=hosts.addresses) as cluster:
        yield cluster


def finished(process: subprocess.Popen[str]) -> dict[str, Any]:
    """The JSON of a command that ended well."""
    output, words = process.communicate(timeout=500)
    assert process.returncode == 0, words
    return dict(json.loads(output))


def wait_for(sign: Callable[[], Any], process: subprocess.Popen[str], *, what: str) -> Any:
    deadline = time.monotonic() + 240
    while time.monotonic() < deadline:
        assert process.poll() is None, f"ended before {what}: {process.communicate()}"
        if found := sign():
            return found
        time.sleep(0.05)
    raise AssertionError(f"waited in vain for {what}")


def versions(storage: Path) -> int:
    return len(ModelRegistry(Storage(storage)).versions("far"))


def test_train_tune_and_predict_use_every_host(cluster: LocalCluster, tmp_path: Path, two_classes: Path, tiny_model: Path) -> None:
    storage = tmp_path / "shared"
    path = write_experiment(tmp_path, data=two_classes, model=tiny_model, storage=storage, tune=SEARCH, num_workers=3)
    start = laptop(cluster, tmp_path)
    trained = finished(start("submit", "train", path, "--json"))
    distribution = json.loads(Path(trained["report"]).read_text())["distribution"]
    assert (distribution["world_size"], distribution["num_nodes"]) == (3, 3)
    searched = finished(start("submit", "tune", path, "--set", "train.num_workers=1", "--json"))
    assert searched["num_trials"] == 6
    assert versions(storage) == 2
    out = storage / "answers"
    done = finished(start("submit", "predict", "far", str(tmp_path / "rows.csv"), "--out", str(out), "--json"))
    assert done["rows"] == 160


def test_a_host_dies_in_training(cluster: LocalCluster, tmp_path: Path, two_classes_large: Path, tiny_model: Path) -> None:
    storage = tmp_path / "shared"
    settings = {"num_workers": [1, 3], "checkpoint_steps": 20, "num_epochs": 4}
    path = write_experiment(tmp_path, data=two_classes_large, model=tiny_model, storage=storage, **settings)
    process = laptop(cluster, tmp_path)("submit", "train", path, "--json")
    wait_for(lambda: list(storage.glob("runs/*/checkpoints/step-*/state.json")), process, what="a checkpoint")
    cluster.kill(2)
    report = json.loads(Path(finished(process)["report"]).read_text())
    assert report["distribution"]["resumed_at_steps"][0] > 0
    assert report["distribution"]["world_size"] < 3
    assert versions(storage) == 1


def test_a_host_is_cut_off_in_a_search(
    cluster: LocalCluster, hosts: Hosts, tmp_path: Path, two_classes_large: Path, tiny_model: Path
) -> None:
    storage = tmp_path / "shared"
    settings = {"num_workers": 1, "checkpoint_steps": 20, "num_epochs": 2}
    path = write_experiment(tmp_path, data=two_classes_large, model=tiny_model, storage=storage, tune=SEARCH, **settings)
    process = laptop(cluster, tmp_path)("submit", "tune", path, "--json")
    wait_for(lambda: len(list(storage.glob("runs/*/trials/*/step-*/state.json"))) > 1, process, what="trials on their way")
    hosts.cut_off(1)
    result = finished(process)
    assert result["num_trials"] == 6
    assert versions(storage) == 1


def test_replicas_on_two_hosts_answer(cluster: LocalCluster, hosts: Hosts, tmp_path: Path, tiny_model: Path) -> None:
    storage, path = Storage(tmp_path / "shared"), tmp_path / "far.yaml"
    rows = rows_of(list(LABELS.names), 60)
    made = train_tiny(tmp_path / "made", rows=rows[:40], test=rows[40:], steps=5, model=tiny_model, settings={})
    ModelRegistry(storage).set_champion(register(storage, made, name="far"))
    path.write_text(f"name: far\ndata: {{train: rows.csv}}\nserve: {{num_replicas: 2}}\nstorage: {storage.root}\n")
    known = {"RAY_ADDRESS": cluster.address, "RAY_AUTH_TOKEN": cluster.token, "RAY_AUTH_MODE": "token"}
    command = [*hosts.prefixes[0], *COMMAND, "serve", str(path)]
    inside = hosts.prefixes[0]
    server = subprocess.Popen(command, env=os.environ | known, stderr=subprocess.PIPE, text=True, cwd=tmp_path)
    try:
        assert server.stderr is not None
        words = ""
        while "answers at" not in words:
            line = server.stderr.readline()
            assert line, words
            words += line
        headers = {"Authorization": f"Bearer {cluster.token}"}
        told = requests.get(f"{cluster.jobs_address}/api/serve/applications/", headers=headers, timeout=10).json()
        (deployment,) = told["applications"]["manta"]["deployments"].values()
        assert len({replica["node_ip"] for replica in deployment["replicas"]}) == 2
        code = "import requests; print(requests.post('http://127.0.0.1:8000/v1/classify', json={'text': 'my parcel'}).status_code)"
        statuses = [
            subprocess.run([*inside, sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
            for _ in range(4)
        ]
        assert statuses == ["200"] * 4
    finally:
        server.terminate()
        server.wait(60)
