"""Loading of a finished model: a fine-tuned one as plain `transformers` has it, or a linear one (`manta.model.pooled`).

`WithFeatures` also returns the features, from which `manta.inference.scope` tells how far a text is from the training rows.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from manta.model.adapt import compute_only_cls
from manta.model.encoder import head_parameter_names
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


class WithFeatures(torch.nn.Module):
    """A finished model whose output has the features behind its logits: the vector of each text that the linear head reads."""

    def __init__(self, model: PreTrainedModel | PooledClassifier) -> None:
        super().__init__()
        self.model: Any = model
        self._features: torch.Tensor | None = None
        head_of(model).register_forward_pre_hook(self._keep)

    def forward(self, **tokens: torch.Tensor) -> torch.Tensor:
        """Return logits and features side by side, `(batch, labels + hidden)` in float32."""
        logits = self.model(**tokens).logits.float()
        features, self._features = self._features, None
        if features is None:
            raise ValueError("the head was not called")
        return torch.cat([logits, features.float()], dim=1)

    def _keep(self, _head: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        self._features = inputs[0]


def head_of(model: PreTrainedModel | PooledClassifier) -> torch.nn.Module:
    """Return the linear layer that gives the logits."""
    if isinstance(model, PooledClassifier):
        return model.head
    head: torch.nn.Module = model.get_submodule(head_parameter_names(model.config)[0].rpartition(".")[0])
    return head
