"""A registry as runs leave it: two versions of a model, and a search with its trials below it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from manta.config import ExperimentConfig
from manta.registry.decisions import Decision
from manta.registry.gate import GateLine
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker, epoch_points
from manta_jobs.runs.tune import write_trials
from manta_jobs.tuning.journal import Confirmation, Trial

from ..conftest import rows_of
from ..jobs.registered import register, train_tiny

if TYPE_CHECKING:
    from pathlib import Path

    from manta.storage.folders import Storage

EVIL = "<img src=x onerror=alert(1)>"
REPORT = {
    "labels": ["account", "billing", EVIL],
    "task": "multiclass",
    "confusion": [[7, 1, 0], [0, 9, 0], [2, 0, 5]],
    "reliability": [{"num_decisions": 24, "confidence": 0.8, "accuracy": 0.875}],
    "history": [
        {"epoch": 1, "train_loss": 1.0, "loss": 1.1, "accuracy": 0.5},
        {"epoch": 2, "train_loss": 0.6, "loss": 0.9, "accuracy": 0.8},
    ],
    "best_epoch": 2,
}
REFUSED = GateLine(
    name=EVIL, champion=0.9, candidate=0.8, bound="> +0.00 points, not by chance", passed=False, sentence=f"worse: {EVIL}"
)
SEARCH = "desk-tune-20260101-120000-abcd"
TRIALS = (
    ("trial-001", {"train.learning_rate": 1e-4, "model.dropout": 0.1}, (0.5, 0.7), "FINISHED", None),
    ("trial-002", {"train.learning_rate": 1e-3, "model.dropout": 0.3}, (0.6, 0.9), "FINISHED", None),
    ("trial-003", {"train.learning_rate": 5e-3, "model.dropout": 0.2}, (0.4,), "KILLED", None),
    ("trial-004", {"train.learning_rate": 1e-2, "model.dropout": 0.0}, (), "FAILED", f"a NaN in {EVIL}"),
    ("trial-002-seed-1", {"train.learning_rate": 1e-3, "model.dropout": 0.3, "train.seed": 1}, (0.8,), "RUNNING", None),
)
"""Name, values, validation accuracy after each epoch, how it stands in MLflow, and why it failed."""


def record_versions(storage: Storage, folder: Path, *, model: Path) -> None:
    """Version 1 is the champion; 2, which the gate has refused, the candidate. The run of 1 has a report."""
    rows = rows_of(["delivery", "billing", "account"], 420)
    for kind, count, steps in (("good", 60, 30), ("better", 120, 70)):
        trained = train_tiny(folder / kind, rows=rows[300 : 300 + count], test=rows[:300], steps=steps, model=model, settings={})
        register(storage, trained, name="desk")
    registry = ModelRegistry(storage)
    champion = registry.get("desk", version=1)
    registry.record("desk", Decision(action="first", version=1, by=EVIL))
    registry.set_champion(champion)
    registry.record("desk", Decision(action="refused", version=2, previous=1, why=EVIL, figures=(REFUSED,)))
    report = folder / "report.json"
    report.write_text(json.dumps(REPORT))
    tracker = RunTracker(storage)
    tracker.start("", experiment="desk", config={}, resume_id=champion.run_id)
    tracker.log_files(report)
    tracker.finish("FINISHED")


def write_results(path: Path) -> None:
    """The end of the search: the first seed of trial-002 was lucky, and trial-001 won by the mean of two other seeds."""
    config = ExperimentConfig.model_validate({"name": "desk", "data": {"train": "sample:support"}})
    trials = {
        name: Trial(name, values, "done", history=[{"epoch": 1, "accuracy": max(scores)}])
        for name, values, scores, *_ in TRIALS[:2]
    }
    confirmed = [
        Confirmation(trials[name], [Trial(f"{name}-seed-{seed}", {}) for seed in (1, 2)], list(scores))
        for name, scores in (("trial-001", (0.72, 0.74)), ("trial-002", (0.8, 0.5)))
    ]
    write_trials([trials["trial-002"], trials["trial-001"]], confirmed, path, config=config)


def record_search(storage: Storage, folder: Path, *, is_over: bool) -> None:
    """A search, and each of its trials as a run below it, as `manta tune` records them."""
    search = RunTracker(storage)
    search.start(SEARCH, experiment="desk", config={"name": "desk", "train": {"metric": "accuracy"}})
    for name, values, scores, status, reason in TRIALS:
        trial = RunTracker(storage)
        trial.start(f"{SEARCH}-{name}", experiment="desk", config=values, parent_id=search.run_id)
        history = [{"epoch": epoch, "accuracy": score} for epoch, score in enumerate(scores, start=1)]
        trial.add(epoch_points(history, steps_per_epoch=10))
        trial.flush()
        if status != "RUNNING":
            trial.finish(status, error=reason)  # type: ignore[arg-type]
    if is_over:
        best = folder / "best.yaml"
        best.write_text(f"name: desk\n# {EVIL}\n")
        write_results(folder / "trials.yaml")
        search.log_files(best)
        search.log_files(folder / "trials.yaml")
        search.finish("FINISHED")
