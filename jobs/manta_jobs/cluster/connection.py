"""The Ray cluster a job runs on, and how a run's workers fit it."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import tempfile
import threading
from concurrent.futures import Future, wait
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from manta.errors import InputError, RunError
from manta.storage.object_store import check, url_of
from manta_jobs.cluster.autoscaling import Growth, Node, growth

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from manta.config import TrainConfig

T = TypeVar("T")
PROBE_WITHIN_S = 60.0
LOOK_EVERY_S = 1.0


@dataclass(frozen=True)
class Cluster:
    """What a run has to work with."""

    living: Sequence[Node]
    """The nodes that are there; of a cluster that is yet to be started, those that will be."""
    free: Node | None = None
    """What nobody holds of all nodes now; None for a cluster that is yet to be started."""
    strangers: Sequence[str] = ()
    """Addresses of the nodes that could train but do not see the run's storage."""
    growth: Growth | None = None
    """What its autoscaler can make of it; None where nobody starts nodes."""

    @property
    def nodes(self) -> Sequence[Node]:
        """Each node that the run can have, whether it is there or can be started."""
        return self.living if self.growth is None else self.growth.nodes


@dataclass(frozen=True)
class WorkerResources:
    """What each worker of a run gets."""

    num_cpus: int
    use_gpu: bool
    most: int | None = None
    """How many such workers there can be; None where nodes may come of which nothing is known."""

    def bundle(self) -> dict[str, float]:
        """The form Ray's scheduler takes."""
        return {"CPU": float(self.num_cpus)} | ({"GPU": 1.0} if self.use_gpu else {})


