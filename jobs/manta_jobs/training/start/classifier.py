"""`build_classifier`: the model that a training begins with, together with its loss."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from manta.data.encode import seen_tokens
from manta.model.adapt import adapt, compute_only_cls
from manta.model.encoder import build_model, dropout_rates
from manta.model.loss import ClassificationLoss, TrainedClassifier, resolve_class_weights
from manta.model.seen_rows import train_seen_rows
from manta_jobs.training.checkpoints import WEIGHTS_FILE
from manta_jobs.training.start.seeds import seed_everything

if TYPE_CHECKING:
    from manta.config import TrainConfig
    from manta.labels import Targets
    from manta_jobs.training.start.worker_setup import WorkerSetup


START_SEED = 0
"""Seed of a new head and of new adapters: the same on every worker, and for every `train.seed`, since the weights of runs that
start apart have no mean that answers well."""


def build_classifier(
    setup: WorkerSetup, config: TrainConfig, targets: Targets, *, checkpoint: Path | None
) -> tuple[TrainedClassifier, float]:
    """Return the pretrained model, or the one of a checkpoint, with its loss; and its largest dropout as built.

    The dropout may differ from the config. `targets` are those of the training rows, for `train.class_weights`.
    """
    from safetensors.torch import load_file

    seed_everything(START_SEED)
    pretrained = build_model(setup.config.model, setup.labels)
    dropout = max(dropout_rates(pretrained), default=0.0)
    model = adapt(pretrained, setup.config.model)
    train_seen_rows(model, seen_tokens(Path(setup.data_folder)))
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if checkpoint is not None:
        model.load_state_dict(load_file(checkpoint / WEIGHTS_FILE))
    compute_only_cls(model)
    weights = resolve_class_weights(config, setup.labels, targets)
    return TrainedClassifier(model, ClassificationLoss.of(config, setup.labels, class_weights=weights)), dropout
