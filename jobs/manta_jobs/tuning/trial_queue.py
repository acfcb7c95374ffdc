"""The queue between a search and its workers: Ray Tune puts trials in and decides on them, groups of workers take them out.

A small actor beside the driver. It writes every event to the search's journal before anyone goes on because of it.
"""

from __future__ import annotations

import asyncio
import copy
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from manta_jobs.tuning.journal import Journal, Trial, TrialStatus

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WAIT_S = 20.0
"""Longest time that one call waits; who wants to wait longer asks again."""


@dataclass(frozen=True)
class Assignment:
    """What a group of workers is to train."""

    name: str
    values: dict[str, Any]
    seconds: float | None
    """Until the search's time is over."""
    until: int | None = None
    """The epoch after which the workers take another trial; None for its end."""
    clone: str | None = None
    """The checkpoint of another trial to start from."""


@dataclass(frozen=True)
class Wait:
    """There is no trial to train now; ask again."""


class _TrialQueue:
    """The actor. A trial belongs to the group that took it until it has ended, also when that group's workers start anew."""

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
        self._waiting: deque[str] = deque()
        self._taken: dict[str, str] = {}  # by lane
        self._num_losses: dict[str, int] = {}
        self._has_begun = False
        self._allowed: dict[str, int] = {}  # epochs after which the trial must ask
        self._submitted: set[str] = set()
        self._stopping: set[str] = set()
        self._in_turns: set[str] = set()
        self._abandoned: str | None = None
        self._news = asyncio.Condition()
        for trial in self._journal.trials.values():
            self._keep_time_back(trial)

    # What the search does.

    async def submit(self, name: str, values: dict[str, Any], free: bool, in_turns: bool, clone_of: tuple[str, int] | None) -> None:
        if in_turns:
            self._in_turns.add(name)
        if clone_of is not None and self._journal.trials[name].status == "running":
            self._journal.cloned(name, values, donor=clone_of[0], epochs=clone_of[1], at_s=self._now())
        if name not in self._submitted:
            self._submitted.add(name)
            trial = self._journal.trials.get(name)
            if trial is None:
                self._journal.drawn(name, values, at_s=self._now())
                trial = self._journal.trials[name]
            if trial.status == "running" and self._abandoned is not None:
                self._end(name, "failed", self._abandoned)
            elif trial.status == "running" and not in_turns:
                self._waiting.append(name)
        self._allowed[name] = 10**9 if free else max(self._allowed.get(name, 0), 0)
        await self._tell()

    async def next_epoch(self, name: str, known: int) -> Trial | None:
        """The trial once it has more than `known` epochs or has ended; None if neither is so yet."""
        self._allowed[name] = max(self._allowed[name], known)
        trial = self._journal.trials[name]
        is_next = trial.status == "running" and len(trial.history) == known
        if name in self._in_turns and is_next and name not in self._waiting and name not in self._taken.values():
            self._waiting.append(name)
        await self._tell()
        await self._wait(lambda: len(trial.history) > known or trial.status != "running")
        return copy.deepcopy(trial) if len(trial.history) > known or trial.status != "running" else None

    async def stop(self, name: str) -> None:
        if name in self._waiting:
            self._end(name, "stopped early")
        else:
            self._stopping.add(name)
        await self._tell()

    async def expect(self, num_trials: int) -> None:
        self._num_expected = num_trials
        await self._tell()

    async def abandon(self, reason: str) -> None:
        for name in [name for name, trial in self._journal.trials.items() if trial.status == "running"]:
            self._end(name, "failed", reason)
        self._abandoned = reason
        await self._tell()

    async def set_deadline(self, deadline_s: float | None) -> None:
        self._deadline_s, self._rounds_kept = deadline_s, 0
        await self._tell()

    # What a group of workers does; `lane` is its name.

    async def take(self, lane: str) -> Assignment | Wait | None:
        """The lane's unfinished trial or the next one; None when there will be none."""
        name = self._taken.pop(lane, None)
        if name is not None and self._journal.trials[name].status == "running":  # its workers were started anew
            self._num_losses[name] = self._num_losses.get(name, 0) + 1
            if self._num_losses[name] > self._max_losses:
                self._end(name, "failed", f"its workers were lost {self._num_losses[name]} times")
                await self._tell()
                return Wait()
        else:
            await self._wait(lambda: bool(self._waiting) or self._is_over())
            self._close_late_ones()
            if not self._waiting:
                return None if self._is_over() else Wait()
            name = self._waiting.popleft()
        self._taken[lane] = name
        self._has_begun = True
        return self._assignment(self._journal.trials[name])

    async def epoch_done(self, name: str, metrics: dict[str, Any], status: TrialStatus | None) -> None:
        self._journal.epoch(name, metrics, at_s=self._now())
        if status is not None:
            self._end(name, status)
        if name in self._in_turns:
            self._taken = {lane: taken for lane, taken in self._taken.items() if taken != name}
        await self._tell()

    async def may_go_on(self, name: str, epochs: int) -> bool | None:
        """Whether to train on after so many epochs; None if that is not decided yet."""
        await self._wait(lambda: name in self._stopping or self._allowed[name] >= epochs)
        if name in self._stopping:
            return False
        return True if self._allowed[name] >= epochs else None

    async def ended(self, name: str, status: TrialStatus, reason: str | None) -> None:
        if self._journal.trials[name].status == "running":
            self._end(name, status, reason)
        await self._tell()

    # What everyone may ask.

    def snapshot(self) -> dict[str, Trial]:
        return self._journal.trials

    def is_late(self) -> bool:
        left = self._seconds_left()
        return left is not None and left <= 0

    def current(self, lane: str) -> str | None:
        name = self._taken.get(lane)
        return name if name is not None and self._journal.trials[name].status == "running" else None

    def _assignment(self, trial: Trial) -> Assignment:
        until = len(trial.history) + 1 if trial.name in self._in_turns else None
        clone: str | None = None
        if trial.clone_of is not None:
            donor, epochs = trial.clone_of
            clone = str(self._journal.trials[donor].history[epochs - 1]["checkpoint"])
        return Assignment(trial.name, trial.values, self._seconds_left(), until, clone)

    def _end(self, name: str, status: TrialStatus, reason: str | None = None) -> None:
        self._journal.ended(name, status, at_s=self._now(), reason=reason)
        if name in self._waiting:
            self._waiting.remove(name)
        self._keep_time_back(self._journal.trials[name])

    def _keep_time_back(self, trial: Trial) -> None:
        """Once it is known how long a whole trial takes, have the search end earlier; see `TrialQueue`."""
        if self._deadline_s is not None and self._rounds_kept and trial.status == "done":
            took = (trial.ended_s or 0.0) - (trial.started_s or 0.0)
            self._deadline_s -= min(self._rounds_kept * took, self._deadline_s / 2)
            self._rounds_kept = 0

    def _close_late_ones(self) -> None:
        """Once the time is over, nothing more begins; but if nothing has, one trial takes a step, so that there is a model."""
        if self.is_late():
            has_begun = self._has_begun or any(trial.history for trial in self._journal.trials.values())
            for name in list(self._waiting)[0 if has_begun else 1 :]:
                status: TrialStatus = "out of time" if self._journal.trials[name].history else "not run"
                self._end(name, status, "the search's time was over")

    def _is_over(self) -> bool:
        # A trial that trains in turns is nobody's between them, and comes back.
        is_coming = any(self._journal.trials[name].status == "running" for name in self._in_turns)
        return not self._waiting and not is_coming and len(self._submitted) >= self._num_expected

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


