"""Loading of a finished model: a fine-tuned one as plain `transformers` has it, or a linear one (`manta.model.pooled`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from manta.model.adapt import compute_only_cls
from manta.model.pooled import PooledClassifier, is_pooled, load_pooled
from manta.model.pretrained import quiet_transformers

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel


def load_finished(folder: Path) -> PreTrainedModel | PooledClassifier:
    """Load the safetensors of a finished model's folder for inference, in float32 on the CPU.

    Of a fine-tuned model, only [CLS] is computed in full.
    """
    from transformers import AutoModelForSequenceClassification

    if is_pooled(folder):
        return load_pooled(folder)
    with quiet_transformers():
        model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, use_safetensors=True, trust_remote_code=False
        ).eval()
    compute_only_cls(model)
    return model
