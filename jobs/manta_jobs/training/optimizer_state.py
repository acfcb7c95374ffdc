"""AdamW's moments, whole, out of an engine and back into one, whatever its ZeRO stage and number of workers.

ZeRO cuts parameters into fragments that lie in flat tensors of different workers. A checkpoint holds each moment whole, under
the parameter's name (and in fp16 the float32 master weights, too), so that training goes on with fewer or more workers.
DeepSpeed's own checkpoints are pickles for one number of workers; its universal ones do not cover ZeRO 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from deepspeed import DeepSpeedEngine

MOMENTS = ("exp_avg", "exp_avg_sq")


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
