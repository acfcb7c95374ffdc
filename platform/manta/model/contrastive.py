"""The supervised contrastive loss of a batch of embeddings (Khosla et al., 2020, https://arxiv.org/abs/2004.11362).

For each text, the other texts of the batch are candidates. The softmax of their cosine similarities is to fall on those that have
the text's label.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional

if TYPE_CHECKING:
    from manta.labels import Floats, Targets

TEMPERATURE = 0.1
"""Divisor of the cosine similarities, that of the paper."""


def contrastive_loss(vectors: torch.Tensor, alike: torch.Tensor) -> torch.Tensor:
    """Return the mean loss in nats of embeddings `(rows, width)`, a scalar. Rows that are like no other row do not count.

    `alike` is the result of `likeness` for the same rows.
    """
    vectors = functional.normalize(vectors, dim=1)
    itself = torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    similarities = (vectors @ vectors.T / TEMPERATURE).masked_fill(itself, torch.finfo(vectors.dtype).min)
    shares = alike.masked_fill(itself, 0.0)
    totals = shares.sum(dim=1)
    losses = -(shares * functional.log_softmax(similarities, dim=1)).sum(dim=1) / totals.clamp(min=1e-9)
    return losses.sum() / (totals > 0).sum().clamp(min=1)


def likeness(targets: Targets) -> Floats:
    """Return how alike the labels of each two rows are, `(rows, rows)`: 1 if equal, 0 if they share none.

    Of rows with several labels, it is the share of labels that both have among those that either has (Jaccard).
    """
    if targets.ndim == 1:
        return np.equal.outer(targets, targets).astype(np.float32)
    rows = targets.astype(np.float32)
    both = rows @ rows.T
    either = rows.sum(axis=1)[:, None] + rows.sum(axis=1)[None, :] - both
    return np.where(either > 0, both / np.maximum(either, 1.0), 1.0).astype(np.float32)
