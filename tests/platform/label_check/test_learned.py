"""`Learned`: its file, and the accuracy that labels of people bring."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from manta.errors import InputError
from manta.label_check.learned import Learned

LABELS = ("account", "billing", "delivery")
TOPICS = np.random.default_rng(0).normal(size=(3, 16))


def topic_rows(targets: np.ndarray, *, seed: int) -> np.ndarray:
    noise = np.random.default_rng(seed).normal(scale=1.6, size=(len(targets), 16))
    return (TOPICS[targets] + noise).astype(np.float32)


def learned(*, num_rows: int = 30, num_open: int = 300, num_hard: int = 0) -> tuple[Learned, dict[str, str]]:
    """Few labeled rows, the last ones chosen as hard, and open rows with their true labels by text hash."""
    targets, open_targets = np.arange(num_rows) % 3, np.arange(num_open) % 3
    hashes = tuple(f"hash {number}" for number in range(num_open))
    found = Learned(
        LABELS,
        topic_rows(targets, seed=1),
        targets,
        np.arange(num_rows) // 3 % 3,
        np.arange(num_rows) < num_rows - num_hard,
        topic_rows(open_targets, seed=2),
        hashes,
        strength=0.1,
    )
    return found, {digest: LABELS[target] for digest, target in zip(hashes, open_targets, strict=True)}


def test_right_labels_raise_the_accuracy_and_wrong_ones_lower_it() -> None:
    found, truth = learned()
    before, after = found.accuracy({}), found.accuracy(truth)
    turned = found.accuracy({digest: LABELS[(LABELS.index(label) + 1) % 3] for digest, label in truth.items()})
    assert (before.num_rows, after.num_rows, before.num_judged, after.num_judged) == (30, 330, 30, 30)
    assert turned.num_right < before.num_right < after.num_right
    low, high = after.interval
    assert low < after.share < high


def test_only_typical_rows_are_judged_and_only_labels_of_open_rows_count() -> None:
    found, truth = learned(num_hard=12)
    given = {"of another file": "billing", "hash 0": "no label of ours", "hash 1": truth["hash 1"]}
    accuracy = found.accuracy(given)
    assert (accuracy.num_rows, accuracy.num_judged) == (31, 18)


@pytest.mark.parametrize("weights", [None, np.array([1.0, 2.0, 0.5])])
def test_a_file_holds_all_of_it(tmp_path: Path, weights: np.ndarray | None) -> None:
    found, truth = learned()
    found = Learned(**{**vars(found), "class_weights": weights})
    found.write(tmp_path / "learned.npz")
    again = Learned.read(tmp_path / "learned.npz")
    assert again is not None
    assert (again.labels, again.open_hashes, again.strength) == (found.labels, found.open_hashes, found.strength)
    assert again.accuracy(truth) == found.accuracy(truth)
    assert [path.name for path in tmp_path.iterdir()] == ["learned.npz"]


def test_no_file_is_none_and_a_damaged_one_a_sentence(tmp_path: Path) -> None:
    assert Learned.read(tmp_path / "learned.npz") is None
    learned()[0].write(tmp_path / "learned.npz")
    content = (tmp_path / "learned.npz").read_bytes()
    (tmp_path / "learned.npz").write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match=r"learned\.npz: damaged .*; run manta data suggest again\."):
        Learned.read(tmp_path / "learned.npz")
