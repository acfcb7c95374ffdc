"""The method contrastive: its loss, its batches, and what an adaptation does to texts that it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from manta.config import ExperimentConfig
from manta.data import Split
from manta.data.encode import EncodedSplit, write_encoded
from manta.data.split import stratified_folds
from manta.labels import LabelSpace
from manta.model.contrastive import contrastive_loss, likeness
from manta.model.encoder import load_tokenizer
from manta_jobs.training.batches import TokenizedData
from manta_jobs.training.few_rows.contrastive import (
    BATCH_ROWS,
    BATCH_TOKENS,
    NUM_STEPS,
    ROWS_TOGETHER,
    Adaptation,
    adapted_embeddings,
    batches_of,
    cut,
    grouped,
)
from manta_jobs.training.few_rows.linear import LinearSetup, Tally, frozen_embeddings
from manta_jobs.training.progress import Board

from ...conftest import rows_of

if TYPE_CHECKING:
    from pathlib import Path

TOPICS = ["delivery", "billing", "account"]
LABELS = LabelSpace(tuple(TOPICS), "multiclass")
NUM_ROWS = 48


@pytest.fixture
def setup(tiny_model: Path, tmp_path: Path) -> LinearSetup:
    """A cross-validated run of few rows whose texts are tokenized."""
    config = ExperimentConfig.model_validate(
        {
            "name": "desk",
            "data": {"train": "rows.csv"},
            "model": {"pretrained": str(tiny_model), "max_length": 32},
            "train": {"precision": "fp32", "use_gpu": False},
        }
    )
    rows, tokenizer = rows_of(TOPICS, NUM_ROWS + 60), load_tokenizer(config.model)
    texts, targets = [text for text, _ in rows], np.array([TOPICS.index(label) for _, label in rows])
    for name, part in (("train", slice(0, NUM_ROWS)), ("test", slice(NUM_ROWS, None))):
        split = Split(texts[part], targets[part])
        write_encoded(split, tmp_path / f"{name}.arrow", tokenizer=tokenizer, max_length=32)
    folds = stratified_folds(targets[:NUM_ROWS], num_folds=3, seed=0)
    return LinearSetup(config, TokenizedData(tmp_path, LABELS, 0, folds), tmp_path / "contrastive", 1, Board())


def split_of(setup: LinearSetup, name: str = "train") -> EncodedSplit:
    return EncodedSplit(setup.data.folder / f"{name}.arrow")


def separation(vectors: np.ndarray, targets: np.ndarray) -> float:
    """The mean cosine similarity of texts of one label less that of texts of different labels."""
    rows = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    similarities, alike = rows @ rows.T, targets[:, None] == targets[None, :]
    alike_others = alike & ~np.eye(len(targets), dtype=bool)
    return float(similarities[alike_others].mean() - similarities[~alike].mean())


def test_the_loss_is_that_of_the_paper() -> None:
    vectors = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 3.0], [0.0, 1.0]])
    targets = np.array([0, 0, 1, 2])  # the last two have none to be like
    rows = (vectors / vectors.norm(dim=1, keepdim=True)).double().numpy() / 0.1**0.5
    logits = rows @ rows.T
    losses = [np.log(np.exp(np.delete(logits[row], row)).sum()) - logits[row, 1 - row] for row in (0, 1)]
    assert float(contrastive_loss(vectors, torch.from_numpy(likeness(targets)))) == pytest.approx(np.mean(losses), rel=1e-5)


def test_rows_that_are_like_none_give_no_gradient() -> None:
    vectors = torch.randn(3, 4, requires_grad=True)
    for count in (3, 1):
        contrastive_loss(vectors[:count], torch.eye(count)).backward()
        assert vectors.grad is not None
        assert not vectors.grad.any()


def test_rows_of_several_labels_are_alike_by_the_share_that_both_have() -> None:
    targets = np.array([[1, 1, 0], [0, 1, 0], [0, 0, 1], [0, 0, 0], [0, 0, 0]])
    expected = np.eye(5)
    expected[0, 1] = expected[1, 0] = 0.5
    expected[3, 4] = expected[4, 3] = 1.0
    np.testing.assert_array_equal(likeness(targets), expected)


def test_rows_of_a_label_stand_together_and_each_is_there_once() -> None:
    labels = np.arange(44) % 4
    order = grouped(labels, np.random.default_rng(0))
    assert sorted(order) == list(range(44))
    changes = int((np.diff(labels[order]) != 0).sum())
    assert changes < 4 * -(-11 // ROWS_TOGETHER)
    assert not np.array_equal(order, grouped(labels, np.random.default_rng(1)))


def test_batches_are_even_and_end_at_their_tokens_but_have_two_rows() -> None:
    short, long = cut(np.arange(130), np.full(130, 10)), cut(np.arange(8), np.array([1500, 1500, 1500, 9000, 1, 1, 1, 1]))
    assert [len(batch) for batch in short] == [44, 44, 42]
    assert [batch.tolist() for batch in long] == [[0, 1], [2, 3], [4, 5, 6, 7]]
    assert (BATCH_ROWS, BATCH_TOKENS) == (64, 4096)


def test_an_adaptation_reads_each_row_at_least_once(setup: LinearSetup) -> None:
    few = batches_of(split_of(setup), np.arange(6), seed=0)
    assert len(few) == NUM_STEPS
    assert {tuple(sorted(batch)) for batch in few} == {tuple(range(6))}


def test_an_adaptation_lowers_the_loss_and_separates_texts_that_it_has_not_seen(
    setup: LinearSetup, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An encoder without pretraining learns at ten times the usual rate."""
    monkeypatch.setattr("manta_jobs.training.few_rows.contrastive.LEARNING_RATE", 5e-4)
    train, test = split_of(setup), split_of(setup, "test")
    adaptation = Adaptation(setup, train, num_steps=NUM_STEPS)
    losses = [adaptation.step(rows) for rows in batches_of(train, np.arange(NUM_ROWS), seed=0)]
    assert np.mean(losses[-3:]) < np.mean(losses[:3]) - 0.3
    tally = Tally(setup.board, setup.folder.name)
    splits = {"train": train, "test": test}
    adapted = adapted_embeddings(setup, splits, tally)
    frozen = frozen_embeddings(_elsewhere(setup), splits, tally)
    assert separation(adapted["test"], test.targets) > separation(frozen["test"], test.targets) + 0.04


