"""Evaluation over all workers, every row counted exactly once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.distributed as dist

from manta.labels import Floats
from manta_jobs.training.batches import Rows, evaluation_batches

if TYPE_CHECKING:
    from deepspeed import DeepSpeedEngine

    from manta.data.encode import EncodedSplit

EVALUATION_BATCH_SIZE = 64


def all_logits(engine: DeepSpeedEngine, split: EncodedSplit, *, pad_id: int) -> Floats:
    """Logits `(rows, outputs)` of the whole split in its own order, computed by all workers and gathered on each."""
    rank, world_size = dist.get_rank(), dist.get_world_size()
    batches = evaluation_batches(split.lengths, batch_size=EVALUATION_BATCH_SIZE, rank=rank, world_size=world_size)
    mine: list[tuple[Rows, Floats]] = []
    engine.eval()
    with torch.inference_mode():
        for rows, counts in batches:
            padded = split.padded(rows, pad_id=pad_id)
            logits = engine(**{name: torch.from_numpy(array).to(engine.device) for name, array in padded.items()})["logits"]
            if counts:
                mine.append((rows, logits.float().cpu().numpy()))
    engine.train()
    gathered: list[list[tuple[Rows, Floats]]] = [[] for _ in range(world_size)]
    dist.all_gather_object(gathered, mine)
    return in_order([part for parts in gathered for part in parts], num_rows=len(split))


def in_order(parts: list[tuple[Rows, Floats]], *, num_rows: int) -> Floats:
    """Put gathered logits back at their rows.

    Raises:
        RuntimeError: some row is missing or there twice, so that metrics would be wrong.
    """
    rows = np.concatenate([rows for rows, _ in parts])
    if not np.array_equal(np.sort(rows), np.arange(num_rows)):
        raise RuntimeError(f"the workers evaluated {len(np.unique(rows))} different rows of {num_rows}, {len(rows)} in all")
    logits = np.concatenate([logits for _, logits in parts])
    ordered = np.empty_like(logits)
    ordered[rows] = logits
    return ordered
