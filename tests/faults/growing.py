"""A cluster that grows and shrinks on this machine: the node types of `cluster.yaml` under Ray's own autoscaler.

Only the cloud is faked, by Ray's provider for that: a node that the autoscaler asks for is a raylet beside the others, which says
that it has the resources of its type.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from ray.autoscaler._private.fake_multi_node.node_provider import FAKE_HEAD_NODE_ID, FAKE_HEAD_NODE_TYPE

from manta_jobs.local_cluster import LocalCluster

CLUSTER_FILE = Path(__file__).parents[2] / "cluster.yaml"


class GrowingCluster(LocalCluster):
    """The head of `cluster.yaml`, and nodes of its other types as they are needed; idle ones go after `idle_minutes`.

    `home` is the head's home folder, in which Ray's launcher leaves the file that it started the cluster from.
    """

    def __init__(self, home: Path, *, idle_minutes: float, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(1, head_cpus=0)
        self.file = home / "ray_bootstrap_config.yaml"
        self._idle_minutes = idle_minutes
        known = {
            "HOME": str(home),
            "AUTOSCALER_UPDATE_INTERVAL_S": "1",
            "RAY_FAKE_CLUSTER": "1",
            "RAY_enable_autoscaler_v2": "1",  # as the file's head_start_ray_commands have it
            "RAY_CLOUD_INSTANCE_ID": FAKE_HEAD_NODE_ID,
            "RAY_OVERRIDE_NODE_ID_FOR_TESTING": FAKE_HEAD_NODE_ID,
            "RAY_NODE_TYPE_NAME": FAKE_HEAD_NODE_TYPE,  # the launcher sets it, too
        }
        for name, value in known.items():
            monkeypatch.setenv(name, value)

    def options(self, index: int) -> list[str]:
        """The file for the autoscaler, with its provider in the place of AWS."""
        document: dict[str, Any] = yaml.safe_load(CLUSTER_FILE.read_text())
        kinds = document["available_node_types"]
        kinds[FAKE_HEAD_NODE_TYPE] = kinds.pop(document["head_node_type"]) | {"max_workers": 0}
        document |= {
            "head_node_type": FAKE_HEAD_NODE_TYPE,
            "idle_timeout_minutes": self._idle_minutes,
            "provider": {
                "type": "fake_multinode",
                "gcs_address": self.address,
                "head_node_id": FAKE_HEAD_NODE_ID,
                "launch_multiple": True,
                "disable_node_updaters": True,  # nothing is to be installed
            },
            "file_mounts": {},
            "setup_commands": [],
        }
        self.file.write_text(yaml.safe_dump(document))
        return [*super().options(index), f"--autoscaling-config={self.file}"]
