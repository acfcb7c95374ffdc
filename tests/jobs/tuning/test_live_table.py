"""The table of a running search: the remaining time, and the state of each trial."""

from __future__ import annotations

import pytest

from manta_jobs.training.progress import Countdown, RunProgress
from manta_jobs.tuning.confirm import num_confirming
from manta_jobs.tuning.journal import Trial
from manta_jobs.tuning.live_table import remaining_work, status_phrase

from .searches import SPACE, config_of, trial_of

VALUES = dict.fromkeys(SPACE, 0.1)
CONFIG = config_of().with_values({"tune.budget.num_trials": 3, "tune.confirm.seeds": 2})  # 3 epochs, up to 6 confirming runs


def named(*trials: Trial) -> dict[str, Trial]:
    return {trial.name: trial for trial in trials}


def test_what_is_left_counts_running_coming_and_confirming_runs() -> None:
    assert num_confirming(CONFIG) == 6
    assert remaining_work({}, {}, CONFIG).left == (3 + 6) * 3
    running = trial_of(1, VALUES, status="running", count=1)
    work = remaining_work(named(running), {"trial-001": RunProgress(120, 60, "epoch 2")}, CONFIG)
    assert (work.done, work.left, work.num_ended, work.num_runs) == (1.5, 1.5 + (2 + 6) * 3, 0, 9)


def test_trials_that_are_stopped_early_shorten_what_is_left() -> None:
    ended = named(trial_of(1, VALUES), trial_of(2, VALUES, status="stopped early", count=1))
    assert remaining_work(ended, {}, CONFIG).left == 2 + 6 * 3  # the third as long as the two on average


def test_once_the_confirming_runs_are_known_no_others_are_expected() -> None:
    trials = named(*(trial_of(number, VALUES) for number in range(1, 4)))
    runs = [Trial(f"trial-00{number}-seed-{seed}", VALUES, "running") for number in (1, 2) for seed in (1, 2)]
    assert remaining_work(trials | named(*runs), {}, CONFIG).left == 4 * 3
    for run in runs:
        run.status, run.history = "done", trials["trial-001"].history
    work = remaining_work(trials | named(*runs), {}, CONFIG)
    assert (work.left, work.num_ended, work.num_runs) == (0, 7, 7)
    assert Countdown().phrase(done=work.done, left=work.left, now=0.0) == "all steps are done"


@pytest.mark.parametrize(
    ("progress", "phrase"),
    [(None, "waiting"), (RunProgress(0), "waiting"), (RunProgress(90, 30, "epoch 2"), "epoch 2, 30/90 steps")],
)
def test_a_trial_that_waits_is_not_said_to_train(progress: RunProgress | None, phrase: str) -> None:
    assert status_phrase(Trial("trial-001", VALUES, "running"), progress) == phrase
