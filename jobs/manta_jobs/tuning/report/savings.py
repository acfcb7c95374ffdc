"""`savings`: the training that a search saved by stopping trials early."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from manta.config import ExperimentConfig
    from manta_jobs.tuning.journal import Trial


@dataclass(frozen=True)
class Savings:
    """Epochs of all trials of a search, and the worker time that they took."""

    num_planned: int
    """Epochs that there would have been if every trial had trained to its end."""
    num_run: int
    """Epochs that were trained."""
    num_saved: int
    """Epochs not run because their trial was stopped early. Epochs of failed trials and of trials that the budget cut short are not
    run either, but they do not count as saved."""
    worker_s: float | None
    """Worker time of the trials in seconds; None unless the start and end of each trial are known."""
    saved_worker_s: float | None
    """Worker time in seconds that training the saved epochs would have taken, at the speed of the epochs that their trials ran;
    None if that speed is unknown."""

    @property
    def num_not_run(self) -> int:
        """Planned epochs that were not trained, for any reason."""
        return self.num_planned - self.num_run

    @property
    def share(self) -> float:
        """Saved epochs as a share of the planned ones."""
        return self.num_saved / self.num_planned if self.num_planned else 0.0


def savings(trials: list[Trial], config: ExperimentConfig) -> Savings:
    """Count the epochs of a search's trials; `config` is the one that the search started from."""
    missing = {trial.name: max(0, trial.planned_epochs(config) - len(trial.history)) for trial in trials}
    num_run = sum(len(trial.history) for trial in trials)
    # A trial that `train.early_stopping` ended is done before its last epoch.
    stopped = [trial for trial in trials if trial.status in ("stopped early", "done") and missing[trial.name]]
    times = [_epoch_s(trial, config) for trial in stopped]
    workers = config.train.max_workers
    saved_s = [
        seconds * missing[trial.name] * workers for trial, seconds in zip(stopped, times, strict=True) if seconds is not None
    ]
    return Savings(
        num_planned=num_run + sum(missing.values()),
        num_run=num_run,
        num_saved=sum(missing[trial.name] for trial in stopped),
        worker_s=_worker_s(trials, workers),
        saved_worker_s=sum(saved_s) if saved_s and len(saved_s) == len(stopped) else None,
    )


def _worker_s(trials: list[Trial], workers: int) -> float | None:
    started = [trial for trial in trials if trial.status != "not run"]
    if not started or any(trial.started_s is None or trial.ended_s is None for trial in started):
        return None
    return workers * sum((trial.ended_s or 0.0) - (trial.started_s or 0.0) for trial in started)


def _epoch_s(trial: Trial, config: ExperimentConfig) -> float | None:
    """Return the seconds that an epoch of this trial trained for, without starting and evaluating; None if unknown."""
    if not trial.history or not trial.history[-1].get("examples_per_s"):
        return None
    last = trial.history[-1]
    rows = last["step"] / last["epoch"] * int(trial.values.get("train.batch_size", config.train.batch_size))
    return float(rows / last["examples_per_s"])
