"""`manta train`: from an experiment to a registered model. `build_trainer` is shared with `manta tune`."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.artifact import ModelArtifact, with_metrics, write_artifact
from manta.config import ExperimentConfig
from manta.config_file import write_config
from manta.data import TextDataset, load_dataset
from manta.errors import RunError
from manta.labels import LabelSpace
from manta.model import load_model_config, load_tokenizer
from manta.registry import ModelRegistry, RegisteredVersion
from manta.storage import RunFolder, Storage
from manta_jobs.cluster import WorkerResources, connected, fit_workers, interruptible
from manta_jobs.evaluate import choose_thresholds, evaluate_on_cluster
from manta_jobs.progress import Board, shown_progress

if TYPE_CHECKING:
    from ray.train import Checkpoint
    from ray.train.torch import TorchTrainer
    from rich.console import Console

NUM_EXAMPLES = 8
CHECKPOINTS = "checkpoints"


@dataclass(frozen=True)
class TokenizedData:
    """What training needs of the data: small enough to travel to every worker."""

    folder: Path
    """Holds `train.arrow` and `validation.arrow`, see `manta.data.encode`."""
    labels: LabelSpace
    pad_id: int


@dataclass(frozen=True)
class PreparedRun:
    """A run whose data and model were checked and whose splits are tokenised on disk."""

    config: ExperimentConfig
    storage: Storage
    folder: RunFolder
    dataset: TextDataset
    data: TokenizedData


@dataclass(frozen=True)
class TrainedModel:
    """What a finished run leaves behind."""

    run: RunFolder
    config: ExperimentConfig
    artifact: ModelArtifact
    version: RegisteredVersion
    history: list[dict[str, Any]]
    """The metrics of each epoch."""
    num_test_rows: int
    wall_s: float


def train(config: ExperimentConfig, *, console: Console, address: str | None = None) -> TrainedModel:
    """Check, prepare, train, evaluate on test and register.

    Raises:
        InputError: the data, model or config is wrong; nothing has been written.
        RunError: training failed; the message is the worker's own.
    """
    started = time.monotonic()
    prepared = prepare(config, verb="train", console=console)
    with connected(address, num_workers=config.train.num_workers):
        board = Board()
        trainer = build_trainer(
            prepared.data, config, board=board, resources=fit_workers(config.train), folder=prepared.folder.path, name=CHECKPOINTS
        )
        console.print(f"Training on {workers_phrase(config)}")
        with shown_progress(board, console, num_epochs=config.train.num_epochs):
            checkpoint = interruptible(lambda: fit(trainer, config), console=console)
        history = board.snapshot()[CHECKPOINTS].history
        return finish(prepared, config, checkpoint=checkpoint, history=history, console=console, started=started)


def prepare(config: ExperimentConfig, *, verb: str, console: Console) -> PreparedRun:
    """Check everything that can be checked, then create the run folder and tokenise the splits into it.

    Raises:
        InputError: something is wrong; nothing has been written.
    """
    from manta.data.encode import write_encoded

    storage = Storage.resolve(config.storage)
    dataset = load_dataset(config.data, task=config.model.task)
    load_model_config(config.model, dataset.labels)
    tokenizer = load_tokenizer(config.model)
    sizes = ", ".join(f"{len(dataset.split(name)):,} {name}" for name in ("train", "validation", "test"))
    console.print(f"Data: {sizes} rows, {len(dataset.labels.names)} labels ({dataset.labels.task})")
    for warning in dataset.warnings:
        console.print(f"[yellow]Warning:[/] {warning}")
    folder = storage.new_run(config.name, verb=verb)
    write_config(config, folder.config_path)
    for name in ("train", "validation"):
        path = folder.data / f"{name}.arrow"
        write_encoded(dataset.split(name), path, tokenizer=tokenizer, max_length=config.model.max_length)
    data = TokenizedData(folder.data, dataset.labels, int(tokenizer.pad_token_id or 0))
    return PreparedRun(config, storage, folder, dataset, data)


def build_trainer(
    data: TokenizedData,
    config: ExperimentConfig,
    *,
    board: Board,
    resources: WorkerResources,
    folder: Path,
    name: str,
    callbacks: list[Any] | None = None,
) -> TorchTrainer:
    """The distributed run of `config`, not yet started.

    Checkpoints go to `folder/name`; the best one by `train.metric` is kept. A trial of a search is the same run with other
    numbers in its config.
    """
    from ray.train import CheckpointConfig, FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from manta_jobs.worker import WorkerSetup, train_worker

    setup = WorkerSetup(
        config=config,
        labels=data.labels,
        data_folder=str(data.folder),
        pad_id=data.pad_id,
        num_threads=resources.num_cpus,
        board=board,
        run_name=name,
    )
    return TorchTrainer(
        train_worker,
        train_loop_config={"setup": setup},
        scaling_config=ScalingConfig(
            num_workers=config.train.num_workers, use_gpu=resources.use_gpu, resources_per_worker=resources.bundle()
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(folder),
            checkpoint_config=CheckpointConfig(
                num_to_keep=1, checkpoint_score_attribute=config.train.metric, checkpoint_score_order=config.train.metric_mode
            ),
            failure_config=FailureConfig(max_failures=0),
            callbacks=callbacks or [],
        ),
    )


def fit(trainer: TorchTrainer, config: ExperimentConfig) -> Checkpoint:
    """Run the trainer to its end; its best checkpoint.

    Raises:
        RunError: a worker failed; the message is the worker's own.
    """
    from ray.train import ControllerError, TrainingFailedError

    logging.getLogger("ray.train").setLevel(logging.ERROR)
    try:
        result = trainer.fit()
    except (TrainingFailedError, ControllerError) as error:
        raise RunError(failure_sentence(error)) from error
    checkpoint = result.get_best_checkpoint(config.train.metric, config.train.metric_mode)
    if checkpoint is None:
        raise RunError("training ended without a checkpoint; Ray's logs say why.")
    return checkpoint


def failure_sentence(error: Exception) -> str:
    """The first failing worker's own message."""
    failures: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    if not failures:
        return f"training failed: {last_line(str(error))}"
    rank, cause = min(failures.items())
    return f"training failed on worker {rank}: {type(cause).__name__}: {last_line(str(cause))}"


