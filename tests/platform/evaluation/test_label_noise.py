from __future__ import annotations

import numpy as np
import pytest

from manta.config import DataConfig
from manta.data import Split, TextDataset, load_dataset
from manta.evaluation.baseline import fit_baseline
from manta.evaluation.label_noise import MOST_ROWS, LabelNoise, label_noise
from manta.labels import Floats, LabelSpace, Targets

NAMES = ("a", "b", "c", "d")


def drawn(num_rows: int, *, spread: float, num_labels: int = 4, seed: int = 0) -> tuple[Floats, Targets]:
    """Logits with labels that are as likely as the logits say. The larger the spread, the easier the rows."""
    rng = np.random.default_rng([7, seed])
    logits = spread * rng.normal(size=(num_rows, num_labels))
    targets = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
    return logits, targets


def flipped(targets: Targets, share: float, *, num_labels: int = 4) -> Targets:
    rng = np.random.default_rng(11)
    wrong = rng.random(len(targets)) < share
    return np.where(wrong, (targets + rng.integers(1, num_labels, len(targets))) % num_labels, targets)


@pytest.mark.parametrize("spread", [8.0, 3.0, 1.0])
def test_right_labels_are_not_taken_to_be_wrong_however_hard_the_rows(spread: float) -> None:
    for seed in range(4):
        logits, targets = drawn(2000, spread=spread, seed=seed)
        found = label_noise(3 * logits, targets, LabelSpace(NAMES, "multiclass"))  # a model that is three times too certain
        assert found is not None
        assert not found.is_sure


@pytest.mark.parametrize("share", [0.05, 0.1, 0.2])
def test_the_share_of_wrong_labels_is_found(share: float) -> None:
    logits, targets = drawn(3000, spread=4.0)
    found = label_noise(logits / 2, flipped(targets, share), LabelSpace(NAMES, "multiclass"))
    assert found is not None
    assert found.rate == pytest.approx(share, abs=0.02)
    assert share - 0.04 < found.least < found.rate
    assert found.is_sure
    assert found.sentence() == f"About {found.rate:.1%} of the labels are wrong, and at least {found.least:.1%}."


def test_one_logit_says_the_same_as_two() -> None:
    logits, targets = drawn(2 * MOST_ROWS, spread=4.0, num_labels=2)
    given = flipped(targets, 0.1, num_labels=2)
    two = label_noise(logits, given, LabelSpace(("no", "yes"), "multiclass"))
    one = label_noise(logits[:, 1:] - logits[:, :1], given, LabelSpace(("no", "yes"), "binary"))
    assert one == two == label_noise(logits, given, LabelSpace(("no", "yes"), "multiclass"))


def test_a_rare_label_is_not_taken_for_noise() -> None:
    rng = np.random.default_rng(3)
    targets = (rng.random(4000) < 0.02).astype(np.int64)
    logits = (4.0 * targets + rng.normal(size=4000) - 6.0)[:, None]
    found = label_noise(logits, targets, LabelSpace(("no", "yes"), "binary"))
    assert found is not None
    assert not found.is_sure


def test_few_rows_and_labels_that_are_all_alike_are_no_fault() -> None:
    space = LabelSpace(NAMES, "multiclass")
    for logits, targets in (drawn(3, spread=2.0), (np.zeros((40, 4)), np.zeros(40, dtype=np.int64))):
        found = label_noise(logits, targets, space)
        assert found is not None
        assert not found.is_sure
    several = LabelSpace(NAMES, "multilabel")
    assert label_noise(np.zeros((5, 4)), np.zeros((5, 4), dtype=np.int64), several) is None
    assert LabelNoise(0.2, 0.0).sentence() == "The rows give no clear sign of wrong labels."


@pytest.mark.parametrize("sample", ["support", "reviews"])
def test_the_baseline_finds_planted_errors_and_none_in_the_rows_as_they_are(sample: str) -> None:
    dataset = load_dataset(DataConfig(train=f"sample:{sample}"))
    assert fit_baseline(dataset).sure_noise == 0
    if sample == "support":  # TF-IDF knows too little about the reviews to tell an error from a hard row
        num_labels = len(dataset.labels.names)
        parts = {
            name: Split(dataset.split(name).texts, flipped(dataset.split(name).targets, 0.15, num_labels=num_labels))
            for name in ("train", "validation")
        }
        given = TextDataset(**parts, test=dataset.test, labels=dataset.labels)
        assert fit_baseline(given).sure_noise == pytest.approx(0.15, abs=0.05)
