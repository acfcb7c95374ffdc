from __future__ import annotations

import pytest
import torch
from ray.exceptions import OutOfMemoryError, RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from manta.errors import RunError
from manta_jobs.cluster.losses import WorkersLostError, losses_named
from manta_jobs.training.engine.memory import OutOfMemory, exhaustion_named
from manta_jobs.training.recovery import Recovery, first_line, is_own_error
from manta_jobs.training.trainer import failure


class Said:
    """Stands where the board actor does, and keeps what it is told."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self.limit: int | None = None

    def say(self, name: str, message: str) -> None:
        self.messages.append(message)

    def micro_batch_limit(self, name: str) -> int | None:
        return self.limit

    def micro_batch_size(self, name: str) -> int:
        return 32

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
    """The error that Ray raises for an actor whose node was taken away."""
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


def cuda(text: str) -> Exception:
    """The error that torch raises for one of CUDA."""
    hints = (
        "CUDA kernel errors might be asynchronously reported at some other API call, so the stacktrace below might be incorrect."
    )
    return torch.AcceleratorError(f"CUDA error: {text}\n{hints}")


BROKEN = (
    cuda("uncorrectable ECC error encountered"),
    cuda("unspecified launch failure"),
    cuda("an illegal memory access was encountered"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm(handle)`"),
    RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR"),
    torch.distributed.DistBackendError("NCCL error in: ProcessGroupNCCL.cpp:3356, unhandled system error, NCCL version 2.27.5"),
)
ASSERTED = cuda("device-side assert triggered")
NO_MEMORY = (
    cuda("out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    torch.distributed.DistBackendError("NCCL error: unhandled cuda error. Last error:\nCuda failure 2 'out of memory'"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you tried to allocate 99"),
)


@pytest.mark.parametrize("error", BROKEN, ids=str)
def test_a_broken_gpu_is_a_loss_with_limited_retries(error: Exception) -> None:
    assert not is_own_error(error)
    board = Said()
    recovery = Recovery(board, "run", max_failures=1)
    recovery.after_exception(None, {0: CLOSED, 1: error})
    with pytest.raises(WorkersLostError, match=r", and train\.max_failures is 1"):
        recovery.after_exception(None, {0: CLOSED, 1: error})


def test_a_broken_gpu_is_named() -> None:
    board = Said()
    Recovery(board, "run", max_failures=1).after_exception(None, {0: CLOSED, 1: BROKEN[0]})
    assert board.messages == [
        "The GPU of worker 1 failed (CUDA error: uncorrectable ECC error encountered); going on from the last checkpoint."
    ]
    with pytest.raises(WorkersLostError, match=r"look at that machine's GPUs with nvidia-smi\.$"):
        raise failure(WorkerGroupError("", {1: BROKEN[0]}))


def test_a_fault_of_the_program_on_a_gpu_is_its_own() -> None:
    with pytest.raises(RunError, match="training failed on worker 1: AcceleratorError: CUDA error: device-side assert triggered"):
        Recovery(Said(), "run", max_failures=3).after_exception(None, {0: CLOSED, 1: ASSERTED})


@pytest.mark.parametrize("error", NO_MEMORY, ids=str)
def test_each_lack_of_memory_halves_the_rows(error: Exception) -> None:
    board = Said()
    with pytest.raises(OutOfMemory) as caught, exhaustion_named(32):
        raise error
    Recovery(board, "run", max_failures=0).after_exception(None, {0: CLOSED, 1: caught.value})
    assert board.limit == 16


def test_a_model_too_large_for_one_row_is_no_reason_to_try_again() -> None:
    board = Said()
    with pytest.raises(RunError, match=r"out of memory with one row at a time; lower model\.max_length"):
        Recovery(board, "run", max_failures=3).after_exception(None, {0: OutOfMemory(1)})
    assert board.limit is None


# Ray ends a worker because its machine has no memory left

KILLED = OutOfMemoryError(
    "2 worker(s) were killed due to the node running low on memory. Memory on the node (IP: 10.0.0.7, ID: 8a1f) was 15.3GB used / "
    "16.0GB limit (0.956)\nRefer to the documentation on how to address the out of memory issue: https://docs.ray.io. Consider "
    "provisioning more memory on this node.\nTo adjust the kill threshold, set the environment variable "
    "`RAY_memory_usage_threshold` when starting Ray. To disable worker killing, set the environment variable "
    "`RAY_memory_monitor_refresh_ms` to zero."
)
WHAT_HELPS = (
    "lower train.micro_batch_size or train.batch_size, run fewer workers (train.num_workers), or free memory on that machine."
)


def test_a_worker_killed_for_memory_is_replaced_by_one_with_half_the_rows_and_the_reason_is_said() -> None:
    board = Said()
    Recovery(board, "run", max_failures=0).after_exception(None, {0: CLOSED, 1: KILLED})
    assert board.limit == 16
    (message,) = board.messages
    assert message == (
        "Worker 1 was lost because its machine ran out of memory with 32 rows at a time; going on from the last checkpoint with 16 "
        "(the batch of a step stays the same)."
    )
    with pytest.raises(WorkersLostError) as caught:
        Recovery(board, "run", max_failures=0).after_exception(None, {0: KILLED})
    assert (
        str(caught.value) == f"Worker 0 was lost because its machine ran out of memory, and train.max_failures is 0; {WHAT_HELPS}"
    )


@pytest.mark.parametrize(
    ("error", "what"),
    [
        (WorkerGroupError("", {1: KILLED}), "Worker 1 was lost"),
        (ControllerError(KILLED), "The process that leads the workers was lost"),
    ],
)
def test_a_run_that_ends_for_memory_says_what_happened_what_helps_and_how_to_go_on(error: Exception, what: str) -> None:
    with pytest.raises(RunError) as caught, losses_named("manta train --resume desk-1"):
        raise failure(error)
    assert str(caught.value) == (
        f"{what} because its machine ran out of memory; {WHAT_HELPS} Go on with: manta train --resume desk-1"
    )


def test_a_task_killed_after_the_training_says_how_to_go_on() -> None:
    with pytest.raises(RunError) as caught, losses_named("manta train --resume desk-1"), losses_named():
        raise KILLED
    assert "RAY_memory" not in str(caught.value)
    assert str(caught.value).endswith(f"{WHAT_HELPS} Go on with: manta train --resume desk-1")


def test_other_losses_have_no_advice_on_memory() -> None:
    with pytest.raises(RunError, match=r"^A process of the cluster was lost\. Go on with: manta tune --resume desk-1$"):  # noqa: SIM117
        with losses_named("manta tune --resume desk-1"):
            raise RayActorError()


def test_an_error_of_its_own_has_no_command_that_would_only_repeat_it() -> None:
    with pytest.raises(RunError) as caught, losses_named("manta train --resume desk-1"):
        raise failure(WorkerGroupError("", {0: CLOSED, 1: ArithmeticError("the loss is nan")}))
    assert str(caught.value) == "training failed on worker 1: ArithmeticError: the loss is nan"


def test_the_message_is_the_first_line_and_of_a_traceback_the_last() -> None:
    hints = "CUDA error: out of range\nCUDA kernel errors might be reported later.\nFor debugging pass CUDA_LAUNCH_BLOCKING=1."
    assert first_line(hints) == "CUDA error: out of range"
    assert first_line("\nTraceback (most recent call last):\n  File x\nValueError: odd\n") == "ValueError: odd"
    assert first_line(" \n") == "no message"
