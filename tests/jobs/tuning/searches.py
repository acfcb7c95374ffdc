"""Searches as `manta tune` leaves them, made up: for the tests of their report."""

from __future__ import annotations

import math
import random
from typing import Any

from manta.config import ExperimentConfig
from manta_jobs.tuning.journal import Confirmation, Trial, TrialStatus

SPACE = {"train.learning_rate": {"loguniform": [3e-5, 1e-3]}, "model.dropout": {"uniform": [0.0, 0.4]}}
EPOCH_S = 10.0


def config_of(space: dict[str, Any] | None = None, *, metric: str = "accuracy", name: str = "support") -> ExperimentConfig:
    """A config with a search over `space`."""
    return ExperimentConfig.model_validate(
        {
            "name": name,
            "data": {"train": "sample:support"},
            "train": {"learning_rate": 1e-4, "num_epochs": 3, "num_workers": 2, "metric": metric},
            "tune": {"space": SPACE if space is None else space},
        }
    )


def epochs_of(final: float, *, count: int = 3) -> list[dict[str, Any]]:
    """Epochs that come closer and closer to a final accuracy; one takes 10 s of training."""
    return [
        {"epoch": number, "step": 40 * number, "accuracy": final * (1 - 0.35 * 0.45**number), "f1_macro": final * 0.9}
        | {"loss": 2.2 * (1.02 - final * (1 - 0.35 * 0.45**number)), "train_loss": 0.5, "examples_per_s": 40 * 32 / EPOCH_S}
        for number in range(1, count + 1)
    ]


def trial_of(
    number: int, values: dict[str, Any], final: float = 0.8, *, status: TrialStatus = "done", count: int = 3, **facts: Any
) -> Trial:
    """A trial that took 10 s for each epoch and 5 s besides."""
    started = 20.0 * number
    times = {} if status == "not run" else {"started_s": started, "ended_s": started + 5 + EPOCH_S * count}
    return Trial(f"trial-{number:03d}", values, status, history=epochs_of(final, count=count), **(times | facts))


def quality(values: dict[str, Any]) -> float:
    """The best learning rate is 3e-4; dropout hardly matters."""
    distance = math.log10(values["train.learning_rate"] / 3e-4)
    return 0.85 - 0.35 * distance**2 - 0.1 * (values["model.dropout"] - 0.15) ** 2


def usual_search(num_trials: int = 16) -> list[Trial]:
    """The config's own values first, then drawn ones: some stopped after one epoch, one failed, one cut short, one not run."""
    generator = random.Random(3)
    trials = [trial_of(0, {"train.learning_rate": 1e-4, "model.dropout": 0.1}, 0.78)]
    for number in range(1, num_trials):
        values = {"train.learning_rate": 10 ** generator.uniform(-4.52, -3), "model.dropout": generator.uniform(0, 0.4)}
        final = quality(values) + generator.gauss(0, 0.004)
        good = final > 0.82
        trials.append(trial_of(number, values, final, status="done" if good else "stopped early", count=3 if good else 1))
    trials[5] = trial_of(5, trials[5].values, status="failed", count=1, reason="Loss is no number any more at step 61.")
    trials[9] = trial_of(9, trials[9].values, 0.8, status="out of time", count=2)
    trials[-1] = trial_of(num_trials - 1, {}, status="not run", count=0)
    return trials


def confirmations_of(trials: list[Trial], config: ExperimentConfig, *, top_k: int = 2, seeds: int = 3) -> list[Confirmation]:
    """The best of them with other seeds."""
    generator = random.Random(1)
    best = sorted(trials, key=lambda trial: trial.score(config) or 0.0, reverse=True)[:top_k]
    found: list[Confirmation] = []
    for trial in best:
        scores = sorted(((trial.score(config) or 0.0) - abs(generator.gauss(0.004, 0.006)) for _ in range(seeds)), reverse=True)
        found.append(Confirmation(trial, [trial_of(100 + seed, trial.values) for seed in range(seeds)], scores))
    return found
