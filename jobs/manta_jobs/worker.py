"""What every Ray Train worker runs: the training loop, on one screen."""

from __future__ import annotations

import hashlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import ray.train
import torch
import torch.distributed as dist
from ray.train import Checkpoint

from manta.config import ExperimentConfig
from manta.data.encode import EncodedSplit
from manta.labels import LabelSpace
from manta.metrics import METRIC_NAMES
from manta.model import build_model, loss_labels
from manta_jobs.batches import Share, TrainingBatches
from manta_jobs.engine import build_engine, full_weights
from manta_jobs.evaluation import evaluate
from manta_jobs.progress import Board, StepReporter

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

WEIGHTS_FILE = "model.safetensors"
EPOCH_FIELDS = (*METRIC_NAMES, "epoch", "train_loss", "examples_per_s", "learning_rate", "dropout", "weights_sha256")


@dataclass(frozen=True)
class WorkerSetup:
    """All that a worker needs to know; the same for every worker of a run."""

    config: ExperimentConfig
    labels: LabelSpace
    data_folder: str
    """Where `train.arrow` and `validation.arrow` are, readable by every worker."""
    pad_id: int
    num_threads: int
    board: Board
    run_name: str


def train_worker(arguments: dict[str, Any]) -> None:
    """Fine-tune on this worker's share of every batch; evaluate, save and report after each epoch."""
    setup: WorkerSetup = arguments["setup"]
    config = setup.config.train
    rank, world_size = dist.get_rank(), dist.get_world_size()
    torch.set_num_threads(setup.num_threads)
    train, validation = (EncodedSplit(Path(setup.data_folder) / f"{name}.arrow") for name in ("train", "validation"))
    batches = TrainingBatches(train.lengths, config.batch_size, rank, world_size, config.seed)

    torch.manual_seed(config.seed)  # the same new head on every worker …
    model = build_model(setup.config.model, setup.labels)
    engine = build_engine(model, config, num_steps=batches.num_steps * config.num_epochs, world_size=world_size)
    torch.manual_seed(config.seed + 1 + rank)  # … but each worker drops other units

    reporter = StepReporter(setup.board, setup.run_name, num_epochs=config.num_epochs, num_steps=batches.num_steps, rank=rank)
    for epoch in range(config.num_epochs):
        started = time.perf_counter()
        losses = torch.zeros((), device=engine.device)
        for share in batches.epoch(epoch):
            loss = forward(engine, train, share, setup) * share.weight
            engine.backward(loss)
            engine.step()
            losses += loss.detach()
            reporter.step(epoch)
        reporter.evaluating(epoch)
        metrics = evaluate(engine, validation, labels=setup.labels, pad_id=setup.pad_id)
        metrics |= {
            "epoch": epoch + 1,
            "train_loss": mean_over_workers(losses / batches.num_steps),
            "examples_per_s": len(train) / (time.perf_counter() - started),
            "learning_rate": config.learning_rate,
            "dropout": setup.config.model.dropout,
        }
        save_and_report(engine, metrics, reporter)


def forward(engine: DeepSpeedEngine, split: EncodedSplit, share: Share, setup: WorkerSetup) -> torch.Tensor:
    """The mean loss of this worker's rows; the labels go into the forward pass."""
    batch = split.padded(share.rows, pad_id=setup.pad_id)
    inputs = {name: torch.from_numpy(array).to(engine.device) for name, array in batch.items()}
    targets = torch.from_numpy(split.targets[share.rows]).to(engine.device)
    output = engine(**inputs, labels=loss_labels(targets, setup.labels))
    loss: torch.Tensor = output.loss
    return loss


def save_and_report(engine: DeepSpeedEngine, metrics: dict[str, Any], reporter: StepReporter) -> None:
    """Write every rank's part of the checkpoint, and rank 0's whole weights, and hand them to Ray Train.

    Raises:
        RuntimeError: the workers' weights differ, so that they have not trained one model.
    """
    with tempfile.TemporaryDirectory() as folder:
        with full_weights(engine) as weights:
            metrics["weights_sha256"] = agreed_hash(weights)
            if dist.get_rank() == 0:
                write_weights(weights, Path(folder) / WEIGHTS_FILE)
        engine.save_checkpoint(folder, tag="engine", client_state={"epoch": metrics["epoch"]})
        reporter.epoch_done(metrics)
        ray.train.report(metrics, checkpoint=Checkpoint.from_directory(folder))


def write_weights(weights: dict[str, torch.Tensor], path: Path) -> None:
    """The weights as safetensors in float32, which any machine loads."""
    from safetensors.torch import save_file

    save_file({name: tensor.detach().float().cpu().contiguous() for name, tensor in weights.items()}, path)


def agreed_hash(weights: dict[str, torch.Tensor]) -> str:
    """sha256 of all weights, after it was compared over the workers.

    Raises:
        RuntimeError: it is not the same on all of them.
    """
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(name.encode())
        digest.update(np.ascontiguousarray(weights[name].detach().float().cpu().numpy()).tobytes())
    hashes: list[str] = [""] * dist.get_world_size()
    dist.all_gather_object(hashes, digest.hexdigest())
    if len(set(hashes)) > 1:
        raise RuntimeError(f"the weights differ between workers ({', '.join(value[:12] for value in hashes)})")
    return hashes[0]


def mean_over_workers(value: torch.Tensor) -> float:
    """The mean of a scalar over all workers."""
    total = value.double()
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()