def _elsewhere(setup: LinearSetup) -> LinearSetup:
    return LinearSetup(setup.config, setup.data, setup.folder.with_name("linear"), 1, setup.board)


def test_held_out_rows_have_no_part_in_the_adaptation_of_their_fold(setup: LinearSetup) -> None:
    train = split_of(setup)
    before = adapted_embeddings(setup, {"train": train}, Tally(setup.board, setup.folder.name))
    folds = setup.data.folds
    assert folds is not None
    train.targets = np.where(folds == 0, (train.targets + 1) % 3, train.targets)
    after = adapted_embeddings(_elsewhere(setup), {"train": train}, Tally(setup.board, setup.folder.name))
    np.testing.assert_array_equal(after["fold-1"], before["fold-1"])
    for name in ("fold-2", "fold-3", "train"):
        assert np.abs(after[name] - before[name]).max() > 1e-3


def test_a_fold_that_is_on_disk_is_not_adapted_again(setup: LinearSetup, monkeypatch: pytest.MonkeyPatch) -> None:
    train, begun = {"train": split_of(setup)}, 0

    class Killed(Adaptation):
        def __init__(self, *arguments: object, **named: object) -> None:
            nonlocal begun
            begun += 1
            if begun == 3:
                raise KeyboardInterrupt
            super().__init__(*arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("manta_jobs.training.few_rows.contrastive.Adaptation", Killed)
    with pytest.raises(KeyboardInterrupt):
        adapted_embeddings(setup, train, Tally(setup.board, setup.folder.name))
    resumed = adapted_embeddings(setup, train, Tally(setup.board, setup.folder.name))
    assert begun == 3 + 2
    whole = adapted_embeddings(_elsewhere(setup), train, Tally(setup.board, setup.folder.name))
    for name, vectors in whole.items():
        np.testing.assert_array_equal(resumed[name], vectors)
