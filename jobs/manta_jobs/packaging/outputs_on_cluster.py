"""Outputs of a finished model for many rows, computed on one node of the connected cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.cluster.gpus import hide_unassigned_gpus
from manta.console import working
from manta.inference.artifact import ModelArtifact
from manta.inference.formats import SAFETENSORS
from manta.storage.object_store import fetch, store
from manta_jobs.cluster.connection import OneNode

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console

    from manta.data.dataset import Split
    from manta.labels import Floats
    from manta.texts import Text


def _outputs_of(path: Path, texts: Sequence[Text], num_threads: int) -> Floats:
    """Compute an artifact's outputs in this process."""
    import torch

    from manta.inference.predictor import Predictor

    hide_unassigned_gpus()
    torch.set_num_threads(num_threads)
    return Predictor(ModelArtifact.load(fetch(path)), format=SAFETENSORS).outputs(texts)


def outputs_on_cluster(artifact: ModelArtifact, split: Split, *, console: Console) -> Floats:
    """Compute the outputs of every row (`Predictor.outputs`) with the safetensors.

    One node of the connected cluster computes them, on a GPU if the cluster has any; without a cluster, this process does.
    """
    node = OneNode()
    with working(console, f"Evaluating on {len(split):,} rows"):
        store(artifact.path)
        return node.run(_outputs_of, artifact.path, split.texts, node.num_threads)
