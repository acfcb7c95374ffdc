from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from manta_jobs.training.engine.cpu_speedups import MIN_ROWS, average_gradients

from ..processes import in_processes

if TYPE_CHECKING:
    from pathlib import Path

WORLD_SIZE = 2


def gradients(rank: int) -> list[torch.Tensor]:
    """An embedding of which few rows are touched, other ones on each worker, one that is touched everywhere, and two dense ones."""
    generator = torch.Generator().manual_seed(rank)
    sparse, full = torch.zeros(MIN_ROWS, 3), torch.randn(MIN_ROWS + 1, 2, generator=generator)
    rows = torch.tensor([0, 5 + rank, MIN_ROWS - 1 - rank])
    sparse[rows] = torch.randn(3, 3, generator=generator)
    return [sparse, full, torch.randn(4, 4, generator=generator), torch.randn(7, generator=generator)]


def work(rank: int, folder: str) -> None:
    parameters = []
    for gradient in gradients(rank):
        parameter = torch.nn.Parameter(torch.zeros_like(gradient))
        parameter.grad = gradient
        parameters.append(parameter)
    parameters.append(torch.nn.Parameter(torch.zeros(2)))  # frozen: it has none
    average_gradients(parameters)
    assert parameters.pop().grad is None
    torch.save([parameter.grad for parameter in parameters], f"{folder}/{rank}.pt")


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_every_worker_gets_the_mean(tmp_path: Path) -> None:
    reduced = in_processes(work, tmp_path, num_workers=WORLD_SIZE)
    expected = [(left + right) / 2 for left, right in zip(gradients(0), gradients(1), strict=True)]
    for gradients_found in reduced:
        for found, wanted in zip(gradients_found, expected, strict=True):
            torch.testing.assert_close(found, wanted)
