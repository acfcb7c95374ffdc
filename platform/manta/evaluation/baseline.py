"""The baseline that a run must beat: TF-IDF and logistic regression on the same splits, which takes seconds (`fit_baseline`).

Its only features are words and pairs of neighboring words, weighted by how rare they are (Spärck Jones, 1972). If fine-tuning does
not beat it, either the settings are wrong or the texts hold no further information.
"""

from __future__ import annotations

import dataclasses
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from manta.data.split import Indices, stratified_folds, stratified_split
from manta.evaluation.label_noise import MOST_ROWS, LabelNoise, label_noise
from manta.evaluation.metrics import best_thresholds, classification_metrics
from manta.model.regression import fit_regression

if TYPE_CHECKING:
    from collections.abc import Sequence

    from manta.data import Split, TextDataset
    from manta.labels import LabelSpace
    from manta.texts import Text

Logits = npt.NDArray[np.float64]

MAX_TRAIN_ROWS = 50_000
"""The largest number of training rows, drawn class by class. More rows add little, and the baseline must stay quick."""
MAX_SCORED_ROWS = 20_000
"""The largest number of validation and of test rows. Their accuracy is then known to about half a point."""
MAX_WEIGHTS = 20_000_000
"""The largest number of labels times words. With very many labels, only the most frequent words are used."""
MANY_ROWS = 10_000
"""From this number of training rows on, words and pairs that stand in a single row are left out: they teach little and take most of
the memory."""
INVERSE_REGULARIZATION = 10.0
NOISE_TO_LOOK_AT = 0.03
"""Share of wrong labels among the validation rows from which more rows are held out to know it better."""
NOISE_FOLDS = 3


@dataclass(frozen=True)
class Baseline:
    """Results of TF-IDF and logistic regression on a run's splits."""

    validation: dict[str, float]
    """Metrics by the names of `manta.evaluation.metrics.METRIC_NAMES`."""
    test: dict[str, float]
    """Metrics by the same names. A multilabel task uses the thresholds that are best on validation, like the fine-tuned model."""
    num_rows: dict[str, int]
    """Number of rows that the baseline used of each split."""
    is_sample: bool
    """True if some split has more rows than the baseline used."""
    seconds: float
    label_noise: LabelNoise | None = None
    """Share of the training labels that are wrong; None if there are no rows to tell it from, or in a multilabel task."""

    @property
    def sure_noise(self) -> float:
        """Share of wrong training labels that training should allow for: the estimate, or 0 if it is not certain enough."""
        return self.label_noise.rate if self.label_noise is not None and self.label_noise.is_sure else 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the structure that `report.json` stores."""
        return dataclasses.asdict(self)

    @classmethod
    def from_dict(cls, document: dict[str, Any]) -> Baseline:
        """Restore the result of `to_dict`."""
        noise = document.get("label_noise")
        return cls(**{**document, "label_noise": None if noise is None else LabelNoise(**noise)})


def fit_baseline(dataset: TextDataset) -> Baseline:
    """Fit on the training rows and score on validation and test. The same rows give the same figures."""
    started = time.monotonic()
    most = {"train": MAX_TRAIN_ROWS, "validation": MAX_SCORED_ROWS, "test": MAX_SCORED_ROWS}
    splits = {name: _at_most(dataset.split(name), limit) for name, limit in most.items()}
    labels = dataset.labels
    logits = _fitted_logits(splits["train"], {name: splits[name] for name in ("validation", "test")}, labels)
    if dataset.folds is not None and dataset.has_held_out:
        logits["validation"] = _held_out_logits(dataset.train, dataset.folds, labels)
    validation: dict[str, float] = {}
    noise = None
    if dataset.has_held_out:
        validation = classification_metrics(logits["validation"], splits["validation"].targets, labels=labels)
        noise = label_noise(logits["validation"], splits["validation"].targets, labels)
        if noise is not None and noise.rate >= NOISE_TO_LOOK_AT and dataset.folds is None:
            noise = _noise_of_training(splits["train"], labels)
    if labels.task == "multilabel" and validation:
        chosen = best_thresholds(labels.probabilities(logits["validation"]), splits["validation"].targets)
        labels = dataclasses.replace(labels, thresholds=tuple(chosen.tolist()))
    return Baseline(
        validation=validation,
        test=classification_metrics(logits["test"], splits["test"].targets, labels=labels),
        num_rows={name: len(split) for name, split in splits.items()},
        is_sample=any(len(split) < len(dataset.split(name)) for name, split in splits.items()),
        seconds=round(time.monotonic() - started, 2),
        label_noise=noise,
    )


def _at_most(split: Split, limit: int) -> Split:
    if len(split) <= limit:
        return split
    _, drawn = stratified_split(split.targets, fraction=limit / len(split), seed=0)
    return split.take(drawn)


def _noise_of_training(train: Split, labels: LabelSpace) -> LabelNoise | None:
    """Estimate the share of wrong labels from the training rows, each fold's by a fit on the others."""
    rows = _at_most(train, MOST_ROWS)
    folds = stratified_folds(rows.targets, num_folds=NOISE_FOLDS, seed=0)
    return label_noise(_held_out_logits(rows, folds, labels), rows.targets, labels)


class _Features:
    """TF-IDF features of each row. The two texts of a pair have separate columns, as a word means different things in each."""

    def __init__(self, texts: Sequence[Text], *, max_words: int) -> None:
        columns = _columns(texts)
        self._vectorizers = [_fitted_vectorizer(column, max_words=max_words // len(columns) or 1) for column in columns]

    def of(self, texts: Sequence[Text]) -> Any:
        """Return a sparse matrix `(rows, words)`."""
        from scipy.sparse import hstack

        parts = zip(self._vectorizers, _columns(texts), strict=True)
        return hstack([vectorizer.transform(column) for vectorizer, column in parts], format="csr")


def _columns(texts: Sequence[Text]) -> list[list[str]]:
    if isinstance(texts[0], str):
        return [[str(text) for text in texts]]
    return [[text[side] for text in texts] for side in (0, 1)]


def _fitted_vectorizer(texts: list[str], *, max_words: int) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    least = {"min_df": 2} if len(texts) >= MANY_ROWS else {}
    settings = {"ngram_range": (1, 2), "sublinear_tf": True, "max_features": max_words, "dtype": np.float32, **least}
    try:
        return TfidfVectorizer(**settings).fit(texts)
    except ValueError:  # no words of two letters or more, such as a column of emoji or digits
        return TfidfVectorizer(analyzer="char", **settings).fit(texts)


def _held_out_logits(train: Split, folds: Indices, labels: LabelSpace) -> Logits:
    """Return logits of the training rows `(rows, outputs)`. Those of each fold come from a fit on the other folds."""
    logits = np.zeros((len(train), labels.num_logits))
    for fold in np.unique(folds):
        rows = np.flatnonzero(folds == fold)
        others = train.take(np.flatnonzero(folds != fold))
        logits[rows] = _fitted_logits(others, {"held out": train.take(rows)}, labels)["held out"]
    return logits


def _fitted_logits(train: Split, others: dict[str, Split], labels: LabelSpace) -> dict[str, Logits]:
    """Fit on `train` and return the logits of the other splits `(rows, outputs)`."""
    features = _Features(train.texts, max_words=max(1, MAX_WEIGHTS // labels.num_logits))
    regression = fit_regression(features.of(train.texts), train.targets, labels=labels, strength=INVERSE_REGULARIZATION)
    return {name: regression.logits(features.of(split.texts)) for name, split in others.items()}
