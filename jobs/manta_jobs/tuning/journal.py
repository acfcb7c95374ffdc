"""The journal of a search: its trials' values, their epochs and how they ended, kept on disk line by line."""

from __future__ import annotations

import json
import math
import os
import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from manta.storage.object_store import store
from manta_jobs.training.checkpoints import kept_epoch

if TYPE_CHECKING:
    from pathlib import Path

    from manta.config import ExperimentConfig

TrialStatus = Literal["running", "done", "stopped early", "out of time", "failed", "not run"]

SEED_MARK = "-seed-"
"""Part of the name of a run that trains a trial again with another seed."""


@dataclass
class Trial:
    """One training run of a search."""

    name: str
    """Name such as `trial-003`. The trial's checkpoints are in a folder of that name."""
    values: dict[str, Any]
    """Values of the searched fields, by dotted name."""
    status: TrialStatus = "not run"
    reason: str | None = None
    """Reason why it failed or ended early, if one is known."""
    history: list[dict[str, Any]] = field(default_factory=list)
    """The metrics of each finished epoch, see `loop.EPOCH_FIELDS`."""
    started_s: float | None = None
    """Time of its start, in seconds after the start of the search."""
    ended_s: float | None = None
    """Time of its end, in seconds after the start of the search."""

    @property
    def is_drawn(self) -> bool:
        """True if the search drew it, False if it trains another trial again."""
        return SEED_MARK not in self.name

    def score(self, config: ExperimentConfig) -> float | None:
        """Return the metric that compares trials, after the epoch whose model is kept; None without a finite number."""
        if not self.history:
            return None
        patience = self.values.get("train.early_stopping", config.train.early_stopping)
        train = config.train.model_copy(update={"early_stopping": patience})
        value = float(kept_epoch(self.history, train)[config.train.metric])
        return value if math.isfinite(value) else None

    def planned_epochs(self, config: ExperimentConfig) -> int:
        """Return the epochs it trains for unless it is stopped.

        This also works for a trial that failed because its values contradict each other.
        """
        return int(self.values.get("train.num_epochs", config.train.planned_epochs))


@dataclass(frozen=True)
class Confirmation:
    """One of the best trials, trained again with other seeds."""

    trial: Trial
    runs: list[Trial]
    """One run for each seed, best first; failed runs are left out."""
    scores: list[float]
    """Scores of those runs."""

    @property
    def mean(self) -> float:
        """Mean score, by which the winner is chosen."""
        return statistics.fmean(self.scores)

    @property
    def std(self) -> float:
        """Sample standard deviation over the seeds; 0 with a single seed."""
        return statistics.stdev(self.scores) if len(self.scores) > 1 else 0.0


class Journal:
    """`trials.jsonl` of a search: a line for each event, written before the search continues. A resumed search reads it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.trials: dict[str, Trial] = {}
        self.elapsed_s = 0.0
        """Seconds the search had taken when the last line was written."""
        if path.exists():
            text = path.read_text(encoding="utf-8")
            if text and not text.endswith("\n"):
                with path.open("a", encoding="utf-8") as file:
                    file.write("\n")  # end a line that a crash cut short, or the next event would continue it
            for line in text.splitlines():
                try:
                    event = json.loads(line)
                except ValueError:
                    continue
                self._apply(event)

    def drawn(self, name: str, values: dict[str, Any], *, at_s: float) -> None:
        """Record that a trial's values were drawn."""
        self._write({"trial": name, "event": "drawn", "values": values, "at_s": at_s})

    def epoch(self, name: str, metrics: dict[str, Any], *, at_s: float) -> None:
        """Record that a trial finished an epoch. An epoch that is known already is not written again."""
        if metrics["epoch"] > len(self.trials[name].history):
            self._write({"trial": name, "event": "epoch", "metrics": metrics, "at_s": at_s})

    def ended(self, name: str, status: TrialStatus, *, at_s: float, reason: str | None = None) -> None:
        """Record that a trial ended."""
        self._write({"trial": name, "event": "ended", "status": status, "reason": reason, "at_s": at_s})

    def _write(self, event: dict[str, Any]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")
            file.flush()
            os.fsync(file.fileno())
        store(self.path)
        self._apply(event)

    def _apply(self, event: dict[str, Any]) -> None:
        at_s = self.elapsed_s = float(event["at_s"])
        if event["event"] == "drawn":
            self.trials[event["trial"]] = Trial(event["trial"], event["values"], "running", started_s=at_s)
            return
        trial = self.trials[event["trial"]]
        if event["event"] == "epoch":
            trial.history.append(event["metrics"])
        else:
            trial.status, trial.reason, trial.ended_s = event["status"], event["reason"], at_s


def longest_epochs(config: ExperimentConfig, *, searched: bool) -> int:
    """Return the epochs of a run; if `searched`, the most epochs of any trial."""
    space = config.tune.searched.get("train.num_epochs") if searched else None
    return max([config.train.planned_epochs, *map(int, space.extremes if space else [])])
