"""A worker's memory does not grow with the rows: they stay in the memory-mapped file until a batch needs them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ray.train import RunConfig, ScalingConfig
from ray.train.torch import TorchTrainer

from manta.config import ExperimentConfig
from manta.console import people_console
from manta.data.dataset import Split
from manta.data.encode import write_encoded, write_seen_tokens
from manta.labels import LabelSpace
from manta.model.encoder import load_tokenizer
from manta_jobs.cluster.connection import interruptible
from manta_jobs.training.loop import Training
from manta_jobs.training.progress import Board
from manta_jobs.training.start.worker_setup import WorkerSetup

NUM_STEPS = 20


def train_a_little(arguments: dict[str, Any]) -> None:
    """A few optimizer steps of the product's own training, and the most memory of the process beside pages of files.

    A mapped file's pages are the system's to take back, and it maps some around each row that is read.
    """
    training = Training(arguments["setup"])
    steps = training.rows.steps(
        training.rows.batches.epoch(0)[:NUM_STEPS], epoch=0, rank=0, world_size=1, num_micro=training.num_micro
    )
    most = 0
    for _ in range(NUM_STEPS):
        training.train_step(steps)
        training.look_up()
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        most = max(most, int(status["RssAnon"].split()[0]))
    Path(arguments["answer"]).write_text(str(most))


def peak_mib(num_rows: int, *, model: Path, folder: Path) -> float:
    """Peak resident memory of a fresh worker that trains on so many rows."""
    config = ExperimentConfig.model_validate(
        {
            "name": "flat",
            "data": {"train": "-"},
            "model": {"pretrained": str(model), "max_length": 32},
            "train": {"batch_size": 32, "learning_rate": 1e-4, "num_epochs": 1},
        }
    )
    folder.mkdir()
    texts = [f"parcel {'late ' * (number % 12)}{number}" for number in range(num_rows)]
    split = Split(texts, np.arange(num_rows) % 2)
    for name, rows in (("train", split), ("validation", split.take(np.arange(64)))):
        write_encoded(rows, folder / f"{name}.arrow", tokenizer=load_tokenizer(config.model), max_length=32)
    write_seen_tokens(folder, pad_id=0)
    del texts, split
    setup = WorkerSetup(
        config=config,
        labels=LabelSpace(("a", "b"), "binary"),
        data_folder=str(folder),
        checkpoints=str(folder / "checkpoints"),
        pad_id=0,
        num_threads=1,
        board=Board(),
        run_name="flat",
    )
    answer = folder / "peak_kib"
    trainer = TorchTrainer(
        train_a_little,
        train_loop_config={"setup": setup, "answer": str(answer)},
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 1}),
        run_config=RunConfig(name="flat", storage_path=str(folder / "ray")),
    )
    interruptible(trainer.fit, console=people_console())
    return int(answer.read_text()) / 1024


@pytest.mark.timeout(600)
def test_ten_times_the_rows_take_less_than_a_tenth_more_memory(ray_cluster: None, tiny_model: Path, tmp_path: Path) -> None:
    few, many = (peak_mib(rows, model=tiny_model, folder=tmp_path / str(rows)) for rows in (100_000, 1_000_000))
    print(f"peak worker memory: {few:.0f} MiB with 100,000 rows, {many:.0f} MiB with 1,000,000")  # noqa: T201
    assert abs(many - few) < 0.1 * few
