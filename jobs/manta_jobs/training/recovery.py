"""What happens when a worker fails: a lost one is replaced and training goes on, an error of its own ends the run at once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from ray.exceptions import RayError
from ray.train import UserCallback

from manta.errors import RunError
from manta_jobs.training.memory import OutOfMemory, halved_phrase

if TYPE_CHECKING:
    from manta_jobs.training.progress import Board

# What the other workers' communication says when one of them is gone.
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
    """Ray Train's callback at the failure of workers, run by its controller.

    Ray would start the workers anew after any failure (`FailureConfig`). That is right for a killed process or a lost node; an
    exception of a worker's own would only be raised again, so it ends the run with that worker's message. Running out of memory
    the first time is neither: the run goes on with fewer rows at a time, and the limit of failures does not count it.
    """

    def __init__(self, board: Board, name: str, *, max_failures: int) -> None:
        self._board = board
        self._name = name
        self._max_failures = max_failures
        self._num_failures = 0

    def after_exception(self, run_context: Any, worker_exceptions: dict[int, Exception]) -> None:
        """Tell people what was lost, or end the run.

        Raises:
            RunError: a worker raised an exception of its own, or workers were lost more often than is allowed.
        """
        own = {rank: error for rank, error in worker_exceptions.items() if is_own_error(error)}
        if not own:
            self._num_failures += not any(map(was_preempted, worker_exceptions.values()))
            if self._num_failures > self._max_failures:
                raise RunError(f"{lost_phrase(worker_exceptions)}, and train.max_failures is {self._max_failures}.")
            self._board.say(self._name, f"{lost_phrase(worker_exceptions)}; going on from the last checkpoint.")
            return
        rank, first = min(own.items())
        if isinstance(first, OutOfMemory) and first.micro_batch_size > 1 and self._board.micro_batch_limit(self._name) is None:
            self._board.limit_micro_batch(self._name, first.micro_batch_size // 2)
            self._board.say(self._name, halved_phrase(rank, first))
            return
        raise RunError(own_sentence(rank, first))


def is_own_error(error: Exception) -> bool:
    """Whether a worker raised this by itself, and not because it or another one was lost."""
    module = type(error).__module__
    if isinstance(error, RayError) or module.startswith("ray."):
        return False
    if isinstance(error, dist.DistError):
        return False
    return not (isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in LOST_CONNECTION))


def was_preempted(error: Exception) -> bool:
    """Whether a worker was lost because its node was taken away, which Ray knows of the actor's end."""
    return bool(getattr(getattr(error, "health_check_failure", error), "preempted", False))


def own_sentence(rank: int, error: Exception) -> str:
    """The failing worker's own message."""
    return f"training failed on worker {rank}: {type(error).__name__}: {last_line(str(error))}"


def lost_phrase(errors: dict[int, Exception]) -> str:
    """Which workers are gone, in words; those that only noticed it are not counted."""
    gone = sorted(rank for rank, error in errors.items() if type(error).__module__.startswith("ray."))
    if not gone:
        return "The connection between the workers was lost"
    if len(gone) == 1:
        return f"Worker {gone[0]} was lost"
    return f"Workers {', '.join(map(str, gone))} were lost"


def last_line(text: str) -> str:
    """The last line that says something: of a traceback, the exception itself."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no message"
