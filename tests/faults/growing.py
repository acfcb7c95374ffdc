"""A cluster that grows and shrinks on this machine: the node types of `cluster.yaml` under Ray's own autoscaler.

Only the cloud is faked, by Ray's provider for that: a node that the autoscaler asks for is a raylet beside the others, which says
that it has the resources of its type.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import requests
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import (
    FAKE_HEAD_NODE_ID,
    FAKE_HEAD_NODE_TYPE,
    FakeMultiNodeProvider,
)
from ray.autoscaler._private.util import prepare_config
from ray.util import get_node_ip_address

from manta_jobs.cluster.local import LocalCluster

CLUSTER_FILE = Path(__file__).parents[2] / "cluster.yaml"
PROVIDER = f"{FakeMultiNodeProvider.__module__}.{FakeMultiNodeProvider.__name__}"
MARKET = "ray.io/market-type"


class GrowingCluster(LocalCluster):
    """The head of `cluster.yaml`, and nodes of its other types as they are needed; idle ones go after `idle_minutes`.

    `home` is the head's home folder, in which Ray's launcher leaves the file that it started the cluster from.
    """

    def __init__(self, home: Path, *, idle_minutes: float) -> None:
        super().__init__(1, head_cpus=0, hosts=[get_node_ip_address()])  # where the faked nodes are, too
        self.home, self._idle_minutes = home, idle_minutes

    def environment(self) -> dict[str, str]:
        """As on a head that the launcher has started, and what the faked cloud needs."""
        return super().environment() | {
            "HOME": str(self.home),
            "RAY_enable_autoscaler_v2": "1",
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,
            "RAY_FAKE_CLUSTER": "1",
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            # Nodes of a cloud take longer than Ray Train waits for workers before it asks anew; so do these.
            "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": "2",
        }

    def options(self, index: int) -> list[str]:
        """With the file for the autoscaler as the launcher fills it out, but for the faked provider, which installs nothing."""
        document: dict[str, Any] = prepare_config(yaml.safe_load(CLUSTER_FILE.read_text()))
        kinds = document["available_node_types"]
        kinds[FAKE_HEAD_NODE_TYPE] = kinds.pop(document["head_node_type"]) | {"max_workers": 0}
        provider = {"type": "external", "module": PROVIDER, "gcs_address": self.address, "head_node_id": FAKE_HEAD_NODE_ID}
        document |= {
            "head_node_type": FAKE_HEAD_NODE_TYPE,
            "idle_timeout_minutes": self._idle_minutes,
            "provider": provider | {"launch_multiple": True, "disable_node_updaters": True},
            "file_mounts": {},
        }
        file = self.home / "ray_bootstrap_config.yaml"
        file.write_text(yaml.safe_dump(document))
        return [*super().options(index), f"--autoscaling-config={file}"]

    def workers(self) -> Counter[str]:
        """Number of nodes besides the head, by market (spot or on-demand); nodes for CPU work have none."""
        headers = {"Authorization": f"Bearer {self.token}"}
        told = requests.get(f"{self.jobs_address}/nodes?view=summary", headers=headers, timeout=30.0).json()["data"]["summary"]
        nodes = [node["raylet"] for node in told if node["raylet"]["state"] == "ALIVE"]
        return Counter(node["labels"].get(MARKET, "CPU") for node in nodes if node["nodeId"] != FAKE_HEAD_NODE_ID)