class TrialQueue:
    """Handle of the queue; the search, its trials and the workers share it."""

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
        """`started_s` is how long the search has gone on already, `deadline_s` when it must be over, on the same clock.

        `rounds_kept`: once a first trial has been trained to its end, the search is over earlier by so many times what that
        took, but not earlier than after half of its time; `set_deadline` gives that time back.
        """
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, scheduling_strategy=here, max_concurrency=1000)(_TrialQueue)
        self._actor: Any = actor.remote(
            journal,
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
        in_turns: bool = False,
        clone_of: tuple[str, int] | None = None,
    ) -> None:
        """Have a trial trained. One that the journal knows goes on where it was, and one that ended stays so.

        A `free` trial trains to its end; others ask after every epoch, see `may_go_on`. Trials `in_turns` train an epoch each
        time `next_epoch` asks for one, and workers change between them; such a trial may go on as the clone of another one
        after so many of its epochs.
        """
        ray.get(self._actor.submit.remote(name, values, free, in_turns, clone_of))

    def next_epoch(self, name: str, *, known: int) -> Trial:
        """Wait until a trial has more than `known` epochs or has ended. It may train on meanwhile."""
        while True:
            trial: Trial | None = ray.get(self._actor.next_epoch.remote(name, known))
            if trial is not None:
                return trial

    def outcome(self, name: str) -> Trial:
        """Wait until a trial has ended."""
        known = 0
        while (trial := self.next_epoch(name, known=known)).status == "running":
            known = len(trial.history)
        return trial

    def stop(self, name: str) -> None:
        """End a trial: at once where it waits, after the epoch under way where it trains."""
        ray.get(self._actor.stop.remote(name))

    def expect(self, num_trials: int) -> None:
        """Say how many trials there will be in all; workers leave when those are over."""
        ray.get(self._actor.expect.remote(num_trials))

    def abandon(self, reason: str) -> None:
        """No workers are left: trials that have not ended have failed, and so will those to come."""
        ray.get(self._actor.abandon.remote(reason))

    def set_deadline(self, deadline_s: float | None) -> None:
        """Change when training must be over, in seconds after the search started."""
        ray.get(self._actor.set_deadline.remote(deadline_s))

    def take(self, lane: str) -> Assignment | Wait | None:
        """What a group of workers trains next, see `Assignment`; None when it is to end."""
        taken: Assignment | Wait | None = ray.get(self._actor.take.remote(lane))
        return taken

    def epoch_done(self, name: str, metrics: dict[str, Any], *, status: TrialStatus | None) -> None:
        """Report a trial's epoch, and how the trial ended if it was the last; it is on disk when this returns."""
        ray.get(self._actor.epoch_done.remote(name, metrics, status))

    def may_go_on(self, name: str, *, epochs: int) -> bool:
        """Wait for the decision whether a trial trains on after so many epochs."""
        while True:
            decided: bool | None = ray.get(self._actor.may_go_on.remote(name, epochs))
            if decided is not None:
                return decided

    def ended(self, name: str, status: TrialStatus, reason: str | None = None) -> None:
        """Report that a trial ended without another epoch; one that has ended stays as it is."""
        ray.get(self._actor.ended.remote(name, status, reason))

    def is_late(self) -> bool:
        """Whether the search's time is over."""
        late: bool = ray.get(self._actor.is_late.remote())
        return late

    def current(self, lane: str) -> str | None:
        """The trial that a group of workers is training."""
        name: str | None = ray.get(self._actor.current.remote(lane))
        return name

    def snapshot(self) -> dict[str, Trial]:
        """Every trial as it stands, in the order drawn; nothing while the cluster is being stopped."""
        try:
            trials: dict[str, Trial] = ray.get(self._actor.snapshot.remote())
        except ray.exceptions.RayError:
            return {}
        return trials
