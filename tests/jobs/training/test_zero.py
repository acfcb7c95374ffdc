"""DeepSpeed's internals are where `zero` reads them: a real engine at each stage, after one step."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch

from manta.config import TrainConfig
from manta_jobs.training.engine import zero
from manta_jobs.training.engine.build import deepspeed_config

from ..processes import in_processes

if TYPE_CHECKING:
    from pathlib import Path

STAGES = (0, 1, 2, 3)


class Wrapped(torch.nn.Module):
    """Two parameters under `model`, as in the product's trained classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.model = torch.nn.Linear(4, 2)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        loss: torch.Tensor = self.model(rows).square().mean()
        return loss


def engine_after_backward(stage: int) -> Any:
    deepspeed = zero.import_deepspeed()
    model = Wrapped()
    config = deepspeed_config(TrainConfig(zero_stage=stage, precision="fp32"), num_learning=100, micro_batch_size=3, num_micro=1)
    engine, *_ = deepspeed.initialize(model=model, optimizer=torch.optim.AdamW(model.parameters(), lr=0.1), config=config)
    engine.backward(engine(torch.ones(3, 4)))
    return engine


def facts(_rank: int, folder: str) -> None:
    found: dict[int, Any] = {}
    for stage in STAGES:
        engine = engine_after_backward(stage)
        gradients = zero.gradient_bytes(engine)
        engine.step()
        parts = [(part.name, tuple(part.shape), part.length) for part in zero.fragments(engine)]
        found[stage] = {
            "gradients": gradients,
            "parts": parts,
            "bytes": zero.state_bytes(engine),
            "scaler": zero.scaler_state(engine),
        }
    torch.save(found, f"{folder}/0.pt")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_stage_shows_its_fragments_gradients_and_bytes(tmp_path: Path) -> None:
    (found,) = in_processes(facts, tmp_path, num_workers=1)
    whole = [("weight", (2, 4), 8), ("bias", (2,), 2)]
    for stage in STAGES:
        assert found[stage]["parts"] == whole, f"DeepSpeed moved what zero.fragments reads at ZeRO {stage}"
        assert found[stage]["gradients"] >= 40, f"DeepSpeed moved the gradients of ZeRO {stage}"
        assert found[stage]["bytes"]["optimizer"] >= 80, f"DeepSpeed moved the moments of ZeRO {stage}"
        assert (found[stage]["bytes"]["parameter_copies"] >= 40) == (stage > 0), f"DeepSpeed moved the copies of ZeRO {stage}"
        assert found[stage]["scaler"] is None
