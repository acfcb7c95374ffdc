"""Worker pools: Ray Train workers that stay up and train one trial of a search after another.

Starting four processes that import torch and DeepSpeed takes longer than training a small trial. A pool is one `TorchTrainer` with
the workers of one trial. Each trial starts from the pretrained weights and its own seed, as if it ran alone. Ray Train replaces
lost workers as in any run, and the trial resumes from its last checkpoint.
"""

from __future__ import annotations

import dataclasses
import logging
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from pydantic import ValidationError
from ray.train import UserCallback

from manta.cluster.gpus import hide_unassigned_gpus
from manta.errors import InputError, RunError
from manta_jobs.training.engine.cpu_speedups import install_quick_dropout
from manta_jobs.training.engine.memory import free_memory
from manta_jobs.training.loop import Training
from manta_jobs.training.progress import Board
from manta_jobs.training.recovery import first_line, halved, is_own_error, lost_phrase, own_sentence
from manta_jobs.training.start.worker_setup import WorkerSetup
from manta_jobs.training.trainer import build_trainer, worker_setup
from manta_jobs.training.worker import begun
from manta_jobs.tuning.trial_queue import Assignment, TrialQueue, Wait

if TYPE_CHECKING:
    from collections.abc import Callable

    from ray.train.torch import TorchTrainer

    from manta.config import ExperimentConfig
    from manta_jobs.cluster.connection import WorkerResources
    from manta_jobs.training.batches import TokenizedData


@dataclass(frozen=True)
class WorkerPool:
    """Settings that the workers of a pool need."""

    name: str
    queue: TrialQueue
    setup: WorkerSetup
    """Setup with the search's own config; `checkpoints` is the folder that holds a folder for each trial."""


class WorkersMustRestartError(Exception):
    """Error of a trial that failed on one of several workers while the others wait for it. Ray Train restarts all workers."""


def train_trials(arguments: dict[str, Any]) -> None:
    """Run one worker of a pool: take a trial and train it, until there are no more."""
    hide_unassigned_gpus()
    kept = install_quick_dropout()  # noqa: F841  # kept until training ends
    pool: WorkerPool = arguments["pool"]
    while (assignment := next_trial(pool)) is not None:
        if isinstance(assignment, Wait):
            continue
        try:
            train_trial(pool, assignment)
        except Exception as error:  # noqa: BLE001  # recorded for the trial, or raised again
            failed(pool, assignment.name, error)
        free_memory()


