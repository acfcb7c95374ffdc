"""Checkpoints out of an engine and back into one, whatever its ZeRO stage and number of workers.

ZeRO cuts parameters into fragments that lie in flat tensors of different workers. A checkpoint holds each moment whole, under
the parameter's name (and in fp16 the float32 master weights, too), so that training goes on with fewer or more workers.
DeepSpeed's own checkpoints are pickles for one number of workers; its universal ones do not cover ZeRO 0.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

from manta_jobs.training.checkpoints import OPTIMIZER_FILE, WEIGHTS_FILE, CheckpointWriter, TrainingState
from manta_jobs.training.engine import full_weights, restore_scaler, scaler_state

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from deepspeed import DeepSpeedEngine

MOMENTS = ("exp_avg", "exp_avg_sq")
SAVE_EVERY = 10.0
"""A checkpoint after an epoch costs little once training has taken this many times as long as the last checkpoint."""


class Saver:
    """The checkpoints of one training: gathered from all workers, written by worker 0 in the background.

    All workers must call each method together.
    """

    def __init__(self, folder: Path) -> None:
        self._writer = CheckpointWriter(folder)
        self._saved_at = time.monotonic()
        self._saved_step: int | None = None

    @property
    def age_s(self) -> float:
        """Seconds since the last checkpoint, or since the start."""
        return time.monotonic() - self._saved_at

    def save(self, engine: DeepSpeedEngine, state: TrainingState) -> None:
        """Gather a checkpoint now and begin to write it."""
        state.scaler = scaler_state(engine)
        moments = {} if state.finished else gather_moments(engine)
        masters = gather_master_weights(engine) if engine.fp16_enabled() else {}
        with full_weights(engine) as weights:
            if dist.get_rank() == 0:
                copies = {name: tensor.detach().float().cpu().clone() for name, tensor in weights.items()} | masters
                self._writer.write(state, weights=copies, moments=moments)
        self._saved_at, self._saved_step = time.monotonic(), state.step

    def has_saved(self, state: TrainingState) -> bool:
        """Whether the last checkpoint is of this very step."""
        return self._saved_step == state.step

    def is_cheap(self) -> bool:
        """Whether a checkpoint now costs little beside the training since the last one. Worker 0 decides for all.

        An epoch of a few rows takes less time than its checkpoint.
        """
        answer: list[bool] = [self._saved_step is None or self.age_s > SAVE_EVERY * self._writer.took_s]
        dist.broadcast_object_list(answer, src=0)
        return answer[0]

    def wait(self) -> None:
        """Return when the checkpoint under way is on disk.

        Raises:
            OSError: it could not be written.
        """
        self._writer.wait()


def restore(engine: DeepSpeedEngine, checkpoint: Path, state: TrainingState) -> None:
    """Put a checkpoint's moments, fp16 master weights and loss scale back into an engine."""
    from safetensors.torch import load_file

    restore_moments(engine, load_file(checkpoint / OPTIMIZER_FILE), step=state.step)
    if engine.fp16_enabled():
        restore_master_weights(engine, load_file(checkpoint / WEIGHTS_FILE))
    restore_scaler(engine, state.scaler)


@dataclass(frozen=True)
class Fragment:
    """The part of one parameter that this worker updates."""

    name: str
    shape: torch.Size
    """Of the whole parameter."""
    start: int
    """Where the part starts in the flattened parameter."""
    length: int
    flat: torch.Tensor
    """The tensor the optimizer knows, which holds the part …"""
    offset: int
    """… from here on."""


def fragments(engine: DeepSpeedEngine) -> Iterator[Fragment]:
    """The fragments of this worker; a parameter of which it holds nothing has none."""
    stage = engine.zero_optimization_stage()
    zero = engine.optimizer
    for name, parameter in engine.module.model.named_parameters():
        if not parameter.requires_grad:
            continue
        if stage == 0:
            yield Fragment(name, parameter.shape, 0, parameter.numel(), parameter, 0)
        elif stage < 3:
            mapping = parameter._hp_mapping
            if mapping is not None:
                part, held = mapping.lp_fragment_address, mapping.hp_fragment_address
                flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
                yield Fragment(name, parameter.shape, part.start, part.numel, flat, held.start)
        else:
            group, offset, length = zero.grad_position[zero.get_param_id(parameter)]
            start = length * dist.get_rank()
            numel = parameter.ds_numel
            if start < numel:
                flat = zero.fp32_partitioned_groups_flat[group]
                shape = parameter.ds_shape
                yield Fragment(name, shape, start, min(length, numel - start), flat, offset)


