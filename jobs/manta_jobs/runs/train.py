"""`manta train`: from an experiment to a registered model, or from an interrupted run."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from manta_jobs.cluster.connection import connected_if_needed
from manta_jobs.cluster.losses import losses_named
from manta_jobs.runs.finish import finish
from manta_jobs.runs.methods import run_methods
from manta_jobs.runs.prepare import PreparedRun, keep, prepare, reopen
from manta_jobs.training.checkpoints import CHECKPOINTS
from manta_jobs.training.progress import Board
from manta_jobs.training.tracking import RunRecord

if TYPE_CHECKING:
    from collections.abc import Callable

    from rich.console import Console

    from manta.config import ExperimentConfig
    from manta_jobs.runs.results import TrainedModel


def train(config: ExperimentConfig, *, console: Console, address: str | None = None) -> TrainedModel:
    """Check, prepare, train, evaluate on test and register.

    Raises:
        InputError: the data, model or config is wrong; nothing has been written.
        RunError: training failed; the message is the worker's own.
    """
    started = time.monotonic()
    prepared = prepare(config, verb="train", console=console, address=address)
    return run(prepared, console=console, address=address, started=started)


def resume(name: str, *, console: Console, address: str | None = None) -> TrainedModel:
    """Resume an interrupted run, given by name or folder, from its last complete checkpoint.

    Raises:
        InputError: there is no such run, it is finished, or its data has changed.
        RunError: training failed; the message is the worker's own.
    """
    started = time.monotonic()
    return run(reopen(name, verb="train", console=console), console=console, address=address, started=started)


def run(prepared: PreparedRun, *, console: Console, address: str | None, started: float) -> TrainedModel:
    """Train a prepared run from its last checkpoint, or from the start if there is none, and finish it."""
    config = prepared.config
    resume_command = f"manta train --resume {prepared.folder.handle}"
    num_workers = 1 if config.train.method in {"linear", "contrastive"} else config.train.max_workers
    with connected_if_needed(address, num_workers=num_workers), losses_named(resume_command):
        board = Board()
        with RunRecord(
            prepared.folder,
            prepared.storage,
            config,
            console=console,
            new_steps=new_steps(board),
            history=lambda: board.history(CHECKPOINTS),
        ) as record:
            outcome = run_methods(prepared, board=board, console=console, resume_command=resume_command)
            model = finish(
                prepared,
                config,
                outcome=outcome,
                record=record,
                console=console,
                started=started,
                formats=config.registry.fast_formats,
            )
    keep(prepared.folder)
    return model


def new_steps(board: Board) -> Callable[[], list[dict[str, Any]]]:
    """Return a function that gives the steps recorded since its last call."""
    last = 0

    def give() -> list[dict[str, Any]]:
        nonlocal last
        steps = board.steps_after(CHECKPOINTS, last)
        last = max([last, *(int(step["step"]) for step in steps)])
        return steps

    return give