@contextmanager
def connected(address: str | None, *, num_workers: int) -> Iterator[None]:
    """Be connected to a cluster for as long as the body runs.

    That is the one at `address` or $RAY_ADDRESS, else one that is started on this machine and stopped at the end. If this
    process is connected already, that connection is used and kept.

    Raises:
        RunError: no cluster answers at the address.
    """
    if ray.is_initialized():
        yield
        return
    target = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Of a cluster we start: how often it measures every process of the machine, which takes time from the ones that train.
    os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")
    try:
        if target:
            ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR)
        else:
            # More workers than cores is slow but right, so the local cluster has a logical CPU for each of them.
            ray.init(
                address="local",
                num_cpus=local_cpus(num_workers),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise RunError(f"no Ray cluster answers at {target or 'this machine'} ({str(error).splitlines()[0]}).") from error
    # Ray tells of lost workers on stdout whatever it was asked; stdout is for `--json`.
    with redirect_stdout(sys.stderr):
        try:
            yield
        finally:
            ray.shutdown()


def interruptible(work: Callable[[], T], *, console: Console, look: Callable[[], None] | None = None) -> T:
    """Do long work of Ray's so that Ctrl-C ends it at once, and `look` after it every second; what that raises ends it, too.

    On the main thread, Ray Train and Tune put their own handlers in the place of Ctrl-C: one exits with code 1, the other
    goes on to the end of its step and reports success. On a thread of its own the work leaves Ctrl-C to us.
    """
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # handed over, whatever it is
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    try:
        while look is not None and not wait([future], timeout=LOOK_EVERY_S).done:
            look()
        return future.result()
    except KeyboardInterrupt:
        console.print("Stopping; nothing is registered.")
        raise


def one_node_task(function: Callable[..., Any]) -> tuple[Any, int]:
    """A function as a Ray task that has one node's cores, or a GPU where there can be any; and how many threads it may use.

    Raises:
        InputError: no node of the cluster runs anything, and none will be started.
    """
    cluster = present_cluster()
    num_gpus = 1 if any(node.get("GPU", 0) for node in cluster.nodes) else 0
    num_cpus = max(int(node.get("CPU", 0)) for node in cluster.nodes if node.get("GPU", 0) >= num_gpus)
    if not num_cpus and cluster.growth is None:
        raise InputError("none of the cluster's nodes has a CPU to work on; start one with `ray start --address=…`.")
    num_cpus = max(1, num_cpus)
    return ray.remote(num_cpus=1 if num_gpus else num_cpus, num_gpus=num_gpus)(function), num_cpus


def num_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


def local_cpus(num_workers: int) -> int:
    """Logical CPUs of the cluster that is started on this machine."""
    return max(num_cores(), num_workers)


def cluster_nodes() -> list[Node]:
    """What each living node of the connected cluster has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def present_cluster(train: TrainConfig | None = None) -> Cluster:
    """The connected cluster and what it can grow to for a run of `train`, or for work that takes GPUs if there are any."""
    return Cluster(cluster_nodes(), free=ray.available_resources(), growth=growth(train))


def coming_cluster(address: str | None, *, train: TrainConfig, storage: Path) -> Cluster:
    """The cluster that `connected` gives, seen without starting one on this machine, and which nodes do not see `storage`.

    Raises:
        RunError: no cluster answers at the address.
    """
    if ray.is_initialized() or address or os.environ.get("RAY_ADDRESS"):
        with connected(address, num_workers=train.max_workers):
            return dataclasses.replace(present_cluster(train), strangers=nodes_without(storage))
    import torch

    gpus = {"GPU": float(torch.cuda.device_count())} if torch.cuda.device_count() else {}
    return Cluster([{"CPU": float(local_cpus(train.max_workers)), "memory": float(free_host_memory()), **gpus}])


def nodes_without(folder: Path) -> list[str]:
    """Addresses of the connected cluster's nodes on which `folder` is not the one that this process sees.

    A file with a name that nobody has is made in it, or in the nearest folder above it that there is, and looked for on each
    node that has resources to train with. On a single node, and where this process may not write, nothing is looked at.
    Of a mirror, each node sees whether it can write into the object store.
    """
    if sum(node["Alive"] for node in ray.nodes()) < 2:
        return []
    url = url_of(folder)
    if url is not None:
        return _nodes_that_deny(_can_write, url)
    folder = next(path for path in (folder, *folder.parents) if path.is_dir())
    if not os.access(folder, os.W_OK):
        return []
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".manta-seen-") as probe:
        return _nodes_that_deny(os.path.exists, probe.name)


def _nodes_that_deny(question: Callable[[str], bool], place: str) -> list[str]:
    """Addresses of the nodes with resources to train with on which a question is answered with no."""
    nodes = [node for node in ray.nodes() if node["Alive"] and (node["Resources"].get("CPU") or node["Resources"].get("GPU"))]
    ask = ray.remote(num_cpus=0)(question)
    answers = {
        node["NodeManagerAddress"] + f":{node['NodeManagerPort']}": ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(place)
        for node in nodes
    }
    return [address for address, answer in answers.items() if not _seen(answer)]


def _can_write(url: str) -> bool:
    """Whether this process can write below a URL."""
    try:
        check(url)
    except InputError:
        return False
    return True


def _seen(answer: ray.ObjectRef) -> bool:
    """What a node answered; one that is lost meanwhile is no hindrance."""
    try:
        return bool(ray.get(answer, timeout=PROBE_WITHIN_S))
    except (ray.exceptions.RayError, TimeoutError):
        return True


def fit_workers(config: TrainConfig, cluster: Cluster) -> WorkerResources:
    """Decide what each worker gets.

    Raises:
        InputError: the workers do not fit, whatever the cluster grows to; the message says what does.
    """
    nodes, has = cluster.nodes, "has" if cluster.growth is None else "can grow to"
    num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    use_gpu = num_gpus > 0 if config.use_gpu == "auto" else config.use_gpu
    needed = config.min_workers
    if use_gpu and num_gpus < needed:
        raise InputError(
            f"train.num_workers is {needed}, one GPU each, but the cluster {has} {num_gpus}; lower it or set train.use_gpu: false."
        )
    cpus = [int(node.get("CPU", 0)) for node in nodes]
    if config.cpus_per_worker != "auto":
        num_cpus = config.cpus_per_worker
    elif use_gpu:
        num_cpus = 1
    else:
        fitting = [size for size in range(1, max(cpus) + 1) if sum(node // size for node in cpus) >= config.max_workers]
        num_cpus = max(fitting, default=1)
    if sum(node // num_cpus for node in cpus) < needed:
        raise InputError(
            f"train.num_workers is {needed} with {num_cpus} CPU each, but the cluster {has} {sum(cpus)} CPU on "
            f"{len(nodes)} node(s); lower train.num_workers or train.cpus_per_worker."
        )
    resources = WorkerResources(num_cpus=num_cpus, use_gpu=use_gpu)
    if cluster.growth is None or not cluster.growth.is_known:
        return resources
    return dataclasses.replace(resources, most=num_workers_at_once(resources, nodes))


def num_workers_at_once(resources: WorkerResources, nodes: Sequence[Node]) -> int:
    """How many such workers the nodes hold at the same time."""
    if resources.use_gpu:
        return int(sum(node.get("GPU", 0) for node in nodes))
    return sum(int(node.get("CPU", 0)) // resources.num_cpus for node in nodes)


def free_host_memory() -> int:
    """Bytes free on this machine, or in the container that holds this process if that is less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))


CGROUP = Path("/sys/fs/cgroup")
