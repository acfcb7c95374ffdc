import numpy as np
import pytest

from manta_jobs.batches import TrainingBatches, evaluation_batches

LENGTHS = np.random.default_rng(0).integers(3, 60, size=203)


def plan(rank: int, world_size: int, *, batch_size: int = 16, seed: int = 0) -> TrainingBatches:
    return TrainingBatches(LENGTHS, batch_size, rank, world_size, seed)


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_every_row_is_in_one_batch_of_the_epoch(world_size: int) -> None:
    rows = [share.rows for rank in range(world_size) for share in plan(rank, world_size).epoch(0) if share.weight > 0]
    assert sorted(np.concatenate(rows)) == list(range(len(LENGTHS)))


@pytest.mark.parametrize("world_size", [2, 3, 4])
def test_global_batches_do_not_depend_on_the_workers(world_size: int) -> None:
    alone = [set(share.rows) for share in plan(0, 1).epoch(1)]
    shares = [list(plan(rank, world_size).epoch(1)) for rank in range(world_size)]
    together = [set().union(*(share.rows for share in step if share.weight > 0)) for step in zip(*shares, strict=True)]
    assert together == alone


@pytest.mark.parametrize("world_size", [1, 2, 3])
def test_weights_make_the_mean_over_workers_the_mean_over_rows(world_size: int) -> None:
    values = np.random.default_rng(1).normal(size=len(LENGTHS))
    alone = [values[share.rows].mean() for share in plan(0, 1).epoch(0)]
    shares = [list(plan(rank, world_size).epoch(0)) for rank in range(world_size)]
    means = [np.mean([values[share.rows].mean() * share.weight for share in step]) for step in zip(*shares, strict=True)]
    np.testing.assert_allclose(means, alone)


def test_a_worker_without_rows_in_the_last_batch_still_steps() -> None:
    lengths = np.full(9, 5)
    shares = [list(TrainingBatches(lengths, 8, rank, 2, 0).epoch(0)) for rank in range(2)]
    assert len(shares[0]) == len(shares[1]) == 2
    assert sorted(share.weight for share in shares[1]) == [0.0, 1.0]
    assert all(len(share.rows) for share in shares[1])


def test_rows_of_like_length_share_a_batch() -> None:
    lengths = np.random.default_rng(0).integers(3, 60, size=4096)
    batches = [share.rows for share in TrainingBatches(lengths, 32, 0, 1, 0).epoch(0)]
    spent = sum(lengths[rows].max() * len(rows) for rows in batches)
    assert spent < 1.1 * lengths.sum()


def test_the_order_goes_with_seed_and_epoch() -> None:
    def order(seed: int, epoch: int) -> list[int]:
        return np.concatenate([share.rows for share in plan(0, 1, seed=seed).epoch(epoch)]).tolist()

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
