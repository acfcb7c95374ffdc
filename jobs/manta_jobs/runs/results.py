"""Results of runs, as the commands get them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manta.evaluation.baseline import Baseline

if TYPE_CHECKING:
    from pathlib import Path

    from manta.config import ExperimentConfig
    from manta.inference.artifact import ModelArtifact
    from manta.registry.versions import RegisteredVersion
    from manta.storage.folders import RunFolder
    from manta_jobs.data.doubts import HeldOutSuspects
    from manta_jobs.packaging.diagnosis import Fit
    from manta_jobs.registry.promotion import Promotion
    from manta_jobs.reporting.evaluation.assessment import Assessment
    from manta_jobs.runs.methods import Outcome
    from manta_jobs.tuning.journal import Confirmation, Trial


@dataclass(frozen=True)
class TrainedModel:
    """The result of a finished run."""

    run: RunFolder
    config: ExperimentConfig
    artifact: ModelArtifact
    version: RegisteredVersion
    promotion: Promotion
    """Decision on whether the version became the champion, with the reason."""
    outcome: Outcome
    """The methods that were tried, and which of them gave the model."""
    history: list[dict[str, Any]]
    """The metrics of each epoch; empty for a linear model."""
    fit: Fit | None
    """For a fine-tuned model, a comparison of training and validation, with advice on what to try."""
    distribution: dict[str, Any]
    """Distribution of the work over workers, as `report.json` has it; empty for a linear model."""
    preflight: dict[str, Any]
    """Facts known before the run started, as `preflight.json` has them."""
    num_test_rows: int
    wall_s: float
    suspects: HeldOutSuspects | None
    """The number of held-out rows that look wrongly labeled; None if no linear model was fitted."""

    @property
    def baseline(self) -> Baseline | None:
        """Metrics of TF-IDF and logistic regression on the same rows; None for a run of an earlier version."""
        document = self.preflight.get("baseline")
        return Baseline.from_dict(document) if document else None


@dataclass(frozen=True)
class TunedModel:
    """The result of a search: the best trial as a finished model, and the other trials."""

    model: TrainedModel
    best_config_path: Path
    winner: Trial | None
    """The training run with the winning settings; None if no trial finished an epoch in the time of the search."""
    trials: list[Trial]
    """Trials, best first, then those without a score."""
    confirmed: list[Confirmation]
    """Confirmed trials, the winner first; empty if there was nothing to confirm or no time for it."""
    page: Path
    """The search's HTML report, with its plots."""


@dataclass(frozen=True)
class FinishedEvaluation:
    """The result of `manta evaluate`, and the page that shows it."""

    artifact: ModelArtifact
    assessment: Assessment
    page: Path
