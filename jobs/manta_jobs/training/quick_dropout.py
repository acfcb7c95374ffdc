"""Dropout that is quick on a CPU.

torch draws dropout's random numbers one after the other on one core (a Mersenne Twister, 53 bits each): a tenth of a small
encoder's training time. Here they come from NumPy's SFC64, 16 bits each, for every dropout there is, that inside of attention
as well, because what is replaced is the one operator behind all of them. GPUs draw theirs in parallel and keep torch's.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch

LEVELS = 1 << 16
LEVELS_PER_DRAW = 4  # 64 bits are drawn at a time


def bernoulli_(tensor: torch.Tensor, p: float = 0.5, *, generator: torch.Generator | None = None) -> torch.Tensor:
    """Fill a tensor of any shape with ones, each with probability `p` to within 1/131,072, and zeros.

    Its generator is seeded anew by each call from torch's, so `torch.manual_seed` decides what is drawn.
    """
    if tensor.numel() == 0:
        return tensor
    seed = int(torch.randint(1 << 62, (), generator=generator).item())
    count = tensor.numel()
    levels = np.random.SFC64(seed).random_raw(-(-count // LEVELS_PER_DRAW)).view(np.uint16)[:count]
    kept = (levels < round(p * LEVELS)).view(np.uint8)  # torch takes eight times as long to make numbers of booleans
    return tensor.copy_(torch.from_numpy(kept).view(tensor.shape))


def install() -> torch.library.Library:
    """Have torch use it on CPUs in this process for as long as the answer is kept."""
    library = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that there was one before
        library.impl("bernoulli_.float", bernoulli_, "CPU", allow_override=True)  # type: ignore[no-untyped-call]
    return library
