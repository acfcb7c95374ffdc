"""The training rows of a worker and their batches: of similar length, seeded, and the same for any number of workers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from manta.data.encode import EncodedSplit
from manta_jobs.training.engine.gpu_speedups import made_ahead

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator
    from pathlib import Path

    from manta.config import TrainConfig
    from manta.data.split import Indices
    from manta.labels import LabelSpace

Rows = npt.NDArray[np.int64]

BATCHES_PER_BUCKET = 50
MIN_BUCKETS = 4


@dataclass(frozen=True)
class Share:
    """One worker's rows of one forward and backward pass."""

    rows: Rows
    weight: float
    """Factor for the mean loss of these rows. With it, the mean over workers and micro-batches is the mean over the global
    batch."""


@dataclass(frozen=True)
class Pass:
    """The rows of one forward and backward pass, in the machine's memory."""

    share: Share
    inputs: dict[str, torch.Tensor]
    """Token ids, attention mask and, for pairs, token types, each `(rows, tokens)`."""
    targets: torch.Tensor


@dataclass(frozen=True)
class TrainingBatches:
    """The training order. Rows of similar length share a batch, so that little time is spent on padding."""

    lengths: npt.NDArray[np.integer[Any]]
    batch_size: int
    seed: int

    @property
    def num_steps(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, epoch: int) -> list[Rows]:
        """Return the global batches of one epoch, in order. Every row is in exactly one of them.

        Rows are shuffled and then sorted by length within buckets of many batches. Then the batches are shuffled. So batches differ
        from epoch to epoch. They depend on the seed and the epoch alone, so training can resume at any batch with any number of
        workers.
        """
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        per_bucket = max(1, min(BATCHES_PER_BUCKET, self.num_steps // MIN_BUCKETS))
        size = per_bucket * self.batch_size
        for start in range(0, len(order), size):
            bucket = order[start : start + size]
            bucket[:] = bucket[np.argsort(self.lengths[bucket], kind="stable")]  # in place: there may be millions of rows
        return [order[index * self.batch_size :][: self.batch_size] for index in generator.permutation(self.num_steps)]


def shares(batch: Rows, *, rank: int, world_size: int, num_micro: int) -> Iterator[Share]:
    """Yield one worker's part of a global batch, in `num_micro` passes.

    Rows of similar length go to different workers, so that none waits long.
    """
    parts = world_size * num_micro
    for part in range(rank, parts, world_size):
        rows = batch[part::parts]
        if len(rows) == 0:  # a last batch with fewer rows than passes: this pass only keeps the workers in step
            yield Share(batch[:1], 0.0)
        else:
            yield Share(rows, len(rows) * parts / len(batch))


def num_micro_batches(batch_size: int, *, world_size: int, micro_batch_size: int) -> int:
    """Return the passes per optimizer step, so that no worker computes more than `micro_batch_size` rows at a time."""
    return -(-batch_size // (world_size * micro_batch_size))


def evaluation_batches(
    lengths: npt.NDArray[np.integer[Any]], *, batch_size: int, rank: int, world_size: int
) -> list[tuple[Rows, bool]]:
    """Return this worker's batches in an evaluation, each with a flag that says whether it counts.

    The batches, and therefore their logits, are the same for any number of workers. Workers take them in turn. All workers get the
    same number of batches, because ZeRO 3 needs every worker in every forward pass. The surplus batches do not count.
    """
    order = np.argsort(lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rounds = -(-len(batches) // world_size)
    mine = [(batches[turn * world_size + rank : turn * world_size + rank + 1] or batches[:1]) for turn in range(rounds)]
    return [(batch[0], turn * world_size + rank < len(batches)) for turn, batch in enumerate(mine)]


class WorkerRows:
    """The rows that a worker trains on, the rows that it evaluates, and the order of its batches."""

    def __init__(
        self, folder: Path, config: TrainConfig, *, folds: Rows | None, fold: int | None, pad_id: int, device: torch.device
    ) -> None:
        """Open the tokenized splits in `folder`. A `fold` is held out for evaluation, and the other folds are trained on."""
        self.train, self.validation = _splits(folder, folds=folds, fold=fold)
        self.batches = TrainingBatches(self.train.lengths, config.batch_size, config.seed)
        self._pad_id, self._device = pad_id, device
        self._is_on_gpu = device.type == "cuda"

    def steps(self, batches: list[Rows], *, epoch: int, rank: int, world_size: int, num_micro: int) -> Generator[list[Pass]]:
        """Yield the passes of this worker in each of some global batches, in order. For a GPU, a thread reads them ahead.

        Of a text in windows, each epoch reads the next one.
        """
        parts = (
            [self._read(share, epoch=epoch) for share in shares(batch, rank=rank, world_size=world_size, num_micro=num_micro)]
            for batch in batches
        )
        return made_ahead(parts) if self._is_on_gpu else parts

    def on_device(self, part: Pass) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return the inputs and targets of a pass on the device. A GPU copies them while the host goes on."""
        inputs = {name: tensor.to(self._device, non_blocking=True) for name, tensor in part.inputs.items()}
        return inputs, part.targets.to(self._device, non_blocking=True)

    def load_longest(self) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Return inputs and target of the row with the most tokens, on the device."""
        return self.on_device(self._read(Share(np.argmax(self.train.lengths, keepdims=True), 1.0)))

    def _read(self, share: Share, *, epoch: int = 0) -> Pass:
        """Read rows. For a GPU, leave out a mask without padding, see `gpu_speedups`, and pin the memory for its copies."""
        windows = (share.rows + epoch) % self.train.num_windows[share.rows]
        padded = self.train.padded(share.rows, pad_id=self._pad_id, windows=windows)
        if self._is_on_gpu and padded["attention_mask"].all():
            del padded["attention_mask"]
        inputs = {name: torch.from_numpy(array) for name, array in padded.items()}
        targets = torch.from_numpy(self.train.targets[share.rows])
        if self._is_on_gpu:
            inputs, targets = {name: tensor.pin_memory() for name, tensor in inputs.items()}, targets.pin_memory()
        return Pass(share, inputs, targets)


def _splits(folder: Path, *, folds: Rows | None, fold: int | None) -> tuple[EncodedSplit, EncodedSplit]:
    """Return the rows to train on and the rows to evaluate."""
    path = folder / "train.arrow"
    if folds is None:
        return EncodedSplit(path), EncodedSplit(folder / "validation.arrow")
    if fold is None:
        whole = EncodedSplit(path)
        return whole, whole
    return EncodedSplit(path, np.flatnonzero(folds != fold)), EncodedSplit(path, np.flatnonzero(folds == fold))


@dataclass(frozen=True)
class TokenizedData:
    """The tokenized data of a training, small enough to send to every worker."""

    folder: Path
    """Folder of `train.arrow`, the token ids that occur in it, and `validation.arrow` if there is such a split; see
    `manta.data.encode`."""
    labels: LabelSpace
    pad_id: int
    folds: Indices | None = None
    """The fold of each training row if there is no validation split."""
