"""The trial of an encoder before a run: its real weights, on the CPU, with a few rows and one forward and backward pass."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from manta.errors import InputError
from manta.model.adapt import adapt, compute_only_cls
from manta.model.encoder import build_model, check_architecture
from manta.model.loss import ClassificationLoss, TrainedClassifier

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

    from manta.config import ModelConfig
    from manta.labels import LabelSpace
    from manta_jobs.preflight.tokens import TokenSample

NUM_ROWS = 4
MOST_TOKENS = 64
NUM_PADDED = 5
"""Padding tokens behind the longest row of the batch."""
MOST_MOVED, NOTABLY_MOVED = 0.05, 0.001
"""Shares of the largest logit by which padding may move a logit: beyond the first the encoder is refused, beyond the second the run
says so. Rounding alone moves it by less than 0.0001."""


def try_encoder(config: ModelConfig, labels: LabelSpace, sample: TokenSample) -> str:
    """Try the adapted encoder on some rows; return a warning, empty if there is nothing to say.

    Raises:
        InputError: the weights cannot be loaded, padding changes the logits, or a training step does not reach every weight.
    """
    import torch

    check_architecture(config, labels)
    torch.manual_seed(0)  # the same new head, and so the same figures, each time
    model: Any = adapt(build_model(config, labels), config)
    compute_only_cls(model)
    order = np.argsort(sample.lengths, kind="stable")
    rows = order[np.linspace(0, len(order) - 1, min(NUM_ROWS, len(order))).astype(np.int64)]
    longest = min(config.max_length, MOST_TOKENS - NUM_PADDED)
    try:
        moved = moved_by_padding(model, sample, rows, max_length=longest)
        inputs = {name: torch.from_numpy(array) for name, array in sample.padded(rows[-1:], max_length=longest).items()}
        loss = ClassificationLoss(labels, class_weights=None, smoothing=0.0, focal_gamma=0.0)
        TrainedClassifier(model.train(), loss)(labels=torch.from_numpy(sample.targets[rows[-1:]]), **inputs)["loss"].backward()
    except InputError as error:
        raise InputError(f"model.pretrained: {config.pretrained} {error}; give another.") from None
    except Exception as error:  # noqa: BLE001  # each architecture has errors of its own
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else 'no message'}"
        raise InputError(
            f"model.pretrained: {config.pretrained} fails in its first training step ({reason}); give another."
        ) from None
    unreached = [name for name, parameter in model.named_parameters() if parameter.requires_grad and parameter.grad is None]
    if unreached:
        raise InputError(
            f"model.pretrained: training never reaches {len(unreached)} of the tensors of {config.pretrained} (such as "
            f"{unreached[0]}); this architecture is not supported."
        )
    return _judged(config, moved)


def moved_by_padding(model: torch.nn.Module, sample: TokenSample, rows: npt.NDArray[np.int64], *, max_length: int) -> float:
    """Return how far a logit moves when its row is padded in a batch, as a share of the largest logit."""
    import torch

    model.eval()
    with torch.inference_mode():
        alone = [_logits(model, sample.padded(rows[[index]], max_length=max_length)) for index in range(len(rows))]
        batch = sample.padded(rows, max_length=max_length)
        filler = {"input_ids": sample.pad_id, "attention_mask": 0}
        wider = {name: np.pad(array, ((0, 0), (0, NUM_PADDED)), constant_values=filler[name]) for name, array in batch.items()}
        together = _logits(model, wider)
    apart = torch.cat(alone)
    _check_logits(apart)
    return float((together - apart).abs().max() / apart.abs().max())


def _check_logits(logits: torch.Tensor) -> None:
    """Refuse logits that are no numbers, or the same for each of several texts.

    Raises:
        InputError: the end of a sentence about the encoder.
    """
    if not logits.isfinite().all():
        raise InputError("gives logits that are no numbers (NaN or infinite); its weights are damaged")
    if len(logits) > 1 and (logits == logits[0]).all():
        raise InputError("gives the same logits whatever the text; it is a decoder, or its weights are damaged")


def _logits(model: Any, inputs: dict[str, npt.NDArray[np.int64]]) -> torch.Tensor:
    import torch

    logits: torch.Tensor = model(**{name: torch.from_numpy(array) for name, array in inputs.items()}).logits
    return logits


def _judged(config: ModelConfig, moved: float) -> str:
    words = f"padding a text in a batch moves the logits of {config.pretrained} by {moved:.1%} of the largest"
    if not moved <= MOST_MOVED:  # also if it is no number
        raise InputError(f"model.pretrained: {words}, so an answer would depend on the texts beside it; give another encoder.")
    return f"{words}: an answer depends a little on the texts beside it." if moved > NOTABLY_MOVED else ""
