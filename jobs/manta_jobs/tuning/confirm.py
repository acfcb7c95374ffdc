"""Confirmation of the best trials: they are trained again with other seeds, and the best mean over these seeds wins.

The config's own values always take part. They win unless another mean is better by more than one standard error.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from manta.console import duration
from manta_jobs.tuning.journal import SEED_MARK, Confirmation, Trial
from manta_jobs.tuning.samplers import value_of

if TYPE_CHECKING:
    from manta.config import ExperimentConfig
    from manta_jobs.tuning.trial_queue import TrialQueue

SEED = "train.seed"


def ranked(trials: list[Trial], config: ExperimentConfig) -> list[Trial]:
    """Return the trials that finished an epoch without failing, best first; of equals, the one with the lower number first.

    Worker pools begin trials in a random order, so that order decides nothing.
    """
    sign = -1 if config.train.metric_mode == "max" else 1
    scored = [(score, trial) for trial in trials if trial.status != "failed" and (score := trial.score(config)) is not None]
    return [trial for score, trial in sorted(scored, key=lambda pair: (sign * pair[0], len(pair[1].name), pair[1].name))]


def runs_to_confirm(best: list[Trial], config: ExperimentConfig) -> dict[str, list[Trial]]:
    """Return the runs with other seeds for the best `top_k` trials and for the config's own values, by trial name.

    Empty if there is nothing to decide.
    """
    wanted = config.tune.confirm
    if wanted is None or len(best) < 2:  # one trial wins in any case
        return {}
    own = [trial for trial in best[wanted.top_k :] if is_own(trial, config)]
    seeds = range(config.train.seed + 1, config.train.seed + 1 + wanted.seeds)
    return {
        trial.name: [Trial(f"{trial.name}{SEED_MARK}{seed}", trial.values | {SEED: seed}) for seed in seeds]
        for trial in [*best[: wanted.top_k], *own[:1]]
    }


def is_own(trial: Trial, config: ExperimentConfig) -> bool:
    """Tell whether a trial has the config's own values."""
    return all(value_of(config, name) == value for name, value in trial.values.items())


def num_confirming(config: ExperimentConfig) -> int:
    """Return the most runs that confirmation takes."""
    wanted = config.tune.confirm
    num_trials = config.tune.budget.num_trials
    return 0 if wanted is None or num_trials < 2 else min(wanted.top_k + 1, num_trials) * wanted.seeds


def plan_sentence(config: ExperimentConfig) -> str:
    """Return a line that says how many trainings a search takes, and its limits."""
    budget, confirming = config.tune.budget, num_confirming(config)
    parts = [f"{budget.num_trials} trial{'s' if budget.num_trials > 1 else ''}"]
    parts += [f"at most {duration(budget.wall_clock_s)}"] if budget.wall_clock_s else []
    parts += [f"at most {budget.worker_hours:g} worker hours"] if budget.worker_hours else []
    parts += [f"then up to {confirming} confirming runs"] if confirming else []
    why = " (the best trials again with other seeds; tune.confirm: null leaves them out)" if confirming else ""
    return f"Search: {', '.join(parts)}{why}"


def confirm(best: list[Trial], config: ExperimentConfig, queue: TrialQueue) -> list[Confirmation]:
    """Train the best trials again and wait for all of them. Return the confirmations, the winner first.

    All trials are trained with one seed before the next seed begins, so that they have equally many runs if time runs out. A run
    that was cut short does not count, and a trial without a finished run is left out.
    """
    planned = runs_to_confirm(best, config)
    for turn in zip(*planned.values(), strict=True):
        for run in turn:
            queue.submit(run.name, run.values, free=True)
    by_name = {trial.name: trial for trial in best}
    confirmed: list[Confirmation] = []
    for name, runs in planned.items():
        ended = [queue.outcome(run.name) for run in runs]
        finished = ranked([run for run in ended if run.status == "done"], config)
        if finished:
            scores = [score for run in finished if (score := run.score(config)) is not None]
            confirmed.append(Confirmation(by_name[name], finished, scores))
    return winner_first(confirmed, config)


def winner_first(confirmed: list[Confirmation], config: ExperimentConfig) -> list[Confirmation]:
    """Sort by mean, the best first. The config's own values come first if the best mean's lead over theirs may be chance.

    This is the one-standard-error rule: of settings that differ by no more, choose the plainer one, here the config's own (Breiman
    et al., Classification and Regression Trees, 1984, section 3.4.3).
    """
    ordered = by_mean(confirmed, config)
    own = next((item for item in ordered if is_own(item.trial, config)), None)
    if own is None or abs(ordered[0].mean - own.mean) > standard_error(ordered[0], own):
        return ordered
    return [own, *(item for item in ordered if item is not own)]


def why_it_stays(confirmed: list[Confirmation], config: ExperimentConfig) -> str:
    """Return a sentence that explains why the config's own values win without the best mean; else empty."""
    if not confirmed:
        return ""
    winner, best = confirmed[0], by_mean(confirmed, config)[0]
    lead = abs(best.mean - winner.mean)
    if not lead or not is_own(winner.trial, config):
        return ""
    return (
        f"The mean of {best.trial.name} is {lead:.4f} better than that of {winner.trial.name}; one standard error is "
        f"{standard_error(best, winner):.4f}. That may be chance, so the config as it stands stays."
    )


def by_mean(confirmed: list[Confirmation], config: ExperimentConfig) -> list[Confirmation]:
    """Sort by mean, the best first. Equal means keep their order."""
    return sorted(confirmed, key=lambda item: item.mean, reverse=config.train.metric_mode == "max")


def standard_error(one: Confirmation, other: Confirmation) -> float:
    """Return the standard error of the difference of two means over seeds.

    It is 0 if both have one seed only, because chance is then unknown.
    """
    return math.sqrt(sum(item.std**2 / len(item.scores) for item in (one, other)))


def finished_runs(confirmed: list[Confirmation]) -> list[Trial]:
    """Return the runs with the winning settings that trained to their end: the trial, and those with other seeds."""
    if not confirmed:
        return []
    return [run for run in (confirmed[0].trial, *confirmed[0].runs) if run.status == "done"]


def winning_run(best: list[Trial], confirmed: list[Confirmation], config: ExperimentConfig) -> Trial:
    """Return the run whose model is kept: of the winning values, the seed with the best validation score."""
    if not confirmed:
        return best[0]
    return ranked([confirmed[0].trial, *confirmed[0].runs], config)[0]
