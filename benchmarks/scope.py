"""The measure `scope` for `data.py`: how well each score tells texts that are none of the labels.

The embedded encoder is frozen. Labels are held out: each topic of AG News in turn, a third of BANKING77's labels by a seed, none of
SST-2's. A regression is fitted to four fifths of the other labels' training rows, and the last fifth chooses the thresholds. Test
rows of the held-out labels (`held out`) and of the other two sets are out of scope. AUROC is that of a score between them and the
test rows of the other labels:

- `max softmax`, `energy`     from the logits: the highest probability, and the log of the summed exponents (Liu et al., 2020)
- `1st neighbor`, `3rd` …     distance to that nearest training row (Sun et al., 2022)
- `Mahalanobis`               distance to the nearest label's mean, with a shared covariance (Lee et al., 2018)

AG News and SST-2 choose the score, BANKING77 only reports. `lost` and `caught` are the shares of test rows in and out of scope that
the chosen score marks, where `registry.scope_loss` is 0.01, 0.02 and 0.05.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from labels_needed import Rows, fit_to
from manta.inference.scope import References, chosen_scope
from manta.labels import Floats, LabelSpace

Result = dict[str, Any]
Values = npt.NDArray[np.float64]
Score = Callable[[Floats], Values]
RUNS = {"agnews": 4, "sst2": 3, "banking77": 3}
"""Runs of each case, each with other labels held out; of SST-2, with other rows."""
MOST_OTHERS = 1000
LOSSES = (0.01, 0.02, 0.05)
NEIGHBORS = (1, 3, 5, 10)
HELD_OUT = "held out"


def held_out_labels(case: str, labels: LabelSpace, *, run: int) -> list[int]:
    """Return the labels that a run holds out."""
    num_labels = len(labels.names)
    if case == "agnews":
        return [run]
    return [] if num_labels == 2 else np.random.default_rng(run).permutation(num_labels)[: num_labels // 3].tolist()


def scope_measured(rows: Rows, others: dict[str, Floats], *, held_out: list[int], seed: int) -> Result:
    """Return the AUROC of each score against each kind of rows out of scope, and what the chosen one loses and catches."""
    kept = np.setdiff1d(np.arange(len(rows.labels.names)), held_out)
    order = np.random.default_rng(seed).permutation(np.flatnonzero(np.isin(rows.targets, kept)))
    validation, train = order[: len(order) // 5], order[len(order) // 5 :]
    targets, is_known = np.searchsorted(kept, rows.targets), np.isin(rows.test_targets, kept)
    labels = LabelSpace(tuple(rows.labels.names[label] for label in kept), rows.labels.task)
    model = fit_to(rows)(rows.vectors[train], targets[train], labels=labels)
    inside, out = rows.test_vectors[is_known], dict(others)
    if held_out:
        out[HELD_OUT] = rows.test_vectors[~is_known]
    scores = scores_of(rows.vectors[train], targets[train], logits=model.logits, labels=labels)
    references = References.of(rows.vectors[train])
    answers = labels.decide(labels.probabilities(model.logits(inside)))
    found: Result = {
        "num_labels": len(kept),
        "num_train": len(train),
        "num_validation": len(validation),
        "accuracy": float((answers == np.searchsorted(kept, rows.test_targets[is_known])).mean()),
        "auroc": {name: {kind: auroc(score(inside), score(rest)) for kind, rest in out.items()} for name, score in scores.items()},
        "lost": {},
        "caught": {},
    }
    for loss in LOSSES:
        scope = chosen_scope(references.distances(rows.vectors[validation]), loss=loss, num_references=len(train))
        if scope is not None:
            found["lost"][str(loss)] = float(scope.is_out(references.distances(inside)).mean())
            shares = {kind: float(scope.is_out(references.distances(rest)).mean()) for kind, rest in out.items()}
            found["caught"][str(loss)] = shares
    return found


def scores_of(vectors: Floats, targets: Any, *, logits: Score, labels: LabelSpace) -> dict[str, Score]:
    """Return each score, a function of embeddings `(rows, hidden)`; high is out of scope."""
    from scipy.special import logsumexp
    from sklearn.covariance import ledoit_wolf

    means = np.stack([vectors[targets == label].mean(axis=0) for label in range(len(labels.names))])
    whitening = np.linalg.cholesky(np.linalg.inv(ledoit_wolf(vectors - means[targets])[0]))

    def energy(some: Floats) -> Values:
        values = logits(some)
        both = np.concatenate([np.zeros_like(values), values], axis=1) if values.shape[1] == 1 else values
        return np.asarray(-logsumexp(both, axis=1))

    def mahalanobis(some: Floats) -> Values:
        white, centers = some @ whitening, means @ whitening
        squares = (white**2).sum(axis=1)[:, None] - 2 * white @ centers.T + (centers**2).sum(axis=1)
        return np.asarray(squares.min(axis=1))

    def neighbor(place: int) -> Score:
        return lambda some: np.asarray(1 - np.partition(some @ vectors.T, -place, axis=1)[:, -place])

    names = {1: "1st neighbor", 3: "3rd", 5: "5th", 10: "10th"}
    return {
        "max softmax": lambda some: -labels.probabilities(logits(some)).max(axis=1),
        "energy": energy,
        **{names[place]: neighbor(place) for place in NEIGHBORS},
        "Mahalanobis": mahalanobis,
    }


def auroc(inside: Values, out: Values) -> float:
    """Return the chance that a row out of scope has a higher score than one in scope."""
    from sklearn.metrics import roc_auc_score

    return float(roc_auc_score(np.repeat([0, 1], [len(inside), len(out)]), np.concatenate([inside, out])))


def _means(results: list[Result]) -> dict[tuple[str, str], list[Result]]:
    groups: dict[tuple[str, str], list[Result]] = defaultdict(list)
    for row in results:
        if row.get("measure") == "scope":
            for kind in next(iter(row["auroc"].values())):
                groups[row["case"], kind].append(row)
    return groups


def auroc_lines(results: list[Result]) -> list[str]:
    """Return the lines of a table with the mean AUROC of each score, the best one in bold."""
    lines: list[str] = []
    for (case, kind), rows in _means(results).items():
        names = list(rows[0]["auroc"])
        if not lines:
            lines = [f"| set | out of scope | runs | {' | '.join(names)} |", f"|{' --- |' * (len(names) + 3)}"]
        means = [round(float(np.mean([row["auroc"][name][kind] for row in rows])), 3) for name in names]
        cells = [f"**{mean:.3f}**" if mean == max(means) else f"{mean:.3f}" for mean in means]
        lines.append(f"| {case} | {kind} | {len(rows)} | {' | '.join(cells)} |")
    return lines


def caught_lines(results: list[Result]) -> list[str]:
    """Return table lines: at each `registry.scope_loss`, the share of in-scope rows lost and of other rows caught."""
    heads = " | ".join(f"{loss}: lost | caught" for loss in LOSSES)
    lines = [f"| set | out of scope | accuracy in scope | {heads} |", f"|{' --- |' * (3 + 2 * len(LOSSES))}"]
    for (case, kind), rows in _means(results).items():
        cells = []
        for loss in map(str, LOSSES):
            some = [row for row in rows if loss in row["lost"]]
            lost, caught = (
                np.mean(values) for values in ([r["lost"][loss] for r in some], [r["caught"][loss][kind] for r in some])
            )
            cells.append(f"{lost:.3f} | {caught:.2f}")
        lines.append(f"| {case} | {kind} | {np.mean([row['accuracy'] for row in rows]):.3f} | {' | '.join(cells)} |")
    return lines
