"""Comparison of two models on the same rows: paired bootstrap and McNemar's test.

Both methods compare the models row by row. Rows that are hard for both models cancel out, so far fewer rows are needed than for
comparing two scores. The bootstrap is that of Koehn (2004, https://aclanthology.org/W04-3250): rows are drawn again with
replacement, the same ones for both models, and the difference is computed for each draw. McNemar's test (1947,
https://doi.org/10.1007/BF02295996), in `manta.evaluation.significance`, is the exact binomial one on the rows that only one model
has right.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from manta.labels import LabelSpace, RowLabels, names_of

NUM_RESAMPLES = 2000
NUM_BINS = 15
CHUNK_BYTES = 64 * 1024**2
Values = npt.NDArray[np.float64]
Weights = npt.NDArray[np.float32]
"""Number of times each row was drawn, `(resamples, rows)`."""
Statistic = Callable[["Sums"], Values]
"""A figure of one model for each resample, `(resamples,)`."""


@dataclass(frozen=True)
class Answers:
    """Answers of one model to some rows, and the true labels, over label names that both models share."""

    names: tuple[str, ...]
    decided: npt.NDArray[np.bool_]
    """True if the model gives a row a label, `(rows, labels)`."""
    true: npt.NDArray[np.bool_]
    right: npt.NDArray[np.bool_]
    """True if the model gives a row exactly the true labels, `(rows,)`."""
    loss: npt.NDArray[np.float64]
    """Cross-entropy of each row in nats, as in `classification_metrics`, `(rows,)`."""
    overconfidence: npt.NDArray[np.float64]
    """Confidence minus correctness of a row in the bin of its confidence, `(rows, bins)`; zero in the other bins. For a multilabel
    task, each label's probability counts, divided by the number of labels."""

    def __len__(self) -> int:
        return len(self.right)


def shared_names(*names: Sequence[str]) -> tuple[str, ...]:
    """Return all label names, each once, in the order of their first occurrence."""
    return tuple(dict.fromkeys(name for some in names for name in some))


def make_answers(
    probabilities: npt.NDArray[np.float64], truth: Sequence[RowLabels], *, labels: LabelSpace, names: Sequence[str]
) -> Answers:
    """Return a model's answers for probabilities `(rows, its labels)`. `names` must hold the model's labels and those of `truth`.

    A label that the model does not know has probability 0, so it gets rows with that label wrong.
    """
    column = {name: index for index, name in enumerate(names)}
    of_model = [column[name] for name in labels.names]
    wide = np.zeros((len(truth), len(names)))
    wide[:, of_model] = probabilities
    decided, true = np.zeros(wide.shape, dtype=np.bool_), np.zeros(wide.shape, dtype=np.bool_)
    for row, applying in enumerate(truth):
        true[row, [column[name] for name in names_of(applying)]] = True
    decisions = labels.decide(probabilities)
    if labels.task == "multilabel":
        decided[:, of_model] = decisions
        of_truth = np.where(true, wide, 1.0 - wide)
        gaps = _binned(wide, true)
    else:
        decided[np.arange(len(truth)), np.asarray(of_model)[decisions]] = True
        of_truth = (wide * true).sum(axis=1, keepdims=True)
        gaps = _binned(wide.max(axis=1, keepdims=True), np.any(decided & true, axis=1, keepdims=True))
    return Answers(
        names=tuple(names),
        decided=decided,
        true=true,
        right=(decided == true).all(axis=1),
        loss=-np.log(np.clip(of_truth, 1e-12, None)).mean(axis=1),
        overconfidence=gaps,
    )


def _binned(confidence: npt.NDArray[np.float64], correct: npt.NDArray[np.bool_]) -> npt.NDArray[np.float64]:
    """Return `(rows, bins)`: confidence minus correctness of the decisions `(rows, decisions)`, in the bins of their confidence."""
    bins = np.minimum((confidence * NUM_BINS).astype(np.int64), NUM_BINS - 1)
    result = np.zeros((len(confidence), NUM_BINS))
    rows = np.broadcast_to(np.arange(len(confidence))[:, None], confidence.shape)
    np.add.at(result, (rows, bins), (confidence - correct) / confidence.shape[1])
    return result


