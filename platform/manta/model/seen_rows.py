"""Word embeddings of which only those rows learn that the training texts use.

Half of a small encoder's parameters are word embeddings, and a training set uses some of their rows. The others get no gradient:
AdamW would only decay them, and every step would zero, measure, send and store their gradients and moments. So they stay as
pretrained, outside of what learns. With a weight decay of 0 the result is that of training the whole table.
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
"""Where more of the rows are seen, all of them learn: nothing would be gained."""


class SeenRows(torch.nn.Module):
    """A word embedding in two tables: `weight` `(seen, width)`, which learns, and the other rows, which stay as they are.

    Training looks up seen tokens only. In evaluation, other texts may have any token, so both tables are read.
    """

    unseen: torch.Tensor
    row_of: torch.Tensor

    def __init__(self, embedding: torch.nn.Embedding, seen: Tokens) -> None:
        """`seen` has the token ids of the training texts."""
        super().__init__()
        table = embedding.weight.detach()
        is_seen = torch.zeros(len(table), dtype=torch.bool)
        is_seen[torch.from_numpy(seen)] = True
        if embedding.padding_idx is not None:
            is_seen[embedding.padding_idx] = True
        tokens = torch.argsort(~is_seen, stable=True)  # the seen ones first, each part in order
        self.num_seen = int(is_seen.sum())
        row_of = torch.argsort(tokens)
        self.padding_idx = None if embedding.padding_idx is None else int(row_of[embedding.padding_idx])
        self.weight = torch.nn.Parameter(table[tokens[: self.num_seen]])
        # Neither is in checkpoints: they are made again from the pretrained weights and the tokens of the training texts.
        self.register_buffer("unseen", table[tokens[self.num_seen :]], persistent=False)
        self.register_buffer("row_of", row_of, persistent=False)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """The rows of token ids `(batch, tokens)`, as `(batch, tokens, width)`.

        Raises:
            IndexError: in training, a token is not one of the seen ones.
        """
        rows = self.row_of[input_ids]
        if self.training:
            return functional.embedding(rows, self.weight, self.padding_idx)
        is_seen = rows < self.num_seen
        known = functional.embedding(rows * is_seen, self.weight, self.padding_idx)
        others = functional.embedding((rows - self.num_seen).clamp(min=0), self.unseen)
        return torch.where(is_seen.unsqueeze(-1), known, others.to(known.dtype))  # DeepSpeed's fp16 leaves buffers in float32

    def whole(self) -> torch.nn.Embedding:
        """An ordinary embedding of all rows, those that learned among them."""
        table = torch.cat([self.weight.detach(), self.unseen])[self.row_of]
        tokens = torch.argsort(self.row_of)
        padding = None if self.padding_idx is None else int(tokens[self.padding_idx])
        return torch.nn.Embedding(len(table), table.shape[1], padding_idx=padding, _weight=table)


def train_seen_rows(model: PreTrainedModel, seen: Tokens | None) -> bool:
    """Leave the word embeddings of all but the seen tokens as pretrained; whether that was done.

    It is not where nearly all rows are seen, where nobody knows which ones, and where the embeddings are frozen altogether, tied
    to other weights or no plain table.
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
    """The model with the table of word embeddings that plain `transformers` knows."""
    for name, module in list(model.named_modules()):
        if isinstance(module, SeenRows):
            model.set_submodule(name, module.whole())
    return model


def _word_embedding(model: PreTrainedModel) -> str | None:
    """The name of the module that looks tokens up, if it is a table of its own that learns."""
    try:
        embedding: Any = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    if type(embedding) is not torch.nn.Embedding or not embedding.weight.requires_grad:
        return None
    owners = [name for name, parameter in model.named_parameters(remove_duplicate=False) if parameter is embedding.weight]
    return owners[0].rpartition(".")[0] if len(owners) == 1 else None
