"""The seeds of a training and of each of its steps, and deterministic algorithms."""

from __future__ import annotations

import os
import random

import numpy as np
import torch


def compute_deterministically(wanted: bool) -> None:
    """Choose whether this process computes with deterministic algorithms only, on any device."""
    if wanted:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # cuBLAS reads it when it is first used
    torch.use_deterministic_algorithms(wanted)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]  # slow, and of no use for sums


def seed_everything(seed: int) -> None:
    """Seed every generator that this process or its libraries may use."""
    random.seed(seed)
    np.random.seed(seed)  # for libraries that still use it
    torch.manual_seed(seed)


def seed_step(seed: int, *, step: int, rank: int) -> None:
    """Seed the step's dropout from its number and the worker's rank, so that a resumed run drops the same units."""
    torch.manual_seed(int(np.random.SeedSequence([seed, 1, step, rank]).generate_state(1)[0]))