def next_trial(pool: WorkerPool) -> Assignment | Wait | None:
    """Return the pool's next trial. Worker 0 asks the queue and sends the answer to all workers."""
    answer: list[Any] = [pool.queue.take(pool.name) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(answer, src=0)
    taken: Assignment | Wait | None = answer[0]
    return taken


def train_trial(pool: WorkerPool, assignment: Assignment) -> None:
    """Train a trial like any run, with the trial's values in its config."""
    checkpoints = Path(pool.setup.checkpoints) / assignment.name
    training = begun(
        dataclasses.replace(
            pool.setup,
            config=pool.setup.config.with_values(assignment.values),
            checkpoints=str(checkpoints),
            run_name=assignment.name,
            seconds=assignment.seconds,
        )
    )
    try:
        training.run(report=lambda metrics: goes_on(pool.queue, training, assignment, metrics))
    finally:
        training.close()


def goes_on(queue: TrialQueue, training: Training, assignment: Assignment, metrics: dict[str, Any]) -> bool:
    """Report an epoch; return whether to continue. An ended trial's checkpoint is on disk before its end is reported."""
    name, is_first = assignment.name, dist.get_rank() == 0
    is_over = training.state.finished
    if is_first:
        queue.epoch_done(name, metrics, status=None if not is_over else "out of time" if training.out_of_time else "done")
    if is_over:
        return False
    answer: list[Any] = [queue.may_go_on(name, epochs=metrics["epoch"]) if is_first else None]
    dist.broadcast_object_list(answer, src=0)
    if not answer[0]:
        training.save_for_good()
        if is_first:
            queue.ended(name, "stopped early")
    return bool(answer[0])


def failed(pool: WorkerPool, name: str, error: Exception) -> None:
    """Record the failure for its trial, so that the pool can train the next one.

    Raises:
        WorkersMustRestartError: the other workers do not know of the failure and wait.
        Exception: the error itself, if the loss of another worker caused it.
    """
    board = pool.setup.board
    if not is_own_error(error):
        raise error
    if said := halved(board, name, {dist.get_rank(): error}):
        board.say(name, said)
    else:
        pool.queue.ended(name, "failed", f"{type(error).__name__}: {first_line(str(error))}")
    is_common = isinstance(error, ArithmeticError | InputError | ValidationError)  # raised by all workers at the same place
    if dist.get_world_size() > 1 and not is_common:
        raise WorkersMustRestartError(name) from error


class PoolRecovery(UserCallback):  # type: ignore[misc]  # Ray's class is untyped
    """Ray Train's callback for failed workers of a pool, called by its controller."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Tell the user which workers were lost. Ray restarts the workers.

        Raises:
            RunError: a worker failed outside of any trial, and would only fail again.
        """
        restarts = [error for error in worker_exceptions.values() if isinstance(error, WorkersMustRestartError)]
        own = {rank: error for rank, error in worker_exceptions.items() if is_own_error(error)}
        if own and not restarts:
            raise RunError(own_sentence(*min(own.items())))
        if not restarts:
            board, trial = self._pool.setup.board, self._pool.queue.current(self._pool.name) or self._pool.name
            said = halved(board, trial, worker_exceptions)
            board.say(trial, said or f"{lost_phrase(worker_exceptions)}; going on from the last checkpoint.")


class WorkerPools:
    """The worker pools of a search. They end when the queue has no more trials."""

    def __init__(self, queue: TrialQueue, board: Board, *, num_pools: int, build: Callable[[str], TorchTrainer]) -> None:
        self._queue = queue
        self._threads = [
            threading.Thread(target=self._run, args=(f"pool-{number}", build), daemon=True) for number in range(1, num_pools + 1)
        ]
        self._num_alive = num_pools
        self._lock = threading.Lock()

    def start(self) -> None:
        """Request the workers, without waiting for them."""
        logging.getLogger("ray.train").setLevel(logging.CRITICAL)
        for thread in self._threads:
            thread.start()

    def join(self) -> None:
        """Wait until all workers have ended. The queue must have been told how many trials there are."""
        for thread in self._threads:
            thread.join()

    def _run(self, name: str, build: Callable[[str], TorchTrainer]) -> None:
        from ray.train import ControllerError, TrainingFailedError

        from manta_jobs.training.trainer import failure

        reason = "its workers ended"
        try:
            build(name).fit()
        except (TrainingFailedError, ControllerError) as error:
            reason = str(failure(error))
        current = self._queue.current(name)
        if current is not None:
            self._queue.ended(current, "failed", reason)
        with self._lock:
            self._num_alive -= 1
            if self._num_alive == 0:
                self._queue.abandon(reason)


def pool_trainer(
    data: TokenizedData,
    config: ExperimentConfig,
    *,
    queue: TrialQueue,
    board: Board,
    resources: WorkerResources,
    folder: Path,
    trials: str,
    name: str,
    num_trials: int,
) -> TorchTrainer:
    """Return the trainer of one worker pool, not yet started. Trials' checkpoints go to `folder/trials/TRIAL`."""
    from manta_jobs.tuning.trial_workers import PoolRecovery, WorkerPool, train_trials

    pool = WorkerPool(name, queue, worker_setup(data, config, board=board, resources=resources, folder=folder, name=trials))
    return build_trainer(
        train_trials,
        {"pool": pool},
        config,
        resources=resources,
        folder=folder,
        name=name,
        callback=PoolRecovery(pool),
        board=board,
        current=lambda: queue.current(name),
        max_failures=config.train.max_failures * num_trials + num_trials,  # the queue enforces each trial's own limit
    )
