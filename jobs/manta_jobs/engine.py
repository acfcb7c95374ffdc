"""The DeepSpeed engine around the model: what is split over the workers, the optimizer and the schedule.

DeepSpeed is imported in workers only, never in a driver: it looks at the machine when imported.
"""

from __future__ import annotations

import os
from contextlib import contextmanager
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from manta.config import TrainConfig

if TYPE_CHECKING:
    from collections.abc import Iterator

    from deepspeed import DeepSpeedEngine
    from transformers import PreTrainedModel


def import_deepspeed() -> ModuleType:
    """DeepSpeed, set up for the hardware of this worker."""
    if torch.cuda.is_available():
        import deepspeed
    else:
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
        import deepspeed
        import deepspeed.ops

        # On a CPU the communication backend would compile a shared-memory operator with g++ (about a minute). It serves
        # `inference_all_reduce` only, which training never calls. This table says which operators may be built.
        deepspeed.ops.__compatible_ops__ = {}
    module: ModuleType = deepspeed
    return module


def uses_bf16() -> bool:
    """Whether training runs in bfloat16: where the hardware computes in it, else float32."""
    return torch.cuda.is_available() and torch.cuda.is_bf16_supported()


def deepspeed_config(config: TrainConfig, *, world_size: int) -> dict[str, Any]:
    """The engine's JSON (https://www.deepspeed.ai/docs/config-json)."""
    return {
        # The share of the largest global batch. Smaller and uneven ones are weighted in the loss, see batches.Share.
        "train_micro_batch_size_per_gpu": -(-config.batch_size // world_size),
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "bf16": {"enabled": uses_bf16()},
        "zero_optimization": {"stage": config.zero_stage, "overlap_comm": torch.cuda.is_available()},
        "steps_per_print": 10**9,
        "wall_clock_breakdown": False,
    }


def build_engine(model: PreTrainedModel, config: TrainConfig, *, num_steps: int, world_size: int) -> DeepSpeedEngine:
    """Wrap the model for distributed training.

    AdamW (Loshchilov & Hutter, 2019, https://arxiv.org/abs/1711.05101) with a linear warm-up and then a linear fall to
    zero over `num_steps` optimizer steps.
    """
    deepspeed = import_deepspeed()
    optimizer = torch.optim.AdamW(parameter_groups(model, weight_decay=config.weight_decay), lr=config.learning_rate, fused=True)
    engine: DeepSpeedEngine
    engine, *_ = deepspeed.initialize(
        model=model,
        optimizer=optimizer,
        lr_scheduler=lambda wrapped: linear_schedule(wrapped, num_steps=num_steps, warmup_fraction=config.warmup_fraction),
        config=deepspeed_config(config, world_size=world_size),
    )
    return engine


def parameter_groups(model: torch.nn.Module, *, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices with weight decay, biases and norms (one-dimensional parameters) without."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    return [
        {"params": [parameter for parameter in parameters if parameter.ndim > 1], "weight_decay": weight_decay},
        {"params": [parameter for parameter in parameters if parameter.ndim <= 1], "weight_decay": 0.0},
    ]


def linear_schedule(
    optimizer: torch.optim.Optimizer, *, num_steps: int, warmup_fraction: float
) -> torch.optim.lr_scheduler.LambdaLR:
    """Learning rate from 0 to its peak over the warm-up steps, then linearly to 0 at `num_steps`."""
    warmup = round(num_steps * warmup_fraction)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        return max(0.0, (num_steps - step) / max(1, num_steps - warmup))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


@contextmanager
def full_weights(engine: DeepSpeedEngine) -> Iterator[dict[str, torch.Tensor]]:
    """Every weight, whole, on every worker, as long as the context lasts; ZeRO 3 gathers them first.

    All workers must enter it together.
    """
    module: torch.nn.Module = engine.module
    if engine.zero_optimization_stage() < 3:
        yield module.state_dict()
    else:
        deepspeed = import_deepspeed()
        with deepspeed.zero.GatheredParameters(list(module.parameters())):
            yield module.state_dict()
