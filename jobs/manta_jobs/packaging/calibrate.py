"""Calibration after training: the validation rows choose temperature and thresholds; the test rows measure the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.inference.answer_profile import profile_of
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import with_calibration
from manta.inference.calibration import calibrate, figures_on
from manta.inference.estimated_accuracy import answer_sums

if TYPE_CHECKING:
    from manta.config import RegistryConfig
    from manta.data import Split
    from manta.labels import Floats, Targets


def calibrate_artifact(artifact: ModelArtifact, split: Split, *, logits: Floats, config: RegistryConfig) -> ModelArtifact:
    """Return the artifact with its calibration, label thresholds and answer profile, computed from the split's `logits`.

    The split must be the validation rows, or the cross-validated training rows: calibrating on the test rows would make their
    scores too good.
    """
    labels, calibration = calibrate(
        logits,
        split.targets,
        labels=artifact.manifest.label_space,
        target_precision=config.target_precision,
        guarantee=config.guarantee,
        set_coverage=config.set_coverage,
    )
    answers = profile_of(logits, labels=labels)
    sums = answer_sums(logits, split.targets, labels=labels)
    return with_calibration(artifact, calibration, thresholds=labels.thresholds, answers=answers, sums=sums)


def with_test_figures(artifact: ModelArtifact, logits: Floats, targets: Targets) -> ModelArtifact:
    """Return a calibrated artifact with its calibration's figures on the test rows' logits `(rows, labels)`."""
    manifest = artifact.manifest
    if manifest.calibration is None:
        raise ValueError(f"{artifact.path} is not calibrated")
    figures = figures_on(manifest.calibration, logits, targets, labels=manifest.label_space)
    return with_calibration(artifact, manifest.calibration.model_copy(update={"test": figures}), thresholds=manifest.thresholds)
