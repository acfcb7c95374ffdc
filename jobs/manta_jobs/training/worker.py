"""`train_worker`: what every Ray Train worker runs, the folds of a cross-validation first."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray.train

from manta.cluster.gpus import hide_unassigned_gpus
from manta.storage.object_store import here
from manta_jobs.training.distribution import process_group
from manta_jobs.training.engine.cpu_speedups import install_quick_dropout
from manta_jobs.training.loop import Training
from manta_jobs.training.start.worker_setup import WorkerSetup
from manta_jobs.training.validation import cross_validate

if TYPE_CHECKING:
    from manta.labels import Floats


def train_worker(arguments: dict[str, Any]) -> None:
    """Fine-tune on this worker's share of every batch; evaluate, save and report after each epoch."""
    setup: WorkerSetup = arguments["setup"]
    hide_unassigned_gpus(use_gpu=setup.config.train.use_gpu)
    kept = install_quick_dropout()  # noqa: F841  # kept until training ends
    with process_group():
        training = begun(setup)
        training.say_zero_stage()
        training.run(report=reported)


def begun(setup: WorkerSetup) -> Training:
    """Return the training of a run, ready to start. A cross-validated run trains its folds first."""
    ends_at = math.inf if setup.seconds is None else time.monotonic() + setup.seconds
    if setup.folds is None:
        return Training(setup, ends_at=ends_at)
    started = time.monotonic()
    held_out = cross_validate(
        here(Path(setup.checkpoints)),
        setup.folds,
        ends_at=ends_at,
        train_fold=lambda fold, fold_ends_at: fold_logits(setup, fold, ends_at=fold_ends_at),
    )
    took_s = time.monotonic() - started
    training = Training(setup, ends_at=ends_at, held_out=held_out)
    training.state.folds_s = max(training.state.folds_s, took_s)  # a resumed run only reads the folds' logits
    return training


def fold_logits(setup: WorkerSetup, fold: int, *, ends_at: float) -> Floats:
    """Train on the rows of the other folds; return logits `(epochs, rows, outputs)` of this fold's rows after each epoch."""
    training = Training(setup, ends_at=ends_at, fold=fold)
    logits: list[Floats] = []

    def note(metrics: dict[str, Any]) -> bool:
        logits.append(training.logits)
        return True

    try:
        training.run(report=note)
    finally:
        training.close()
    return np.stack(logits)


def reported(metrics: dict[str, Any]) -> bool:
    """Report an epoch to Ray Train. Return True, because a single run is never stopped between epochs."""
    ray.train.report(metrics)
    return True
