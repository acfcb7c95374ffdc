"""A checkpoint before Ray Train restarts a run with another number of workers.

When a cluster has grown, Ray Train shuts all workers down at once and starts more. Its controller calls this callback first, which
asks the workers for a checkpoint and waits for it, so that no work is lost. The callback's classes are for developers of Ray, which
lets `RunConfig.callbacks` have them; `tests/jobs/training/test_resizing.py` fails if an upgrade moves them.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from ray.train.v2._internal.execution.callback import ControllerCallback, WorkerGroupCallback

if TYPE_CHECKING:
    from collections.abc import Callable

    from manta_jobs.training.progress import Board

WAIT_S = 60.0
"""Seconds that the controller waits for the checkpoint. Workers that wait for the controller at the end of an epoch, or that hang,
are restarted from their last one."""
LOOK_EVERY_S = 0.2


class SaveBeforeResize(ControllerCallback, WorkerGroupCallback):  # type: ignore[misc]  # Ray's classes are untyped
    """Ray Train's callback that saves the run, or the trial under way, before a resize."""

    def __init__(self, board: Board, current: Callable[[], str | None], *, wait_s: float = WAIT_S) -> None:
        """Take the name of the run or trial under way as `current`; None if there is none."""
        self._board, self._current, self._wait_s = board, current, wait_s
        self._is_training = False

    def after_worker_group_training_start(self, worker_group: Any) -> None:
        """Note that workers train."""
        self._is_training = True

    def after_worker_group_poll_status(self, worker_group_status: Any) -> None:
        """Note that workers have failed: they cannot save anything."""
        self._is_training = self._is_training and not worker_group_status.errors

    def before_worker_group_shutdown(self, worker_group: Any) -> None:
        """Note that no workers train."""
        self._is_training = False

    def before_controller_execute_resize_decision(self, resize_decision: Any) -> None:
        """Have the workers save, and wait until they have. Ray also calls this before the first workers start."""
        name = self._current()
        if not self._is_training or name is None:
            return
        self._board.want_checkpoint(name)
        ends_at = time.monotonic() + self._wait_s
        while self._board.is_checkpoint_wanted(name) and time.monotonic() < ends_at:
            time.sleep(LOOK_EVERY_S)
