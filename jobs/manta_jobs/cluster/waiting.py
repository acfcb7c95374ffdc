"""What a run waits for while its nodes are started, and the end of waiting for what can never be had.

A node of a cloud takes minutes. Ray Train asks for its workers again and again meanwhile, for ever if need be; it says nothing,
and neither does it hear the autoscaler say that no nodes it may start would do.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray
from ray.core.generated.autoscaler_pb2 import NodeStatus

from manta.errors import InputError
from manta_jobs.cluster.autoscaling import cluster_status
from manta_jobs.cluster.connection import num_workers_at_once

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

    from manta.config import TrainConfig
    from manta_jobs.cluster.connection import Cluster, WorkerResources

LOOK_EVERY_S = 3.0
HOPELESS_AFTER_S = 20.0
"""Autoscaler and scheduler look every few seconds each; what one says of the other may be as old."""


class Waiting:
    """Looks at what the autoscaler does for one run, and tells people when that changes."""

    def __init__(self, train: TrainConfig, resources: WorkerResources, console: Console) -> None:
        self._train, self._resources, self._console = train, resources, console
        self._wanted = workers_wanted(train, resources)
        self._looked_s = float("-inf")
        self._refused_s: float | None = None
        self._told = ""

    def look(self) -> None:
        """Ask the cluster, and print what is new.

        Raises:
            InputError: see `hear`.
        """
        now = time.monotonic()
        if now - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now
        with suppress(ray.exceptions.RpcError):  # the head is busy, or going
            words = self.hear(cluster_status(), now_s=now)
            if words and words != self._told:
                self._console.print(words, markup=False)
            self._told = words

    def hear(self, status: Any, *, now_s: float) -> str:
        """What the run waits for by a cluster's status, in a sentence; empty where it waits for no node.

        Raises:
            InputError: the autoscaler has said for some time that it can start no nodes that would do, and nobody holds any.
        """
        states = [state for state in status.cluster_resource_state.node_states if state.status != NodeStatus.DEAD]
        nodes = [dict(state.total_resources) for state in states]
        is_waiting = num_workers_at_once(self._resources, nodes) < self._train.min_workers
        is_refused = is_waiting and self._is_refused(status.autoscaling_state)
        if not is_refused or any(map(is_used, states)):  # what others hold is free some day, and the autoscaler decides anew
            self._refused_s = None
        elif self._refused_s is None:
            self._refused_s = now_s
        elif now_s - self._refused_s >= HOPELESS_AFTER_S:
            raise InputError(
                f"the cluster can never have {self._wanted}: its autoscaler may not start as many such nodes; lower "
                "train.num_workers, or raise how many nodes the cluster may have."
            )
        if not is_waiting:
            return ""
        if is_refused:
            return f"Waiting for {self._wanted}: the autoscaler can start no more nodes for now."
        coming = starting(status.autoscaling_state)
        doing = f"the autoscaler is starting {coming}" if coming else "no node for them is there yet"
        return f"Waiting for {self._wanted}: {doing}."

    def _is_refused(self, state: Any) -> bool:
        """Whether the autoscaler says that the very workers of this run are more than it can start."""
        asked = Counter({shape(self._resources.bundle()): self._train.max_workers})
        if self._train.min_workers == self._train.max_workers:
            gangs = state.infeasible_gang_resource_requests
            return asked in [Counter(shape(bundle.resources_bundle) for bundle in bundles(gang)) for gang in gangs]
        # Workers that may be few or many are no gang: Ray Train has the autoscaler make room for the most of them.
        return asked in [
            Counter({shape(entry.request.resources_bundle): entry.count for entry in wish.resource_requests})
            for wish in state.infeasible_cluster_resource_constraints
        ]


def look_while_waiting(
    train: TrainConfig, resources: WorkerResources, cluster: Cluster, console: Console
) -> Callable[[], None] | None:
    """What is to be called now and then while a run may wait for nodes; None where nobody starts any."""
    return None if cluster.growth is None else Waiting(train, resources, console).look


def bundles(gang: Any) -> Any:
    """The single requests of a gang: by label first, or, of a gang that asks for none, as they are."""
    return gang.bundle_selectors[0].resource_requests if gang.bundle_selectors else gang.requests


def workers_wanted(train: TrainConfig, resources: WorkerResources) -> str:
    """Such as `2 workers with 1 CPU and a GPU`."""
    least, most = train.min_workers, train.max_workers
    count = f"{most} worker{'' if most == 1 else 's'}" if least == most else f"{least} to {most} workers"
    return f"{count} with {resources.num_cpus} CPU{' and a GPU' if resources.use_gpu else ''}{'' if most == 1 else ' each'}"


def starting(state: Any) -> str:
    """The nodes that are on their way, such as `2 nodes (gpu_spot)`; empty if none is."""
    kinds: Counter[str] = Counter()
    for request in state.pending_instance_requests:
        kinds[request.ray_node_type_name] += request.count
    kinds.update(instance.ray_node_type_name for instance in state.pending_instances)
    if not kinds:
        return ""
    return f"{kinds.total()} node{'' if kinds.total() == 1 else 's'} ({', '.join(sorted(kinds))})"


def shape(resources: Mapping[str, float]) -> frozenset[tuple[str, float]]:
    """Resources as something to compare by."""
    return frozenset((name, amount) for name, amount in resources.items() if amount)


def is_used(state: Any) -> bool:
    """Whether somebody holds some of a node."""
    return any(state.available_resources.get(kind, 0.0) < state.total_resources.get(kind, 0.0) for kind in ("CPU", "GPU"))
