"""Which rows each worker sees in each step: length-bucketed, seeded, and the same global batches for any number of workers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.int64]

BATCHES_PER_BUCKET = 50
MIN_BUCKETS = 4


@dataclass(frozen=True)
class Share:
    """One worker's part of a global batch."""

    rows: Rows
    weight: float
    """What its mean loss is multiplied by, so that the mean over workers is the mean over the rows of the batch."""


@dataclass(frozen=True)
class TrainingBatches:
    """The training order. Rows of like length share a batch, so that little is spent on padding."""

    lengths: npt.NDArray[np.int64]
    batch_size: int
    rank: int
    world_size: int
    seed: int

    @property
    def num_steps(self) -> int:
        """Optimizer steps of one epoch."""
        return -(-len(self.lengths) // self.batch_size)

    def epoch(self, epoch: int) -> Iterator[Share]:
        """Shares of this worker in one epoch, in order. Every row is in exactly one global batch.

        Rows are shuffled, sorted by length within buckets of many batches, and the batches shuffled again: their
        make-up changes from epoch to epoch. It depends on the seed and the epoch alone, not on the workers.
        """
        generator = np.random.default_rng([self.seed, epoch])
        order = generator.permutation(len(self.lengths))
        per_bucket = max(1, min(BATCHES_PER_BUCKET, self.num_steps // MIN_BUCKETS))
        size = per_bucket * self.batch_size
        buckets = [order[start : start + size] for start in range(0, len(order), size)]
        batches = [
            ordered[start : start + self.batch_size]
            for ordered in (bucket[np.argsort(self.lengths[bucket], kind="stable")] for bucket in buckets)
            for start in range(0, len(ordered), self.batch_size)
        ]
        for index in generator.permutation(len(batches)):
            yield self._share(batches[index])

    def _share(self, batch: Rows) -> Share:
        rows = batch[self.rank :: self.world_size]
        if len(rows) == 0:  # a last batch smaller than the world: step along with the others, count for nothing
            return Share(batch[:1], 0.0)
        return Share(rows, len(rows) * self.world_size / len(batch))


def evaluation_batches(lengths: npt.NDArray[np.int64], *, batch_size: int, rank: int, world_size: int) -> list[tuple[Rows, bool]]:
    """Batches of this worker in an evaluation, each with whether it counts.

    The batches are the same for any number of workers (so are their logits); they are dealt out in turn. All workers get
    equally many, as ZeRO 3 needs every one of them in every forward pass; the surplus ones do not count.
    """
    order = np.argsort(lengths, kind="stable")
    batches = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    rounds = -(-len(batches) // world_size)
    mine = [(batches[turn * world_size + rank : turn * world_size + rank + 1] or batches[:1]) for turn in range(rounds)]
    return [(batch[0], turn * world_size + rank < len(batches)) for turn, batch in enumerate(mine)]
