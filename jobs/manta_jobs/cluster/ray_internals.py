"""Ray's internals: the only module beside `training/resizing.py` that uses what Ray does not document.

`tests/jobs/cluster/test_ray_internals.py` fails if an upgrade of Ray moves one of them.
"""

from __future__ import annotations

from typing import Any

import ray
from ray._raylet import GcsClient  # type: ignore[attr-defined]
from ray.core.generated.autoscaler_pb2 import GetClusterStatusReply, NodeStatus

__all__ = ["NodeStatus", "cluster_status"]

ASK_WITHIN_S = 10.0


def cluster_status() -> Any:
    """Return the connected cluster's nodes and its autoscaler's report on waiting requests. Ray has no public API for this."""
    reply = GetClusterStatusReply()
    reply.ParseFromString(GcsClient(address=ray.get_runtime_context().gcs_address).get_cluster_status(timeout_s=ASK_WITHIN_S))
    return reply
