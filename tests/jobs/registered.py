"""Real tiny classifiers, trained here without Ray, and a registry to put them in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from manta.config import ExperimentConfig
from manta.data.dataset import Split, TextDataset
from manta.inference.artifact import ModelArtifact
from manta.inference.artifact_writing import write_artifact
from manta.labels import LabelSpace
from manta.model.encoder import build_model, load_tokenizer
from manta.registry.frozen_rows import FrozenRows
from manta.registry.models import ModelRegistry
from manta.registry.tracking import RunTracker
from manta.registry.versions import RegisteredVersion

if TYPE_CHECKING:
    from pathlib import Path

    from manta.storage.folders import Storage

LABELS = LabelSpace(("account", "billing", "delivery"), "multiclass")
KINDS = {"good": (60, 30), "worse": (6, 20), "better": (120, 70)}
"""Training rows and steps: the worse one has a tenth of the good one's rows."""
Rows = list[tuple[str, str]]


@dataclass(frozen=True)
class Trained:
    """A finished model and the rows it was made with."""

    artifact: ModelArtifact
    dataset: TextDataset


def split_of(rows: Rows, labels: LabelSpace = LABELS) -> Split:
    return Split([text for text, _ in rows], labels.encode([label for _, label in rows]))


def train_tiny(
    folder: Path, *, rows: Rows, test: Rows, steps: int, model: Path, settings: dict[str, Any], labels: LabelSpace = LABELS
) -> Trained:
    """Train the tiny encoder on rows for some steps of 32, as fast as it goes."""
    config = ExperimentConfig.model_validate(
        {"name": "desk", "data": {"train": "rows.csv"}, "model": {"pretrained": str(model), "max_length": 16, "dropout": 0.0}}
        | settings
    )
    tokenizer = load_tokenizer(config.model)
    torch.manual_seed(0)
    module = build_model(config.model, labels)
    split = split_of(rows, labels)
    inputs = tokenizer(split.texts, padding=True, truncation=True, max_length=16, return_tensors="pt")
    targets = torch.from_numpy(split.targets)
    optimizer = torch.optim.AdamW(module.parameters(), lr=3e-3)
    for _ in range(steps):
        drawn = torch.randperm(len(rows))[:32]
        logits = module(input_ids=inputs["input_ids"][drawn], attention_mask=inputs["attention_mask"][drawn]).logits
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, targets[drawn]).backward()
        optimizer.step()
    dataset = TextDataset(split, split_of(rows[:3], labels), split_of(test, labels), labels)
    facts = {
        "name": "desk",
        "max_length": 16,
        "metrics": {"accuracy": 0.5, "f1_macro": 0.5},
        "examples": dataset.test.texts[:2],
        "data_hash": dataset.content_hash,
        "config": config.document(),
        "run": folder.name,
        "pretrained": "tiny",
    }
    artifact = write_artifact(
        folder, weights=module.state_dict(), model_config=module.config, tokenizer=tokenizer, labels=labels, facts=facts
    )
    return Trained(artifact, dataset)


def register(
    storage: Storage, trained: Trained, *, name: str, suite: str | None = None, frozen: FrozenRows | None = None
) -> RegisteredVersion:
    """As at the end of a run, under another name."""
    manifest = trained.artifact.manifest.model_copy(update={"name": name})
    tracker = RunTracker(storage)
    tracker.start(manifest.run, experiment=name, config=manifest.config)
    artifact = ModelArtifact(trained.artifact.path, manifest)
    rows = frozen or FrozenRows.of(trained.dataset, suite=suite)
    version = ModelRegistry(storage).register(artifact, run_id=tracker.run_id, frozen=rows)
    tracker.finish("FINISHED")
    return version
