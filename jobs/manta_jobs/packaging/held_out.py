"""Calibration and scope of a finished model. Held-out rows choose both, so one pass computes what both need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta_jobs.packaging.calibrate import calibrate_artifact
from manta_jobs.packaging.outputs_on_cluster import outputs_on_cluster
from manta_jobs.packaging.scope import ScopeRows, logits_and_features, with_chosen_scope

if TYPE_CHECKING:
    from rich.console import Console

    from manta.config import RegistryConfig
    from manta.data.dataset import TextDataset
    from manta.inference.artifact import ModelArtifact
    from manta.labels import Floats


def calibrated_with_scope(
    artifact: ModelArtifact,
    dataset: TextDataset,
    *,
    logits: Floats | None,
    embeddings: tuple[Floats, Floats] | None,
    config: RegistryConfig,
    console: Console,
) -> ModelArtifact:
    """Return the artifact with its calibration, and with a scope if `config` asks for one and there are enough rows.

    A calibration or scope that an interrupted run has written is kept. `logits` `(rows, outputs)` belong to the held-out rows, and
    `embeddings` `(rows, hidden)` to the training rows and the validation rows. Those that the run does not have are computed here.

    Cross-validated rows get a scope only if the encoder has not learned from them. An encoder that has learned from a row puts it
    nearer to the other training rows than it puts a new row.
    """
    if not dataset.has_held_out:
        return artifact
    can_choose = dataset.folds is None or (embeddings is not None and artifact.manifest.method == "linear")
    wants_scope = config.scope_loss is not None and artifact.manifest.scope is None and can_choose
    features: tuple[Floats, Floats] | None = None
    if wants_scope:
        rows = ScopeRows.of(dataset)
        if embeddings is not None:
            features = embeddings[0][rows.references], embeddings[1][rows.held_out]
        else:
            texts = [dataset.train.texts[row] for row in rows.references]
            texts += [dataset.validation.texts[row] for row in rows.held_out]
            found, vectors = logits_and_features(artifact, texts, console=console)
            features = vectors[: len(rows.references)], vectors[len(rows.references) :]
            if logits is None and len(rows.held_out) == len(dataset.validation):
                logits = found[len(rows.references) :]
    if artifact.manifest.calibration is None:
        logits = outputs_on_cluster(artifact, dataset.validation, console=console) if logits is None else logits
        artifact = calibrate_artifact(artifact, dataset.validation, logits=logits, config=config)
    if features is not None and config.scope_loss is not None:
        artifact = with_chosen_scope(artifact, *features, loss=config.scope_loss)
    return artifact
