from __future__ import annotations

import pytest
import torch
from ray.exceptions import RayActorError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from manta.errors import RunError
from manta_jobs.training.memory import OutOfMemory
from manta_jobs.training.recovery import Recovery, is_own_error


class Said:
    """Stands where the board actor does, and keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.limit: int | None = None

    def say(self, name: str, message: str) -> None:
        self.messages.append(message)

    def micro_batch_limit(self, name: str) -> int | None:
        return self.limit

    def limit_micro_batch(self, name: str, rows: int) -> None:
        self.limit = rows


CLOSED = RuntimeError("[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:33321")


def test_a_lost_worker_is_replaced_and_named() -> None:
    board = Said()
    Recovery(board, "run", max_failures=1).after_exception(None, {0: CLOSED, 1: RayActorError()})
    assert board.messages == ["Worker 1 was lost; going on from the last checkpoint."]


def test_a_lost_connection_alone_is_tried_again() -> None:
    board = Said()
    Recovery(board, "run", max_failures=1).after_exception(None, {0: CLOSED, 1: torch.distributed.DistNetworkError("reset")})
    assert board.messages == ["The connection between the workers was lost; going on from the last checkpoint."]


def test_losses_are_counted_but_preemptions_and_the_first_lack_of_memory_are_not() -> None:
    board = Said()
    recovery = Recovery(board, "run", max_failures=1)
    recovery.after_exception(None, {0: OutOfMemory(32)})
    for lost in (preempted(), WorkerHealthCheckFailedError("not there", preempted()), RayActorError()):
        recovery.after_exception(None, {0: lost, 1: CLOSED})
    with pytest.raises(RunError, match=r"Worker 0 was lost, and train\.max_failures is 1\."):
        recovery.after_exception(None, {0: RayActorError()})


def preempted() -> RayActorError:
    """What Ray raises for an actor whose node was taken away."""
    return RayActorError(preempted=True)


def test_an_error_of_its_own_ends_the_run_with_its_message() -> None:
    with pytest.raises(RunError, match="training failed on worker 1: ValueError: the rows are odd"):
        Recovery(Said(), "run", max_failures=1).after_exception(None, {0: CLOSED, 1: ValueError("the rows are odd")})


def test_running_out_of_memory_halves_the_rows_once_and_says_so() -> None:
    board = Said()
    Recovery(board, "run", max_failures=1).after_exception(None, {0: CLOSED, 1: OutOfMemory(32)})
    assert board.limit == 16
    assert board.messages[0].startswith("Worker 1 ran out of memory with 32 rows at a time; going on")
    with pytest.raises(RunError, match=r"out of memory with 16 rows at a time; lower train.micro_batch_size"):
        Recovery(board, "run", max_failures=1).after_exception(None, {0: OutOfMemory(16)})


@pytest.mark.parametrize(
    "error", [ValueError("x"), RuntimeError("shapes"), ArithmeticError("the loss is nan"), OSError("no space")]
)
def test_what_is_a_workers_own(error: Exception) -> None:
    assert is_own_error(error)
