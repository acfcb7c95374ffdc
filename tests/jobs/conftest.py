"""Runs of the product's own worker function, several in the same processes, because starting workers takes longest."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
import torch.distributed as dist
from ray.train import RunConfig, ScalingConfig
from safetensors.numpy import load_file

from manta.config import ExperimentConfig
from manta.console import people_console
from manta.storage.folders import Storage
from manta_jobs.cluster.connection import interruptible
from manta_jobs.runs.prepare import PreparedRun, prepare
from manta_jobs.training.checkpoints import WEIGHTS_FILE, TrainingState, latest_checkpoint
from manta_jobs.training.engine.cpu_speedups import install_quick_dropout
from manta_jobs.training.loop import Training
from manta_jobs.training.progress import Board
from manta_jobs.training.ray_train import LeanTrainer
from manta_jobs.training.start.worker_setup import WorkerSetup
from manta_jobs.training.validation import all_logits
from manta_jobs.training.worker import reported

from ..conftest import rows_of
from .registered import KINDS, Trained, train_tiny

if TYPE_CHECKING:
    from collections.abc import Callable


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


def train_all(arguments: dict[str, Any]) -> None:
    """Run the worker function once for each setup."""
    for setup in arguments["setups"]:
        if setup.config.train.precision == "fp16":
            _let_the_cpu_compute_in_fp16()
        kept = install_quick_dropout()  # noqa: F841  # as `train_worker` does, which lets go of the engine
        training = Training(setup)
        training.run(report=reported)
        logits = all_logits(training.engine, training.rows.validation, pad_id=setup.pad_id)
        if dist.get_rank() == 0:
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


@pytest.fixture(scope="session")
def outcomes(ray_cluster: None) -> Callable[..., dict[str, Outcome]]:
    """Train several variants of one experiment, each given as dotted settings, and return what came of each."""

    def run(
        base: ExperimentConfig, variants: dict[str, dict[str, Any]], *, folder: Path, num_workers: int = 1
    ) -> dict[str, Outcome]:
        prepared = prepare(base, verb="train", console=people_console())
        board = Board()
        setups = [
            WorkerSetup(
                config=prepared.config.with_values({"train.num_workers": num_workers, **values}),
                labels=prepared.data.labels,
                data_folder=str(prepared.data.folder),
                checkpoints=str(folder / name),
                pad_id=prepared.data.pad_id,
                num_threads=1,
                board=board,
                run_name=name,
            )
            for name, values in variants.items()
        ]
        trainer = LeanTrainer(
            train_all,
            train_loop_config={"setups": setups},
            scaling_config=ScalingConfig(num_workers=num_workers, resources_per_worker={"CPU": 1}),
            run_config=RunConfig(name=f"{num_workers}-workers", storage_path=str(folder / "ray")),
        )
        interruptible(trainer.fit, console=people_console())  # on the main thread Ray's handler of Ctrl-C keeps its actor for good
        found: dict[str, Outcome] = {}
        for name in variants:
            path, state = latest_checkpoint(folder / name) or pytest.fail(f"{name} left no checkpoint")
            logits = np.load(folder / name / "logits.npy")
            found[name] = Outcome(load_file(path / WEIGHTS_FILE), state, logits, prepared)
        return found

    return run