def gather_moments(engine: DeepSpeedEngine) -> dict[str, torch.Tensor]:
    """Both moments of every parameter, whole, on the CPU of worker 0; empty elsewhere. All workers must call it together.

    Keys are `exp_avg.NAME` and `exp_avg_sq.NAME`.
    """
    state = engine.basic_optimizer.state
    return {
        f"{moment}.{name}": value
        for moment in MOMENTS
        for name, value in _gather_whole(engine, lambda part, key=moment: state[part.flat][key]).items()  # type: ignore[misc]
    }


def gather_master_weights(engine: DeepSpeedEngine) -> dict[str, torch.Tensor]:
    """The float32 weights that fp16 training updates, as `gather_moments` does it; keys are parameter names."""
    return _gather_whole(engine, lambda part: part.flat.detach())


def restore_moments(engine: DeepSpeedEngine, whole: dict[str, torch.Tensor], *, step: int) -> None:
    """Put this worker's part of each moment where its optimizer looks for it, as if it had made `step` steps."""
    state = engine.basic_optimizer.state
    for part in fragments(engine):
        held = state[part.flat]
        if not held:
            held["step"] = torch.tensor(float(step), dtype=torch.float32, device=part.flat.device)
            for moment in MOMENTS:
                held[moment] = torch.zeros_like(part.flat.detach())
        for moment in MOMENTS:
            _put(whole[f"{moment}.{part.name}"], part, into=held[moment])


def restore_master_weights(engine: DeepSpeedEngine, whole: dict[str, torch.Tensor]) -> None:
    """Put this worker's part of the float32 weights where fp16 training updates them."""
    for part in fragments(engine):
        _put(whole[part.name], part, into=part.flat.detach())


def _put(whole: torch.Tensor, part: Fragment, *, into: torch.Tensor) -> None:
    value = whole.reshape(-1)[part.start : part.start + part.length]
    into.view(-1)[part.offset : part.offset + part.length] = value.to(into.device)


def _gather_whole(engine: DeepSpeedEngine, flat_of: Callable[[Fragment], torch.Tensor]) -> dict[str, torch.Tensor]:
    """Whole tensors by parameter name, on worker 0, of something that lies like the flat parameters do."""
    mine = list(fragments(engine))
    if engine.zero_optimization_stage() == 0:  # every worker has them whole
        return {part.name: flat_of(part).cpu().clone() for part in mine} if dist.get_rank() == 0 else {}
    places = [(part.name, tuple(part.shape), part.start, part.length) for part in mine]
    everywhere: list[list[tuple[str, tuple[int, ...], int, int]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(everywhere, places)
    packed = torch.zeros(max(sum(length for *_, length in theirs) for theirs in everywhere), device=engine.device)
    position = 0
    for part in mine:
        packed[position : position + part.length] = flat_of(part).view(-1)[part.offset : part.offset + part.length]
        position += part.length
    whole: dict[str, torch.Tensor] = {}
    for theirs, values in zip(everywhere, _gather(packed), strict=False):
        position = 0
        for name, shape, start, length in theirs:
            target = whole.setdefault(name, torch.zeros(shape))
            target.view(-1)[start : start + length] = values[position : position + length].cpu()
            position += length
    return whole


def _gather(packed: torch.Tensor) -> list[torch.Tensor]:
    """Every worker's tensor on worker 0, nothing elsewhere."""
    if dist.get_world_size() == 1:
        return [packed]
    if dist.get_rank() == 0:
        collected = [torch.empty_like(packed) for _ in range(dist.get_world_size())]
        dist.gather(packed, collected, dst=0)
        return collected
    dist.gather(packed, dst=0)
    return []
