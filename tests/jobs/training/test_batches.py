import numpy as np
import pytest

from manta_jobs.training.batches import Share, TrainingBatches, evaluation_batches, num_micro_batches, shares

LENGTHS = np.random.default_rng(0).integers(3, 60, size=203)


BATCHES = TrainingBatches(LENGTHS, 16, seed=0)


def split(batch: np.ndarray, *, world_size: int, num_micro: int = 1) -> list[Share]:
    return [share for rank in range(world_size) for share in shares(batch, rank=rank, world_size=world_size, num_micro=num_micro)]


def test_every_row_is_in_one_batch_of_the_epoch() -> None:
    assert sorted(np.concatenate(BATCHES.epoch(0))) == list(range(len(LENGTHS)))
    assert len(BATCHES.epoch(0)) == BATCHES.num_steps


@pytest.mark.parametrize(("world_size", "num_micro"), [(1, 1), (2, 1), (3, 1), (1, 4), (2, 3), (4, 8)])
def test_workers_and_micro_batches_share_a_batch_without_changing_its_mean(world_size: int, num_micro: int) -> None:
    values = np.random.default_rng(1).normal(size=len(LENGTHS))
    for batch in BATCHES.epoch(1):
        parts = split(batch, world_size=world_size, num_micro=num_micro)
        assert len(parts) == world_size * num_micro
        assert sorted(np.concatenate([part.rows for part in parts if part.weight > 0])) == sorted(batch)
        mean = np.mean([values[part.rows].mean() * part.weight for part in parts])
        assert mean == pytest.approx(values[batch].mean())


def test_a_worker_without_rows_in_the_last_batch_still_steps() -> None:
    parts = split(np.array([7]), world_size=2)
    assert [share.weight for share in parts] == [2.0, 0.0]
    assert all(len(share.rows) for share in parts)


@pytest.mark.parametrize(
    ("batch_size", "world_size", "micro", "passes"), [(32, 1, 32, 1), (32, 2, 8, 2), (33, 2, 8, 3), (32, 3, 64, 1)]
)
def test_passes_per_step_keep_every_one_within_the_micro_batch(batch_size: int, world_size: int, micro: int, passes: int) -> None:
    assert num_micro_batches(batch_size, world_size=world_size, micro_batch_size=micro) == passes
    parts = split(np.arange(batch_size), world_size=world_size, num_micro=passes)
    assert max(len(part.rows) for part in parts) <= micro


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=4096)
    batches = TrainingBatches(lengths, 32, seed=0).epoch(0)
    spent = sum(lengths[rows].max() * len(rows) for rows in batches)
    assert spent < 1.1 * lengths.sum()


def test_the_order_goes_with_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate(TrainingBatches(LENGTHS, 16, seed=seed).epoch(epoch)).tolist()

    assert order(0, 0) == order(0, 0)
    assert order(0, 0) != order(0, 1)
    assert order(0, 0) != order(1, 0)


@pytest.mark.parametrize("world_size", [1, 2, 3, 5])
@pytest.mark.parametrize("rows", [1, 64, 65, 203])
def test_evaluation_counts_every_row_once_and_keeps_workers_in_step(world_size: int, rows: int) -> None:
    plans = [evaluation_batches(LENGTHS[:rows], batch_size=16, rank=rank, world_size=world_size) for rank in range(world_size)]
    counted = np.concatenate([batch for mine in plans for batch, counts in mine if counts])
    assert sorted(counted) == list(range(rows))
    assert len({len(mine) for mine in plans}) == 1


def test_evaluation_batches_are_the_same_for_any_number_of_workers() -> None:
    def batches(world_size: int) -> set[tuple[int, ...]]:
        plans = [evaluation_batches(LENGTHS, batch_size=16, rank=rank, world_size=world_size) for rank in range(world_size)]
        return {tuple(batch) for mine in plans for batch, counts in mine if counts}

    assert batches(1) == batches(2) == batches(3)
