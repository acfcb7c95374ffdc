"""`manta evaluate`: how a finished model does on labelled rows, through the same `Predictor` that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from manta.artifact import ModelArtifact
from manta.data import Split
from manta.metrics import classification_metrics, per_class_metrics

if TYPE_CHECKING:
    from rich.console import Console


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all rows, and by class."""

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


def evaluate_artifact(path: Path, split: Split, num_threads: int) -> Evaluation:
    """Evaluate an artifact on a split in this process."""
    import torch

    from manta.predictor import Predictor

    torch.set_num_threads(num_threads)
    artifact = ModelArtifact.load(path)
    labels = artifact.manifest.label_space
    logits = Predictor(artifact).logits(split.texts)
    return Evaluation(
        classification_metrics(logits, split.targets, labels=labels), per_class_metrics(logits, split.targets, labels=labels)
    )


def evaluate_on_cluster(artifact: ModelArtifact, split: Split, *, console: Console) -> Evaluation:
    """Evaluate on one node of the connected cluster, with a GPU if it has any."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_gpus = 1 if any(node.get("GPU", 0) for node in nodes) else 0
    num_cpus = max(int(node.get("CPU", 1)) for node in nodes if node.get("GPU", 0) >= num_gpus)
    task = ray.remote(num_cpus=1 if num_gpus else num_cpus, num_gpus=num_gpus)(evaluate_artifact)
    with console.status(f"Reading the test split: {len(split):,} rows"):
        result: Evaluation = ray.get(task.remote(artifact.path, split, num_cpus))
    return result
