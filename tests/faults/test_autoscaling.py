"""`cluster.yaml` from zero: Ray's own autoscaler, with a faked cloud, starts the nodes that a run needs, and takes them away."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from .growing import GrowingCluster
from .laptop import COMMAND, laptop, write_experiment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IDLE_MINUTES = 0.3
PLACEMENT = """
import sys, ray
ray.init(address=sys.argv[1], log_to_driver=False)
assert ray.util.placement_group([{"CPU": 1, "GPU": 1}] * 5).wait(180)
input()
"""

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GrowingCluster]:
    with GrowingCluster(tmp_path_factory.mktemp("head"), idle_minutes=IDLE_MINUTES) as cluster:
        yield cluster
        started = psutil.Process(cluster.nodes[0].pid).children(recursive=True)
    _, alive = psutil.wait_procs(started, timeout=20)
    assert [process.name() for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.fixture
def driver(cluster: GrowingCluster) -> dict[str, str]:
    """The environment of what runs on the cluster's head."""
    return os.environ | {
        "HOME": str(cluster.home),
        "RAY_ADDRESS": cluster.address,
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": cluster.token,
    }


def wait_for(sign: Callable[[], bool], *, what: str) -> None:
    deadline = time.monotonic() + 180
    while not sign():
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.5)


def test_a_run_that_needs_two_gpus_brings_up_two_nodes_that_go_when_idle(
    cluster: GrowingCluster, tmp_path: Path, two_classes: Path, tiny_model: Path
) -> None:
    path = write_experiment(tmp_path, data=two_classes, model=tiny_model, storage=tmp_path / "shared")
    process = laptop(cluster, tmp_path)("submit", "train", path, "--json")
    seen: list[Counter[str]] = []
    while process.poll() is None:
        seen.append(cluster.workers())
        time.sleep(0.5)
    output, words = process.communicate()
    assert process.returncode == 0, words
    assert seen[0] == {}
    assert max(seen, key=Counter.total) == {"spot": 2}
    assert not any("on-demand" in kinds or "CPU" in kinds for kinds in seen)
    assert "Waiting for 2 workers with 1 CPU and a GPU each: " in words
    assert "the autoscaler is starting 2 nodes (gpu_spot)." in words
    distribution = json.loads(Path(json.loads(output)["report"]).read_text())["distribution"]
    assert (distribution["world_size"], distribution["num_nodes"]) == (2, 2)
    assert "torch sees none there: they train on CPUs" in words  # the GPUs are faked
    wait_for(lambda: not cluster.workers(), what="idle nodes to go")


def test_more_than_the_file_allows_is_refused_before_a_node_is_started(
    cluster: GrowingCluster, driver: dict[str, str], tmp_path: Path, two_classes: Path, tiny_model: Path
) -> None:
    storage = tmp_path / "shared"
    path = write_experiment(tmp_path, data=two_classes, model=tiny_model, storage=storage, num_workers=9)
    done = subprocess.run([*COMMAND, "train", path], check=False, env=driver, capture_output=True, text=True, timeout=180)
    assert done.returncode == 2
    assert "train.num_workers is 9, one GPU each, but the cluster can grow to 8;" in done.stderr
    assert not (storage / "runs").exists()
    assert cluster.workers() == {}


def test_what_the_autoscaler_can_never_start_ends_the_run_where_the_kinds_of_nodes_are_not_known(
    cluster: GrowingCluster, driver: dict[str, str], tmp_path: Path, two_classes: Path, tiny_model: Path
) -> None:
    path = write_experiment(tmp_path, data=two_classes, model=tiny_model, storage=tmp_path / "shared", num_workers=9, use_gpu=True)
    elsewhere = driver | {"HOME": str(tmp_path)}
    done = subprocess.run([*COMMAND, "train", path], check=False, env=elsewhere, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr
    assert "Waiting for 9 workers with 1 CPU and a GPU each: the autoscaler can start no more nodes for now." in done.stderr
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("Error: the cluster can never have 9 workers with 1 CPU and a GPU each: ")
    assert cluster.workers() == {}


def test_spot_nodes_come_first_and_on_demand_ones_when_there_are_no_more(cluster: GrowingCluster, driver: dict[str, str]) -> None:
    holder = subprocess.Popen([sys.executable, "-c", PLACEMENT, cluster.address], env=driver, stdin=subprocess.PIPE)
    try:
        wait_for(lambda: cluster.workers().total() >= 5, what="five nodes")
        assert cluster.workers() == {"spot": 4, "on-demand": 1}
    finally:
        holder.kill()
        holder.wait()
