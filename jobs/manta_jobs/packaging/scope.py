"""The scope of a finished model: training rows give its references, and held-out rows choose the distance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from manta.cluster.gpus import hide_unassigned_gpus
from manta.console import working
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import with_scope
from manta.inference.batches import run_batches
from manta.inference.conversion import spread
from manta.inference.fastest import load_format
from manta.inference.formats import SAFETENSORS
from manta.inference.scope import MOST_REFERENCES, References, chosen_scope, num_references, reference_rows
from manta.storage.object_store import fetch, store
from manta.texts import token_ids
from manta_jobs.cluster.connection import OneNode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from manta.data.dataset import TextDataset
    from manta.labels import Floats
    from manta.texts import Text


@dataclass(frozen=True)
class ScopeRows:
    """The rows that a scope is chosen from, by index in their split."""

    references: list[int]
    """Training rows whose features are kept."""
    held_out: list[int]
    """Validation rows, whose distances from the references give the threshold. Empty for cross-validated rows: there, the distance
    of each reference from the others does."""

    @classmethod
    def of(cls, dataset: TextDataset) -> ScopeRows:
        """Choose references from the rows of every label, and validation rows at even distances."""
        references = reference_rows(dataset.train.targets, most=num_references(len(dataset.labels.names)))
        held_out = [] if dataset.folds is not None else spread(len(dataset.validation), count=MOST_REFERENCES)
        return cls(references, held_out)


def with_chosen_scope(artifact: ModelArtifact, references: Floats, held_out: Floats, *, loss: float) -> ModelArtifact:
    """Return the artifact with its scope, from the features `(rows, hidden)` of the rows that `ScopeRows` names.

    The artifact is unchanged if there are too few rows for a threshold.
    """
    kept = References.of(references)
    distances = kept.distances(held_out) if len(held_out) else kept.own_distances()
    scope = chosen_scope(distances, loss=loss, num_references=len(references))
    return artifact if scope is None else with_scope(artifact, scope, kept)


def with_test_loss(artifact: ModelArtifact, outputs: Floats) -> ModelArtifact:
    """Return the artifact with the share of test rows that are out of scope, of their outputs (`Predictor.outputs`)."""
    scope = artifact.manifest.scope
    if scope is None:
        return artifact
    return with_scope(artifact, scope.model_copy(update={"test_loss": float(scope.is_out(outputs[:, -1]).mean())}))


def logits_and_features(artifact: ModelArtifact, texts: Sequence[Text], *, console: Console) -> tuple[Floats, Floats]:
    """Compute logits `(texts, labels)` and features `(texts, hidden)` from the safetensors, on one node of the cluster."""
    with working(console, f"Evaluating on {len(texts):,} rows"):
        store(artifact.path)
        node = OneNode()
        found = node.run(_logits_and_features, artifact.path, texts, node.num_threads)
    num_labels = len(artifact.manifest.labels)
    return found[:, :num_labels], found[:, num_labels:]


def _logits_and_features(path: Path, texts: Sequence[Text], num_threads: int) -> Floats:
    """Compute logits and features, `(texts, labels + hidden)`, in this process."""
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
    return np.asarray(run_batches(forward, tokenizer, tokens, max_length=manifest.max_length))
