"""Clusters that start nodes on demand: the nodes that such a cluster can have, if they are known.

Ray's scheduler counts only running nodes. In a cluster that starts from zero, that is a head that runs no workers. Ray reports that
an autoscaler runs and which requests wait for it, but not which kinds of nodes it can start. On the head, the file that `ray up`
leaves there lists them; see docs/decisions/0012-clusters-that-grow.md.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray

from manta.errors import InputError
from manta_jobs.cluster.check import ClusterPlan, read_plan
from manta_jobs.cluster.ray_internals import NodeStatus, cluster_status

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.config import TrainConfig

Node = dict[str, float]
"""A node's resources as Ray names them: CPU, GPU, memory (bytes) and more."""

LAUNCHER_FILE = "ray_bootstrap_config.yaml"
"""File in the head's home folder: the cluster file as the autoscaler reads it."""
HEAD = "node:__internal_head__"
"""A resource that only the head has."""


@dataclass(frozen=True)
class Growth:
    """The nodes that a growing cluster can have."""

    nodes: Sequence[Node]
    """Each node that there can be at the same time. If that is unknown: the running nodes, and those that a run will request."""
    is_known: bool
    """True if the kinds of nodes that the autoscaler can start are known."""


def growth(train: TrainConfig | None = None) -> Growth | None:
    """Return the nodes that the connected cluster can grow to; None if it does not grow.

    Growth is for a run of `train`; without it, for work that takes GPUs if there are any.
    """
    status = cluster_status()
    states = status.cluster_resource_state.node_states
    head = next((state for state in states if HEAD in state.total_resources), None)
    # An autoscaler that only observes reports, too. One that starts nodes has set the head's node type.
    if head is None or not head.ray_node_type_name or not status.autoscaling_state.autoscaler_state_version:
        return None
    living = [state for state in states if state.status != NodeStatus.DEAD]
    if head.node_id.hex() == ray.get_runtime_context().get_node_id() and (plan := launched_plan()):
        return Growth(grown_nodes(plan, living, prefer_gpus=train is None or train.use_gpu is not False), is_known=True)
    nodes = [dict(state.total_resources) for state in living]
    return Growth(nodes + ([] if train is None else asked_nodes(train, nodes)), is_known=False)


def launched_plan() -> ClusterPlan | None:
    """Return the plan in the file that Ray's launcher left on this machine; None without a valid one."""
    path = Path.home() / LAUNCHER_FILE
    try:
        return read_plan(path) if path.is_file() else None
    except InputError:
        return None


def grown_nodes(plan: ClusterPlan, living: Sequence[Any], *, prefer_gpus: bool) -> list[Node]:
    """Return the nodes of a cluster that has grown as far as it can, in the way that suits a run.

    `living` are the states of the running nodes. Running nodes of other kinds make room by themselves when they are idle.
    """
    there: dict[str, list[Node]] = defaultdict(list)
    for state in living:
        there[state.ray_node_type_name].append(dict(state.total_resources))
    kinds = {kind.name for kind in plan.workers}
    nodes = [node for name, group in there.items() if name not in kinds for node in group]
    left = plan.most_workers

    def wanted(resources: Any) -> tuple[bool, float]:
        return bool(resources.get("GPU")) == prefer_gpus, resources.get("CPU", 0.0)

    for kind in sorted(plan.workers, key=lambda kind: wanted(kind.resources), reverse=True):
        count = min(kind.most, left)
        known = there[kind.name][:count]  # running nodes report their memory
        nodes += known + [dict(kind.resources)] * (count - len(known))
        left -= count
    return nodes


def asked_nodes(train: TrainConfig, living: Sequence[Node]) -> list[Node]:
    """Return the nodes that a run will request: one for each worker that does not fit on the living nodes.

    They stand in for the nodes that the autoscaler can start, which are unknown.
    """
    use_gpu = any(node.get("GPU") for node in living) if train.use_gpu == "auto" else train.use_gpu
    worker = {"CPU": 1.0 if train.cpus_per_worker == "auto" else float(train.cpus_per_worker)} | ({"GPU": 1.0} if use_gpu else {})
    room = sum(int(min(node.get(kind, 0.0) // need for kind, need in worker.items())) for node in living)
    return [dict(worker) for _ in range(train.max_workers - room)]
