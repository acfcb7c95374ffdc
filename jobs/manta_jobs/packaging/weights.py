"""A checkpoint's weights in the form in which an artifact has them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from manta.data.encode import seen_tokens
from manta.errors import RunError
from manta.model.adapt import adapt, merged
from manta.model.encoder import build_model
from manta.model.seen_rows import train_seen_rows, with_whole_embedding
from manta.storage.object_store import fetch
from manta_jobs.training.checkpoints import WEIGHTS_FILE, read_state

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from manta.config import ExperimentConfig
    from manta_jobs.training.batches import TokenizedData


def plain_weights(checkpoint: Path, config: ExperimentConfig, data: TokenizedData) -> dict[str, torch.Tensor]:
    """Return the checkpoint's weights as plain `transformers` has them: LoRA adapters merged, and all rows of the word embeddings.

    Raises:
        RunError: the checkpoint is gone or altered.
    """
    from safetensors.torch import load_file

    if read_state(checkpoint) is None:
        raise RunError(f"{checkpoint}: the kept epoch's checkpoint is gone or damaged; train again.")
    model = adapt(build_model(config.model, data.labels), config.model)
    train_seen_rows(model, seen_tokens(fetch(data.folder)))
    model.load_state_dict(load_file(checkpoint / WEIGHTS_FILE))
    return dict(merged(with_whole_embedding(model)).state_dict())
