"""Estimates before a run starts: memory of each worker, disk space for checkpoints, and time."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from manta.errors import InputError
from manta.model.adapt import adapt
from manta.model.pretrained import pretrained_source
from manta_jobs.training.checkpoints import NUM_NEWEST_KEPT
from manta_jobs.training.choice import has_time_for_few_row_methods
from manta_jobs.training.engine.memory import (
    BACKWARD_FACTOR,
    FLOAT32,
    USABLE_SHARE,
    Room,
    choose_micro_batch_size,
    choose_zero_stage,
    held_bytes,
    stage_reason,
)
from manta_jobs.training.few_rows.contrastive import num_adapted_rows
from manta_jobs.training.start.new_head import MOST_ROWS
from manta_jobs.tuning.confirm import num_confirming
from manta_jobs.tuning.journal import longest_epochs

if TYPE_CHECKING:
    from transformers import PretrainedConfig

    from manta.config import ExperimentConfig, Method, ModelConfig, TrainConfig
    from manta_jobs.preflight.probe import ProbeResult

PROCESS_BYTES = 700_000_000
"""Memory of a worker process on a CPU before it loads a model: Python, torch, Ray and DeepSpeed, measured on Linux."""


@dataclass(frozen=True)
class ModelSize:
    """Sizes of a model that decide its memory use."""

    num_parameters: int
    num_learning: int
    """Parameters that are not frozen. Word embeddings that no training text uses count, too: they do not learn, but they are known
    only when all texts are tokenized."""
    num_layers: int
    width: int
    """Length of the vector that represents a token in a layer."""
    inner_width: int
    """Length of that vector within the feed-forward network."""
    num_heads: int


def model_size(model_config: PretrainedConfig, config: ModelConfig) -> ModelSize:
    """Return the sizes of an encoder as the config adapts it, from its architecture alone; no weights are read.

    Raises:
        InputError: the weights file is damaged, the architecture has no sequence-classification model, or it cannot be adapted as
            the config says.
    """
    counted = _counted_in_file(config)
    num_parameters, num_learning = counted or _counted_in_model(model_config, config)
    width = int(getattr(model_config, "hidden_size", 768))
    return ModelSize(
        num_parameters=num_parameters,
        num_learning=num_learning,
        num_layers=int(getattr(model_config, "num_hidden_layers", 12)),
        width=width,
        inner_width=int(getattr(model_config, "intermediate_size", None) or 4 * width),
        num_heads=int(getattr(model_config, "num_attention_heads", 12)),
    )


def _counted_in_file(config: ModelConfig) -> tuple[int, int] | None:
    """Count parameters from the header of a local weights file; None if there is no file or some parameters do not learn.

    This avoids importing the architecture's code, which takes seconds.
    """
    from safetensors import SafetensorError, safe_open

    file = Path(pretrained_source(config.pretrained)) / "model.safetensors"
    if config.lora is not None or config.freeze_embeddings or config.freeze_layers or not file.is_file():
        return None
    try:
        with safe_open(file, framework="numpy") as weights:
            count = sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118  # no mapping
    except (OSError, SafetensorError) as error:
        raise InputError(f"model.pretrained: {file} is not a whole file of weights ({error}); fetch it again.") from None
    return count, count


def _counted_in_model(model_config: PretrainedConfig, config: ModelConfig) -> tuple[int, int]:
    """Count the parameters of the model, built without memory, and those of them that learn."""
    import torch
    from transformers import AutoModelForSequenceClassification

    try:
        with torch.device("meta"):
            model = adapt(AutoModelForSequenceClassification.from_config(model_config, trust_remote_code=False), config)
    except ValueError as error:
        reason = str(error).strip().split("\n")[0]
        raise InputError(f"model.pretrained: {config.pretrained} cannot be made a classifier ({reason}); give another.") from None
    counts = [(parameter.numel(), parameter.requires_grad) for parameter in model.parameters()]
    return sum(count for count, _ in counts), sum(count for count, learns in counts if learns)


def activation_bytes(size: ModelSize, *, num_tokens: int, num_bytes: int, checkpointing: bool) -> int:
    """Return the bytes that the forward pass of one row keeps for the backward pass.

    The count per layer follows Korthikanti et al. (2022, https://arxiv.org/abs/2205.05198, section 4.1), with numbers of
    `num_bytes` bytes and dropout masks of one byte.
    """
    of_a_token = size.width * (num_bytes * (8 + 2 * size.inner_width / size.width) + 2)
    of_attention = size.num_heads * num_tokens * (2 * num_bytes + 1)
    layer = num_tokens * (of_a_token + of_attention)
    states = num_tokens * size.width * num_bytes
    layers = size.num_layers * states + layer if checkpointing else size.num_layers * layer
    return round(layers + 3 * states)


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of one worker at its peak, by purpose. On a GPU this is the GPU's own memory, else the machine's."""

    device: Literal["CPU", "GPU"]
    parameters: int
    gradients: int
    optimizer: int
    """AdamW's moments and, where ZeRO splits it, the float32 copies that it updates."""
    buffers: int
    """Copies of gradients that are being exchanged, on GPUs; at ZeRO 3 also the parameters that are gathered."""
    activations: int
    checkpoint: int
    """Copies that worker 0 makes to write a checkpoint in the background."""
    process: int
    """Programs and libraries."""
    micro_batch_size: int
    """Rows computed at a time."""
    zero_stage: int
    stage_reason: str
    """Reason for this stage if `train.zero_stage` is auto; else empty."""

    @property
    def held(self) -> int:
        """Total between steps."""
        return self.parameters + self.gradients + self.optimizer + self.buffers + self.process

    @property
    def needed(self) -> int:
        """Total at the peak."""
        return self.held + max(self.activations, self.checkpoint)  # checkpoints are copied between steps

    def to_dict(self) -> dict[str, Any]:
        """Return the estimate as `report.json` has it."""
        return dataclasses.asdict(self) | {"needed": self.needed}


def estimate_memory(
    config: TrainConfig, size: ModelSize, *, num_tokens: int, world_size: int, use_gpu: bool, available: int | None
) -> MemoryEstimate:
    """Estimate the memory of one worker.

    `num_tokens` is the length of the longest row. `available` bounds an `auto` micro-batch, if it is known. For MiniLM-L6 with rows
    of 82 tokens on a CPU, without the libraries, the estimate is 1.19 GB for 32 rows (a process took 1.20 GB) and 3.67 GB for 128
    rows (a process took 3.39 GB).
    """
    # `auto` precision is bf16 on most GPUs.
    num_bytes = 2 if config.precision in ("bf16", "fp16") or (use_gpu and config.precision == "auto") else FLOAT32
    row = activation_bytes(size, num_tokens=num_tokens, num_bytes=num_bytes, checkpointing=config.gradient_checkpointing)
    process = 0 if use_gpu else PROCESS_BYTES
    room = Room(
        parameters=size.num_parameters * FLOAT32,
        learning=size.num_learning * FLOAT32,
        row=row,
        available=None if available is None else max(0, available - process),
        world_size=world_size,
        on_gpu=use_gpu,
    )
    stage = choose_zero_stage(config, room)
    reason = stage_reason(config, stage, world_size=world_size)
    if reason and world_size > 1 and available is None:
        reason = "the workers take a higher one if this does not fit"
    held = held_bytes(config, room, zero_stage=stage)
    free = 2**62 if room.available is None else max(0, room.available - held.total)
    rows = choose_micro_batch_size(config, row_bytes=row, free_bytes=free, world_size=world_size, limit=None)
    return MemoryEstimate(
        device="GPU" if use_gpu else "CPU",
        parameters=held.parameters,
        gradients=held.gradients,
        optimizer=held.optimizer,
        buffers=held.buffers,
        activations=round(rows * row * BACKWARD_FACTOR),
        checkpoint=0 if use_gpu else room.checkpoint,
        process=process,
        micro_batch_size=rows,
        zero_stage=stage,
        stage_reason=reason,
    )


def usable_bytes(available: int) -> int:
    """Return the part of the available bytes that a run may plan with."""
    return round(available * USABLE_SHARE)


def checkpoint_bytes(size: ModelSize) -> int:
    """Return the bytes of a checkpoint: weights and both of AdamW's moments, in float32."""
    return FLOAT32 * (size.num_parameters + 2 * size.num_learning)


def run_disk_bytes(size: ModelSize) -> int:
    """Return the most disk space that one run takes: newest checkpoints, the kept epoch's and the one being written."""
    return (NUM_NEWEST_KEPT + 2) * checkpoint_bytes(size)


def model_disk_bytes(size: ModelSize) -> int:
    """Return the disk space of a finished model, in the run's folder and in the registry."""
    return 2 * FLOAT32 * size.num_parameters


def num_runs(config: ExperimentConfig) -> tuple[int, int]:
    """Return the number of trials of a search, and of the runs that confirm the best of them."""
    return config.tune.budget.num_trials, num_confirming(config)


@dataclass(frozen=True)
class TimeEstimate:
    """Longest time that a run and a search take, and their cost if the config has a price."""

    run_s: float
    search_s: float | None
    """None without a search."""
    run_cost: float | None
    search_cost: float | None


def estimate_time(
    config: ExperimentConfig,
    probe: ProbeResult,
    *,
    num_train_rows: int,
    num_validation_rows: int,
    num_folds: int,
    tried: tuple[Method, ...],
    world_size: int,
    runs_at_once: int | None,
) -> TimeEstimate:
    """Estimate the time from the probe's pace. `runs_at_once` is the number of parallel runs of a search; None without one.

    With k folds, a cross-validation trains k times on (k - 1)/k of the rows and once on all of them: on k times the rows in total.
    Each training begins with the forward pass that a new head is fitted to; it counts even if rows are too few for it. The method
    linear computes every row once, as an evaluation does. Contrastive does so in each fold and in the end, each time after an
    adaptation by one worker. A search under `train.method: auto` begins with the methods for few rows if it has time for them.
    """
    steps = math.ceil(num_train_rows / config.train.batch_size)
    epoch_s = (steps * probe.update_s + num_train_rows * probe.train_s_per_row / world_size) * max(1, num_folds)
    epoch_s += num_validation_rows * probe.evaluation_s_per_row / world_size
    num_held_out = 0 if num_folds else num_validation_rows
    embed_s = (num_train_rows + num_held_out) * probe.evaluation_s_per_row
    head_s = max(1, num_folds) * min(num_train_rows, MOST_ROWS) * probe.evaluation_s_per_row / world_size
    full_s = longest_epochs(config, searched=False) * epoch_s + head_s
    adapt_s = (num_folds + 1) * (num_adapted_rows(num_train_rows) * probe.train_s_per_row + embed_s)
    seconds: dict[Method, float] = {"linear": embed_s, "contrastive": adapt_s, "full": full_s}
    run_s = probe.startup_s + sum(seconds[method] for method in tried)
    search_s: float | None = None
    price = config.train.cost_per_hour
    search_cost: float | None = None
    if runs_at_once is not None:
        trials, confirmations = num_runs(config)
        rounds = math.ceil(trials / runs_at_once) + math.ceil(confirmations / runs_at_once)
        trial_s = probe.startup_s + longest_epochs(config, searched=True) * epoch_s + head_s
        begins = config.train.method == "auto" and has_time_for_few_row_methods(config.tune.budget.wall_clock_s)
        few_rows_s = sum(seconds[method] for method in tried if method != "full") if begins else 0.0
        search_s = few_rows_s + rounds * trial_s
        if config.tune.budget.wall_clock_s is not None:
            search_s = min(search_s, config.tune.budget.wall_clock_s)
        hours = min(few_rows_s + (trials + confirmations) * trial_s, search_s * runs_at_once) * world_size / 3600
        search_cost = None if price is None else hours * price
    return TimeEstimate(
        run_s=run_s,
        search_s=search_s,
        run_cost=None if price is None else run_s * world_size / 3600 * price,
        search_cost=search_cost,
    )
