"""A cluster whose nodes share nothing but a bucket: each has its own mirror, and some are lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from ray.cluster_utils import Cluster

from manta.cluster.ports import free_ports
from manta.storage.object_store import mirror_of, names

from ..jobs.conftest import experiment
from ..platform.registry.test_tracking import mlflow_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class Nodes:
    """A head that runs no workers, and nodes with one CPU and a mirror each."""

    def __init__(self, folder: Path, variables: dict[str, str]) -> None:
        self._folder, self._variables = folder, variables
        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})

    def add(self, name: str, **variables: str) -> Any:
        """Start a node."""
        own = self._variables | {"MANTA_CACHE": str(self._folder / name)} | variables
        return self.cluster.add_node(num_cpus=1, env_vars=own)


@pytest.fixture
def nodes(object_store: dict[str, str], tmp_path: Path) -> Iterator[Nodes]:
    nodes = Nodes(tmp_path, object_store)
    yield nodes
    nodes.cluster.shutdown()


@pytest.fixture
def command(bucket: str, two_classes: Path, tiny_model: Path, nodes: Nodes, tmp_path: Path) -> list[str]:
    """`manta train` on the cluster."""
    config = experiment(two_classes, tiny_model, checkpoint_steps=4, num_epochs=20)
    config = config.model_copy(update={"storage": f"{bucket}/manta"})
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(config.document()))
    return [sys.executable, "-m", "manta.cli", "train", str(tmp_path / "e.yaml"), "--address", nodes.cluster.address, "--json"]


@pytest.mark.timeout(400)
def test_a_run_goes_on_from_the_bucket_on_a_node_that_has_never_seen_it(
    nodes: Nodes, command: list[str], bucket: str, tmp_path: Path
) -> None:
    lost = [nodes.add("first"), nodes.add("second")]
    checkpoints: list[str] = []
    with (
        mlflow_server(tmp_path / "mlflow", free_ports(1)[0]) as server,
        (tmp_path / "log").open("w") as log,
        subprocess.Popen(
            command, env=os.environ | {"MLFLOW_TRACKING_URI": server}, stdout=subprocess.PIPE, stderr=log, text=True
        ) as driver,
    ):
        deadline = time.monotonic() + 240
        while len(checkpoints) < 2:
            assert driver.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < deadline, (tmp_path / "log").read_text()
            runs = mirror_of(f"{bucket}/manta/runs")
            checkpoints = [name for run in names(runs) for name in names(runs / run / "checkpoints")]
            time.sleep(0.05)
        for number, node in enumerate(lost):
            nodes.add(f"new-{number}")
            nodes.cluster.remove_node(node, allow_graceful=False)
        said, _ = driver.communicate(timeout=300)
    assert driver.returncode == 0, (tmp_path / "log").read_text()
    report = json.loads((mirror_of(json.loads(said)["report"])).read_text())
    assert report["distribution"]["num_nodes"] == 2
    assert report["distribution"]["resumed_at_steps"][0] > 0
    assert len(report["history"]) == 20
    assert [path.name for path in tmp_path.glob("new-*/mirror-of")] == ["mirror-of"] * 2


def test_a_node_that_does_not_reach_the_bucket_is_named_before_anything_is_trained(
    nodes: Nodes, command: list[str], bucket: str
) -> None:
    nodes.add("first")
    nodes.add("second", AWS_ENDPOINT_URL="http://127.0.0.1:9")
    refused = subprocess.run(
        command, env=os.environ | {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}, capture_output=True, text=True, check=False
    )
    assert refused.returncode == 2
    assert f"{bucket}/manta can be written from here, but not from " in refused.stderr.replace("\n", " ")
    assert names(mirror_of(bucket)) == []
