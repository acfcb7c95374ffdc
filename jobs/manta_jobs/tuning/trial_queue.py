"""The queue between a search and its workers: Ray Tune submits trials and decides on them; worker pools take and train them.

The queue is a small actor on the driver's node. It writes every event to the search's journal before any caller continues.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manta_jobs.cluster.shared_actor import SharedActor
from manta_jobs.tuning.journal import Journal, Trial, TrialStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_S = 20.0
"""Longest time that one call waits. A caller that needs longer calls again."""
MOST_CALLS = 1000
"""Calls that may wait at the same time: one for each trial and each worker pool."""
FREE = 10**9
"""Number of epochs that lets a trial train without ever asking."""


@dataclass(frozen=True)
class Assignment:
    """A trial for a worker pool to train."""

    name: str
    values: dict[str, Any]
    seconds: float | None
    """Time left until the search must end; None without a limit."""


@dataclass(frozen=True)
class Wait:
    """Answer that there is no trial to train now; the caller asks again."""


@dataclass
class _Submission:
    """Facts about a submitted trial that the journal does not record."""

    epochs_allowed: int
    """Number of epochs after which the workers must ask whether to continue."""
    is_stopping: bool = False
    pool: str | None = None
    """The worker pool that trains it, even while that pool's workers restart."""
    num_losses: int = 0
    """Number of times that its workers were lost."""


