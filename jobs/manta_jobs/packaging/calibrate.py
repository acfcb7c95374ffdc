"""Calibration after training: the validation rows choose temperature and thresholds; the test rows measure the result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.inference.answer_profile import profile_of
from manta.inference.artifact import ModelArtifact, with_calibration
from manta.inference.calibration import calibrate, figures_on
from manta.inference.estimated_accuracy import answer_sums
from manta_jobs.packaging.outputs_on_cluster import outputs_on_cluster

if TYPE_CHECKING:
    from rich.console import Console

    from manta.config import RegistryConfig
    from manta.data import Split
    from manta.labels import Floats, Targets


def calibrate_artifact(
    artifact: ModelArtifact, split: Split, *, logits: Floats | None, config: RegistryConfig, console: Console
) -> ModelArtifact:
    """Return the artifact with its calibration, label thresholds and answer profile in its manifest.

    An artifact that an interrupted run calibrated is returned unchanged. The split must be the validation rows: calibrating on the
    test rows would make their scores too good. Cross-validated rows bring their `logits` `(rows, outputs)`; for other rows the
    model computes them.
    """
    if artifact.manifest.calibration is not None:
        return artifact
    if logits is None:
        logits = outputs_on_cluster(artifact, split, console=console)
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
