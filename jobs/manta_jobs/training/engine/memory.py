"""Decisions that depend on memory: the ZeRO stage and each worker's micro-batch. The batch stays as configured."""

from __future__ import annotations

import gc
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from manta_jobs.cluster.connection import free_host_memory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from manta.config import TrainConfig
    from manta_jobs.training.checkpoints import TrainingState

FLOAT32 = 4
# The backward pass also holds the gradients of the saved activations and the intermediate results of one layer.
BACKWARD_FACTOR = 1.5
# The rest stays free for other processes on the machine and for fragmentation.
USABLE_SHARE = 0.85
NUM_BUCKETS, SMALLEST_BUCKET = 8, 2_000_000
"""On GPUs: the number of exchanges for the gradients of one step, and the smallest size of one, below which latency dominates."""
LIVE_BUCKETS = 2
"""Parameters that ZeRO 3 keeps gathered, as a multiple of the bucket size."""
WHOLE_BUCKET = 500_000_000
"""The most numbers that DeepSpeed copies together for an exchange at ZeRO 0."""
NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "status_alloc_failed", "bad_alloc")
"""Parts of the errors of torch, CUDA, cuBLAS, cuDNN and NCCL about memory that they did not get."""
STAGE_REASONS = (
    "everything fits each worker",
    "it fits with the optimizer state split",
    "it fits with optimizer state and gradients split",
    "no lower stage fits",
)
"""Reasons for each stage that `train.zero_stage: auto` chooses on several workers."""


@dataclass(frozen=True)
class Room:
    """A worker's available memory and a model's needs, in bytes."""

    parameters: int
    """All weights, unsplit."""
    learning: int
    """The weights that are not frozen."""
    row: int
    """Activations that the longest row keeps for the backward pass."""
    available: int | None
    """Memory for everything together, including the weights; None if unknown."""
    world_size: int
    on_gpu: bool

    @property
    def checkpoint(self) -> int:
        """Copies that a checkpoint needs in the machine's memory: weights and both of AdamW's moments."""
        return self.parameters + 2 * self.learning


@dataclass(frozen=True)
class HeldBytes:
    """Bytes of the model that one worker holds in training, by purpose."""

    parameters: int
    gradients: int
    optimizer: int
    """AdamW's moments and, where ZeRO splits it, the float32 copies that it updates."""
    buffers: int
    """Copies of gradients that are being exchanged, on GPUs; at ZeRO 3 also the parameters that are gathered."""

    @property
    def total(self) -> int:
        """Sum over all purposes."""
        return self.parameters + self.gradients + self.optimizer + self.buffers


