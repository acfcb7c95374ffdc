"""Waiting for nodes: report the autoscaler's progress to the user, and give up on nodes that can never start.

A node of a cloud takes minutes to start. Meanwhile Ray Train asks for its workers again and again, forever if need be. It prints
nothing, and it ignores an autoscaler that reports that it cannot start suitable nodes.
"""

from __future__ import annotations

import time
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import ray

from manta.errors import InputError
from manta_jobs.cluster.connection import num_workers_at_once
from manta_jobs.cluster.ray_internals import NodeStatus, cluster_status

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rich.console import Console

    from manta.config import TrainConfig
    from manta_jobs.cluster.connection import Cluster, WorkerResources

LOOK_EVERY_S = 3.0
HOPELESS_AFTER_S = 20.0
"""Seconds of refusal after which waiting ends. Autoscaler and scheduler each look every few seconds, so their view of each other
may be that old."""


class Waiting:
    """Watcher of the autoscaler for one run. It tells the user when the autoscaler's state changes."""

    def __init__(self, train: TrainConfig, resources: WorkerResources, console: Console) -> None:
        self._train, self._resources, self._console = train, resources, console
        self._wanted = workers_wanted(train, resources)
        self._looked_s = float("-inf")
        self._refused_s: float | None = None
        self._told = ""

    def look(self) -> None:
        """Ask the cluster for its status, and print the sentence about it if that has changed.

        Raises:
            InputError: see `hear`.
        """
        now = time.monotonic()
        if now - self._looked_s < LOOK_EVERY_S:
            return
        self._looked_s = now
        with suppress(ray.exceptions.RpcError):  # the head is busy or shutting down
            words = self.hear(cluster_status(), now_s=now)
            if words and words != self._told:
                self._console.print(words, markup=False)
            self._told = words

    def hear(self, status: Any, *, now_s: float) -> str:
        """Return a sentence that says what the run waits for, given a cluster's status; empty if it waits for no node.

        Raises:
            InputError: the autoscaler has reported for some time that it cannot start suitable nodes, and no node is in use.
        """
        states = [state for state in status.cluster_resource_state.node_states if state.status != NodeStatus.DEAD]
        nodes = [dict(state.total_resources) for state in states]
        is_waiting = num_workers_at_once(self._resources, nodes) < self._train.min_workers
        is_refused = is_waiting and self._is_refused(status.autoscaling_state)
        if not is_refused or any(map(is_used, states)):  # a node in use becomes free later, and the autoscaler then decides anew
            self._refused_s = None
        elif self._refused_s is None:
            self._refused_s = now_s
        elif now_s - self._refused_s >= HOPELESS_AFTER_S:
            raise InputError(
                f"the cluster can never have {self._wanted}: its autoscaler may not start so many such nodes; lower "
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
        """Tell whether the autoscaler reports that it cannot start the workers of this run."""
        asked = Counter({shape(self._resources.bundle()): self._train.max_workers})
        if self._train.min_workers == self._train.max_workers:
            gangs = state.infeasible_gang_resource_requests
            return asked in [Counter(shape(bundle.resources_bundle) for bundle in bundles(gang)) for gang in gangs]
        # A range of workers is no gang: Ray Train asks the autoscaler for room for the most of them.
        return asked in [
            Counter({shape(entry.request.resources_bundle): entry.count for entry in wish.resource_requests})
            for wish in state.infeasible_cluster_resource_constraints
        ]


def look_while_waiting(
    train: TrainConfig, resources: WorkerResources, cluster: Cluster, console: Console
) -> Callable[[], None] | None:
    """Return a function to call regularly while a run may wait for nodes; None if the cluster has no autoscaler."""
    return None if cluster.growth is None else Waiting(train, resources, console).look


def bundles(gang: Any) -> Any:
    """Return the single requests of a gang: those of its first label selector, or its plain requests if it has none."""
    return gang.bundle_selectors[0].resource_requests if gang.bundle_selectors else gang.requests


def workers_wanted(train: TrainConfig, resources: WorkerResources) -> str:
    """Return a phrase such as `2 workers with 1 CPU and a GPU each`."""
    least, most = train.min_workers, train.max_workers
    count = f"{most} worker{'' if most == 1 else 's'}" if least == most else f"{least} to {most} workers"
    return f"{count} with {resources.num_cpus} CPU{' and a GPU' if resources.use_gpu else ''}{'' if most == 1 else ' each'}"


def starting(state: Any) -> str:
    """Return a phrase about the nodes that are being started, such as `2 nodes (gpu_spot)`; empty if there are none."""
    kinds: Counter[str] = Counter()
    for request in state.pending_instance_requests:
        kinds[request.ray_node_type_name] += request.count
    kinds.update(instance.ray_node_type_name for instance in state.pending_instances)
    if not kinds:
        return ""
    return f"{kinds.total()} node{'' if kinds.total() == 1 else 's'} ({', '.join(sorted(kinds))})"


def shape(resources: Mapping[str, float]) -> frozenset[tuple[str, float]]:
    """Return resources in a form that can be compared and hashed."""
    return frozenset((name, amount) for name, amount in resources.items() if amount)


def is_used(state: Any) -> bool:
    """Tell whether any CPU or GPU of a node is in use."""
    return any(state.available_resources.get(kind, 0.0) < state.total_resources.get(kind, 0.0) for kind in ("CPU", "GPU"))
