"""DeepSpeed's internals: the only module that reads or changes what DeepSpeed does not document.

`tests/jobs/training/test_zero.py` fails if an upgrade of DeepSpeed moves one of them. Import DeepSpeed in workers only, never in a
driver: it inspects the machine when imported.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import ModuleType

    from deepspeed import DeepSpeedEngine


def import_deepspeed() -> ModuleType:
    """Import DeepSpeed, set up for the hardware of this worker."""
    if torch.cuda.is_available():
        import deepspeed
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed
        import deepspeed.ops

        # On a CPU the communication backend would compile a shared-memory operator with g++ (about a minute). It serves
        # `inference_all_reduce` only, which training never calls. This table lists the operators that may be built.
        deepspeed.ops.__compatible_ops__ = {}
        from deepspeed.runtime.zero import stage_1_and_2

        stage_1_and_2.all_gather_dp_groups = gather_partitions
    module: ModuleType = deepspeed
    return module


def gather_partitions(*, partitioned_param_groups: list[list[torch.Tensor]], **others: Any) -> None:
    """Send every worker the parameters that the others updated in a ZeRO 1 or 2 step. Replaces DeepSpeed's function on CPUs.

    Gloo's all-gather takes 3.5 times as long as one broadcast by each worker (90 MB between two workers: 154 ms against 43 ms).
    """
    waiting = [dist.broadcast(part, rank, async_op=True) for group in partitioned_param_groups for rank, part in enumerate(group)]
    for work in waiting:
        work.wait()


def scaler_state(engine: DeepSpeedEngine) -> dict[str, Any] | None:
    """Return the state of fp16 loss scaling as plain numbers; None in other precisions."""
    if engine.torch_autocast_z0_gradscaler is not None:
        state: dict[str, Any] = engine.torch_autocast_z0_gradscaler.state_dict()
        return state
    if engine.fp16_enabled():
        return {name: value for name, value in vars(engine.optimizer.loss_scaler).items() if isinstance(value, int | float)}
    return None


def restore_scaler(engine: DeepSpeedEngine, state: dict[str, Any] | None) -> None:
    """Resume the loss scaling of a checkpoint.

    ZeRO 0 stores it in a different format than ZeRO 1 to 3. Between the two, only the scale itself is restored.
    """
    if state is None:
        return
    whole = engine.torch_autocast_z0_gradscaler
    if whole is not None:
        whole.load_state_dict(whole.state_dict() | ({"scale": state["cur_scale"]} if "cur_scale" in state else state))
    elif engine.fp16_enabled():
        vars(engine.optimizer.loss_scaler).update({"cur_scale": state["scale"]} if "scale" in state else state)


def exchange_in(precision: Literal["fp32", "bf16"], parameters: Iterable[torch.nn.Parameter]) -> None:
    """Set the type in which the parameters' gradients travel at ZeRO 1 to 3. Call it before the engine is built.

    Once any engine of this process has used autocast, DeepSpeed reads the type from the parameters and not from its config.
    """
    from deepspeed.runtime.torch_autocast import PARAM_COMM_DTYPE_ATTR_NAME

    for parameter in parameters:
        setattr(parameter, PARAM_COMM_DTYPE_ATTR_NAME, torch.bfloat16 if precision == "bf16" else torch.float32)


def stay_at_lowest_scale(engine: DeepSpeedEngine) -> None:
    """Have fp16 go on with the lowest loss scale instead of raising a bare `Exception`: `updates` counts the skipped steps."""
    if engine.fp16_enabled():
        engine.optimizer.loss_scaler.raise_error_at_min_scale = False


def end(engine: DeepSpeedEngine) -> None:
    """Destroy an engine, so that the collector can free its model: ZeRO 3 leaves it in a list of the module."""
    from deepspeed.runtime.zero import parameter_offload

    engine.destroy()
    parameter_offload.FWD_MODULE_STACK.clear()


@dataclass(frozen=True)
class Fragment:
    """The part of one parameter that this worker updates."""

    name: str
    shape: torch.Size
    """Shape of the whole parameter."""
    start: int
    """First position of the part in the flattened parameter."""
    length: int
    flat: torch.Tensor
    """The optimizer's tensor that holds the part."""
    offset: int
    """First position of the part in `flat`."""


def fragments(engine: DeepSpeedEngine) -> Iterator[Fragment]:
    """Yield the fragments of this worker. A parameter of which it holds nothing has none."""
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


def gradient_bytes(engine: DeepSpeedEngine) -> int:
    """Return the bytes of gradients that this worker holds after a backward pass.

    DeepSpeed frees the gradients of other workers' partitions. At ZeRO 1 it does so before the optimizer step, at ZeRO 2 and 3
    after every pass. The two differ when gradients are accumulated.
    """
    zero = engine.optimizer
    held = [parameter.grad for parameter in engine.module.parameters() if parameter.grad is not None]
    if engine.zero_optimization_stage() in (1, 2):
        held += [part for parts in zero.averaged_gradients.values() for part in parts or [] if part is not None]
    elif engine.zero_optimization_stage() == 3:
        held += list(zero._DeepSpeedZeroOptimizer_Stage3__param_id_to_grad_partition.values())
    return _bytes(held)


def state_bytes(engine: DeepSpeedEngine) -> dict[str, int]:
    """Return this worker's bytes of parameters, of the float32 copies that ZeRO updates instead, and of AdamW's moments.

    Word embeddings that stay as pretrained (`manta.model.seen_rows`) are no parameters and do not count.
    """
    stage = engine.zero_optimization_stage()
    parameters = list(engine.module.parameters())
    copies: list[torch.Tensor] = []
    if stage in (1, 2):
        copies = list(engine.optimizer.single_partition_of_fp32_groups)
    elif stage == 3:
        copies = list(engine.optimizer.fp32_partitioned_groups_flat)
        parameters = [parameter.ds_tensor for parameter in parameters]  # its part of each
    moments = [
        value for held in engine.basic_optimizer.state.values() for key, value in held.items() if key in ("exp_avg", "exp_avg_sq")
    ]
    return {"parameters": _bytes(parameters), "parameter_copies": _bytes(copies), "optimizer": _bytes(moments)}


def _bytes(tensors: Iterable[torch.Tensor]) -> int:
    """Return the bytes of memory behind tensors. Views of the same storage count once."""
    storages = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors if tensor.numel()}
    return sum(storages.values())
