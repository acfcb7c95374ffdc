"""Handling of worker failures: lost workers are replaced and training continues; a worker's own exception ends the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from ray.exceptions import RayError
from ray.train import UserCallback

from manta.errors import RunError
from manta_jobs.cluster.losses import WorkersLostError, advice, reason
from manta_jobs.training.memory import OutOfMemory, halved_phrase

if TYPE_CHECKING:
    from manta_jobs.training.progress import Board

# Parts of the errors that the other workers' communication raises when a worker is lost.
LOST_CONNECTION = (
    "connection closed",
    "connection reset",
    "broken pipe",
    "gloo",
    "nccl",
    "socket",
    "timed out waiting",
    "enforcefail",
)


class Recovery(UserCallback):  # type: ignore[misc]  # Ray's class is untyped
    """Ray Train's callback for failed workers, called by its controller.

    Ray restarts the workers after any failure (`FailureConfig`). That is right for a killed process or a lost node. A worker's own
    exception would only be raised again, so it ends the run with that worker's message. The first out-of-memory error is an
    exception to both: the run continues with a smaller micro-batch, and `train.max_failures` does not count it.
    """

    def __init__(self, board: Board, name: str, *, max_failures: int) -> None:
        self._board = board
        self._name = name
        self._max_failures = max_failures
        self._num_failures = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Tell the user which workers were lost, or end the run.

        Raises:
            RunError: a worker raised its own exception.
            WorkersLostError: workers were lost more than `train.max_failures` times.
        """
        own = {rank: error for rank, error in worker_exceptions.items() if is_own_error(error)}
        if not own:
            self._num_failures += not any(map(was_preempted, worker_exceptions.values()))
            if self._num_failures > self._max_failures:
                raise lost(worker_exceptions, more=f", and train.max_failures is {self._max_failures}")
            self._board.say(self._name, f"{lost_phrase(worker_exceptions)}; going on from the last checkpoint.")
            return
        rank, first = min(own.items())
        if isinstance(first, OutOfMemory) and first.micro_batch_size > 1 and self._board.micro_batch_limit(self._name) is None:
            self._board.limit_micro_batch(self._name, first.micro_batch_size // 2)
            self._board.say(self._name, halved_phrase(rank, first))
            return
        raise RunError(own_sentence(rank, first))


def is_own_error(error: Exception) -> bool:
    """Tell whether the worker's own code caused this error, not the loss of a worker."""
    module = type(error).__module__
    if isinstance(error, RayError) or module.startswith("ray."):
        return False
    if isinstance(error, dist.DistError):
        return False
    return not (isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in LOST_CONNECTION))


def was_preempted(error: Exception) -> bool:
    """Tell whether a worker was lost because its node was preempted, as Ray reports in the actor's error."""
    return bool(getattr(getattr(error, "health_check_failure", error), "preempted", False))


def own_sentence(rank: int, error: Exception) -> str:
    """Return the message of a failing worker."""
    return f"training failed on worker {rank}: {type(error).__name__}: {first_line(str(error))}"


def lost(errors: dict[int, Exception], *, more: str = "") -> WorkersLostError:
    """Return the error of a run that ends because workers were lost; `more` is added to its phrase."""
    return WorkersLostError(f"{lost_phrase(errors)}{more}{advice(*errors.values())}.")


def lost_phrase(errors: dict[int, Exception]) -> str:
    """Return a phrase that names the lost workers. Workers that only noticed the loss are not named."""
    gone = sorted(rank for rank, error in errors.items() if type(error).__module__.startswith("ray."))
    if not gone:
        return "The connection between the workers was lost"
    if len(gone) == 1:
        return f"Worker {gone[0]} was lost{reason(*errors.values())}"
    return f"Workers {', '.join(map(str, gone))} were lost{reason(*errors.values())}"


def first_line(text: str) -> str:
    """Return the first line of an exception's text; of a traceback, the last one, which is the exception itself.

    The lines after the first are often hints for developers of the library that raised it.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if not lines:
        return "no message"
    return lines[-1] if lines[0].startswith("Traceback") else lines[0]
