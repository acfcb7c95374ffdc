"""The Ray trainer of a run, shared by `manta train` and every trial of `manta tune`."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

import ray

from manta.errors import RunError
from manta_jobs.cluster.losses import WorkersLostError, advice, reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from ray.train import UserCallback
    from ray.train.torch import TorchTrainer

    from manta.config import ExperimentConfig
    from manta_jobs.cluster.connection import WorkerResources
    from manta_jobs.training.batches import TokenizedData
    from manta_jobs.training.checkpoints import TrainingState
    from manta_jobs.training.progress import Board
    from manta_jobs.training.start.worker_setup import WorkerSetup

ASK_WORKERS_EVERY_S = 0.25
"""Interval at which Ray's controller polls the workers. A worker that reports an epoch waits for the next poll; with Ray's default
of 2 s, that adds seconds to a run."""
WAIT_FOR_LOST_NODES_S = 15
"""Start timeout of the workers of a run with a range of workers. Ray Train counts a lost node for up to 20 s more and waits for it;
after this timeout it continues with the workers that it has. Ray's default is a minute."""


def build_trainer(
    loop: Callable[[dict[str, Any]], None],
    arguments: dict[str, Any],
    config: ExperimentConfig,
    *,
    resources: WorkerResources,
    folder: Path,
    name: str,
    callback: UserCallback,
    board: Board,
    current: Callable[[], str | None],
    max_failures: int,
) -> TorchTrainer:
    """Return a trainer, not yet started, whose workers run `loop` with `arguments`.

    The workers are those of one run, or those that train a search's trials; `current` names the run or trial under way. Without a
    cluster, the one worker is this process (Ray Train's local mode).
    """
    from ray.train import FailureConfig, RunConfig, ScalingConfig

    from manta_jobs.cluster.network import ReachableTorchConfig
    from manta_jobs.training.ray_train import LeanTrainer

    logging.getLogger("ray.train").setLevel(logging.CRITICAL)  # our own messages say what matters
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", str(ASK_WORKERS_EVERY_S))
    callbacks: list[Any] = [callback]
    if config.train.min_workers < config.train.max_workers:
        from manta_jobs.training.resizing import SaveBeforeResize

        callbacks.append(SaveBeforeResize(board, current))
        os.environ.setdefault("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", str(WAIT_FOR_LOST_NODES_S))
    return LeanTrainer(
        loop,
        train_loop_config=arguments,
        torch_config=ReachableTorchConfig(timeout_s=round(60 * config.train.hang_minutes)),
        scaling_config=ScalingConfig(
            num_workers=num_workers_asked(config, resources) if ray.is_initialized() else 0,
            use_gpu=resources.use_gpu,
            resources_per_worker=resources.bundle(),
        ),
        run_config=RunConfig(
            name=name,
            storage_path=str(folder / "ray"),
            failure_config=FailureConfig(max_failures=max_failures, max_preemption_failures=-1),
            callbacks=callbacks,
        ),
    )


def num_workers_asked(config: ExperimentConfig, resources: WorkerResources) -> int | tuple[int, int]:
    """Return the number of workers to request from Ray Train, or the fewest and the most.

    Ray Train asks the autoscaler for room for the most. An autoscaler that cannot make that much room makes none, so never request
    more workers than fit.
    """
    least, most = config.train.min_workers, config.train.max_workers
    if least == most:
        return most
    return least, most if resources.most is None else min(most, resources.most)


def run_trainer(
    data: TokenizedData,
    config: ExperimentConfig,
    *,
    board: Board,
    resources: WorkerResources,
    folder: Path,
    name: str,
) -> TorchTrainer:
    """Return the trainer of a run of `config`. It writes checkpoints to `folder/name` and resumes from the newest one there."""
    from manta_jobs.training.recovery import Recovery
    from manta_jobs.training.worker import train_worker

    setup = worker_setup(data, config, board=board, resources=resources, folder=folder, name=name)
    return build_trainer(
        train_worker,
        {"setup": setup},
        config,
        resources=resources,
        folder=folder,
        name=name,
        callback=Recovery(board, name, max_failures=config.train.max_failures),
        board=board,
        current=lambda: name,
        max_failures=config.train.max_failures + 1,  # one more to continue with a smaller micro-batch; `Recovery` counts losses
    )


def worker_setup(
    data: TokenizedData, config: ExperimentConfig, *, board: Board, resources: WorkerResources, folder: Path, name: str
) -> WorkerSetup:
    """Return the settings that the workers of a run need."""
    from manta_jobs.training.start.worker_setup import WorkerSetup

    return WorkerSetup(
        config=config,
        labels=data.labels,
        data_folder=str(data.folder),
        checkpoints=str(folder / name),
        pad_id=data.pad_id,
        num_threads=resources.num_cpus,
        board=board,
        run_name=name,
        folds=data.folds,
    )


def fit(trainer: TorchTrainer, checkpoints: Path) -> TrainingState:
    """Run the trainer to its end; return the state of its last checkpoint.

    Raises:
        RunError: a worker failed (the message is the worker's own), workers were lost, or the last checkpoint is missing.
    """
    from ray.train import ControllerError, TrainingFailedError

    from manta_jobs.training.checkpoints import latest_checkpoint

    try:
        fit_here(trainer) if trainer.running_in_local_mode else trainer.fit()
    except (TrainingFailedError, ControllerError) as error:
        raise failure(error) from error
    found = latest_checkpoint(checkpoints)
    if found is None or not found[1].finished:
        raise RunError(f"training ended without its last checkpoint in {checkpoints}; is that folder shared by all nodes?")
    return found[1]


def fit_here(trainer: TorchTrainer) -> None:
    """Train in this process. The run's `Recovery` decides on an exception, as it does in Ray's controller."""
    recovery = trainer.run_config.callbacks[0]
    while True:
        try:
            trainer.fit()
        except Exception as error:  # noqa: BLE001  # the recovery raises it again unless training can continue
            recovery.after_exception(None, {0: error})
        else:
            return


def failure(error: Exception) -> RunError:
    """Return the error of a training that Ray Train gave up: that of the first failing worker, or the loss of workers."""
    from ray.exceptions import RayError

    from manta_jobs.training.recovery import first_line, is_own_error, lost, own_sentence

    cause: Any = error
    while hasattr(cause, "controller_failure"):
        cause = cause.controller_failure
    if isinstance(cause, RunError):
        return cause
    failures: dict[int, Exception] = getattr(error, "worker_failures", None) or {}
    own = {rank: failed for rank, failed in failures.items() if is_own_error(failed)}
    if own:
        return RunError(own_sentence(*min(own.items())))
    if failures:
        return lost(failures)
    if isinstance(cause, RayError):
        return WorkersLostError(f"The process that leads the workers was lost{reason(cause)}{advice(cause)}.")
    return RunError(f"training failed: {first_line(str(cause))}")


def workers_phrase(config: ExperimentConfig) -> str:
    """Return a phrase about the workers of a run, such as `2 workers with DeepSpeed ZeRO 1`."""
    least, most = config.train.min_workers, config.train.max_workers
    count = str(most) if least == most else f"{least} to {most}"
    stage = "" if config.train.zero_stage == "auto" else f" ZeRO {config.train.zero_stage}"
    return f"{count} worker{'s' if most > 1 else ''} with DeepSpeed{stage}"