def last_line(text: str) -> str:
    """The last line that says something: of a traceback, the exception itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"


def finish(
    prepared: PreparedRun,
    config: ExperimentConfig,
    *,
    checkpoint: Checkpoint,
    history: list[dict[str, Any]],
    console: Console,
    started: float,
) -> TrainedModel:
    """Turn the best checkpoint into an artifact, read the test split once, register, and write the report."""
    from manta_jobs.worker import WEIGHTS_FILE

    best = best_epoch(history, config)
    facts = {
        "name": config.registered_name,
        "num_texts": len(config.data.text_columns),
        "max_length": config.model.max_length,
        "metrics": {f"validation_{key}": float(best[key]) for key in ("accuracy", "f1_macro", "loss")},
        "examples": prepared.dataset.test.texts[:NUM_EXAMPLES],
        "data_hash": prepared.dataset.content_hash,
        "config": config.model_dump(mode="json", exclude_none=True),
        "run": prepared.folder.name,
        "pretrained": config.model.pretrained,
    }
    with checkpoint.as_directory() as folder:
        artifact = write_artifact(
            prepared.folder.artifact,
            weights=Path(folder) / WEIGHTS_FILE,
            model_config=load_model_config(config.model, prepared.data.labels),
            tokenizer=load_tokenizer(config.model),
            labels=prepared.data.labels,
            facts=facts,
        )
    artifact = choose_thresholds(artifact, prepared.dataset.validation, console=console)
    evaluation = evaluate_on_cluster(artifact, prepared.dataset.test, console=console)
    artifact = with_metrics(artifact, evaluation.metrics)
    version = ModelRegistry(prepared.storage).register(artifact, history=history, promote=config.registry.promote)
    model = TrainedModel(
        prepared.folder, config, artifact, version, history, len(prepared.dataset.test), time.monotonic() - started
    )
    prepared.folder.write_report(
        {
            "run": model.run.name,
            "model": version.name,
            "version": version.version,
            "metrics": artifact.manifest.metrics,
            "per_class": evaluation.per_class,
            "best_epoch": int(best["epoch"]),
            "history": history,
            "data_hash": artifact.manifest.data_hash,
            "wall_s": round(model.wall_s, 1),
            "artifact": str(artifact.path),
        }
    )
    return model


def best_epoch(history: list[dict[str, Any]], config: ExperimentConfig) -> dict[str, Any]:
    """The epoch whose checkpoint was kept: the best by the chosen metric, the first of equals."""
    choose = max if config.train.metric_mode == "max" else min
    return choose(history, key=lambda metrics: float(metrics[config.train.metric]))


def workers_phrase(config: ExperimentConfig) -> str:
    """Who trains, in words."""
    count = config.train.num_workers
    return f"{count} worker{'s' if count > 1 else ''} with DeepSpeed ZeRO {config.train.zero_stage}"
