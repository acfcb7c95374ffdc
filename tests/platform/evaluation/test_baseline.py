from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression

from manta.config import DataConfig
from manta.data import Split, TextDataset, load_dataset
from manta.evaluation import baseline
from manta.evaluation.baseline import Baseline, fit_baseline
from manta.evaluation.metrics import METRIC_NAMES
from manta.labels import LabelSpace

if TYPE_CHECKING:
    from pathlib import Path


def test_it_is_scikit_learns_own_pipeline_and_says_the_same_twice() -> None:
    dataset = load_dataset(DataConfig(train="sample:reviews"))
    result = fit_baseline(dataset)
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    model = LogisticRegression(C=10, max_iter=2000).fit(vectorizer.fit_transform(dataset.train.texts), dataset.train.targets)
    for split, metrics in ((dataset.validation, result.validation), (dataset.test, result.test)):
        accuracy = (model.predict(vectorizer.transform(split.texts)) == split.targets).mean()
        assert metrics["accuracy"] == pytest.approx(accuracy)
        assert tuple(sorted(metrics)) == tuple(sorted(METRIC_NAMES))
    assert result.num_rows == {name: len(dataset.split(name)) for name in ("train", "validation", "test")}
    assert not result.is_sample
    assert fit_baseline(dataset).test == result.test
    assert Baseline.from_dict(result.to_dict()) == result


def test_three_classes(three_classes: Path) -> None:
    result = fit_baseline(load_dataset(DataConfig(train=str(three_classes))))
    assert result.test["accuracy"] == result.test["f1_micro"] >= 0.9
    assert result.test["f1_macro"] >= 0.9


def test_several_labels_each_have_a_regression_and_a_threshold(several_labels: Path) -> None:
    dataset = load_dataset(DataConfig(train=str(several_labels), label_separator=";"), task="multilabel")
    result = fit_baseline(dataset)
    assert result.test["f1_micro"] >= 0.9
    assert result.test["accuracy"] >= 0.8  # all three labels right


def test_the_two_texts_of_a_pair_are_told_apart(text_pairs: Path) -> None:
    """The label is the topic of the second text, and the first one misleads as often as not."""
    config = DataConfig(train=str(text_pairs), text=("before", "after"))
    dataset = load_dataset(config)
    assert fit_baseline(dataset).test["accuracy"] >= 0.9
    joined = {name: Split([" ".join(text) for text in split.texts], split.targets) for name, split in splits(dataset).items()}
    assert fit_baseline(TextDataset(**joined, labels=dataset.labels)).test["accuracy"] < 0.9


def splits(dataset: TextDataset) -> dict[str, Split]:
    return {name: dataset.split(name) for name in ("train", "validation", "test")}


def test_of_very_many_rows_it_takes_some_of_each_label_and_says_so(three_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "MAX_TRAIN_ROWS", 60)
    monkeypatch.setattr(baseline, "MAX_SCORED_ROWS", 12)
    result = fit_baseline(load_dataset(DataConfig(train=str(three_classes), validation_fraction=0.1)))
    assert result.is_sample
    assert result.num_rows == {"train": 60, "validation": 12, "test": 12}
    assert result.test["accuracy"] >= 0.7


def test_cross_validated_rows_are_judged_by_what_the_other_folds_taught(tmp_path: Path) -> None:
    """No two texts share a word, so only a regression that saw a row can tell its label."""
    rows = "".join(f"{'abcdefghij'[n // 10] * 3}{'abcdefghij'[n % 10] * 3},{n % 2}\n" for n in range(100))
    (tmp_path / "rows.csv").write_text("text,label\n" + rows)
    dataset = load_dataset(DataConfig(train=str(tmp_path / "rows.csv")))
    assert dataset.folds is not None
    assert fit_baseline(dataset).validation["accuracy"] < 0.7
    seen = dataclasses.replace(dataset, folds=None)
    assert fit_baseline(seen).validation["accuracy"] == 1.0


def test_with_very_many_labels_only_the_most_frequent_words_count(two_classes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = load_dataset(DataConfig(train=str(two_classes)))
    monkeypatch.setattr(baseline, "MAX_WEIGHTS", 1)
    assert fit_baseline(dataset).test["accuracy"] < 0.9
    monkeypatch.setattr(baseline, "MAX_WEIGHTS", 1000)
    assert fit_baseline(dataset).test["accuracy"] >= 0.9


def dataset_of(texts: list[str], targets: list[object], labels: LabelSpace) -> TextDataset:
    split = Split(list(texts), np.array(targets))
    return TextDataset(split, split, split, labels)


def test_texts_without_words_are_read_by_their_characters() -> None:
    labels = LabelSpace(("down", "up"), "binary")
    assert fit_baseline(dataset_of(["👍", "👍👍", "👎", "👎👎"], [1, 1, 0, 0], labels)).test["accuracy"] == 1.0


def test_a_label_that_no_training_row_has_is_never_chosen() -> None:
    labels = LabelSpace(("a", "b", "c"), "multiclass")
    result = fit_baseline(dataset_of(["red apple", "red cherry", "blue sky", "blue sea"], [0, 0, 1, 1], labels))
    assert result.test["accuracy"] == 1.0
    only = fit_baseline(dataset_of(["red apple", "red cherry"], [2, 2], labels))
    assert only.test["accuracy"] == 1.0


def test_a_label_that_all_rows_have_or_none_has_needs_no_regression() -> None:
    labels = LabelSpace(("all", "none", "some"), "multilabel")
    texts, targets = ["red apple", "red cherry", "blue sky", "blue sea"], [[1, 0, 1], [1, 0, 1], [1, 0, 0], [1, 0, 0]]
    assert fit_baseline(dataset_of(texts, targets, labels)).test["accuracy"] == 1.0
