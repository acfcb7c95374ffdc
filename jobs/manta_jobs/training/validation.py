"""Validation over all workers, with every row counted exactly once; and cross-validation for few rows.

A tenth of few rows is too small to measure anything, and the model would miss those rows. So three folds are trained first, one
after another in the same workers, each without a third of the rows. The held-out logits of the folds replace a validation split,
and the model itself is trained on all rows. A fold's logits are on disk before the next fold starts, so an interrupted run does not
train it again.
"""

from __future__ import annotations

import math
import os
import time
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.distributed as dist

from manta.data.encode import AllWindows
from manta.errors import RunError
from manta.storage.object_store import fetch, store
from manta.windows import pooled
from manta_jobs.training.batches import Rows, evaluation_batches
from manta_jobs.training.engine.memory import free_memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from deepspeed import DeepSpeedEngine

    from manta.data.encode import EncodedSplit
    from manta.labels import Floats

EVALUATION_BATCH_SIZE = 64


def all_logits(engine: DeepSpeedEngine, split: EncodedSplit, *, pad_id: int) -> Floats:
    """Return logits `(rows, outputs)` of the whole split in its own order, computed by all workers and gathered on each.

    Those of a text in windows are the mean of the windows' logits.
    """
    rank, world_size, windows = dist.get_rank(), dist.get_world_size(), AllWindows(split)
    batches = evaluation_batches(windows.lengths, batch_size=EVALUATION_BATCH_SIZE, rank=rank, world_size=world_size)
    computed: list[tuple[Rows, torch.Tensor]] = []
    engine.eval()
    with torch.inference_mode():
        for rows, counts in batches:
            padded = windows.padded(rows, pad_id=pad_id)
            logits = engine(**{name: torch.from_numpy(array).to(engine.device) for name, array in padded.items()})["logits"]
            if counts:
                computed.append((rows, logits.float()))
    engine.train()
    mine = [(rows, logits.cpu().numpy()) for rows, logits in computed]  # once all are computed: a GPU is never waited for before
    return pooled(gathered_in_order(mine, num_rows=len(windows.rows)), windows.rows)


def gathered_in_order(mine: list[tuple[Rows, Floats]], *, num_rows: int) -> Floats:
    """Gather what each worker has computed for its rows, `(rows, values)`, and return it in the order of the rows, on each worker.

    Raises:
        RuntimeError: a row is missing or occurs twice, so metrics would be wrong.
    """
    gathered: list[list[tuple[Rows, Floats]]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(gathered, mine)
    parts = [part for worker in gathered for part in worker]
    rows = np.concatenate([rows for rows, _ in parts])
    if not np.array_equal(np.sort(rows), np.arange(num_rows)):
        raise RuntimeError(f"the workers evaluated {len(np.unique(rows))} different rows of {num_rows}, {len(rows)} in all")
    values = np.concatenate([values for _, values in parts])
    ordered = np.empty_like(values)
    ordered[rows] = values
    return ordered


HELD_OUT_FILE = "held-out.npy"
"""File in the folder of a run's checkpoints: logits `(epochs, rows, outputs)` of all training rows."""


def cross_validate(
    folder: Path,
    folds: Rows,
    *,
    ends_at: float,
    train_fold: Callable[[int, float], Floats],
) -> Floats:
    """Return logits `(epochs, rows, outputs)` of every training row after each epoch of the fold that holds it out.

    `train_fold` takes a fold's number and the time by which it must end, and returns `(epochs, its rows, outputs)`. The folds and
    the training that follows share the remaining time evenly. All workers must call it together.
    """
    num_folds = int(folds.max()) + 1
    parts: list[Floats] = []
    for fold in range(num_folds):
        path = folder / f"fold-{fold + 1}.npy"
        logits = agreed_logits(path)
        if logits is None:
            now = time.monotonic()
            logits = train_fold(fold, now + (ends_at - now) / (num_folds - fold + 1))
            free_memory()
            if dist.get_rank() == 0:
                write_logits(path, logits)
        parts.append(logits)
    held_out = joined(parts, folds)
    if dist.get_rank() == 0:
        write_logits(folder / HELD_OUT_FILE, held_out)
    return held_out


def joined(parts: list[Floats], folds: Rows) -> Floats:
    """Return the logits of all rows in their own order. Leave out epochs that not every fold had time for."""
    num_epochs = min(len(part) for part in parts)
    logits = np.empty((num_epochs, len(folds), parts[0].shape[2]), dtype=parts[0].dtype)
    for fold, part in enumerate(parts):
        logits[:, folds == fold] = part[:num_epochs]
    return logits


def steps_of_parts(folds: Rows, *, batch_size: int, num_epochs: int) -> list[int]:
    """Return the optimizer steps of each fold, and last those of the training on all rows."""
    rows = [*(len(folds) - np.bincount(folds)).tolist(), len(folds)]
    return [math.ceil(num_rows / batch_size) * num_epochs for num_rows in rows]


def held_out_logits(checkpoints: Path, *, num_epochs: int) -> Floats:
    """Return logits `(rows, outputs)` of all training rows after `num_epochs` epochs of the folds that hold them out.

    Raises:
        RunError: the file with the logits is missing or damaged.
    """
    logits = read_logits(checkpoints / HELD_OUT_FILE)
    if logits is None:
        raise RunError(f"{checkpoints / HELD_OUT_FILE}: the cross-validation's logits are gone or damaged; train again.")
    held_out: Floats = logits[min(num_epochs, len(logits)) - 1]
    return held_out


def agreed_logits(path: Path) -> Floats | None:
    """Return a fold's logits if worker 0 finds them on disk, else None. All workers must call it together."""
    found: list[Any] = [read_logits(path) if dist.get_rank() == 0 else None]
    dist.broadcast_object_list(found, src=0)
    logits: Floats | None = found[0]
    return logits


def read_logits(path: Path) -> Floats | None:
    """Return the logits that `write_logits` wrote, fetched from an object store if needed; None if there are none."""
    try:
        logits: Floats = np.load(fetch(path), allow_pickle=False)
    except (OSError, ValueError):
        return None
    return logits


def write_logits(path: Path, logits: Floats) -> None:
    """Write logits to a file, completely or not at all, and to the object store if the folder mirrors one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.save(file, logits)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)
    store(path)
