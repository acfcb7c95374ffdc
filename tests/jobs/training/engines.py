"""The product's engine around a few layers, no encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from manta.config import TrainConfig
from manta_jobs.training.engine.build import build_engine
from manta_jobs.training.engine.zero import import_deepspeed

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

STAGES = (0, 1, 2, 3)
WIDTH, NUM_LAYERS = 16, 8


class Layers(torch.nn.Module):
    """Linear layers under `model`, as in the product's trained classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Sequential(*(torch.nn.Linear(WIDTH, WIDTH) for _ in range(NUM_LAYERS)))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        rows = rows.to(next(self.model.parameters()).dtype)  # DeepSpeed's fp16 has halved it
        loss: torch.Tensor = self.model(rows).float().square().mean()
        return loss


def engine_of(
    stage: int, *, precision: str = "fp32", weights: dict[str, torch.Tensor] | None = None, **settings: Any
) -> DeepSpeedEngine:
    """An engine at a ZeRO stage, with the given weights or always the same random ones."""
    import_deepspeed()
    if precision == "fp16":
        from deepspeed.accelerator import get_accelerator

        get_accelerator().is_fp16_supported = lambda: True
    torch.manual_seed(0)
    config = TrainConfig(
        zero_stage=stage,
        precision=precision,
        learning_rate=1e-2,
        num_epochs=1,
        batch_size=8,
        num_workers=dist.get_world_size(),
        **settings,
    )
    model: Any = Layers()
    if weights is not None:
        model.model.load_state_dict(weights)
    engine = build_engine(model, config, micro_batch_size=4, num_micro=1)
    engine.train()
    return engine


def rows_of(rank: int, step: int = 0) -> torch.Tensor:
    """Rows of one worker and step."""
    return torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(100 * step + rank))
