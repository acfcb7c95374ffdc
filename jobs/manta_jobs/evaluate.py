"""`manta evaluate`: how a finished model does on labelled rows, through the same `Predictor` that serves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
from pydantic import ValidationError

from manta.artifact import ModelArtifact, with_thresholds
from manta.config import DataConfig
from manta.data import Split, load_labelled
from manta.errors import InputError
from manta.metrics import best_thresholds, classification_metrics, per_class_metrics
from manta.registry import find_artifact
from manta.texts import wrong_kind_sentence
from manta_jobs.cluster import connected

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import Console

    from manta.labels import Floats
    from manta.texts import Text


@dataclass(frozen=True)
class Evaluation:
    """Metrics over all rows, and by label."""

    num_rows: int
    metrics: dict[str, float]
    per_class: dict[str, dict[str, float]]


def evaluate(
    model: str, data: str, *, settings: Mapping[str, Any], console: Console, address: str | None = None
) -> tuple[ModelArtifact, Evaluation]:
    """Evaluate a registered model (`NAME` for its champion, `NAME@VERSION`) or a model folder on labelled rows.

    `settings` are the fields of `DataConfig` that say how to read the rows.

    Raises:
        InputError: the model or the rows cannot be found, or the rows are faulty.
    """
    artifact = find_artifact(model)
    try:
        config = DataConfig.model_validate({"train": data, **settings})
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{first.get('ctx', {}).get('error') or first['msg']}; see the options of manta evaluate.") from None
    num_texts = artifact.manifest.num_texts
    if len(config.text_columns) != num_texts:
        times = "once" if num_texts == 1 else "twice, a column each"
        raise InputError(f"{model}: {wrong_kind_sentence(num_texts)}: give --text {times}.")
    split = load_labelled(data, config, labels=artifact.manifest.label_space)
    with connected(address, num_workers=1):
        return artifact, evaluate_on_cluster(artifact, split, console=console)


def evaluate_on_cluster(artifact: ModelArtifact, split: Split, *, console: Console) -> Evaluation:
    """The metrics of an artifact on a split, computed on one node of the connected cluster."""
    labels = artifact.manifest.label_space
    logits = _logits_on_cluster(artifact, split, console=console)
    return Evaluation(
        len(split),
        classification_metrics(logits, split.targets, labels=labels),
        per_class_metrics(logits, split.targets, labels=labels),
    )


def choose_thresholds(artifact: ModelArtifact, split: Split, *, console: Console) -> ModelArtifact:
    """A multilabel artifact with each label's best threshold on the split in its manifest; any other as it is.

    The split is the validation rows': on the test rows the thresholds would make their scores too good.
    """
    if artifact.manifest.task != "multilabel":
        return artifact
    logits = _logits_on_cluster(artifact, split, console=console)
    return with_thresholds(artifact, best_thresholds(artifact.manifest.label_space.probabilities(logits), split.targets))


def _logits_of(path: Path, texts: list[Text], num_threads: int) -> Floats:
    """Logits of an artifact in this process."""
    import torch

    from manta.predictor import Predictor

    torch.set_num_threads(num_threads)
    return Predictor(ModelArtifact.load(path)).logits(texts)


def _logits_on_cluster(artifact: ModelArtifact, split: Split, *, console: Console) -> Floats:
    """Logits of every row from one node of the connected cluster, with a GPU if it has any."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    num_gpus = 1 if any(node.get("GPU", 0) for node in nodes) else 0
    num_cpus = max(int(node.get("CPU", 1)) for node in nodes if node.get("GPU", 0) >= num_gpus)
    task = ray.remote(num_cpus=1 if num_gpus else num_cpus, num_gpus=num_gpus)(_logits_of)
    with console.status(f"Evaluating on {len(split):,} rows"):
        logits: Floats = ray.get(task.remote(artifact.path, split.texts, num_cpus))
    return logits