class _TrialQueue:
    """The actor. A trial belongs to the worker pool that took it, until the trial ends."""

    def __init__(
        self,
        journal: Path,
        *,
        num_expected: int,
        started_s: float,
        deadline_s: float | None,
        max_losses: int,
        rounds_kept: int = 0,
    ) -> None:
        self._journal = Journal(journal)
        self._zero = time.monotonic() - started_s
        self._deadline_s = deadline_s
        self._rounds_kept = rounds_kept
        self._num_expected = num_expected
        self._max_losses = max_losses
        self._submitted: dict[str, _Submission] = {}
        self._waiting: deque[str] = deque()
        self._abandoned: str | None = None
        self._news = asyncio.Condition()
        for trial in self._journal.trials.values():
            self._keep_time_back(trial)

    # Calls of the search.

    async def submit(self, name: str, values: dict[str, Any], free: bool) -> None:
        epochs_allowed = FREE if free else 0
        if name in self._submitted:
            submission = self._submitted[name]
            submission.epochs_allowed = max(submission.epochs_allowed, epochs_allowed)
        else:
            self._submitted[name] = _Submission(epochs_allowed)
            if name not in self._journal.trials:
                self._journal.drawn(name, values, at_s=self._now())
            if self._is_running(name) and self._abandoned is not None:
                self._end(name, "failed", self._abandoned)
            elif self._is_running(name):
                self._waiting.append(name)
        await self._tell()

    async def next_epoch(self, name: str, known: int) -> Trial | None:
        """Return the trial once it has more than `known` epochs or has ended; None if neither is so yet."""
        submission, trial = self._submitted[name], self._journal.trials[name]
        submission.epochs_allowed = max(submission.epochs_allowed, known)
        await self._tell()
        await self._wait(lambda: len(trial.history) > known or trial.status != "running")
        return copy.deepcopy(trial) if len(trial.history) > known or trial.status != "running" else None

    async def stop(self, name: str) -> None:
        if name in self._waiting:
            self._end(name, "stopped early")
        elif name in self._submitted:
            self._submitted[name].is_stopping = True
        await self._tell()

    async def expect(self, num_trials: int) -> None:
        self._num_expected = num_trials
        await self._tell()

    async def abandon(self, reason: str) -> None:
        for name in [name for name in self._journal.trials if self._is_running(name)]:
            self._end(name, "failed", reason)
        self._abandoned = reason
        await self._tell()

    async def set_deadline(self, deadline_s: float | None) -> None:
        self._deadline_s, self._rounds_kept = deadline_s, 0
        await self._tell()

    # Calls of a worker pool; `pool` is its name.

    async def take(self, pool: str) -> Assignment | Wait | None:
        """Return the pool's unfinished trial or the next one; None when there will be no more."""
        name = self.current(pool)
        if name is not None:  # its workers were restarted
            submission = self._submitted[name]
            submission.num_losses += 1
            if submission.num_losses > self._max_losses:
                self._end(name, "failed", f"its workers were lost {submission.num_losses} times")
                await self._tell()
                return Wait()
        else:
            await self._wait(lambda: bool(self._waiting) or self._is_over())
            self._end_late_trials()
            if not self._waiting:
                return None if self._is_over() else Wait()
            name = self._waiting.popleft()
            self._submitted[name].pool = pool
        return Assignment(name, self._journal.trials[name].values, self._seconds_left())

    async def epoch_done(self, name: str, metrics: dict[str, Any], status: TrialStatus | None) -> None:
        self._journal.epoch(name, metrics, at_s=self._now())
        if status is not None:
            self._end(name, status)
        await self._tell()

    async def may_go_on(self, name: str, epochs: int) -> bool | None:
        """Return whether to continue after `epochs` epochs; None if that is not decided yet."""
        submission = self._submitted[name]
        await self._wait(lambda: submission.is_stopping or submission.epochs_allowed >= epochs)
        if submission.is_stopping:
            return False
        return True if submission.epochs_allowed >= epochs else None

    async def ended(self, name: str, status: TrialStatus, reason: str | None) -> None:
        if self._is_running(name):
            self._end(name, status, reason)
        await self._tell()

    # Calls of any caller.

    def snapshot(self) -> dict[str, Trial]:
        return self._journal.trials

    def is_late(self) -> bool:
        left = self._seconds_left()
        return left is not None and left <= 0

    def current(self, pool: str) -> str | None:
        return next((name for name, item in self._submitted.items() if item.pool == pool and self._is_running(name)), None)

    def _is_running(self, name: str) -> bool:
        return self._journal.trials[name].status == "running"

    def _end(self, name: str, status: TrialStatus, reason: str | None = None) -> None:
        self._journal.ended(name, status, at_s=self._now(), reason=reason)
        if name in self._waiting:
            self._waiting.remove(name)
        self._keep_time_back(self._journal.trials[name])

    def _keep_time_back(self, trial: Trial) -> None:
        """Move the deadline earlier once it is known how long a whole trial takes; see `TrialQueue`."""
        if self._deadline_s is not None and self._rounds_kept and trial.status == "done":
            took = (trial.ended_s or 0.0) - (trial.started_s or 0.0)
            self._deadline_s -= min(self._rounds_kept * took, self._deadline_s / 2)
            self._rounds_kept = 0

    def _end_late_trials(self) -> None:
        """End all waiting trials once the time is over. If none has begun, the first stays, so that there is a model."""
        if self.is_late():
            has_begun = any(item.pool is not None for item in self._submitted.values())
            has_begun = has_begun or any(trial.history for trial in self._journal.trials.values())
            for name in list(self._waiting)[0 if has_begun else 1 :]:
                status: TrialStatus = "out of time" if self._journal.trials[name].history else "not run"
                self._end(name, status, "the search's time was over")

    def _is_over(self) -> bool:
        return not self._waiting and len(self._submitted) >= self._num_expected

    def _now(self) -> float:
        return round(time.monotonic() - self._zero, 2)

    def _seconds_left(self) -> float | None:
        return None if self._deadline_s is None else self._deadline_s - self._now()

    async def _tell(self) -> None:
        async with self._news:
            self._news.notify_all()

    async def _wait(self, ready: Callable[[], bool]) -> None:
        left = self._seconds_left()
        patience = WAIT_S if left is None or left <= 0 else min(WAIT_S, left + 0.01)
        async with self._news:
            try:
                await asyncio.wait_for(self._news.wait_for(ready), patience)
            except TimeoutError:
                return


