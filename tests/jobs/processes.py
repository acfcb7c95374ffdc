"""Plain processes that gloo connects, as Ray Train connects its workers: no cluster.

They are forked from a process that has imported what training needs, which takes a new one several seconds. Where there is a GPU
they start afresh, since CUDA cannot be used in a forked process.
"""

from __future__ import annotations

import multiprocessing
import os
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

multiprocessing.set_forkserver_preload(["manta_jobs.training.worker", "deepspeed", "transformers.models.bert.modeling_bert"])


def run_in_processes(work: Callable[[int, str], None], folder: Path, *, num_workers: int) -> None:
    """Run `work(rank, folder)` in processes that can talk to each other."""
    torch.multiprocessing.start_processes(
        _connected,
        (work, str(folder), num_workers, dict(os.environ)),
        nprocs=num_workers,
        start_method="spawn" if torch.cuda.is_available() else "forkserver",
    )


def in_processes(work: Callable[[int, str], None], folder: Path, *, num_workers: int) -> list[Any]:
    """Run `work(rank, folder)` in processes that can talk to each other; return what each left in `RANK.pt`."""
    run_in_processes(work, folder, num_workers=num_workers)
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(num_workers)]


def _connected(rank: int, work: Callable[[int, str], None], folder: str, num_workers: int, environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ |= environment | {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(num_workers)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=num_workers)
    work(rank, folder)
    dist.destroy_process_group()
