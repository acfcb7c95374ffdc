import numpy as np
import pytest

from manta.data.split import stratified_split

TARGETS = np.random.default_rng(0).permutation(np.repeat([0, 1, 2], [100, 50, 10]))


@pytest.mark.parametrize("fraction", [0.05, 0.1, 0.5, 0.9])
def test_the_parts_are_disjoint_complete_and_ascending(fraction: float) -> None:
    kept, aside = stratified_split(TARGETS, fraction=fraction, seed=0)
    assert sorted([*kept, *aside]) == list(range(len(TARGETS)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(aside) > 0).all()


@pytest.mark.parametrize(("fraction", "counts"), [(0.1, [10, 5, 1]), (0.5, [50, 25, 5]), (0.02, [2, 1, 1]), (0.99, [99, 49, 9])])
def test_every_class_keeps_its_share_at_least_one_row_and_never_gives_its_last(fraction: float, counts: list[int]) -> None:
    _, aside = stratified_split(TARGETS, fraction=fraction, seed=0)
    assert np.bincount(TARGETS[aside]).tolist() == counts


def test_a_class_of_one_row_stays_whole() -> None:
    kept, aside = stratified_split(np.array([0, 1, 1, 1, 1]), fraction=0.5, seed=0)
    assert 0 in kept
    assert len(aside) == 2


def test_the_seed_decides() -> None:
    first, again, other = (stratified_split(TARGETS, fraction=0.2, seed=seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other
