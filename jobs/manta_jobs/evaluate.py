"""`manta evaluate`: how a finished model does on labelled rows, through the same `Predictor` that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import ray

from manta.artifact import ModelArtifact
from manta.config import DataConfig
from manta.data import Split, load_labelled
from manta.errors import InputError
from manta.metrics import classification_metrics, per_class_metrics
from manta.registry import ModelRegistry
from manta.storage import Storage
from manta_jobs.cluster import connected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all rows, and by class."""

    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


def evaluate(
    model: str, data: str, *, columns: Mapping[str, str | int], header: bool, console: Console, address: str | None = None
) -> tuple[ModelArtifact, Evaluation]:
    """Evaluate a registered model (`NAME` for its champion, `NAME@VERSION`) or a model folder on labelled rows.

    Raises:
        InputError: the model or the rows cannot be found, or the rows are faulty.
    """
    artifact = find_artifact(model)
    config = DataConfig.model_validate({"train": data, "header": header, **columns})
    split = load_labelled(data, config, labels=artifact.manifest.label_space)
    with connected(address, num_workers=1):
        return artifact, evaluate_on_cluster(artifact, split, console=console)


def find_artifact(model: str) -> ModelArtifact:
    """The artifact of a model folder, of `NAME@VERSION`, or of the champion of `NAME`."""
    if Path(model).is_dir():
        return ModelArtifact.load(Path(model))
    name, _, version = model.partition("@")
    if version and not version.isdecimal():
        raise InputError(f"{model}: the version after @ is a number, such as {name}@3.")
    registry = ModelRegistry(Storage.resolve(None))
    return registry.fetch(registry.get(name, version=int(version) if version else None))


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
    with console.status(f"Evaluating on {len(split):,} rows"):
        result: Evaluation = ray.get(task.remote(artifact.path, split, num_cpus))
    return result
