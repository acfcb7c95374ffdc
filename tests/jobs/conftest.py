"""Runs of the product's own training loop, several in the same processes, and classifiers that several tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import ray.train
import torch
import torch.distributed as dist
from safetensors.numpy import load_file

from manta.config import ExperimentConfig
from manta.console import people_console
from manta.storage.folders import Storage
from manta_jobs.runs.prepare import PreparedRun, prepare
from manta_jobs.training.checkpoints import WEIGHTS_FILE, TrainingState, latest_checkpoint
from manta_jobs.training.engine.cpu_speedups import install_quick_dropout
from manta_jobs.training.loop import Training
from manta_jobs.training.progress import Board
from manta_jobs.training.start.worker_setup import WorkerSetup
from manta_jobs.training.validation import all_logits

from ..conftest import rows_of
from .processes import run_in_processes
from .registered import KINDS, Trained, train_tiny


def ran_without_cluster(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a Python process to its end, and check that it succeeds and starts no Ray."""
    sessions = folder / "ray"  # the place that Ray is told to keep its sessions in
    environment = os.environ | {"RAY_TMPDIR": str(sessions)}
    done = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert not sessions.exists()
    return done


@dataclass(frozen=True)
class Outcome:
    """Content of one run's last checkpoint."""

    weights: dict[str, np.ndarray]
    state: TrainingState
    logits: np.ndarray
    """The engine's own logits of the validation rows after training, `(rows, outputs)`."""
    prepared: PreparedRun


def experiment(data: Path, model: Path, **train_settings: Any) -> ExperimentConfig:
    """A run of two workers on a tiny model, without dropout, and in float32 on any hardware: its numbers are compared."""
    settings = {
        "method": "full",  # tests/jobs/runs/test_methods.py has the others
        "precision": "fp32",
        "num_workers": 2,
        "learning_rate": 3e-3,
        "num_epochs": 2,
        "batch_size": 16,
        "cpus_per_worker": 1,
    }
    return ExperimentConfig.model_validate(
        {
            "name": "tiny",
            "data": {"train": str(data), "validation_fraction": 0.1},  # no cross-validation; test_cross_validation.py has it
            "model": {"pretrained": str(model), "max_length": 32, "dropout": 0.0},
            "train": settings | train_settings,
            "registry": {"fast_formats": False},  # takes several seconds, however small the model; test_formats.py has it
        }
    )


def train_all(rank: int, folder: str) -> None:
    """Train once for each setup in `setups.pt`. Replace the two functions of Ray Train that need its workers."""
    ray.train.get_context = lambda: SimpleNamespace(get_local_world_size=dist.get_world_size)
    ray.train.get_preemption_info = lambda: None
    for arguments in torch.load(f"{folder}/setups.pt", weights_only=False):
        setup = WorkerSetup(**arguments, board=Board())
        if setup.config.train.precision == "fp16":
            _let_the_cpu_compute_in_fp16()
        kept = install_quick_dropout()  # noqa: F841  # as `train_worker` does, which lets go of the engine
        training = Training(setup)
        training.run(report=lambda _metrics: True)
        logits = all_logits(training.engine, training.rows.validation, pad_id=setup.pad_id)
        if rank == 0:
            np.save(Path(setup.checkpoints) / "logits.npy", logits)
        training.close()


def _let_the_cpu_compute_in_fp16() -> None:
    """DeepSpeed refuses fp16 on processors without fast half precision; slow is good enough here."""
    from manta_jobs.training.engine.zero import import_deepspeed

    import_deepspeed()
    from deepspeed.accelerator import get_accelerator

    get_accelerator().is_fp16_supported = lambda: True


@pytest.fixture(scope="session")
def classifiers(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """A good classifier, a worse one that saw a tenth of its rows, and a better one that saw twice as many."""
    folder, rows = tmp_path_factory.mktemp("classifiers"), rows_of(["delivery", "billing", "account"], 420)
    torch.set_num_threads(1)
    return {
        kind: train_tiny(folder / kind, rows=rows[300 : 300 + count], test=rows[:300], steps=steps, model=tiny_model, settings={})
        for kind, (count, steps) in KINDS.items()
    }


@pytest.fixture(scope="session")
def shared_storage(tmp_path_factory: pytest.TempPathFactory) -> Storage:
    """One for all tests that name their models after themselves, as its database takes seconds to make."""
    return Storage(tmp_path_factory.mktemp("registry"))


def outcomes(
    base: ExperimentConfig, variants: dict[str, dict[str, Any]], *, folder: Path, num_workers: int = 1
) -> dict[str, Outcome]:
    """Train several variants of one experiment, each given as dotted settings, and return what came of each."""
    prepared = prepare(base, verb="train", console=people_console())
    setups = [
        {
            "config": prepared.config.with_values({"train.num_workers": num_workers, **values}),
            "labels": prepared.data.labels,
            "data_folder": str(prepared.data.folder),
            "checkpoints": str(folder / name),
            "pad_id": prepared.data.pad_id,
            "num_threads": 1,
            "run_name": name,
        }
        for name, values in variants.items()
    ]
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(setups, folder / "setups.pt")
    run_in_processes(train_all, folder, num_workers=num_workers)
    found: dict[str, Outcome] = {}
    for name in variants:
        path, state = latest_checkpoint(folder / name) or pytest.fail(f"{name} left no checkpoint")
        logits = np.load(folder / name / "logits.npy")
        found[name] = Outcome(load_file(path / WEIGHTS_FILE), state, logits, prepared)
    return found
