"""The Ray cluster a job runs on, and how a run's workers fit it."""

from __future__ import annotations

import logging
import os
import sys
import threading
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

import ray

from manta.config import TrainConfig
from manta.errors import InputError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

T = TypeVar("T")


@dataclass(frozen=True)
class WorkerResources:
    """What each worker of a run gets."""

    num_cpus: int
    use_gpu: bool

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
                num_cpus=max(num_cores(), num_workers),
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


def interruptible(work: Callable[[], T], *, console: Console) -> T:
    """Do long work of Ray's so that Ctrl-C ends it at once.

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
        return future.result()
    except KeyboardInterrupt:
        console.print("Stopping; nothing is registered.")
        raise


def num_cores() -> int:
    """CPU cores this process may use."""
    return len(os.sched_getaffinity(0))


def fit_workers(config: TrainConfig) -> WorkerResources:
    """Decide what each worker gets on the connected cluster.

    Raises:
        InputError: the workers do not fit; the message says what does.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_gpus = int(sum(node.get("GPU", 0) for node in nodes))
    use_gpu = num_gpus > 0 if config.use_gpu == "auto" else config.use_gpu
    needed = config.min_workers
    if use_gpu and num_gpus < needed:
        raise InputError(
            f"train.num_workers is {needed}, one GPU each, but the cluster has {num_gpus}; lower it or set train.use_gpu: false."
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
            f"train.num_workers is {needed} with {num_cpus} CPU each, but the cluster has {sum(cpus)} CPU on "
            f"{len(nodes)} node(s); lower train.num_workers or train.cpus_per_worker."
        )
    return WorkerResources(num_cpus=num_cpus, use_gpu=use_gpu)


def num_workers_at_once(resources: WorkerResources) -> int:
    """How many such workers the connected cluster holds at the same time."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if resources.use_gpu:
        return int(sum(node.get("GPU", 0) for node in nodes))
    return sum(int(node.get("CPU", 0)) // resources.num_cpus for node in nodes)
