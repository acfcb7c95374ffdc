"""A search for the tab Tuning: its trials with their values, their epochs and the metric that ranks them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from manta.config import TrainConfig
from manta.config.yaml_text import read_yaml
from manta.errors import InputError

if TYPE_CHECKING:
    from manta_ui.clients.tracking import TrackedRun, TrackingClient

BEST_FILE = "best.yaml"
RESULTS_FILE = "trials.yaml"
SEED_MARK = "-seed-"
"""Part of the name of a run that trains one of the best trials again with another seed."""
STATES = {"RUNNING": "training", "FINISHED": "done", "FAILED": "failed"}


@dataclass(frozen=True)
class ShownTrial:
    """One training run of a search."""

    name: str
    """Name within the search, such as `trial-003`."""
    state: str
    values: dict[str, str]
    """The searched settings by dotted name."""
    history: tuple[float, ...]
    """The metric that ranks the trials, after each epoch."""
    losses: tuple[float, ...]
    """The validation loss after each epoch."""
    score: float | None
    """That metric in the epoch that the trial keeps; None before there is one."""
    reason: str
    """The reason why it failed; empty unless it failed."""

    @property
    def is_drawn(self) -> bool:
        """True if the search drew its values; False if it trains another trial again."""
        return SEED_MARK not in self.name

    def number(self, setting: str) -> float | None:
        """Return the value of a searched setting; None if it is not a number."""
        try:
            return float(self.values[setting])
        except (KeyError, ValueError):
            return None


@dataclass(frozen=True)
class Mean:
    """The result of training a trial again with other seeds."""

    value: float
    std: float
    num_seeds: int


@dataclass(frozen=True)
class RecordedSearch:
    """A run of `manta tune`, finished or in progress."""

    run: TrackedRun
    metric: str
    """The validation metric that ranks the trials."""
    trials: tuple[ShownTrial, ...]
    """In the order in which they began."""
    best_config: str
    """The winner's whole config as YAML; empty until the search is over."""
    winner: str = ""
    """Name of the trial whose values won, as the search recorded it; empty until it is over."""
    means: dict[str, Mean] = field(default_factory=dict)
    """Results with other seeds, by the trial that was confirmed."""

    @property
    def lower_is_better(self) -> bool:
        """True if the metric is a loss."""
        return self.metric == "loss"

    @property
    def ranked(self) -> list[ShownTrial]:
        """Trials with a score, best first."""
        sign = 1 if self.lower_is_better else -1
        return sorted((trial for trial in self.trials if trial.score is not None), key=lambda trial: sign * (trial.score or 0.0))

    @property
    def best(self) -> ShownTrial | None:
        """The trial that won; while the search runs, the leading one. A run with another seed is no trial of its own."""
        recorded = next((trial for trial in self.trials if trial.name == self.winner), None)
        return recorded or next((trial for trial in self.ranked if trial.is_drawn), None)

    @property
    def settings(self) -> list[str]:
        """The searched settings, by dotted name."""
        return list(dict.fromkeys(name for trial in self.trials for name in trial.values if trial.is_drawn))


def read_search(tracking: TrackingClient, run_id: str) -> RecordedSearch:
    """Return the current state of a search.

    Raises:
        TrackingError: there is no such run, or the server does not answer.
    """
    run = tracking.run(run_id)
    metric = run.settings.get("train.metric", str(TrainConfig.model_fields["metric"].default))
    trials = tuple(_trial(tracking, trial, search=run, metric=metric) for trial in tracking.trials(run))
    best = tracking.file(run.id, BEST_FILE) if run.is_over else None
    winner, means = results_of(tracking.file(run.id, RESULTS_FILE) if run.is_over else None)
    return RecordedSearch(run, metric, trials, (best or b"").decode(errors="replace"), winner, means)


def results_of(content: bytes | None) -> tuple[str, dict[str, Mean]]:
    """Return the winner and the confirmed trials' results from a search's file; empty if it has none that can be read."""
    try:
        found = read_yaml((content or b"").decode(errors="replace"), source=RESULTS_FILE)
    except InputError:
        found = None
    if not isinstance(found, dict) or "winner" not in found:
        return "", {}
    means = {item["trial"]: Mean(item["mean"], item["std"], len(item["runs"])) for item in found["confirmed"]}
    return str(found["winner"] or ""), means


def _trial(tracking: TrackingClient, run: TrackedRun, *, search: TrackedRun, metric: str) -> ShownTrial:
    history = tuple(tracking.history(run, f"validation/{metric}"))
    losses = history if metric == "loss" else tuple(tracking.history(run, "validation/loss"))
    known = [value for value in history if math.isfinite(value)]
    state = STATES.get(run.status) or ("stopped early" if history else "not run")
    best = min if metric == "loss" else max
    score = None if not known else best(known) if "train.early_stopping" in search.settings | run.settings else known[-1]
    name = run.name.removeprefix(f"{search.name}-")
    return ShownTrial(
        name, state, run.settings, history, losses, score, run.tags.get("manta.error", "") if state == "failed" else ""
    )
