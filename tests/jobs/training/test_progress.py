"""The time left only falls, unless it says why; nothing unknown is shown as a number."""

from __future__ import annotations

import random
import re
import time
from io import StringIO
from typing import TYPE_CHECKING, cast

import pytest
from rich.console import Console

from manta_jobs.training.progress import Countdown, RunProgress, phase_phrase, shown_progress

if TYPE_CHECKING:
    from manta_jobs.training.progress import Board


def seconds(phrase: str) -> int:
    minutes = re.search(r"(\d+) min", phrase)
    rest = re.search(r"(\d+) s", phrase)
    return 60 * int(minutes[1] if minutes else 0) + int(rest[1] if rest else 0)


def test_the_time_left_counts_down() -> None:
    countdown = Countdown()
    assert countdown.phrase(done=0, left=100, now=0.0) == "ETA after the first steps"
    assert countdown.phrase(done=10, left=90, now=20.0) == "ETA 3 min 00 s"
    assert countdown.phrase(done=50, left=50, now=100.0) == "ETA 1 min 40 s"
    assert countdown.phrase(done=100, left=0, now=200.0) == "all steps are done"


def test_it_never_rises_without_a_reason() -> None:
    generator, countdown = random.Random(0), Countdown()
    now, before = 0.0, 10**6
    for done in range(0, 1000, 5):
        now += 5 * generator.uniform(0.3, 3.0) + (200 if done == 500 else 0)  # a long stop in the middle
        phrase = countdown.phrase(done=done, left=1000 - done, now=now)
        if "ETA after" in phrase:
            continue
        assert seconds(phrase) <= before or "later than said" in phrase, (done, phrase)
        before = seconds(phrase)


@pytest.mark.parametrize(
    ("later", "reason"),
    [
        ({"done": 40.0, "left": 160.0}, "more is left than expected"),
        ({"done": 11.0, "left": 89.0}, "steps take longer than before"),
    ],
)
def test_a_later_end_has_its_reason(later: dict[str, float], reason: str) -> None:
    countdown = Countdown()
    countdown.phrase(done=0, left=100, now=0.0)
    countdown.phrase(done=10, left=90, now=10.0)
    assert countdown.phrase(**later, now=40.0).endswith(f"(later than said: {reason})")


def test_a_limit_caps_it() -> None:
    countdown = Countdown()
    countdown.phrase(done=0, left=100, now=0.0)
    assert countdown.phrase(done=10, left=90, now=20.0, most_s=30.0) == "ETA 30 s"


class Stages:
    """A board whose run goes on by one stage at each look."""

    def __init__(self, *stages: dict[str, RunProgress]) -> None:
        self._stages = list(stages)

    def snapshot(self) -> dict[str, RunProgress]:
        return self._stages.pop(0) if len(self._stages) > 1 else self._stages[0]


@pytest.mark.parametrize("is_terminal", [True, False])
def test_unknown_numbers_of_steps_are_not_shown(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("manta_jobs.training.progress.UPDATE_EVERY_S", 0.15)
    monkeypatch.setattr("manta.console.FIRST_LINE_AFTER_S", 0.0)
    monkeypatch.setattr("manta.console.LINE_EVERY_S", 0.1)
    console = Console(file=StringIO(), width=120, force_terminal=is_terminal)
    stages = Stages({}, {}, {"run": RunProgress(0)}, {"run": RunProgress(90)}, {"run": RunProgress(90, 30, "epoch 2")})
    with shown_progress(cast("Board", stages), console, num_epochs=5):
        time.sleep(1.0)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "None" not in shown
    assert "0/0" not in shown
    assert "epoch 2 of 5" in shown
    assert "30/90 steps" in shown
    assert "starting workers" in shown.lower()


def test_only_epochs_are_counted_by_epochs() -> None:
    assert phase_phrase(RunProgress(90), 5) == "starting"
    assert phase_phrase(RunProgress(90, 1, "fold 1 of 5, epoch 2"), 10) == "fold 1 of 5, epoch 2 of 10"
