"""The winning trial, and the reason."""

from __future__ import annotations

import math
from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from manta.config.sections.tune import TuneBudget
from manta.errors import InputError
from manta_jobs.runs.tune import tune
from manta_jobs.tuning.confirm import (
    confirm,
    num_confirming,
    plan_sentence,
    ranked,
    runs_to_confirm,
    why_it_stays,
    winner_first,
    winning_run,
)
from manta_jobs.tuning.journal import Confirmation, Trial

from .searches import config_of


def trial(name: str, accuracy: float, *, status: str = "done") -> Trial:
    return Trial(name, {"train.learning_rate": 2e-4}, status, history=[{"accuracy": accuracy, "loss": 1 - accuracy}])  # type: ignore[arg-type]


def test_equal_trials_keep_their_numbers_order_whichever_began_first() -> None:
    trials = [trial("trial-010", 0.9), trial("trial-002", 0.9), trial("trial-001", 0.8)]
    assert [each.name for each in ranked(trials, config_of())] == ["trial-002", "trial-010", "trial-001"]
    assert [each.name for each in ranked(trials[::-1], config_of())] == ["trial-002", "trial-010", "trial-001"]


def test_a_lower_loss_is_better_and_failed_trials_do_not_count() -> None:
    trials = [trial("trial-001", 0.7), trial("trial-002", 0.9), trial("trial-003", 0.99, status="failed"), Trial("trial-004", {})]
    trials.append(trial("trial-005", math.nan))  # compared with, it would be neither better nor worse
    assert [each.name for each in ranked(trials, config_of(metric="loss"))] == ["trial-002", "trial-001"]


def test_the_best_are_trained_again_with_other_seeds() -> None:
    config = config_of()
    best = [trial("trial-003", 0.9), trial("trial-001", 0.8), trial("trial-002", 0.7)]
    planned = runs_to_confirm(best, config)
    assert list(planned) == ["trial-003", "trial-001"]
    assert [run.values["train.seed"] for run in planned["trial-003"]] == [1, 2, 3]
    assert num_confirming(config) == 9
    assert num_confirming(config.with_values({"tune.budget.num_trials": 2})) == 6
    assert runs_to_confirm(best[:1], config) == {}


class ShortOfTime:
    """A queue whose worker pools have time for so many runs; the one after these is cut short, the others do not begin."""

    def __init__(self, num_done: int) -> None:
        self.num_done, self.submitted = num_done, list[str]()

    def submit(self, name: str, values: dict[str, Any], *, free: bool) -> None:
        self.submitted.append(name)

    def outcome(self, name: str) -> Trial:
        place = self.submitted.index(name)
        if place > self.num_done:
            return Trial(name, {}, "not run")
        return trial(name, 0.9 - 0.01 * place, status="done" if place < self.num_done else "out of time")


@pytest.mark.parametrize(("num_done", "seeds"), [(6, [3, 3]), (3, [2, 1]), (1, [1]), (0, [])])
def test_where_time_runs_out_all_have_had_as_many_seeds_and_what_was_cut_short_does_not_count(
    num_done: int, seeds: list[int]
) -> None:
    best = [trial("trial-003", 0.9), trial("trial-001", 0.8)]
    queue = ShortOfTime(num_done)
    confirmed = confirm(best, config_of(), queue)  # type: ignore[arg-type]
    assert queue.submitted[:3] == ["trial-003-seed-1", "trial-001-seed-1", "trial-003-seed-2"]
    assert [len(item.scores) for item in confirmed] == seeds


def test_the_config_as_it_stands_is_always_among_them() -> None:
    config = config_of()
    own = Trial("trial-001", {"train.learning_rate": config.train.learning_rate}, "done", history=trial("", 0.6).history)
    best = [trial("trial-003", 0.9), trial("trial-004", 0.8), trial("trial-002", 0.7), own]
    assert list(runs_to_confirm(best, config)) == ["trial-003", "trial-004", "trial-001"]
    assert list(runs_to_confirm([own, *best[:3]], config)) == ["trial-001", "trial-003"]


@pytest.mark.parametrize(
    ("drawn", "own", "winner", "is_told"),
    [
        ([0.86, 0.88], [0.80, 0.82], "trial-002", False),  # 6 points apart, one standard error is 1.4
        ([0.82, 0.84], [0.81, 0.83], "trial-001", True),
        ([0.81, 0.82], [0.82, 0.83], "trial-001", False),
        ([0.83], [0.82], "trial-002", False),  # nothing is known of chance
        ([0.82], [0.82], "trial-001", False),
    ],
)
@pytest.mark.parametrize("metric", ["accuracy", "loss"])
def test_the_config_as_it_stands_stays_unless_another_is_better_by_more_than_chance(
    drawn: list[float], own: list[float], winner: str, is_told: bool, metric: str
) -> None:
    config = config_of(metric=metric)
    scores = [[1 - score for score in each] for each in (drawn, own)] if metric == "loss" else [drawn, own]
    values = [{"train.learning_rate": 2e-4}, {"train.learning_rate": config.train.learning_rate}]
    confirmed = [Confirmation(Trial(f"trial-00{2 - index}", values[index]), [], scores[index]) for index in range(2)]
    ordered = winner_first(confirmed, config)
    assert ordered[0].trial.name == winner
    assert why_it_stays(ordered, config).startswith("The mean of trial-002 is 0.0100 better than that of trial-001; ") == is_told
    assert winner_first(confirmed[:1], config) == confirmed[:1]


def test_the_best_mean_wins_and_its_best_seed_is_kept() -> None:
    config = config_of()
    lucky, steady = trial("trial-001", 0.99), trial("trial-002", 0.9)
    confirmed = [
        Confirmation(steady, [trial("trial-002-seed-2", 0.92), trial("trial-002-seed-1", 0.88)], [0.92, 0.88]),
        Confirmation(lucky, [trial("trial-001-seed-1", 0.8)], [0.8]),
    ]
    assert winning_run([lucky, steady], confirmed, config).name == "trial-002-seed-2"
    assert winning_run([lucky, steady], [], config).name == "trial-001"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"tune.budget.num_trials": 3, "tune.confirm.seeds": 2},
            "Search: 3 trials, then up to 6 confirming runs (the best trials again with other seeds; ",
        ),
        ({"tune.confirm": None, "tune.budget.wall_clock_s": 90}, "Search: 8 trials, at most 1 min 30 s"),
        ({"tune.budget.num_trials": 1}, "Search: 1 trial"),
    ],
)
def test_the_plan_counts_the_confirming_runs(settings: dict[str, Any], sentence: str) -> None:
    said = plan_sentence(config_of().with_values(settings))
    assert said.removesuffix("tune.confirm: null leaves them out)") == sentence


def test_the_plan_is_said_before_anything_is_read_or_started() -> None:
    console = Console(file=StringIO(), width=200)
    config = config_of().with_values({"data.train": "/no/such/rows.csv"})
    with pytest.raises(InputError, match=r"rows\.csv"):
        tune(config, console=console)
    assert "8 trials, then up to 9 confirming runs" in console.file.getvalue()  # type: ignore[attr-defined]


def test_the_setting_says_what_confirming_adds() -> None:
    explained = {name: field.description or "" for name, field in TuneBudget.model_fields.items()}
    assert "up to 9" in explained["num_trials"]
    assert num_confirming(config_of()) == 9
