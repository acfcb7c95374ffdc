"""The training loss from logits and targets, which the forward pass returns if it gets labels.

Binary and multilabel tasks use the binary cross-entropy of sigmoids, multiclass tasks the cross-entropy of the softmax. Each row's
loss may be smoothed, allow for wrong labels, be weighted by its class and be focused on rows that are still wrong. The mean is over
rows, regardless of their weights, so a batch can be divided over workers and micro-batches without changing its gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional

from manta.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    from transformers import PreTrainedModel

    from manta.config import TrainConfig
    from manta.labels import LabelSpace


class ClassificationLoss(torch.nn.Module):
    """Mean loss of a batch.

    Label smoothing: Szegedy et al., 2016, https://arxiv.org/abs/1512.00567. Focal loss: Lin et al., 2017,
    https://arxiv.org/abs/1708.02002. Label noise: the forward correction of Patrini et al., 2017, https://arxiv.org/abs/1609.03683,
    with noise that takes every other label alike.
    """

    weights: torch.Tensor | None

    def __init__(
        self,
        labels: LabelSpace,
        *,
        class_weights: npt.NDArray[np.float64] | None,
        smoothing: float,
        focal_gamma: float,
        label_noise: float = 0.0,
    ) -> None:
        """Take one factor per label as `class_weights`, see `resolve_class_weights`."""
        super().__init__()
        self._task = labels.task
        self._smoothing = smoothing
        self._gamma = focal_gamma
        self._noise = label_noise
        weights = None if class_weights is None else torch.tensor(class_weights, dtype=torch.float32)
        self.register_buffer("weights", weights, persistent=False)

    @classmethod
    def of(cls, config: TrainConfig, labels: LabelSpace, *, class_weights: npt.NDArray[np.float64] | None) -> ClassificationLoss:
        """Return the loss that a config asks for."""
        return cls(
            labels,
            class_weights=class_weights,
            smoothing=config.label_smoothing,
            focal_gamma=config.focal_gamma,
            label_noise=config.noise_share,
        )

    def forward(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """Return the mean over rows, a scalar in nats.

        Args:
            logits: `(batch, 1)` for binary, else `(batch, labels)`.
            targets: class indices `(batch,)`; for multilabel, 0 or 1 `(batch, labels)`.
        """
        logits = logits.float()
        rows = self._softmax_rows(logits, targets) if self._task == "multiclass" else self._sigmoid_rows(logits, targets)
        return rows.mean()

    def _softmax_rows(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        losses = functional.cross_entropy(logits, targets, reduction="none", label_smoothing=self._smoothing)
        losses = _as_given(losses, self._noise, num_labels=logits.shape[1])
        if self._gamma:
            right = functional.softmax(logits, dim=-1).gather(1, targets.unsqueeze(1)).squeeze(1)
            losses = losses * _focus(1.0 - right, self._gamma)
        return losses if self.weights is None else losses * self.weights[targets]

    def _sigmoid_rows(self, logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        truth = (targets.unsqueeze(1) if self._task == "binary" else targets).to(logits.dtype)
        smoothed = truth * (1.0 - self._smoothing) + self._smoothing / 2
        losses = functional.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")
        losses = _as_given(losses, self._noise, num_labels=2)
        if self._gamma:
            chance = torch.sigmoid(logits)
            losses = losses * _focus(1.0 - torch.where(truth > 0.5, chance, 1.0 - chance), self._gamma)
        if self.weights is not None:
            # Binary: each class has a weight. Multilabel: a label's weight applies to its positives.
            weights = self.weights[targets].unsqueeze(1) if self._task == "binary" else 1.0 + truth * (self.weights - 1.0)
            losses = losses * weights
        return losses.mean(dim=1)


def _as_given(losses: torch.Tensor, noise: float, *, num_labels: int) -> torch.Tensor:
    """Return the cross-entropies of labels as given, of which the share `noise` is wrong, from those of right ones, `-log p`.

    A label is given with probability `(1 - noise) p + noise (1 - p) / (num_labels - 1)`. So the loss is at most the logarithm of
    `(num_labels - 1) / noise`, and a row whose label the model takes to be wrong has a small gradient.
    """
    if not noise:
        return losses
    by_error = noise / (num_labels - 1)
    return -torch.log(by_error + (1.0 - noise - by_error) * torch.exp(-losses))


def _focus(wrong: torch.Tensor, gamma: float) -> torch.Tensor:
    """Return `wrong ** gamma`, with a gradient of 0 where `wrong` is 0: there the slope is infinite if `gamma` is below 1."""
    return wrong.clamp(min=torch.finfo(wrong.dtype).tiny) ** gamma


class TrainedClassifier(torch.nn.Module):
    """The encoder and its head together with the loss. The forward pass takes labels and returns the loss."""

    def __init__(self, model: PreTrainedModel, loss: ClassificationLoss) -> None:
        super().__init__()
        self.model = model
        self.loss = loss

    def forward(self, *, labels: torch.Tensor | None = None, **inputs: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `logits` `(batch, outputs)` and, if `labels` are given, the mean `loss`.

        `inputs` are the tokenizer's outputs: `input_ids`, `attention_mask` and, for pairs, `token_type_ids`, all `(batch, tokens)`.
        """
        logits: torch.Tensor = self.model(**inputs).logits
        return {"logits": logits} if labels is None else {"logits": logits, "loss": self.loss(logits, labels)}


def resolve_class_weights(config: TrainConfig, labels: LabelSpace, targets: npt.NDArray[Any]) -> npt.NDArray[np.float64] | None:
    """Return one factor per label, in their order, scaled so that a training row weighs 1 on average; None if all weigh the same.

    `balanced` weighs a class by rows / (labels × its rows). For multilabel, it weighs the positives of a label by the ratio of its
    negatives to its positives.

    Raises:
        InputError: weights were given by name, and a name is unknown or missing.
    """
    given = config.class_weights
    if given is None:
        return None
    multilabel = labels.task == "multilabel"
    counts = targets.sum(axis=0) if multilabel else np.bincount(targets, minlength=len(labels.names))
    if given == "balanced":
        if multilabel:
            return np.asarray((len(targets) - counts) / np.maximum(counts, 1), dtype=np.float64)
        return np.asarray(len(targets) / (len(labels.names) * np.maximum(counts, 1)), dtype=np.float64)
    unknown = sorted(set(given) - set(labels.names))
    missing = [name for name in labels.names if name not in given]
    if unknown or missing:
        fault = f"{unknown[0]!r} is no label of the training rows" if unknown else f"the label {missing[0]!r} has no weight"
        raise InputError(f"train.class_weights: {fault}; give one for each of {', '.join(labels.names)}.")
    weights = np.array([given[name] for name in labels.names])
    return weights if multilabel else weights * (len(targets) / (weights * counts).sum())
