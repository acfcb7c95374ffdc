"""Handling of worker failures: lost workers and broken GPUs are replaced; a worker's own exception ends the run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch.distributed as dist
from ray.exceptions import RayError
from ray.train import UserCallback

from manta.errors import RunError
from manta_jobs.cluster.losses import WorkersLostError, advice, ran_out_of_memory, reason
from manta_jobs.training.engine.memory import OutOfMemory, is_out_of_memory

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

OWN_FAULT = "device-side assert"
"""Part of CUDA's error about a program's own fault, such as an index out of range. It would only be raised again."""
# Parts of the errors of a GPU that is broken, or whose context is. A new process has a new context, maybe on another node.
BROKEN_GPU = (
    "uncorrectable ecc",
    "unspecified launch failure",
    "illegal memory access",
    "launch timed out",
    "hardware stack error",
    "devices are busy or unavailable",
    "cublas_status_",
    "cudnn_status_",
    "nvlink",
    "cuda error: unknown error",
    "cuda error: initialization error",
)


class Recovery(UserCallback):  # type: ignore[misc]  # Ray's class is untyped
    """Ray Train's callback for failed workers, called by its controller.

    Ray restarts the workers after any failure (`FailureConfig`). That is right for a killed process or a lost node. A worker's own
    exception would only be raised again, so it ends the run with that worker's message. The first lack of memory is an exception to
    both, on a GPU and on a machine: the run continues with a smaller micro-batch, and `train.max_failures` does not count it.
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
        if said := halved(self._board, self._name, worker_exceptions):
            self._board.say(self._name, said)
            return
        own = {rank: error for rank, error in worker_exceptions.items() if is_own_error(error)}
        if not own:
            self._num_failures += not any(map(was_preempted, worker_exceptions.values()))
            if self._num_failures > self._max_failures:
                raise lost(worker_exceptions, more=f", and train.max_failures is {self._max_failures}")
            self._board.say(self._name, f"{lost_phrase(worker_exceptions)}; going on from the last checkpoint.")
            return
        raise RunError(own_sentence(*min(own.items())))


def halved(board: Board, name: str, errors: dict[int, Exception]) -> str:
    """Limit a run to half its micro-batch after its workers ran out of memory; return the message about it.

    Return an empty string if memory is not the reason, or if the run was limited before or computes one row at a time. The reason
    is the lack of memory of the first worker with an error of its own; if none has one, that Ray killed a process to save its
    machine.
    """
    own = sorted((rank, error) for rank, error in errors.items() if is_own_error(error))
    rows, what = 0, ""
    if own and isinstance(own[0][1], OutOfMemory):
        rows, what = own[0][1].micro_batch_size, f"Worker {own[0][0]} ran out of memory"
    elif not own and any(map(ran_out_of_memory, errors.values())):
        rows, what = board.micro_batch_size(name), lost_phrase(errors)
    if rows <= 1 or board.micro_batch_limit(name) is not None:
        return ""
    board.limit_micro_batch(name, rows // 2)
    more = f"going on from the last checkpoint with {rows // 2} (the batch of a step stays the same)"
    return f"{what} with {rows} rows at a time; {more}."


def is_own_error(error: Exception) -> bool:
    """Tell whether the worker's own code caused this error, not the loss of a worker or the fault of a GPU."""
    module = type(error).__module__
    if isinstance(error, RayError) or module.startswith("ray."):
        return False
    if is_out_of_memory(error):
        return True
    if isinstance(error, dist.DistError) or is_broken_gpu(error):
        return False
    return not (isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in LOST_CONNECTION))


def is_broken_gpu(error: Exception) -> bool:
    """Tell whether a GPU or its context failed."""
    text = str(error).lower()
    return isinstance(error, RuntimeError) and OWN_FAULT not in text and any(sign in text for sign in BROKEN_GPU)


def was_preempted(error: Exception) -> bool:
    """Tell whether a worker was lost because its node was preempted, as Ray reports in the actor's error."""
    return bool(getattr(getattr(error, "health_check_failure", error), "preempted", False))


def own_sentence(rank: int, error: Exception) -> str:
    """Return the message of a failing worker."""
    return f"training failed on worker {rank}: {type(error).__name__}: {first_line(str(error))}"


def lost(errors: dict[int, Exception], *, more: str = "") -> WorkersLostError:
    """Return the error of a run that ends because workers were lost; `more` is added to its phrase."""
    check = "; look at that machine's GPUs with nvidia-smi" if any(map(is_broken_gpu, errors.values())) else ""
    return WorkersLostError(f"{lost_phrase(errors)}{more}{check}{advice(*errors.values())}.")


def lost_phrase(errors: dict[int, Exception]) -> str:
    """Return a phrase that names the lost workers. Workers that only noticed the loss are not named."""
    gone = sorted(rank for rank, error in errors.items() if type(error).__module__.startswith("ray."))
    broken = {rank: error for rank, error in errors.items() if is_broken_gpu(error)}
    if broken:
        rank, error = min(broken.items())
        return f"The GPU of worker {rank} failed ({first_line(str(error))})"
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
