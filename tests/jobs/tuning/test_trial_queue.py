"""The queue itself, without a cluster: who gets what, and what is on disk by then."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from manta_jobs.tuning.journal import Journal
from manta_jobs.tuning.trial_queue import Assignment, Wait, _TrialQueue

if TYPE_CHECKING:
    from pathlib import Path


def queue_of(
    path: Path, *, expected: int = 2, started_s: float = 0.0, deadline_s: float | None = None, max_losses: int = 1, rounds: int = 0
) -> _TrialQueue:
    return _TrialQueue(
        path, num_expected=expected, started_s=started_s, deadline_s=deadline_s, max_losses=max_losses, rounds_kept=rounds
    )


def epoch(number: int, checkpoint: str = "") -> dict[str, Any]:
    return {"epoch": number, "accuracy": number / 10, "checkpoint": checkpoint}


def test_pools_take_trials_in_order_and_leave_when_all_have_ended(tmp_path: Path) -> None:
    async def go() -> None:
        queue = queue_of(tmp_path / "trials.jsonl")
        await queue.submit("a", {"x": 1}, free=False)
        await queue.submit("b", {"x": 2}, free=False)
        assert await queue.take("pool-1") == Assignment("a", {"x": 1}, None)
        assert await queue.take("pool-2") == Assignment("b", {"x": 2}, None)
        await queue.epoch_done("a", epoch(1), "done")
        await queue.epoch_done("b", epoch(1), "done")
        assert await queue.take("pool-1") is None
        assert await queue.take("pool-2") is None

    asyncio.run(go())
    assert [trial.status for trial in Journal(tmp_path / "trials.jsonl").trials.values()] == ["done", "done"]


def test_a_pool_whose_workers_were_lost_gets_its_trial_again_but_not_for_ever(tmp_path: Path) -> None:
    async def go() -> None:
        queue = queue_of(tmp_path / "trials.jsonl", max_losses=1)
        await queue.submit("a", {}, free=False)
        assert isinstance(await queue.take("pool-1"), Assignment)
        assert isinstance(await queue.take("pool-1"), Assignment)
        assert isinstance(await queue.take("pool-1"), Wait)
        assert queue.snapshot()["a"].reason == "its workers were lost 2 times"

    asyncio.run(go())


def test_time_to_confirm_is_kept_back_once_a_whole_trial_has_shown_how_long_it_takes(tmp_path: Path) -> None:
    async def seconds_left(queue: _TrialQueue, name: str) -> float | None:
        await queue.submit(name, {}, free=False)
        taken = await queue.take("pool")
        assert isinstance(taken, Assignment)
        return taken.seconds

    async def go() -> None:
        path = tmp_path / "trials.jsonl"
        queue = queue_of(path, started_s=10.0, deadline_s=1000.0, rounds=3)
        assert await seconds_left(queue, "stopped") == pytest.approx(990, abs=5)  # nothing is known yet
        await queue.epoch_done("stopped", epoch(1), "stopped early")
        assert await seconds_left(queue, "whole") == pytest.approx(990, abs=5)
        queue._zero -= 100  # of training
        await queue.epoch_done("whole", epoch(1), "done")
        assert await seconds_left(queue, "next") == pytest.approx(890 - 3 * 100, abs=5)
        again = queue_of(path, started_s=110.0, deadline_s=1000.0, rounds=30)
        assert again._seconds_left() == pytest.approx(500 - 110, abs=5)  # never more than half
        await again.set_deadline(1000.0)
        assert again._seconds_left() == pytest.approx(890, abs=5)

    asyncio.run(go())


def test_a_trial_waits_for_the_word_after_each_epoch(tmp_path: Path) -> None:
    async def go() -> None:
        queue = queue_of(tmp_path / "trials.jsonl")
        await queue.submit("a", {}, free=False)
        await queue.take("pool-1")
        await queue.epoch_done("a", epoch(1), None)
        told = asyncio.create_task(queue.may_go_on("a", 1))
        await asyncio.sleep(0)
        assert not told.done()
        found = asyncio.create_task(queue.next_epoch("a", 1))  # what Tune asks when it lets the trial go on
        assert await told is True
        await queue.epoch_done("a", epoch(2), None)
        assert len((await found).history) == 2  # type: ignore[union-attr]
        await queue.stop("a")
        assert await queue.may_go_on("a", 2) is False

    asyncio.run(go())


def test_late_trials_are_not_run_but_one_is_where_nothing_has_begun(tmp_path: Path) -> None:
    async def go() -> None:
        queue = queue_of(tmp_path / "trials.jsonl", deadline_s=-1.0)
        for name in ("a", "b"):
            await queue.submit(name, {}, free=False)
        taken = await queue.take("pool-1")
        assert isinstance(taken, Assignment)
        assert taken.name == "a"
        assert taken.seconds is not None
        assert taken.seconds < 0
        assert queue.snapshot()["b"].status == "not run"

    asyncio.run(go())


def test_a_line_that_a_crash_cut_short_is_passed_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "trials.jsonl")
    journal.drawn("a", {"x": 1}, at_s=1.0)
    journal.epoch("a", epoch(1), at_s=2.0)
    with journal.path.open("a") as file:
        file.write('{"trial": "a", "event": "epo')
    again = Journal(journal.path)
    assert len(again.trials["a"].history) == 1
    assert again.elapsed_s == 2.0
    again.ended("a", "done", at_s=3.0)
    assert Journal(journal.path).trials["a"].status == "done"
