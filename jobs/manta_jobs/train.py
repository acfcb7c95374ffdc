"""`manta train`: from an experiment to a registered model. `build_trainer` is shared with `manta tune`."""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from manta.adapt import adapt, merged
from manta.artifact import ModelArtifact, with_metrics, write_artifact
from manta.config import ExperimentConfig
from manta.config_file import load_config, write_config
from manta.data import TextDataset, load_dataset
from manta.errors import InputError, RunError
from manta.labels import LabelSpace
from manta.loss import resolve_class_weights
from manta.model import build_model, load_model_config, load_tokenizer
from manta.registry import ModelRegistry, RegisteredVersion
from manta.storage import RunFolder, Storage
from manta_jobs.cluster import WorkerResources, connected, fit_workers, interruptible
from manta_jobs.evaluate import evaluate_on_cluster
from manta_jobs.progress import Board, shown_progress

if TYPE_CHECKING:
    import torch
    from ray.train.torch import TorchTrainer
    from rich.console import Console
    from transformers import PreTrainedTokenizerBase

    from manta_jobs.checkpoints import TrainingState

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
    return run(prepare(config, verb="train", console=console), console=console, address=address, started=started)


def resume(name: str, *, console: Console, address: str | None = None) -> TrainedModel:
    """Go on with a run that was interrupted, from its last whole checkpoint.

    It is given by its name or its folder.

    Raises:
        InputError: there is no such run, it is finished, or its data is not what it was.
        RunError: training failed; the message is the worker's own.
    """
    started = time.monotonic()
    return run(reopen(name, verb="train", console=console), console=console, address=address, started=started)


def run(prepared: PreparedRun, *, console: Console, address: str | None, started: float) -> TrainedModel:
    """Train a prepared run from its last checkpoint, or from the start where it has none, and finish it."""
    config = prepared.config
    with connected(address, num_workers=config.train.max_workers):
        board = Board()
        resources = fit_workers(config.train)
        trainer = build_trainer(
            prepared.data, config, board=board, resources=resources, folder=prepared.folder.path, name=CHECKPOINTS
        )
        console.print(f"Training on {workers_phrase(config)}; if it is interrupted: manta train --resume {prepared.folder.name}")
        with shown_progress(board, console, num_epochs=config.train.num_epochs):
            trained = interruptible(lambda: fit(trainer, prepared.folder.path / CHECKPOINTS), console=console)
        return finish(prepared, config, trained=trained, console=console, started=started)


def prepare(config: ExperimentConfig, *, verb: str, console: Console) -> PreparedRun:
    """Check everything that can be checked, then create the run folder and tokenise the splits into it.

    Raises:
        InputError: something is wrong; nothing has been written.
    """
    storage = Storage.resolve(config.storage)
    dataset = load_dataset(config.data, task=config.model.task)
    load_model_config(config.model, dataset.labels)
    tokenizer = load_tokenizer(config.model)
    resolve_class_weights(config.train, dataset.labels, dataset.train.targets)
    show_dataset(dataset, console)
    folder = storage.new_run(config.name, verb=verb)
    write_config(config, folder.config_path)
    folder.write_facts({"verb": verb, "data_hash": dataset.content_hash})
    return PreparedRun(config, storage, folder, dataset, tokenized(dataset, folder, config=config, tokenizer=tokenizer))


def reopen(name: str, *, verb: str, console: Console) -> PreparedRun:
    """Open a run that was interrupted, as `prepare` left it.

    Raises:
        InputError: there is no such run, it is of another kind or finished, or its data is not what it was.
    """
    folder = Storage.resolve(None).find_run(name)
    config = load_config(folder.config_path)
    facts = folder.read_facts()
    if facts["verb"] != verb:
        raise InputError(f"{folder.name} was started by manta {facts['verb']}; only a run of manta {verb} can be resumed here.")
    if folder.report_path.exists():
        raise InputError(f"{folder.name} is finished: its model is in {folder.artifact} and its report in {folder.report_path}.")
    storage = Storage(folder.path.parent.parent)
    dataset = load_dataset(config.data, task=config.model.task)
    if dataset.content_hash != facts["data_hash"]:
        raise InputError(f"{config.data.train}: the rows are not those that {folder.name} began with; start a new run.")
    show_dataset(dataset, console)
    data = tokenized(dataset, folder, config=config, tokenizer=load_tokenizer(config.model))
    return PreparedRun(config, storage, folder, dataset, data)


def tokenized(
    dataset: TextDataset, folder: RunFolder, *, config: ExperimentConfig, tokenizer: PreTrainedTokenizerBase
) -> TokenizedData:
    """The splits that training reads, tokenised on disk; what is there already is kept."""
    from manta.data.encode import write_encoded

    for name in ("train", "validation"):
        path = folder.data / f"{name}.arrow"
        if not path.exists():
            write_encoded(dataset.split(name), path, tokenizer=tokenizer, max_length=config.model.max_length)
    return TokenizedData(folder.data, dataset.labels, int(tokenizer.pad_token_id or 0))