@dataclass(frozen=True)
class Sums:
    """Sums over the rows of each resample, from which every figure is computed."""

    num_rows: int
    right: Values
    """Number of right rows, `(resamples,)`. `loss` has the same shape."""
    loss: Values
    hits: Values
    """Number of correctly given labels, `(resamples, labels)`. `decided` and `true` have the same shape."""
    decided: Values
    true: Values
    overconfidence: Values
    """Shape `(resamples, bins)`."""


def _sums(answers: Answers, weights: Weights) -> Sums:
    parts = (answers.right, answers.loss, answers.decided & answers.true, answers.decided, answers.true, answers.overconfidence)
    columns = [part.reshape(len(answers), -1).astype(np.float32) for part in parts]
    sums = (weights @ np.concatenate(columns, axis=1)).astype(np.float64)
    right, loss, *others = np.split(sums, np.cumsum([column.shape[1] for column in columns])[:-1], axis=1)
    return Sums(len(answers), right[:, 0], loss[:, 0], *others)


def metric(name: str) -> Statistic:
    """Return a metric of `manta.evaluation.metrics` by its name. It covers many resamples at once."""
    if name == "accuracy":
        return lambda sums: sums.right / sums.num_rows
    if name == "loss":
        return lambda sums: sums.loss / sums.num_rows
    kind, average = name.split("_")
    return lambda sums: _averaged(sums, kind=kind, average=average)


def calibration_error(sums: Sums) -> Values:
    """Return the expected calibration error over 15 bins of equal width (Guo et al., 2017, https://arxiv.org/abs/1706.04599)."""
    return np.asarray(np.abs(sums.overconfidence).sum(axis=1) / sums.num_rows, dtype=np.float64)


def value(statistic: Statistic, answers: Answers) -> float:
    """Return the figure on the original rows."""
    return float(statistic(_sums(answers, np.ones((1, len(answers)), dtype=np.float32)))[0])


def _averaged(sums: Sums, *, kind: str, average: str) -> Values:
    """Return precision, recall or F1 of the labels, averaged as scikit-learn does; 0 if the divisor is 0."""
    hits, decided, true = sums.hits, sums.decided, sums.true
    if average == "micro":
        hits, decided, true = (counts.sum(axis=1, keepdims=True) for counts in (hits, decided, true))
    whole = {"precision": decided, "recall": true, "f1": (decided + true) / 2}[kind]
    scores = np.divide(hits, whole, out=np.zeros_like(hits), where=whole > 0)
    if average == "weighted":
        return np.asarray((scores * true).sum(axis=1) / true.sum(axis=1), dtype=np.float64)
    return np.asarray(scores.mean(axis=1), dtype=np.float64)


def paired_bootstrap(
    champion: Answers,
    candidate: Answers,
    statistics: Sequence[Statistic],
    *,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> list[Values]:
    """Return the difference of each figure, candidate minus champion, in each resample: `(resamples,)` for each statistic."""
    found: list[list[Values]] = [[] for _ in statistics]
    for weights in _resamples(len(champion), num_resamples=num_resamples, seed=seed):
        before, after = _sums(champion, weights), _sums(candidate, weights)
        for differences, statistic in zip(found, statistics, strict=True):
            differences.append(statistic(after) - statistic(before))
    return [np.concatenate(differences) for differences in found]


def _resamples(num_rows: int, *, num_resamples: int, seed: int) -> Iterator[Weights]:
    """Yield the row weights of all resamples, in chunks that fit into memory."""
    generator = np.random.default_rng(seed)
    at_once = max(1, min(num_resamples, CHUNK_BYTES // (8 * num_rows)))
    for start in range(0, num_resamples, at_once):
        size = min(at_once, num_resamples - start)
        drawn = generator.integers(0, num_rows, size=(size, num_rows), dtype=np.int64)
        drawn += np.arange(size)[:, None] * num_rows
        yield np.bincount(drawn.ravel(), minlength=size * num_rows).reshape(size, num_rows).astype(np.float32)
