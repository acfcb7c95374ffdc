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


@pytest.mark.parametrize(
    ("sizes", "fraction", "expected"),
    [
        ([3] * 150, 0.05, 22),  # one of each would be a third of the rows
        ([4] * 20, 0.1, 8),
        ([4] * 8, 0.1, 8),  # few rows, so each class is there
        ([2, 2], 0.1, 2),
        ([1000] + [2] * 50, 0.1, 150),
        ([1000] + [2] * 300, 0.1, 160),
    ],
)
def test_small_classes_do_not_make_a_part_far_larger_than_asked(sizes: list[int], fraction: float, expected: int) -> None:
    targets = np.repeat(np.arange(len(sizes)), sizes)
    kept, aside = stratified_split(targets, fraction=fraction, seed=0)
    assert len(aside) == expected
    assert (np.bincount(targets[kept], minlength=len(sizes)) >= 1).all()
    one_label_a_row = np.eye(len(sizes), dtype=np.int8)[targets]
    assert len(stratified_split(one_label_a_row, fraction=fraction, seed=0)[1]) == expected


def several(rows: int, rates: list[float], *, seed: int) -> np.ndarray:
    return (np.random.default_rng(seed).random((rows, len(rates))) < rates).astype(np.int8)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("fraction", [0.1, 0.3])
def test_each_of_several_labels_keeps_its_share(fraction: float, seed: int) -> None:
    targets = several(2000, [0.5, 0.2, 0.05, 0.02, 0.3], seed=seed)
    kept, aside = stratified_split(targets, fraction=fraction, seed=seed)
    assert sorted([*kept, *aside]) == list(range(len(targets)))
    assert (np.diff(kept) > 0).all()
    assert (np.diff(aside) > 0).all()
    assert len(aside) == pytest.approx(fraction * len(targets), rel=0.1)
    wanted = fraction * targets.sum(axis=0)
    assert (np.abs(targets[aside].sum(axis=0) - wanted) <= np.maximum(1.5, 0.12 * wanted)).all()
    without = (targets.sum(axis=1) == 0).sum()
    assert (targets[aside].sum(axis=1) == 0).sum() == round(fraction * without)


@pytest.mark.parametrize("seed", range(50))
def test_no_label_loses_its_last_training_row(seed: int) -> None:
    """Few rows and many labels, so that the rows of one label are drawn for the others."""
    targets = several(12, [0.25] * 8, seed=seed)
    kept, aside = stratified_split(targets, fraction=0.5, seed=seed)
    assert len(kept) + len(aside) == 12
    assert (targets[kept].any(axis=0) == targets.any(axis=0)).all()


def test_a_label_whose_rows_are_all_drawn_for_others_gets_one_back() -> None:
    # Label 0 has three rows, each with a label of two rows of its own, of which one goes aside.
    targets = np.array([[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 1]], dtype=np.int8)
    for seed in range(100):
        kept, _ = stratified_split(targets, fraction=0.5, seed=seed)
        assert targets[kept].any(axis=0).all()


def test_the_seed_decides_for_several_labels_too() -> None:
    targets = several(300, [0.3, 0.1, 0.6], seed=0)
    first, again, other = (stratified_split(targets, fraction=0.2, seed=seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again
    assert first != other
