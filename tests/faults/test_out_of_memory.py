"""A worker that the system gives no more memory halves its rows at a time and goes on; the limit is the kernel's own."""

from __future__ import annotations

import resource
import time
from typing import TYPE_CHECKING

import pytest

from .test_survival import past, registered

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import psutil

    from .conftest import Nodes, Run

ROWS_AT_A_TIME = 64
LEEWAY_BYTES = 16 * 2**20  # for what is no tensor of a batch


@pytest.mark.timeout(500)
def test_a_worker_without_memory_goes_on_with_half_the_rows(start: Callable[..., Run], nodes: Nodes, two_classes: Path) -> None:
    settings = {"num_workers": 1, "batch_size": ROWS_AT_A_TIME, "num_epochs": 12, "checkpoint_steps": 1, "max_failures": 0}
    run = start("memory", model="embedded", data=two_classes, **settings)
    saved = run.wait_for(past(3), what="the third step")
    (worker,) = nodes.train_workers()
    least = least_address_space(worker, seconds=3.0)
    resource.prlimit(worker.pid, resource.RLIMIT_AS, (least + LEEWAY_BYTES, resource.RLIM_INFINITY))
    report = run.report()
    assert f"ran out of memory with {ROWS_AT_A_TIME} rows at a time; going on from the last checkpoint with 32" in run.words
    assert report["distribution"]["micro_batch_size"] == ROWS_AT_A_TIME // 2
    assert report["distribution"]["micro_batches_per_step"] == 2
    assert report["distribution"]["resumed_at_steps"][0] >= saved
    assert report["history"][-1]["epoch"] == settings["num_epochs"]
    assert registered(run) == 1


def least_address_space(process: psutil.Process, *, seconds: float) -> int:
    """The fewest bytes that the process had mapped while it trained: between two batches."""
    least, until = process.memory_info().vms, time.monotonic() + seconds
    while time.monotonic() < until:
        least = min(least, process.memory_info().vms)
    return int(least)
