"""The scope of a finished model: training rows give its references, and held-out rows choose the distance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from manta.cluster.gpus import hide_unassigned_gpus
from manta.console import working
from manta.inference.artifact import ModelArtifact, with_scope
from manta.inference.batches import run_batches
from manta.inference.conversion import spread
from manta.inference.fastest import load_format
from manta.inference.formats import SAFETENSORS
from manta.inference.scope import MOST_REFERENCES, References, chosen_scope, reference_rows
from manta.storage.object_store import fetch, store
from manta.texts import token_ids
from manta_jobs.cluster.connection import OneNode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from manta.config import RegistryConfig
    from manta.data.dataset import TextDataset
    from manta.labels import Floats
    from manta.texts import Text


def scope_artifact(
    artifact: ModelArtifact, dataset: TextDataset, *, config: RegistryConfig, is_frozen: bool, console: Console
) -> ModelArtifact:
    """Return the artifact with its scope; unchanged if it has one already, none is wanted, or no rows can choose it.

    `is_frozen` says that the encoder has not learned from the training rows. Cross-validated rows can choose only then, each by its
    distance from the others: an encoder that has learned from a row puts it nearer to them than a new one.
    """
    is_folded = dataset.folds is not None
    if artifact.manifest.scope is not None or config.scope_loss is None or not dataset.has_held_out:
        return artifact
    if is_folded and not is_frozen:
        return artifact
    train, held_out = dataset.train, dataset.validation
    kept = [train.texts[row] for row in reference_rows(train.targets)]
    others = [] if is_folded else [held_out.texts[row] for row in spread(len(held_out), count=MOST_REFERENCES)]
    with working(console, f"Measuring how far {len(kept) + len(others):,} rows are from each other"):
        store(artifact.path)
        node = OneNode()
        features = node.run(_features_of, artifact.path, kept + others, node.num_threads)
    references = References.of(features[: len(kept)])
    distances = references.own_distances() if is_folded else references.distances(features[len(kept) :])
    scope = chosen_scope(distances, loss=config.scope_loss, num_references=len(kept))
    return artifact if scope is None else with_scope(artifact, scope, references)


def with_test_loss(artifact: ModelArtifact, outputs: Floats) -> ModelArtifact:
    """Return the artifact with the share of test rows that are out of scope, of their outputs (`Predictor.outputs`)."""
    scope = artifact.manifest.scope
    if scope is None:
        return artifact
    return with_scope(artifact, scope.model_copy(update={"test_loss": float(scope.is_out(outputs[:, -1]).mean())}))


def _features_of(path: Path, texts: Sequence[Text], num_threads: int) -> Floats:
    """Compute the features of texts with the safetensors in this process."""
    import torch
    from transformers import AutoTokenizer

    hide_unassigned_gpus()
    torch.set_num_threads(num_threads)
    artifact = ModelArtifact.load(fetch(path))
    manifest = artifact.manifest
    device = "cuda" if torch.cuda.is_available() else "cpu"
    forward = load_format(artifact.path, SAFETENSORS, device=device, num_threads=num_threads, features=True)
    tokenizer = AutoTokenizer.from_pretrained(artifact.path, trust_remote_code=False)
    tokens = token_ids(tokenizer, texts, max_length=manifest.max_length, long_texts=manifest.long_texts)
    return np.asarray(run_batches(forward, tokenizer, tokens, max_length=manifest.max_length)[:, len(manifest.labels) :])
