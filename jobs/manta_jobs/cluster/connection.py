"""The Ray cluster that a job runs on, and the resources of a run's workers."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
import tempfile
import threading
from concurrent.futures import Future, wait
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import psutil
import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from manta.cluster.ray_start import LOCAL_HOST, starting_ray
from manta.console import people_console, working
from manta.errors import InputError
from manta.storage.object_store import check, url_of
from manta_jobs.cluster.autoscaling import Growth, Node, growth
from manta_jobs.cluster.losses import losses_named
from manta_jobs.cluster.own_process import ProcessLostError, run_in_own_process

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from rich.console import Console

    from manta.config import TrainConfig

T = TypeVar("T")
PROBE_WITHIN_S = 60.0
LOOK_EVERY_S = 1.0
PREEMPTION_WATCHER = "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"
STARTED_HERE = threading.Event()
"""Set while this process is connected to a cluster that it has started."""


@dataclass(frozen=True)
class Cluster:
    """The nodes that a run can use."""

    living: Sequence[Node]
    """The running nodes; for a cluster that is not started yet, the nodes that it will have."""
    free: Node | None = None
    """Resources that are free now, summed over all nodes; None for a cluster that is not started yet."""
    strangers: Sequence[str] = ()
    """Addresses of the nodes that could train but do not see the run's storage."""
    growth: Growth | None = None
    """The nodes that the autoscaler can start; None without an autoscaler."""

    @property
    def nodes(self) -> Sequence[Node]:
        """Every node that the run can have, running or not started yet."""
        return self.living if self.growth is None else self.growth.nodes


@dataclass(frozen=True)
class WorkerResources:
    """Resources of each worker of a run."""

    num_cpus: int
    use_gpu: bool
    most: int | None = None
    """The most such workers that there can be; None if the nodes that may be started are unknown."""

    def bundle(self) -> dict[str, float]:
        """Return the resources in the format of Ray's scheduler."""
        return {"CPU": float(self.num_cpus)} | ({"GPU": 1.0} if self.use_gpu else {})


@contextmanager
def connected(address: str | None, *, num_workers: int) -> Iterator[None]:
    """Keep this process connected to a cluster while the body runs.

    The cluster is the one at `address` or $RAY_ADDRESS. Without either, one is started on this machine and stopped at the end. A
    connection that this process already has is used and kept.

    Raises:
        RunError: no cluster answers at the address, or a process of it was lost.
    """
    if ray.is_initialized():
        with losses_named():
            yield
        return
    target = address or os.environ.get("RAY_ADDRESS")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # A cluster that we start measures every process of the machine less often, because that takes time from training.
    os.environ.setdefault("REPORTER_UPDATE_INTERVAL_MS", "60000")
    doing = f"Connecting to Ray at {target}" if target else "Starting Ray on this machine"
    with starting_ray(target), working(people_console(), doing):
        if target:
            ray.init(address=target, log_to_driver=False, logging_level=logging.ERROR)
        else:
            # More workers than cores are slow but correct, so the local cluster has a logical CPU for each worker.
            ray.init(
                address="local",
                _node_ip_address=LOCAL_HOST,
                num_cpus=local_cpus(num_workers),
                include_dashboard=False,
                log_to_driver=False,
                logging_level=logging.ERROR,
            )
    # Ray always reports lost workers on stdout; stdout is reserved for `--json`.
    with redirect_stdout(sys.stderr), nullcontext() if target else _own_cluster():
        try:
            with losses_named():
                yield
        finally:
            ray.shutdown()


@contextmanager
def _own_cluster() -> Iterator[None]:
    """Let the body know that this process has started the cluster, on this machine.

    Ray Train then starts no process that watches for nodes to be taken away, and `OneNode` works in this process.
    """
    is_default = PREEMPTION_WATCHER not in os.environ
    os.environ.setdefault(PREEMPTION_WATCHER, "0")
    STARTED_HERE.set()
    try:
        yield
    finally:
        STARTED_HERE.clear()
        if is_default:
            del os.environ[PREEMPTION_WATCHER]


def needs_no_cluster(address: str | None, *, num_workers: int) -> bool:
    """Tell whether this process can do a job by itself: one worker is enough, and no cluster is named or connected."""
    return num_workers == 1 and not (ray.is_initialized() or address or os.environ.get("RAY_ADDRESS"))


@contextmanager
def connected_if_needed(address: str | None, *, num_workers: int) -> Iterator[None]:
    """Keep this process connected to a cluster, as `connected` does, unless it can do the job by itself.

    Raises:
        RunError: no cluster answers at the address, or a process of it was lost.
    """
    if needs_no_cluster(address, num_workers=num_workers):
        yield
        return
    with connected(address, num_workers=num_workers):
        yield


