"""Proof that a run was distributed: each worker's memory and work, and a check that all workers trained one model."""

from __future__ import annotations

import hashlib
import os
import socket
import time
from collections import defaultdict, deque
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import ray
import torch
import torch.distributed as dist

from manta_jobs.training.engine.build import full_weights
from manta_jobs.training.engine.memory import peak_bytes
from manta_jobs.training.engine.zero import gradient_bytes, import_deepspeed, state_bytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepspeed import DeepSpeedEngine

PHASES = ("data", "forward", "backward", "step", "evaluation", "checkpoint")
MOST_PENDING_EVENTS = 512


class Stopwatch:
    """Seconds spent in each phase. A GPU works asynchronously, so there CUDA events measure the time."""

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._seconds: dict[str, float] = defaultdict(float)
        self._pending: deque[tuple[str, torch.cuda.Event, torch.cuda.Event]] = deque()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Add the body's time to a phase."""
        if not self._on_gpu:
            started = time.perf_counter()
            yield
            self._seconds[phase] += time.perf_counter() - started
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        begin.record()
        yield
        end.record()
        self._pending.append((phase, begin, end))
        if len(self._pending) > MOST_PENDING_EVENTS:
            self._collect(wait=False)

    def seconds(self) -> dict[str, float]:
        """Return the seconds of each phase so far, after the device has done its work."""
        self._collect(wait=True)
        return {phase: round(self._seconds[phase], 3) for phase in PHASES}

    def _collect(self, *, wait: bool) -> None:
        """Add up the phases that the device has done; with `wait`, all of them."""
        while self._pending and (wait or self._pending[0][2].query()):  # type: ignore[no-untyped-call]
            phase, begin, end = self._pending.popleft()
            end.synchronize()
            self._seconds[phase] += begin.elapsed_time(end) / 1000


class WorkRecord:
    """Memory and work of this worker, for the section `distribution` of the report."""

    def __init__(self, device: torch.device) -> None:
        self.watch = Stopwatch(device)
        self._device = device
        self._bytes: dict[str, int] = {}
        self._num_examples, self._trained_s = 0, 0.0
        self._first_hash = ""

    def micro_batch(self, engine: DeepSpeedEngine, *, num_rows: int) -> None:
        """Count a backward pass over `num_rows` rows. Until the first step, also measure the gradients that it left."""
        self._num_examples += num_rows
        if not self._first_hash:
            self._bytes["gradients"] = max(self._bytes.get("gradients", 0), gradient_bytes(engine))

    def step(self, engine: DeepSpeedEngine, *, seconds: float) -> None:
        """Count an optimizer step. After the first one, also measure the engine's state and compare the workers' weights."""
        self._trained_s += seconds
        if not self._first_hash:
            self._bytes |= state_bytes(engine)
            with full_weights(engine) as weights:
                self._first_hash = agreed_hash(weights)

    def report(self, engine: DeepSpeedEngine, *, last_hash: str) -> dict[str, Any]:
        """Return the facts of all workers. All workers must call it together."""
        device = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "CPU"
        mine = {
            "node": node_id(),
            "device": device,
            "threads": torch.get_num_threads(),
            "bytes": self._bytes,
            "peak_bytes": peak_bytes(self._device),
            "examples_per_s": round(self._num_examples / max(self._trained_s, 1e-9), 2),
            "seconds": self.watch.seconds(),
        }
        workers = gathered_facts(mine)
        return {
            "world_size": dist.get_world_size(),
            "num_nodes": len({worker["node"] for worker in workers}),
            "zero_stage": int(engine.zero_optimization_stage()),
            "weights_sha256": {"first_step": self._first_hash, "last_step": last_hash},
            "workers": workers,
        }


def agreed_hash(weights: dict[str, torch.Tensor]) -> str:
    """Return the sha256 of all weights, after comparing it between workers. All workers must call it together.

    Raises:
        RuntimeError: the hashes differ, so the workers have not trained one model.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name].detach().float().cpu().numpy()).data)
    hashes: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(hashes, digest.hexdigest())
    if len(set(hashes)) > 1:
        listed = ", ".join(f"worker {rank}: {value[:12]}" for rank, value in enumerate(hashes))
        raise RuntimeError(f"the weights differ between workers ({listed}); their gradients were not synchronised")
    return hashes[0]


@contextmanager
def process_group() -> Iterator[None]:
    """Give the worker that trains in the command's own process a process group of one while the body runs.

    Ray has already connected the workers of a cluster.
    """
    if dist.is_initialized():
        yield
        return
    os.environ |= {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1"}  # DeepSpeed looks for them
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        import_deepspeed().comm.destroy_process_group()  # of DeepSpeed's own references, too, so that another run can begin


def node_id() -> str:
    """Return Ray's id of this worker's node; the host's name for a worker that trains without a cluster."""
    return str(ray.get_runtime_context().get_node_id()) if ray.is_initialized() else socket.gethostname()


def gathered_facts(mine: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the facts of each worker and its host name, in the order of ranks. All workers must call it together."""
    facts: list[dict[str, Any]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(facts, {"host": socket.gethostname(), **mine})
    return facts
