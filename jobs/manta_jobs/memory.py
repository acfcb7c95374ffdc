"""How many rows a worker computes at a time: as many as fit into memory, while the global batch stays what was asked for."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta.config import TrainConfig

# What the backward pass holds beside the saved activations: their gradients, and what one layer computes in between.
BACKWARD_FACTOR = 1.5
# Left free for what others on the machine take meanwhile, and for fragmentation.
USABLE_SHARE = 0.85
CGROUP = Path("/sys/fs/cgroup")


class OutOfMemory(RuntimeError):  # noqa: N818  # it is a report more than an error: the run goes on with fewer rows
    """A worker ran out of memory; `micro_batch_size` rows at a time were too many."""

    def __init__(self, micro_batch_size: int) -> None:
        super().__init__(micro_batch_size)
        self.micro_batch_size = micro_batch_size

    def __str__(self) -> str:
        return (
            f"out of memory with {self.micro_batch_size} rows at a time; lower train.micro_batch_size or model.max_length, "
            "or set train.gradient_checkpointing: true"
        )


def halved_phrase(rank: int, error: OutOfMemory) -> str:
    """What is done about it, in words."""
    return (
        f"Worker {rank} ran out of memory with {error.micro_batch_size} rows at a time; going on from the last checkpoint with "
        f"{error.micro_batch_size // 2} (the batch of a step stays the same)."
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether torch or Python could not get memory, on a GPU or a CPU."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "DefaultCPUAllocator: can't allocate memory" in str(error)


@contextmanager
def exhaustion_named(micro_batch_size: int) -> Iterator[None]:
    """Training with so many rows at a time.

    Raises:
        OutOfMemory: the body ran out of memory, in a step, an evaluation or on the way to a checkpoint.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(micro_batch_size) from None
        raise


def choose_micro_batch_size(config: TrainConfig, *, row_bytes: int, free_bytes: int, world_size: int, limit: int | None) -> int:
    """Rows at a time for one worker: what the config says, or the most that fit, but never more than its share of a batch.

    `limit` is what the run fell back to after it ran out of memory.
    """
    share = -(-config.batch_size // world_size)
    if config.micro_batch_size != "auto":
        fitting = config.micro_batch_size
    else:
        fitting = int(free_bytes * USABLE_SHARE // (row_bytes * BACKWARD_FACTOR))
    return max(1, min(fitting, share, limit or share))


def bytes_per_row(model: torch.nn.Module, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> int:
    """Bytes of activations that a forward pass of these rows keeps for its backward pass, divided by the rows."""
    counted: dict[int, int] = {}
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}

    def count(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            counted[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
        model(labels=labels, **inputs)
    return max(1, sum(counted.values()) // len(labels))


def free_memory(model: torch.nn.Module, *, device: torch.device, zero_stage: int, world_size: int, workers_here: int) -> int:
    """Bytes that one worker may fill with activations, once its gradients and optimizer state will be there, too."""
    learning = sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)
    gradients = learning // (world_size if zero_stage >= 2 else 1)
    optimizer = (3 if zero_stage else 2) * learning // (world_size if zero_stage else 1)
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_host_memory() // workers_here
    return max(0, free - gradients - optimizer)


def free_host_memory() -> int:
    """Bytes free on this machine, or in the container that holds this process if that is less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit = (CGROUP / "memory.max").read_text().strip()
        used = int((CGROUP / "memory.current").read_text())
    except (OSError, ValueError):
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - used))


def peak_bytes(device: torch.device) -> int:
    """The most memory that this process has held: of the GPU in tensors, else of the machine."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def least_over_workers(value: int) -> int:
    """The least of all workers' values. All workers must call it together."""
    values = [0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return min(values)
