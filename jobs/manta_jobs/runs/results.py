"""What runs leave behind, as the commands get it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from manta.evaluation.baseline import Baseline

if TYPE_CHECKING:
    from pathlib import Path

    from manta.config import ExperimentConfig
    from manta.inference.artifact import ModelArtifact
    from manta.registry.models import RegisteredVersion
    from manta.storage.folders import RunFolder
    from manta_jobs.packaging.diagnosis import Fit
    from manta_jobs.registry.promotion import Promotion
    from manta_jobs.reporting.evaluation.assessment import Assessment
    from manta_jobs.tuning.journal import Confirmation, Trial


@dataclass(frozen=True)
class TrainedModel:
    """What a finished run leaves behind."""

    run: RunFolder
    config: ExperimentConfig
    artifact: ModelArtifact
    version: RegisteredVersion
    promotion: Promotion
    """Whether the version became the champion, and why not."""
    history: list[dict[str, Any]]
    """The metrics of each epoch."""
    fit: Fit
    """How training and validation went together, and what to try."""
    distribution: dict[str, Any]
    """How the work was spread over workers, as `report.json` has it."""
    preflight: dict[str, Any]
    """What was known before it started, as `preflight.json` has it."""
    num_test_rows: int
    wall_s: float

    @property
    def baseline(self) -> Baseline | None:
        """What TF-IDF and logistic regression reach on the same rows; None for a run of an earlier version."""
        document = self.preflight.get("baseline")
        return Baseline.from_dict(document) if document else None


@dataclass(frozen=True)
class TunedModel:
    """What a search leaves behind: the best trial as a finished model, and how the others did."""

    model: TrainedModel
    best_config_path: Path
    winner: Trial
    """The run whose model was kept."""
    trials: list[Trial]
    """Best first, then those without a score."""
    confirmed: list[Confirmation]
    """The winner first; none where there was nothing to confirm or no time for it."""
    page: Path
    """The search's report for people, with its plots."""


@dataclass(frozen=True)
class FinishedEvaluation:
    """What `manta evaluate` found, and the page that shows it."""

    artifact: ModelArtifact
    assessment: Assessment
    page: Path