class OutOfMemory(RuntimeError):  # noqa: N818  # a report more than an error: the run continues with fewer rows
    """Error of a worker that ran out of memory with a micro-batch of `micro_batch_size` rows."""

    def __init__(self, micro_batch_size: int) -> None:
        super().__init__(micro_batch_size)
        self.micro_batch_size = micro_batch_size

    def __str__(self) -> str:
        if self.micro_batch_size == 1:
            return (
                "out of memory with one row at a time; lower model.max_length, raise train.num_workers, or set model.lora or "
                "train.gradient_checkpointing: true"
            )
        return (
            f"out of memory with {self.micro_batch_size} rows at a time; lower train.micro_batch_size or model.max_length, "
            "or set train.gradient_checkpointing: true"
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether torch, a library of CUDA or Python failed to allocate memory, on a GPU or a CPU."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in NO_MEMORY)


@contextmanager
def exhaustion_named(micro_batch_size: int) -> Iterator[None]:
    """Replace an out-of-memory error of the body by one that names the micro-batch size.

    Raises:
        OutOfMemory: the body ran out of memory in a step, in an evaluation or while gathering a checkpoint.
    """
    try:
        yield
    except Exception as error:
        if is_out_of_memory(error):
            raise OutOfMemory(micro_batch_size) from None
        raise


def held_bytes(config: TrainConfig, room: Room, *, zero_stage: int) -> HeldBytes:
    """Return the bytes of the model that a worker holds at a ZeRO stage."""
    split = room.world_size
    copies = 3 if zero_stage else 2
    return HeldBytes(
        parameters=0 if room.on_gpu and config.offload_parameters else room.parameters // (split if zero_stage == 3 else 1),
        gradients=room.learning // (split if zero_stage >= 2 else 1),
        optimizer=0 if room.on_gpu and config.offload_optimizer else copies * room.learning // (split if zero_stage else 1),
        buffers=buffer_bytes(config, room, zero_stage=zero_stage) if room.on_gpu else 0,
    )


def bucket_size(config: TrainConfig, num_learning: int) -> int:
    """Return how many numbers of the gradients GPUs exchange at a time at ZeRO 1 to 3.

    An exchange begins when the bucket is full. DeepSpeed's default of 500 million is more than an encoder has: the exchange would
    begin after the last gradient and overlap with nothing.
    """
    given = config.deepspeed.get("zero_optimization", {}).get("reduce_bucket_size")
    return int(given) if given else max(SMALLEST_BUCKET, num_learning // NUM_BUCKETS)


def buffer_bytes(config: TrainConfig, room: Room, *, zero_stage: int) -> int:
    """Return the bytes of buffers for exchanges that a worker on a GPU holds.

    At ZeRO 0, DeepSpeed copies the gradients to exchange them. At ZeRO 1 and 2, a bucket is filled while another one is exchanged.
    At ZeRO 3, there are a bucket and the gathered parameters, with those that are fetched ahead.
    """
    bucket = FLOAT32 * bucket_size(config, room.learning // FLOAT32)
    if zero_stage == 0:
        return min(room.learning, FLOAT32 * WHOLE_BUCKET) if room.world_size > 1 else 0
    return 2 * bucket if zero_stage < 3 else bucket + min((LIVE_BUCKETS + 1) * bucket, room.parameters)


def choose_zero_stage(config: TrainConfig, room: Room) -> int:
    """Return the configured stage. For `auto`: the lowest at which one row at a time fits, or the highest if none does.

    A single worker has nothing to split; a higher stage would only add copies. If memory is unknown, everything counts as fitting.
    """
    if config.zero_stage != "auto":
        return config.zero_stage
    lowest = config.lowest_zero_stage
    if room.world_size == 1 or room.available is None:
        return lowest
    # A checkpoint is copied between steps, when no activations are held.
    peak = max(round(room.row * BACKWARD_FACTOR), 0 if room.on_gpu else room.checkpoint)
    usable = room.available * USABLE_SHARE
    fitting = (stage for stage in range(lowest, 3) if held_bytes(config, room, zero_stage=stage).total + peak <= usable)
    return next(fitting, 3)


def agreed_zero_stage(config: TrainConfig, room: Room, *, before: TrainingState) -> tuple[int, str]:
    """Return the stage of all workers, and the reason if it was chosen now. The worker with the least memory decides.

    If the same number of workers left a checkpoint, its stage is kept. All workers must call it together.
    """
    if config.zero_stage == "auto" and before.zero_stage is not None and before.world_size == room.world_size:
        return before.zero_stage, ""
    stage = max(of_all_workers(choose_zero_stage(config, room)))
    return stage, stage_reason(config, stage, world_size=room.world_size)


def stage_reason(config: TrainConfig, zero_stage: int, *, world_size: int) -> str:
    """Return the reason why `auto` chose this stage; empty if the config sets it."""
    if config.zero_stage != "auto":
        return ""
    if zero_stage == config.lowest_zero_stage > 0:
        return "train.offload_parameters needs 3" if zero_stage == 3 else "train.offload_optimizer needs 1 or more"
    return "one worker has nothing to split" if world_size == 1 else STAGE_REASONS[zero_stage]


def choose_micro_batch_size(config: TrainConfig, *, row_bytes: int, free_bytes: int, world_size: int, limit: int | None) -> int:
    """Return a worker's micro-batch: as configured, or the most rows that fit, but never more than its share of a batch.

    `limit` is the size that the run fell back to after it ran out of memory.
    """
    share = -(-config.batch_size // world_size)
    if config.micro_batch_size != "auto":
        fitting = config.micro_batch_size
    else:
        fitting = int(free_bytes * USABLE_SHARE // (row_bytes * BACKWARD_FACTOR))
    return max(1, min(fitting, share, limit or share))


def agreed_micro_batch_size(config: TrainConfig, room: Room, *, zero_stage: int, before: TrainingState, limit: int | None) -> int:
    """Return the micro-batch of all workers. The worker with the least memory decides. All workers must call it together.

    For `auto`, if the same number of workers left a checkpoint, its size is kept. `limit` is as in `choose_micro_batch_size`.
    """
    if config.micro_batch_size == "auto" and before.micro_batch_size is not None and before.world_size == room.world_size:
        config = config.model_copy(update={"micro_batch_size": before.micro_batch_size})
    free = max(0, (room.available or 0) - held_bytes(config, room, zero_stage=zero_stage).total)
    chosen = choose_micro_batch_size(config, row_bytes=room.row, free_bytes=free, world_size=room.world_size, limit=limit)
    return min(of_all_workers(chosen))


def bytes_per_row(model: torch.nn.Module, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> int:
    """Return the bytes of activations per row that a forward pass of these rows keeps for its backward pass."""
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


def measured_room(model: torch.nn.Module, *, row: int, device: torch.device, world_size: int, workers_here: int) -> Room:
    """Measure this worker's memory now. The whole model must be on its device already, and nothing else of the training."""
    on_gpu = device.type == "cuda"
    parameters = sum(parameter.nbytes for parameter in model.parameters())
    free = torch.cuda.mem_get_info(device)[0] if on_gpu else free_host_memory() // workers_here
    return Room(
        parameters=parameters,
        learning=sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad),
        row=row,
        available=free + parameters,
        world_size=world_size,
        on_gpu=on_gpu,
    )


def peak_bytes(device: torch.device) -> int:
    """Return the most memory that this process has held: in tensors on a GPU, else in the machine's memory."""
    if device.type == "cuda":
        return int(torch.cuda.max_memory_allocated(device))
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    return 0


def free_memory() -> None:
    """Free the memory of a training that has ended, before the next one in this process begins.

    Engines refer to themselves, so only the collector frees them, and only when no frame holds the training any more.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def of_all_workers(value: int) -> list[int]:
    """Return every worker's value. All workers must call it together."""
    values = [0] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values