class TrialQueue(SharedActor):
    """Handle of the queue, shared by the search, its trials and the workers."""

    def __init__(
        self,
        journal: Path,
        *,
        num_expected: int,
        started_s: float,
        deadline_s: float | None,
        max_losses: int,
        rounds_kept: int = 0,
    ) -> None:
        """Start the queue at second `started_s` of the search, which must end at second `deadline_s`.

        `rounds_kept` trainings must still fit after the search, to confirm its winner. As soon as one trial has trained to its end,
        the deadline moves earlier by that many times the trial's duration, but at most by half. `set_deadline` undoes this.
        """
        super().__init__(
            _TrialQueue,
            journal,
            max_concurrency=MOST_CALLS,
            num_expected=num_expected,
            started_s=started_s,
            deadline_s=deadline_s,
            max_losses=max_losses,
            rounds_kept=rounds_kept,
        )

    def submit(
        self,
        name: str,
        values: dict[str, Any],
        *,
        free: bool = False,
    ) -> None:
        """Have a trial trained. A trial that the journal knows resumes; one that has ended is not trained again.

        A `free` trial trains to its end; others ask after every epoch, see `may_go_on`.
        """
        self.ask("submit", name, values, free)

    def next_epoch(self, name: str, *, known: int) -> Trial:
        """Wait until a trial has more than `known` epochs or has ended, and return it. It may train on meanwhile."""
        while True:
            trial: Trial | None = self.ask("next_epoch", name, known)
            if trial is not None:
                return trial

    def outcome(self, name: str) -> Trial:
        """Wait until a trial has ended, and return it."""
        known = 0
        while (trial := self.next_epoch(name, known=known)).status == "running":
            known = len(trial.history)
        return trial

    def stop(self, name: str) -> None:
        """End a trial: at once if it waits, after the epoch under way if it trains."""
        self.ask("stop", name)

    def expect(self, num_trials: int) -> None:
        """Set the total number of trials. Workers leave when all of them are over."""
        self.ask("expect", num_trials)

    def abandon(self, reason: str) -> None:
        """Record that no workers are left. All unfinished trials fail, and so do trials that are submitted later."""
        self.ask("abandon", reason)

    def set_deadline(self, deadline_s: float | None) -> None:
        """Change the time by which training must end, in seconds after the start of the search."""
        self.ask("set_deadline", deadline_s)

    def take(self, pool: str) -> Assignment | Wait | None:
        """Return the trial that a worker pool trains next, see `Assignment`; None if the pool is to end."""
        taken: Assignment | Wait | None = self.ask("take", pool)
        return taken

    def epoch_done(self, name: str, metrics: dict[str, Any], *, status: TrialStatus | None) -> None:
        """Report a trial's epoch, and the trial's status if it was the last. Both are on disk when this returns."""
        self.ask("epoch_done", name, metrics, status)

    def may_go_on(self, name: str, *, epochs: int) -> bool:
        """Wait for the decision on a trial after `epochs` epochs; return True if it continues."""
        while True:
            decided: bool | None = self.ask("may_go_on", name, epochs)
            if decided is not None:
                return decided

    def ended(self, name: str, status: TrialStatus, reason: str | None = None) -> None:
        """Report that a trial ended without another epoch. A trial that has ended already stays as it is."""
        self.ask("ended", name, status, reason)

    def is_late(self) -> bool:
        """Tell whether the search's time is over."""
        late: bool = self.ask("is_late")
        return late

    def current(self, pool: str) -> str | None:
        """Return the name of the trial that a worker pool is training; None without one."""
        name: str | None = self.ask("current", pool)
        return name

    def snapshot(self) -> dict[str, Trial]:
        """Return the current state of every trial, in the order drawn; empty while the cluster is being stopped."""
        trials: dict[str, Trial] = self.ask_or({}, "snapshot")
        return trials