def in_background(work: Callable[[], T]) -> Future[T]:
    """Start work in a thread that ends with this process, and return its future."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # passed on to the caller
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def interruptible(work: Callable[[], T], *, console: Console, look: Callable[[], None] | None = None) -> T:
    """Run long work so that Ctrl-C ends it at once. Call `look` every second; an exception from `look` ends the work, too.

    On the main thread, Ray Train and Tune install their own handlers for Ctrl-C: one exits with code 1, the other continues to the
    end of its step and reports success. On a separate thread, the work leaves Ctrl-C to this function. Without a cluster, the work
    runs on this thread, where Ctrl-C ends it.
    """
    try:
        if not ray.is_initialized():
            return work()
        future = in_background(work)
        while look is not None and not wait([future], timeout=LOOK_EVERY_S).done:
            look()
        return future.result()
    except KeyboardInterrupt:
        console.print("Stopping; nothing is registered.")
        raise


class OneNode:
    """One node for one piece of work: it gets the node's cores, or one GPU if the cluster has any.

    Without a cluster, the node is this machine, and the work runs in a thread of this process. The same holds if this process has
    started the cluster and there is no GPU: it has loaded what the work needs, which costs another process seconds and a gigabyte.
    """

    def __init__(self, *, on_cpu: bool = False) -> None:
        """Choose the node; `on_cpu` is for work that only CPUs can do.

        Raises:
            InputError: no node of the cluster has a CPU, and no node will be started.
        """
        cluster = present_cluster()
        has_gpus = any(node.get("GPU", 0) for node in cluster.nodes)
        self._num_gpus = 1 if has_gpus and not on_cpu else 0
        num_cpus = max(int(node.get("CPU", 0)) for node in cluster.nodes if node.get("GPU", 0) >= self._num_gpus)
        if not num_cpus and cluster.growth is None:
            raise InputError("none of the cluster's nodes has a CPU to work on; start one with `ray start --address=…`.")
        self._is_here = not ray.is_initialized() or (STARTED_HERE.is_set() and not has_gpus)
        self.num_threads = num_cores() if self._is_here else max(1, num_cpus)

    @property
    def has_gpu(self) -> bool:
        """True if the work gets a GPU."""
        return self._num_gpus > 0

    def start(self, function: Callable[..., T], *arguments: Any) -> Future[T]:
        """Start a function and return the future of its result."""
        if self._is_here:
            return in_background(lambda: function(*arguments))
        num_cpus = 1 if self._num_gpus else self.num_threads
        task = ray.remote(num_cpus=num_cpus, num_gpus=self._num_gpus)(function)
        future: Future[T] = task.remote(*arguments).future()
        return future

    def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function and return its result."""
        return function(*arguments) if self._is_here else self.start(function, *arguments).result()

    def run_apart(self, function: Callable[..., None], *arguments: Any) -> None:
        """Run a function in another process. A crash in compiled code ends that process, and this one goes on.

        Raises:
            ProcessLostError: the process crashed, and so did a second one.
        """
        if not self._is_here:
            try:
                self.start(function, *arguments).result()
            except ray.exceptions.WorkerCrashedError as error:  # Ray has tried it three times more
                raise ProcessLostError("Ray's worker crashed") from error
            return
        try:
            run_in_own_process(function, *arguments)
        except ProcessLostError:
            run_in_own_process(function, *arguments)


def num_cores() -> int:
    """Return the number of CPU cores that this process may use."""
    return len(os.sched_getaffinity(0))


def local_cpus(num_workers: int) -> int:
    """Return the number of logical CPUs of the cluster that is started on this machine."""
    return max(num_cores(), num_workers)


def cluster_nodes() -> list[Node]:
    """Return the resources of each living node of the connected cluster."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def present_cluster(train: TrainConfig | None = None) -> Cluster:
    """Return the connected cluster and the nodes that it can grow to.

    Growth is for a run of `train`; without it, for work that takes GPUs if there are any. Without a cluster, return this machine.
    """
    if not ray.is_initialized():
        return this_machine(num_workers=1)
    return Cluster(cluster_nodes(), free=ray.available_resources(), growth=growth(train))


def coming_cluster(address: str | None, *, train: TrainConfig, storage: Path) -> Cluster:
    """Return the cluster that `connected` would give, without starting one on this machine.

    It includes the addresses of the nodes that do not see `storage`.

    Raises:
        RunError: no cluster answers at the address, or a process of it was lost.
    """
    if ray.is_initialized() or address or os.environ.get("RAY_ADDRESS"):
        with connected(address, num_workers=train.max_workers):
            return dataclasses.replace(present_cluster(train), strangers=nodes_without(storage))
    return this_machine(num_workers=train.max_workers)


def this_machine(*, num_workers: int) -> Cluster:
    """Return the cluster that would be started on this machine for so many workers."""
    import torch

    gpus = {"GPU": float(torch.cuda.device_count())} if torch.cuda.device_count() else {}
    return Cluster([{"CPU": float(local_cpus(num_workers)), "memory": float(free_host_memory()), **gpus}])


def nodes_without(folder: Path) -> list[str]:
    """Return addresses of the connected cluster's nodes that do not see the same `folder` as this process.

    A file with a unique name is created in the folder, or in its nearest existing parent. Every node that has resources to train
    with looks for it. Nothing is checked on a single node, or if this process may not write. For a mirror, each node checks that it
    can write to the object store.
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
    """Return addresses of the nodes that answer a question with no. Only nodes with resources to train with are asked."""
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
    """Tell whether this process can write below a URL."""
    try:
        check(url)
    except InputError:
        return False
    return True


def _seen(answer: ray.ObjectRef) -> bool:
    """Return a node's answer. A node that is lost meanwhile counts as a yes."""
    try:
        return bool(ray.get(answer, timeout=PROBE_WITHIN_S))
    except (ray.exceptions.RayError, TimeoutError):
        return True


def fit_workers(config: TrainConfig, cluster: Cluster) -> WorkerResources:
    """Decide the resources of each worker.

    Raises:
        InputError: the workers do not fit, even if the cluster grows; the message says what to change.
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
    """Return the number of such workers that the nodes hold at the same time."""
    if resources.use_gpu:
        return int(sum(node.get("GPU", 0) for node in nodes))
    return sum(int(node.get("CPU", 0)) // resources.num_cpus for node in nodes)


def free_host_memory() -> int:
    """Return the bytes that are free on this machine, or in this process's container if that is less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))


CGROUP = Path("/sys/fs/cgroup")
