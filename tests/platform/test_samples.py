"""The bundled rows are what README and the demo say they are: varied, without leaks, and of known difficulty."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from manta.config import DataConfig
from manta.config.file import load_config
from manta.data import TextDataset, load_dataset
from manta.data.read import SAMPLES

pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS = ("train", "validation", "test")


@pytest.fixture(scope="module")
def samples() -> dict[str, TextDataset]:
    return {name: load_dataset(DataConfig(train=f"sample:{name}")) for name in SAMPLES}


def texts_of(dataset: TextDataset) -> list[str]:
    return [text for split in SPLITS for text in dataset.split(split).texts]


@pytest.mark.parametrize(("name", "rows", "task", "labels"), [("support", 1200, "multiclass", 8), ("reviews", 600, "binary", 2)])
def test_there_are_enough_rows_of_every_label(
    samples: dict[str, TextDataset], name: str, rows: int, task: str, labels: int
) -> None:
    dataset = samples[name]
    assert len(texts_of(dataset)) >= rows
    assert (dataset.labels.task, len(dataset.labels.names)) == (task, labels)
    for split in SPLITS:
        counts = dataset.class_counts(split).values()
        assert min(counts) > 0.8 * max(counts)


@pytest.mark.parametrize("name", SAMPLES)
def test_texts_have_3_to_60_words(samples: dict[str, TextDataset], name: str) -> None:
    odd = [text for text in texts_of(samples[name]) if not 3 <= len(text.split()) <= 60]
    assert odd == []


@pytest.mark.parametrize("name", SAMPLES)
def test_no_text_occurs_twice(samples: dict[str, TextDataset], name: str) -> None:
    texts = [" ".join(text.lower().split()) for text in texts_of(samples[name])]
    assert len(set(texts)) == len(texts)
    assert samples[name].warnings == ()


def share_of_near_duplicates(texts: list[str], *, similarity: float) -> float:
    """Share of texts whose character 5-grams have at least this Jaccard similarity with another text's."""
    normalised = [" ".join(text.lower().split()) for text in texts]
    counter = CountVectorizer(analyzer="char", ngram_range=(5, 5), binary=True, dtype=np.int32)
    grams = counter.fit_transform(normalised)
    sizes = np.asarray(grams.sum(axis=1)).ravel()
    shared = (grams @ grams.T).tocoo()
    jaccard = shared.data / (sizes[shared.row] + sizes[shared.col] - shared.data)
    near = (shared.row != shared.col) & (jaccard >= similarity)
    return len(np.unique(shared.row[near])) / len(texts)


def test_near_duplicates_are_found_where_there_are_any() -> None:
    texts = ["my parcel is two days late", "My  parcel is two days late!", "the card was charged twice", "where is my receipt"]
    assert share_of_near_duplicates(texts, similarity=0.6) == 0.5


@pytest.mark.parametrize("name", SAMPLES)
def test_under_one_percent_are_near_duplicates(samples: dict[str, TextDataset], name: str) -> None:
    assert share_of_near_duplicates(texts_of(samples[name]), similarity=0.6) < 0.01


@pytest.mark.parametrize(("name", "low", "high"), [("support", 0.69, 0.79), ("reviews", 0.48, 0.60)])
def test_a_bag_of_words_leaves_room_for_an_encoder(samples: dict[str, TextDataset], name: str, low: float, high: float) -> None:
    dataset = samples[name]
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True)
    features = vectorizer.fit_transform(dataset.train.texts)
    with threadpool_limits(1):  # several threads wait for each other more than they compute here
        baseline = LogisticRegression(C=10, max_iter=1000).fit(features, dataset.train.targets)
    accuracy = baseline.score(vectorizer.transform(dataset.test.texts), dataset.test.targets)
    assert low <= accuracy <= high


def test_the_bundled_experiment_is_a_valid_config() -> None:
    import importlib.resources

    with importlib.resources.as_file(importlib.resources.files("manta") / "samples" / "support.yaml") as path:
        config = load_config(path)
    assert config.name == "demo-support"  # the README's experiment for own rows is `support`, a model of its own
    assert config.data.train == "sample:support"
    assert config.model.pretrained == "embedded"
