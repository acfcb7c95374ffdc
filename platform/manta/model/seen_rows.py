"""Partly trained word embeddings: only the rows that occur in the training texts learn.

Half of a small encoder's parameters are word embeddings, and a training set uses only some of their rows. The other rows get no
gradient. AdamW would only decay them, and every step would zero, measure, send and store their gradients and moments. So they stay
as pretrained, outside the trained parameters. With a weight decay of 0, the result equals that of training the whole table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    from transformers import PreTrainedModel

    Tokens = npt.NDArray[np.int64]

MOST_SEEN = 0.8
"""The largest share of seen rows. Above it, all rows learn, because separating the others would gain nothing."""


class SeenRows(torch.nn.Module):
    """A word embedding in two tables: `weight` `(seen, width)`, which learns, and the other rows, which stay as they are.

    Training looks up only seen tokens. In evaluation, other texts may have any token, so both tables are read.
    """

    unseen: torch.Tensor
    row_of: torch.Tensor

    def __init__(self, embedding: torch.nn.Embedding, seen: Tokens) -> None:
        """Split the table by `seen`, the token ids of the training texts."""
        super().__init__()
        table = embedding.weight.detach()
        is_seen = torch.zeros(len(table), dtype=torch.bool)
        is_seen[torch.from_numpy(seen)] = True
        if embedding.padding_idx is not None:
            is_seen[embedding.padding_idx] = True
        tokens = torch.argsort(~is_seen, stable=True)  # the seen tokens first, each part in order
        self.num_seen = int(is_seen.sum())
        row_of = torch.argsort(tokens)
        self.padding_idx = None if embedding.padding_idx is None else int(row_of[embedding.padding_idx])
        self.weight = torch.nn.Parameter(table[tokens[: self.num_seen]])
        # Checkpoints hold neither: both are built again from the pretrained weights and the tokens of the training texts.
        self.register_buffer("unseen", table[tokens[self.num_seen :]], persistent=False)
        self.register_buffer("row_of", row_of, persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the embeddings of token ids `(batch, tokens)`, as `(batch, tokens, width)`.

        Raises:
            IndexError: in training, a token is not a seen one.
        """
        rows = self.row_of[input_ids]
        if self.training:
            return functional.embedding(rows, self.weight, self.padding_idx)
        is_seen = rows < self.num_seen
        known = functional.embedding(rows * is_seen, self.weight, self.padding_idx)
        others = functional.embedding((rows - self.num_seen).clamp(min=0), self.unseen)
        return torch.where(is_seen.unsqueeze(-1), known, others.to(known.dtype))  # DeepSpeed's fp16 leaves buffers in float32

    def whole(self) -> torch.nn.Embedding:
        """Return an ordinary embedding of all rows, with the learned ones."""
        table = torch.cat([self.weight.detach(), self.unseen])[self.row_of]
        tokens = torch.argsort(self.row_of)
        padding = None if self.padding_idx is None else int(tokens[self.padding_idx])
        return torch.nn.Embedding(len(table), table.shape[1], padding_idx=padding, _weight=table)


def train_seen_rows(model: PreTrainedModel, seen: Tokens | None) -> bool:
    """Keep the word embeddings of all but the seen tokens as pretrained. Return True if this was done.

    It is not done if nearly all rows are seen, if `seen` is None, or if the embeddings are frozen, tied to other weights or no
    plain table.
    """
    name = _word_embedding(model)
    if name is None or seen is None:
        return False
    embedding: Any = model.get_submodule(name)
    if len(seen) > MOST_SEEN * len(embedding.weight):
        return False
    model.set_submodule(name, SeenRows(embedding, seen))
    return True


def with_whole_embedding(model: PreTrainedModel) -> PreTrainedModel:
    """Return the model with the word embedding table that plain `transformers` expects."""
    for name, module in list(model.named_modules()):
        if isinstance(module, SeenRows):
            model.set_submodule(name, module.whole())
    return model


def _word_embedding(model: PreTrainedModel) -> str | None:
    """Return the name of the word embedding module if it is a separate table that learns, else None."""
    try:
        embedding: Any = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    if type(embedding) is not torch.nn.Embedding or not embedding.weight.requires_grad:
        return None
    owners = [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is embedding.weight]
    return owners[0].rpartition(".")[0] if len(owners) == 1 else None