def show_dataset(dataset: TextDataset, console: Console) -> None:
    """Say how many rows and labels there are, and what is odd about them."""
    sizes = ", ".join(f"{len(dataset.split(name)):,} {name}" for name in ("train", "validation", "test"))
    console.print(f"Data: {sizes} rows, {len(dataset.labels.names)} labels ({dataset.labels.task})")
    for warning in dataset.warnings:
        console.print(f"[yellow]Warning:[/] {warning}")


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

    Checkpoints go to `folder/name`, see `checkpoints.py`; where there are some, training goes on from the newest. A trial of a
    search is the same run with other numbers in its config.
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    from manta_jobs.recovery import Recovery
    from manta_jobs.worker import WorkerSetup, train_worker

    setup = WorkerSetup(
        config=config,
        labels=data.labels,
        data_folder=str(data.folder),
        checkpoints=str(folder / name),
        pad_id=data.pad_id,
        num_threads=resources.num_cpus,
        board=board,
        run_name=name,
        durable_epochs=callbacks is not None,
    )
    num_workers = config.train.num_workers
    return TorchTrainer(
        train_worker,
        train_loop_config={"setup": setup},
        scaling_config=ScalingConfig(
            num_workers=num_workers if isinstance(num_workers, int) else tuple(num_workers),
            use_gpu=resources.use_gpu,
            resources_per_worker=resources.bundle(),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(folder / "ray"),
            failure_config=FailureConfig(max_failures=config.train.max_failures, max_preemption_failures=-1),
            callbacks=[Recovery(board, name), *(callbacks or [])],
        ),
    )


def fit(trainer: TorchTrainer, checkpoints: Path) -> TrainingState:
    """Run the trainer to its end; what its last checkpoint says.

    Raises:
        RunError: a worker failed; the message is the worker's own.
    """
    from ray.train import ControllerError, TrainingFailedError

    from manta_jobs.checkpoints import latest_checkpoint

    logging.getLogger("ray.train").setLevel(logging.CRITICAL)
    try:
        trainer.fit()
    except (TrainingFailedError, ControllerError) as error:
        raise RunError(failure_sentence(error)) from error
    found = latest_checkpoint(checkpoints)
    if found is None or not found[1].finished:
        raise RunError(f"training ended without its last checkpoint in {checkpoints}; is that folder shared by all nodes?")
    return found[1]


def failure_sentence(error: Exception) -> str:
    """The first failing worker's own message."""
    from manta_jobs.recovery import is_own_error, last_line, own_sentence

    cause: Any = error
    while hasattr(cause, "controller_failure"):
        cause = cause.controller_failure
    if isinstance(cause, RunError):
        return str(cause)
    failures: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    own = {rank: failure for rank, failure in failures.items() if is_own_error(failure)}
    if own or failures:
        return own_sentence(*min((own or failures).items()))
    return f"training failed: {last_line(str(cause))}"


def finish(
    prepared: PreparedRun, config: ExperimentConfig, *, trained: TrainingState, console: Console, started: float
) -> TrainedModel:
    """Turn the best checkpoint into an artifact, read the test split once, register, and write the report."""
    from manta_jobs.worker import best_epoch

    best = best_epoch(trained.history, config)
    artifact = best_artifact(prepared, config, best=best)
    evaluation = evaluate_on_cluster(artifact, prepared.dataset.test, console=console)
    artifact = with_metrics(artifact, evaluation.metrics)
    registry = ModelRegistry(prepared.storage)
    version = registry.version_of_run(artifact.manifest.name, prepared.folder.name) or registry.register(
        artifact, history=trained.history, promote=config.registry.promote
    )
    model = TrainedModel(
        prepared.folder, config, artifact, version, trained.history, len(prepared.dataset.test), time.monotonic() - started
    )
    prepared.folder.write_report(
        {
            "run": model.run.name,
            "model": version.name,
            "version": version.version,
            "metrics": artifact.manifest.metrics,
            "per_class": evaluation.per_class,
            "best_epoch": int(best["epoch"]),
            "history": trained.history,
            "distribution": trained.distribution,
            "data_hash": artifact.manifest.data_hash,
            "wall_s": round(model.wall_s, 1),
            "artifact": str(artifact.path),
        }
    )
    return model


def best_artifact(prepared: PreparedRun, config: ExperimentConfig, *, best: dict[str, Any]) -> ModelArtifact:
    """The artifact of the best epoch's checkpoint, written unless an interrupted run has written it already."""
    if prepared.folder.artifact.exists():
        return ModelArtifact.load(prepared.folder.artifact)
    facts = {
        "name": config.registered_name,
        "max_length": config.model.max_length,
        "metrics": {f"validation_{key}": float(best[key]) for key in ("accuracy", "f1_macro", "loss")},
        "examples": prepared.dataset.test.texts[:NUM_EXAMPLES],
        "data_hash": prepared.dataset.content_hash,
        "config": config.model_dump(mode="json", exclude_none=True),
        "run": prepared.folder.name,
        "pretrained": config.model.pretrained,
    }
    return write_artifact(
        prepared.folder.artifact,
        weights=plain_weights(Path(best["checkpoint"]), config, prepared.data.labels),
        model_config=load_model_config(config.model, prepared.data.labels),
        tokenizer=load_tokenizer(config.model),
        labels=prepared.data.labels,
        facts=facts,
    )


def plain_weights(checkpoint: Path, config: ExperimentConfig, labels: LabelSpace) -> dict[str, torch.Tensor]:
    """The checkpoint's weights as plain `transformers` knows them, with LoRA's adapters merged in.

    Raises:
        RunError: the checkpoint is gone or altered.
    """
    from safetensors.torch import load_file

    from manta_jobs.checkpoints import WEIGHTS_FILE, read_state

    if read_state(checkpoint) is None:
        raise RunError(f"{checkpoint}: the best epoch's checkpoint is gone or damaged; train again.")
    weights: dict[str, torch.Tensor] = load_file(checkpoint / WEIGHTS_FILE)
    if config.model.lora is None:
        return weights
    model = adapt(build_model(config.model, labels), config.model)
    model.load_state_dict(weights)
    return dict(merged(model).state_dict())


def workers_phrase(config: ExperimentConfig) -> str:
    """Who trains, in words."""
    least, most = config.train.min_workers, config.train.max_workers
    count = str(most) if least == most else f"{least} to {most}"
    return f"{count} worker{'s' if most > 1 else ''} with DeepSpeed ZeRO {config.train.zero_stage}"
